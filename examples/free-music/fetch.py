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
import os
import shutil
import struct
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tomli

from dualdiff.core.errors import DataError, DualdiffError

RECIPE = Path(__file__).resolve().parent
SAMPLE_RATE = 32000
"""What is rendered has the rate of dualdiff's format: nothing is resampled in training."""

MODULES = {".xm", ".it", ".mod", ".s3m", ".mtm"}
MIDI = {".mid", ".midi"}
AUDIO = {".ogg", ".oga", ".opus", ".flac"}
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

    @property
    def sha256(self) -> str:
        """What names its content."""
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


def originals(source: Source, root: Path) -> list[Original]:
    """The music of a game in its unpacked package, by name; what has the same bytes as another is left out."""
    found: list[tuple[str, str, bytes]] = []  # file name, the folder or archive it lies in, content
    for path in sorted({path for pattern in source.music for path in root.glob(pattern) if path.is_file()}):
        if path.suffix.lower() == ".wad":
            found += [(f"{name}.mid", path.stem, data) for name, data in lumps(path.read_bytes())]
        elif path.suffix.lower() in MODULES | MIDI | AUDIO:
            found.append((path.name, path.parent.name, path.read_bytes()))
    unique = {hashlib.sha256(data).digest(): (name, place, data) for name, place, data in reversed(found)}.values()
    stems = Counter(Path(name).stem for name, _, _ in unique)
    named = ((name if stems[Path(name).stem] == 1 else f"{place}-{name}", data) for name, place, data in unique)
    if not unique:
        where = ", ".join(source.music)
        raise DataError(f"{source.game}: there is no music at {where} in its package", "its layout has changed")
    return sorted((Original(source.game, name, data) for name, data in named), key=lambda original: original.name)


def read_pins(path: Path) -> dict[tuple[str, str], str]:
    """The hashes that `music.sha256` holds, by game and file name."""
    pins = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        sha256, name = line.split(maxsplit=1)
        game, _, file = name.partition("/")
        pins[game, file] = sha256
    return pins


def require_pinned(package: Package, found: Iterable[Original], pins: Mapping[tuple[str, str], str]) -> None:
    """Refuse music that is not, byte for byte, what the recipe's figures rest on. A game without pins passes.

    Raises:
        DataError: a file is new, missing or different.
    """
    found = list(found)
    game = found[0].game
    pinned = {name: sha256 for (of, name), sha256 in pins.items() if of == game}
    here = {original.name: original.sha256 for original in found}
    differing = sorted(name for name in pinned.keys() | here.keys() if pinned.get(name) != here.get(name))
    if pinned and differing:
        names = ", ".join(differing[:3]) + (", ..." if len(differing) > 3 else "")
        problem = f"{len(differing)} files of {game} are new, gone or changed ({names})"
        raise DataError(
            f"{package.name} {package.version} holds other music than the recipe was made with: {problem}",
            "a newer version has come out: --accept takes it as it is, but figures will differ from the published ones",
        )


def make_track(original: Original, target: Path, soundfont: Path) -> None:
    """Turn a piece of music into an audio file, under its name only when it is whole."""
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as temporary:
        source, made = Path(temporary) / f"source{original.kind}", Path(temporary) / f"made{target.suffix}"
        source.write_bytes(original.data)
        if original.kind in MODULES:
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


def copy_notices(source: Source, package: Package, root: Path, folder: Path) -> None:
    """Copy the copyright file of a game's package, and its other notices, beside the music."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [root / "usr/share/doc" / package.name / "copyright", *(root / name for name in source.notices)]
    texts = [gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes() for path in paths]
    (folder / f"{source.game}.txt").write_bytes(b"\n".join(texts))


def ledger(rows: Iterable[tuple[Source, Package, list[Original]]], soundfont: Package, licence: str) -> str:
    """What came from where, under which licence, and what was done to it, in Markdown."""
    how = dict.fromkeys(MODULES, "tracker modules, rendered by openmpt123")
    how |= dict.fromkeys(MIDI, f"MIDI, rendered by fluidsynth with {soundfont.name} {soundfont.version} ({licence})")
    how |= dict.fromkeys(AUDIO, "audio files, unchanged")
    lines = ["# Where this music comes from", "", "The notices beside this file must travel with the music.", ""]
    lines += ["| game | tracks | licence | package | version | what was done |", "|---|---|---|---|---|---|"]
    for source, package, found in rows:
        done = "; ".join(sorted({how[original.kind] for original in found}))
        cells = (source.game, len(found), source.licence, package.name, package.version, done)
        lines.append(f"| {' | '.join(str(cell) for cell in cells)} |")
    return "\n".join([*lines, ""])


def say(text: str) -> None:
    """Tell how it goes."""
    print(text, file=sys.stderr, flush=True)


def fetch_all(sources: list[Source], folder: Path, accept: bool, jobs: int) -> int:
    """Fetch, check, lay out and render the music of all sources; returns how many tracks there are."""
    music, packages = folder / "music", folder / "packages"
    soundfont = tomli.loads((RECIPE / "sources.toml").read_text(encoding="utf-8"))["soundfont"]
    pins = {} if accept else read_pins(RECIPE / "music.sha256")
    rows = []
    with tempfile.TemporaryDirectory(dir=folder) as temporary, ThreadPoolExecutor(jobs) as pool:
        say(f"the soundfont: {soundfont['package']}")
        sounds = fetch([soundfont["package"]], packages)
        run("dpkg-deb", "--extract", sounds.file, Path(temporary) / sounds.name)
        soundfont_file = Path(temporary) / sounds.name / soundfont["file"]
        for source in sources:
            package = fetch(source.packages, packages)
            root = Path(temporary) / package.name
            run("dpkg-deb", "--extract", package.file, root)
            found = originals(source, root)
            require_pinned(package, found, pins)
            copy_notices(source, package, root, music / "LICENSES")
            say(f"{source.game}: {len(found)} tracks from {package.name} {package.version}")
            made = [pool.submit(make_track, one, music / source.game / one.track, soundfont_file) for one in found]
            for future in made:
                future.result()
            rows.append((source, package, found))
        notice = Path(temporary) / sounds.name / "usr/share/doc" / sounds.name / "copyright"
        (music / "LICENSES" / f"{sounds.name}.txt").write_bytes(notice.read_bytes())
    (music / "LICENSES" / "README.md").write_text(ledger(rows, sounds, soundfont["licence"]), encoding="utf-8")
    return sum(len(found) for _, _, found in rows)


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
    say(f"{count} tracks; next: cd {options.folder}; dualdiff dataset scan")
    print(options.folder / "music")
    return 0


if __name__ == "__main__":
    sys.exit(main())
