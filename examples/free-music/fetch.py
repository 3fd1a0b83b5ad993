"""Fetch the music of free games, laid out for `dualdiff dataset scan`: python fetch.py [FOLDER] [--copyleft].

Runs on Debian and Ubuntu and needs no root. Packages come by `apt-get download`, which checks their signatures, and
stay in FOLDER/packages. Tracker modules are rendered by openmpt123, MIDI by fluidsynth with a soundfont under the MIT
licence. What is there already is not made again. FOLDER becomes:

    music/<game>/<track>       what to train on
    music/LICENSES/            the notices that have to travel along, and a ledger of what came from where
    packages/                  the packages as they were downloaded; no longer needed
    dualdiff.toml              the settings of the recipe, unless there are some
"""

import argparse
import gzip
import hashlib
import io
import os
import re
import shlex
import shutil
import struct
import subprocess
import sys
import tempfile
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import tomli

from dualdiff.core.errors import DataError, DualdiffError

RECIPE = Path(__file__).resolve().parent
SAMPLE_RATE = 32000
"""What is rendered has the rate of dualdiff's format: nothing is resampled in training."""

MODULES = {".xm", ".it", ".mod", ".s3m", ".mtm"}
MIDI = {".mid", ".midi"}
AUDIO = {".ogg", ".oga", ".opus", ".flac"}
ARCHIVES = {".pk3", ".zip"}
TOOLS = {"apt-get": "apt", "dpkg-deb": "dpkg", "openmpt123": "openmpt123", "fluidsynth": "fluidsynth"}
"""The programs that are called, and the packages they are in."""

MODULE_GAIN_DB = -6
MIDI_GAIN = 0.1
"""Both leave headroom: the renderers clip what is above full scale. Loudness is set on reading anyway."""


@dataclass(frozen=True)
class Source:
    """A game whose music can be had, as `sources.toml` has it."""

    game: str
    packages: tuple[str, ...]
    music: tuple[str, ...]
    licence: str
    notices: tuple[str, ...] = ()
    allowed: tuple[str, ...] = ()
    """Licences to select files by, as the stanzas of the package's copyright file name them; empty: every file."""
    stems: bool = False
    """Each folder of `music` is one song, whose files are mixed."""


@dataclass(frozen=True)
class Package:
    """A package that was fetched: its name, its version and the file."""

    name: str
    version: str
    file: Path


@dataclass(frozen=True)
class Original:
    """A piece of music as it was published: the game, a file name, and the bytes."""

    game: str
    name: str
    data: bytes = field(repr=False)
    stems: tuple[bytes, ...] = field(default=(), repr=False)
    """Audio files that are mixed into the track; `data` is then all of them, one after the other."""

    @property
    def sha256(self) -> str:
        """The hash of its content."""
        return hashlib.sha256(self.data).hexdigest()

    @property
    def kind(self) -> str:
        """The suffix, which says how it becomes audio."""
        return Path(self.name).suffix.lower()

    @property
    def track(self) -> str:
        """The name of the track that is made from it."""
        return self.name if self.kind in AUDIO else f"{Path(self.name).stem}.flac"


def read_sources(path: Path, lists: Iterable[str]) -> list[Source]:
    """The games of some lists of `sources.toml`."""
    table = tomli.loads(path.read_text(encoding="utf-8"))
    rows: list[dict[str, Any]] = [row for name in lists for row in table[name]]
    return [
        Source(**{key: tuple(value) if isinstance(value, list) else value for key, value in r.items()}) for r in rows
    ]


def require_tools(tools: Mapping[str, str]) -> None:
    """Refuse to start without the programs that are called, naming all of them in one command.

    Raises:
        DualdiffError: some are missing.
    """
    missing = sorted({package for tool, package in tools.items() if shutil.which(tool) is None})
    if missing:
        hint = f"sudo apt-get install --no-install-recommends {' '.join(missing)}"
        raise DualdiffError(f"not on this machine: {', '.join(missing)}", hint)


def run(*command: str | Path, cwd: Path | None = None) -> str:
    """Run a program and return what it says on stdout.

    Raises:
        DualdiffError: it failed.
    """
    done = subprocess.run([str(word) for word in command], cwd=cwd, capture_output=True, check=False)
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines() or ["it says nothing"]
        raise DualdiffError(f"{command[0]} failed on {command[-1]}: {said[-1]}")
    return done.stdout.decode(errors="replace")


def fetch(names: Iterable[str], folder: Path) -> Package:
    """The first package of several names that there is, downloaded into `folder` unless it lies there.

    Raises:
        DualdiffError: none is to be had.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names = tuple(names)
    problem = ""
    for name in names:
        files = sorted(folder.glob(f"{name}_*.deb"), key=lambda file: file.stat().st_mtime)
        if not files:
            try:
                run("apt-get", "download", name, cwd=folder)
            except DualdiffError as error:
                problem = problem or error.message
                continue
            files = sorted(folder.glob(f"{name}_*.deb"))
        return Package(name, run("dpkg-deb", "--field", files[-1], "Version").strip() or "?", files[-1])
    raise DualdiffError(
        f"the package {' or '.join(names)} is not to be had: {problem}",
        "sudo apt-get update; on Ubuntu the component universe must be on; --without GAME leaves a game out",
    )


def lumps(wad: bytes, prefix: str = "D_") -> Iterator[tuple[str, bytes]]:
    """The MIDI lumps of a WAD (id Software's archive of Doom) whose names begin with `prefix`, without it.

    A header of magic, count and offset; at the offset, for each lump, position, size and a name of eight bytes.

    Raises:
        DataError: it is no WAD, or is cut short.
    """
    try:
        magic, count, offset = struct.unpack_from("<4sii", wad)
        entries = [struct.unpack_from("<ii8s", wad, offset + 16 * index) for index in range(count)]
    except struct.error as error:
        raise DataError(f"a WAD is cut short: {error}") from error
    if magic not in (b"IWAD", b"PWAD"):
        raise DataError(f"a file named .wad begins with {magic!r}: it is no WAD")
    for position, size, padded in entries:
        name, data = padded.rstrip(b"\0").decode("ascii", "replace"), wad[position : position + size]
        if name.startswith(prefix) and data.startswith(b"MThd"):
            yield name.removeprefix(prefix), data


@dataclass(frozen=True)
class Stanza:
    """Files of a package that share authors and a licence, as Debian's machine-readable copyright file lists them."""

    patterns: tuple[str, ...]
    authors: str
    licence: str


def stanzas(copyright_text: str) -> list[Stanza]:
    """The `Files:` stanzas of a copyright file in Debian's format 1.0."""
    found = []
    for paragraph in re.split(r"\n[ \t]*\n", copyright_text):
        fields: dict[str, list[str]] = {}
        for line in paragraph.splitlines():
            if not line[:1].isspace() and ":" in line:
                name, _, value = line.partition(":")
                fields[name] = [value.strip()]
            elif fields:
                fields[list(fields)[-1]].append(line.strip())
        if "Files" in fields:
            authors = "; ".join(filter(None, fields.get("Copyright", [])))
            found.append(Stanza(tuple(" ".join(fields["Files"]).split()), authors, fields.get("License", [""])[0]))
    return found


def stanza_of(path: str, of_package: Iterable[Stanza]) -> Stanza | None:
    """The stanza that names the file `path`, compared by folder and name; None where none does.

    Patterns are not expanded: a file that is covered by a wildcard only has no licence of its own.
    """
    tail = path.split("/")[-2:]
    return next((stanza for stanza in of_package for own in stanza.patterns if own.split("/")[-2:] == tail), None)


def members(path: Path, root: Path) -> Iterator[tuple[str, str, bytes]]:
    """The music in a file of a package: path in the package or archive, the folder or archive it lies in, content."""
    if path.suffix.lower() == ".wad":
        for name, data in lumps(path.read_bytes()):
            yield f"{name}.mid", path.stem, data
    elif path.suffix.lower() in ARCHIVES:
        with zipfile.ZipFile(path) as archive:
            for name in sorted(archive.namelist()):
                if Path(name).suffix.lower() in MODULES | MIDI | AUDIO:
                    yield name, path.stem, archive.read(name)
    elif path.suffix.lower() in MODULES | MIDI | AUDIO:
        yield path.relative_to(root).as_posix(), path.parent.name, path.read_bytes()


def originals(source: Source, root: Path, copyright_text: str = "") -> list[Original]:
    """The music of a game in its unpacked package, ordered by name; files with the same bytes are taken once.

    Raises:
        DataError: there is no music, or none under an allowed licence.
    """
    paths = sorted({path for pattern in source.music for path in root.glob(pattern)})
    if source.stems:
        return [mixed(source.game, folder) for folder in paths if folder.is_dir()]
    found = [member for path in paths if path.is_file() for member in members(path, root)]
    if source.allowed:
        of_package = stanzas(copyright_text)
        licences = {name: stanza_of(name, of_package) for name, _, _ in found}
        found = [one for one in found if (stanza := licences[one[0]]) and stanza.licence in source.allowed]
    unique = {hashlib.sha256(data).digest(): (name, place, data) for name, place, data in reversed(found)}.values()
    stems = Counter(Path(name).stem for name, _, _ in unique)
    named = (
        (Path(name).name if stems[Path(name).stem] == 1 else f"{place}-{Path(name).name}", data)
        for name, place, data in unique
    )
    if not unique:
        where = ", ".join(source.music)
        raise DataError(f"{source.game}: there is no music at {where} in its package", "its layout has changed")
    return sorted((Original(source.game, name, data) for name, data in named), key=lambda original: original.name)


def mixed(game: str, folder: Path) -> Original:
    """A song that is published as one audio file per part, named after its folder."""
    stems = tuple(path.read_bytes() for path in sorted(folder.iterdir()) if path.suffix.lower() in AUDIO)
    return Original(game, f"{folder.name}.flac", b"".join(stems), stems)


def attributions(source: Source, found: Iterable[Original], copyright_text: str) -> list[str]:
    """A line for each stanza under which music is used: file names, authors, licence."""
    tails = {original.name for original in found}
    lines = []
    for stanza in stanzas(copyright_text):
        names = sorted(tails & {pattern.split("/")[-1] for pattern in stanza.patterns})
        if source.allowed and names and stanza.licence in source.allowed:
            lines.append(f"{source.game}: {', '.join(names)}: by {stanza.authors}; {stanza.licence}")
    return lines


Pins = Mapping[tuple[str, str], str]
"""The hash of each file that the recipe was made with, by game and file name."""


def read_pins(path: Path) -> dict[tuple[str, str], str]:
    """The hashes that `music.sha256` holds, by game and file name."""
    pins = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        sha256, name = line.split(maxsplit=1)
        game, _, file = name.partition("/")
        pins[game, file] = sha256
    return pins


def require_pinned(game: str, packages: Iterable[Package], found: Iterable[Original], pins: Pins) -> None:
    """Refuse music that is not, byte for byte, what the recipe's figures rest on. A game without pins passes.

    Raises:
        DataError: a file is new, missing or different.
    """
    pinned = {name: sha256 for (of, name), sha256 in pins.items() if of == game}
    here = {original.name: original.sha256 for original in found}
    differing = sorted(name for name in pinned.keys() | here.keys() if pinned.get(name) != here.get(name))
    if pinned and differing:
        names = ", ".join(differing[:3]) + (", ..." if len(differing) > 3 else "")
        problem = f"{len(differing)} files of {game} are new, gone or changed ({names})"
        versions = ", ".join(f"{package.name} {package.version}" for package in packages)
        raise DataError(
            f"{versions}: not the music that the recipe was made with: {problem}",
            "a newer version has come out: --accept takes it as it is, but figures will differ from the published ones",
        )


def mix_stems(stems: Iterable[bytes], target: Path) -> None:
    """Add audio files of one rate, each from the start, and write the sum as FLAC, 3 dB below full scale."""
    parts = [soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True) for data in stems]
    rates = {rate for _, rate in parts}
    if len(rates) != 1:
        raise DataError(f"parts of one song have the sample rates {sorted(rates)}", "its package has changed")
    total = np.zeros((max(len(samples) for samples, _ in parts), 2), np.float32)
    for samples, _ in parts:
        total[: len(samples)] += samples
    soundfile.write(target, total * (0.7 / max(np.abs(total).max(), 1e-9)), rates.pop(), subtype="PCM_16")


def make_track(original: Original, target: Path, soundfont: Path) -> None:
    """Turn a piece of music into an audio file, under its name only when it is whole."""
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as temporary:
        source, made = Path(temporary) / f"source{original.kind}", Path(temporary) / f"made{target.suffix}"
        source.write_bytes(original.data)
        if original.stems:
            mix_stems(original.stems, made)
        elif original.kind in MODULES:
            options = ("--samplerate", str(SAMPLE_RATE), "--channels", "2", "--no-float", "--gain", str(MODULE_GAIN_DB))
            run("openmpt123", "--batch", "--quiet", *options, "--output", made, source)
        elif original.kind in MIDI:
            options = ("-n", "-i", "-q", "-r", str(SAMPLE_RATE), "-g", str(MIDI_GAIN), "-O", "s16", "-T", "flac")
            run("fluidsynth", *options, "-F", made, soundfont, source)
        else:
            made = source
        if not made.is_file() or not made.stat().st_size:
            raise DataError(f"{original.game}: {original.name} could not be rendered", "is the file whole?")
        os.replace(made, target)


def copyright_of(package: Package, root: Path) -> str:
    """The text of an unpacked package's copyright file."""
    return (root / "usr/share/doc" / package.name / "copyright").read_text(encoding="utf-8", errors="replace")


def copy_notices(source: Source, package: Package, root: Path, folder: Path) -> None:
    """Copy the copyright file of a package, and its other notices, into `folder`, named after the package."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [root / "usr/share/doc" / package.name / "copyright", *(root / name for name in source.notices)]
    texts = [gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes() for path in paths]
    (folder / f"{package.name}.txt").write_bytes(b"\n".join(texts))


@dataclass(frozen=True)
class Found:
    """The music of one package, and the text of its licences."""

    source: Source
    package: Package
    music: list[Original]
    copyright: str = field(default="", repr=False)


def ledger(rows: Iterable[Found], soundfont: Package, licence: str) -> str:
    """A table of origins, licences and changes, and the authors to name, in Markdown."""
    rows = list(rows)
    how = dict.fromkeys(MODULES, "tracker modules, rendered by openmpt123")
    how |= dict.fromkeys(MIDI, f"MIDI, rendered by fluidsynth with {soundfont.name} {soundfont.version} ({licence})")
    how |= dict.fromkeys(AUDIO, "audio files, unchanged")
    lines = ["# Where this music comes from", "", "The notices next to this file must travel with the music.", ""]
    lines += ["| game | tracks | licence | package | version | what was done |", "|---|---|---|---|---|---|"]
    for row in rows:
        done = {"parts of a song, mixed" if original.stems else how[original.kind] for original in row.music}
        cells = (row.source.game, len(row.music), row.source.licence, row.package.name, row.package.version)
        lines.append(f"| {' | '.join(str(cell) for cell in (*cells, '; '.join(sorted(done))))} |")
    named = [line for row in rows for line in attributions(row.source, row.music, row.copyright)]
    if named:
        lines += ["", "## Authors of single files", "", *(f"* {line}" for line in named)]
    return "\n".join([*lines, ""])


def say(text: str) -> None:
    """Tell how it goes."""
    print(text, file=sys.stderr, flush=True)


def collect(sources: Iterable[Source], packages: Path, scratch: Path, notices: Path) -> list[Found]:
    """Fetch and unpack the package of each source, and find its music; what an earlier source has is left out."""
    rows: list[Found] = []
    seen: set[str] = set()
    for source in sources:
        package = fetch(source.packages, packages)
        root = scratch / package.name
        root.mkdir(parents=True)
        run("dpkg-deb", "--extract", package.file, root)
        text = copyright_of(package, root)
        music = [one for one in originals(source, root, text) if one.sha256 not in seen]
        seen |= {one.sha256 for one in music}
        copy_notices(source, package, root, notices)
        say(f"{source.game}: {len(music)} tracks from {package.name} {package.version}")
        rows.append(Found(source, package, music, text))
    return rows


def fetch_all(sources: list[Source], folder: Path, accept: bool, jobs: int) -> int:
    """Fetch, check, lay out and render the music of all sources; returns the number of tracks."""
    music, packages = folder / "music", folder / "packages"
    notices = music / "LICENSES"
    soundfont = tomli.loads((RECIPE / "sources.toml").read_text(encoding="utf-8"))["soundfont"]
    pins = {} if accept else read_pins(RECIPE / "music.sha256")
    with tempfile.TemporaryDirectory(dir=folder) as temporary, ThreadPoolExecutor(jobs) as pool:
        say(f"the soundfont: {soundfont['package']}")
        sounds = fetch([soundfont["package"]], packages)
        run("dpkg-deb", "--extract", sounds.file, Path(temporary) / sounds.name)
        rows = collect(sources, packages, Path(temporary), notices)
        for game in {row.source.game: None for row in rows}:
            own = [row for row in rows if row.source.game == game]
            require_pinned(game, [row.package for row in own], [one for row in own for one in row.music], pins)
        soundfont_file = Path(temporary) / sounds.name / soundfont["file"]
        found = [one for row in rows for one in row.music]
        made = [pool.submit(make_track, one, music / one.game / one.track, soundfont_file) for one in found]
        for number, future in enumerate(made, start=1):
            future.result()
            if number % 20 == 0:
                say(f"{number} of {len(made)} tracks are ready")
        notice = Path(temporary) / sounds.name / "usr/share/doc" / sounds.name / "copyright"
        (notices / f"{sounds.name}.txt").write_bytes(notice.read_bytes())
    (notices / "README.md").write_text(ledger(rows, sounds, soundfont["licence"]), encoding="utf-8")
    return sum(len(row.music) for row in rows)


def main() -> int:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("free-music"))
    parser.add_argument("--copyleft", action="store_true", help="games under copyleft licences too, to train at home")
    parser.add_argument("--without", action="append", default=[], metavar="GAME", help="leave a game out")
    parser.add_argument("--accept", action="store_true", help="take newer packages whose music has changed")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="tracks rendered at the same time")
    options = parser.parse_args()
    lists = ("permissive", "copyleft") if options.copyleft else ("permissive",)
    try:
        require_tools(TOOLS)
        sources = read_sources(RECIPE / "sources.toml", lists)
        options.folder.mkdir(parents=True, exist_ok=True)
        kept = [source for source in sources if source.game not in options.without]
        count = fetch_all(kept, options.folder, options.accept, options.jobs)
    except DualdiffError as error:
        say(f"error: {error.message}" + (f"\n  {error.hint}" if error.hint else ""))
        return error.exit_code
    settings = options.folder / "dualdiff.toml"
    if not settings.exists():
        shutil.copyfile(RECIPE / "dualdiff.toml", settings)
    say(f"{count} tracks; next: cd {shlex.quote(str(options.folder))}; dualdiff dataset scan")
    print(options.folder / "music")
    return 0


if __name__ == "__main__":
    sys.exit(main())
