"""`dataset scan`: look at every file of the music folder and write the ledger.

Measuring is what takes time. Each measured file goes at once into a journal among the caches, so that an interrupted
scan resumes where it was; the manifest itself is written once, at the end, and stays whole until then.
"""

import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path

from dualdiff.audio import ffmpeg, notes
from dualdiff.audio.cache import NEVER_SEEKABLE, Cache, identity
from dualdiff.audio.ffmpeg import Rendering
from dualdiff.audio.notes import Renderer, Variation
from dualdiff.core.errors import DataError, DualdiffError
from dualdiff.core.files import MARKER, append_text, discard, kind_of, own_folder
from dualdiff.core.lock import locked
from dualdiff.core.progress import Progress, silent
from dualdiff.data import beats, fingerprint, labels, renders
from dualdiff.data.analysis import Facts, Found, find, measure, measure_all, with_tunes
from dualdiff.data.fingerprint import Fingerprint
from dualdiff.data.fingerprint_store import PRINTS_NAME, prints_path, read_prints, write_prints
from dualdiff.data.labels import Label
from dualdiff.data.manifest import (
    CACHES,
    LEDGER_NAME,
    DatasetConfig,
    Row,
    music_folder,
    read_ledger,
    write_ledger,
)
from dualdiff.data.selection import REMEDIES, commonest_reason, judge, with_splits

CACHE_NAME = "audio-cache"
"""The folder, among the caches, of the FLAC files that ffmpeg makes of what only it can play."""

JOURNAL_NAME = "scan-journal.jsonl"


@dataclass(frozen=True, kw_only=True)
class Scan:
    """What a scan came to: the ledger's rows, how many files were measured now, and what was left aside."""

    folder: Path
    """The music folder."""
    rows: list[Row]
    measured: int
    ignored: dict[str, int]
    """Suffixes of other files, with how many there are; the commonest first."""
    unmatched: list[str]
    """Paths in the table of labels that are not there."""
    remarks: list[str]
    """What was asked for and could not be done."""
    left_out: list[str]
    """Folders in the music folder that this program wrote."""


def scan(
    project: Path,
    config: DatasetConfig,
    folder: Path | None = None,
    *,
    rebuild: bool = False,
    progress: Progress = silent,
    processes: int | None = None,
) -> Scan:
    """Find, probe, measure, hash, label and split the music; write `dataset.jsonl` into the folder `project`.

    Files that the last scan measured and that have the same size and time since are not read again, and keep their
    split; `rebuild` forgets all that. The music is only read. `folder` is scanned instead of that of the settings, and
    the manifest remembers it. `processes` is as for `measure_all`.

    Raises:
        DataError: the music folder or the table of labels is missing, or there is no audio, or none that can be used
            (then the old ledger stays).
        DualdiffError: the project's folder cannot be written to, or another process scans here.
    """
    caches = project / CACHES
    own_folder(caches, "caches", lambda _: True)
    with locked(caches / "scan.lock", f"{project / LEDGER_NAME} is made"):
        return _scan(project, config, folder, rebuild, progress, processes)


def _scan(
    project: Path, config: DatasetConfig, named: Path | None, rebuild: bool, progress: Progress, processes: int | None
) -> Scan:
    """Scan where no other process does; see `scan`."""
    ledger, journal = project / LEDGER_NAME, Journal(project / CACHES)
    before = _rows_before(ledger, rebuild)
    folder = _folder(project, config, named, before)
    before = [] if rebuild else before
    found, ignored, left_out = _find(folder)
    label, soundfonts = _labels(project, config, folder), renders.soundfonts(project, config.soundfonts)
    store = prints_path(project)
    if rebuild:
        journal.discard()
    prints = read_prints(store) if before else {}
    measured_before = [facts for facts in map(_facts, before) if facts.sha256 in prints]
    known = {facts.path: facts for facts in [*measured_before, *_kept(journal.read(), prints)] if not facts.error}
    cache = Cache(project.absolute() / CACHES / CACHE_NAME)
    files = with_tunes(folder, found, _tunes_before(before, cache))
    rendering = Rendering(length_s=config.render_length_s, fade_s=config.render_fade_s)
    renderer = Renderer(cache=cache.folder, soundfonts=soundfonts)
    facts = [
        known[file.path] for file in files if _is_unchanged(folder, file, known.get(file.path), rendering, renderer)
    ]
    reused = {own.path for own in facts}
    fresh = [file for file in files if file.path not in reused]
    look = partial(measure, cache=cache, rendering=rendering, renderer=renderer, has_ffmpeg=ffmpeg.has_ffmpeg())
    facts += _measured(
        partial(measure_all, folder, fresh, look, processes), journal, prints, progress, len(facts), len(files)
    )
    grouped = _grouped(facts, prints) if journal.has_any() else facts
    rows = judge(grouped, config, label)
    _require_a_used_one(rows, folder)
    rows = with_splits(rows, before, config.validation_share)
    planned = {own.path: own for own in renders.plan(rows, config.renders, soundfonts)}
    played = [known[path] for path, own in planned.items() if own.is_unchanged(folder, known.get(path), renderer)]
    missing = [own.found for own in planned.values() if own.path not in {one.path for one in played}]
    play = partial(renders.measure_render, renders=planned, renderer=renderer)
    played += _measured(
        partial(measure_all, folder, missing, play, processes), journal, prints, progress, len(played), len(planned)
    )
    remembered = _remembered(project, config, folder)
    rows = sorted(renders.rows_of(rows, planned, played), key=lambda row: row.path)
    rows = [replace(row, folder=remembered) for row in rows]
    if journal.has_any():
        kept = {own.sha256: prints[own.sha256] for own in [*facts, *played] if own.sha256 in prints}
        write_prints(project / CACHES / PRINTS_NAME, kept)
    if rows != before:
        write_ledger(ledger, rows)
    journal.discard()
    cache.prune({Path(row.rendered).name for row in rows if row.rendered})
    beats.write_missing(project, folder, rows, progress, processes)
    unmatched = label.unmatched(row.path for row in rows) if isinstance(label, labels.Table) else []
    return Scan(
        folder=folder,
        rows=rows,
        measured=len(fresh) + len(missing),
        ignored=ignored,
        unmatched=unmatched,
        left_out=left_out,
        remarks=renders.remarks(rows, config.renders, played),
    )


def _measured(
    measure: Callable[[Callable[[Found], None]], Iterator[Facts]],
    journal: "Journal",
    prints: dict[str, Fingerprint],
    progress: Progress,
    done: int,
    total: int,
) -> list[Facts]:
    """The facts as they come, each put on record; `done` of `total` were there before."""
    facts: list[Facts] = []

    def name(file: Found) -> None:
        progress(done + len(facts), total, file.path)

    for own in measure(name):
        if not own.error:
            journal.keep(own)
        facts += _kept([own], prints)
        progress(done + len(facts), total)
    return facts


def _rows_before(ledger: Path, may_be_broken: bool) -> list[Row]:
    """The rows of the manifest there is.

    Raises:
        DataError: it is broken, unless it may be; or it is another file that would be overwritten.
    """
    if not ledger.exists():
        return []
    if may_be_broken:
        _require_manifest(ledger)
    try:
        return read_ledger(ledger)
    except DataError:
        if not may_be_broken:
            raise
        return []


def _require_manifest(path: Path) -> None:
    """Refuse to overwrite a file of the manifest's name that is none: no line of it is a row of any version.

    Raises:
        DataError: so it is.
    """
    lines = path.read_bytes().splitlines()[:100]
    if any(line.strip() for line in lines) and not any(b'"sha256"' in line and b'"state"' in line for line in lines):
        raise DataError(f"{path} is not a manifest of dualdiff", "it would be overwritten: move it or rename it")


def _folder(project: Path, config: DatasetConfig, named: Path | None, before: list[Row]) -> Path:
    """The folder named, else that of the settings, else, if that is missing, the one that was scanned before."""
    if named is not None:
        return named
    noted, scanned = music_folder(project, config), music_folder(project, config, before)
    return scanned if not noted.exists() and scanned.is_dir() else noted


def _remembered(project: Path, config: DatasetConfig, folder: Path) -> str:
    """How the manifest names the folder: not at all if it is that of the settings, else from the project's folder."""
    place, root = folder.resolve(), project.resolve()
    if place == music_folder(project, config).resolve():
        return ""
    return (Path(os.path.relpath(place, root)) if place.is_relative_to(root) else place).as_posix()


def _labels(project: Path, config: DatasetConfig, folder: Path) -> Label:
    if config.labels == "csv":
        return labels.Table(project / Path(config.labels_csv).expanduser(), folder)
    return labels.by_tag if config.labels == "tag" else labels.by_folder


def _kept(measured: Iterable[Facts], prints: dict[str, Fingerprint]) -> Iterator[Facts]:
    """The facts, with their fingerprints put among the others."""
    for facts in measured:
        if not facts.error:
            prints[facts.sha256] = fingerprint.from_text(facts.fingerprint)
        yield replace(facts, fingerprint="")


def _grouped(facts: Iterable[Facts], prints: Mapping[str, Fingerprint]) -> list[Facts]:
    """The facts with the names of their groups: each that of the least hash of audio in it."""
    facts = list(facts)
    hashes = sorted({own.sha256 for own in facts if own.sha256 in prints and not own.error})
    group_of: dict[str, str] = {}
    for group in fingerprint.groups([prints[content] for content in hashes]):
        group_of.update({hashes[index]: hashes[group[0]][:16] for index in group})
    return [replace(own, group=group_of.get(own.sha256, "")) for own in facts]


def _find(folder: Path) -> tuple[list[Found], dict[str, int], list[str]]:
    choose = "set dataset.folder in dualdiff.toml, or name it: dualdiff dataset scan FOLDER"
    if kind := kind_of(folder):
        raise DataError(
            f"the music folder {folder} holds what dualdiff wrote ({kind})",
            f"{choose}; if it is meant, remove {folder / MARKER}",
        )
    if not folder.exists():
        raise DataError(f"there is no music folder {folder}", choose)
    if not folder.is_dir():
        raise DataError(f"the music folder {folder} is a file", choose)
    files, ignored, left_out = find(folder)
    if not files:
        others = ", ".join(f"{count} {suffix or 'without suffix'}" for suffix, count in list(ignored.items())[:3])
        holds = f"other files only ({others})" if others else "no files"
        raise DataError(
            f"the music folder {folder} holds no audio: {holds}", f"put music into it as game/track; {choose}"
        )
    return files, ignored, left_out


_COLUMNS = [field.name for field in fields(Facts) if field.name not in ("error", "fingerprint")]


def _facts(row: Row) -> Facts:
    return Facts(error=row.reason if row.state == "failed" else "", **{name: getattr(row, name) for name in _COLUMNS})


def _is_unchanged(folder: Path, file: Found, known: Facts | None, rendering: Rendering, renderer: Renderer) -> bool:
    """Whether a file is as it was measured, and its copy in the cache, if it needs one, is there."""
    if known is None or file.problem or (known.bytes, known.mtime_ns) != (file.bytes, file.mtime_ns):
        return False
    if notes.is_midi(folder / file.file):
        return renderer.has(Path(known.rendered), folder / file.file, Variation(soundfont=renderer.soundfont))
    suffix = os.path.splitext(file.file)[1].lower()
    if known.rendered and not Path(known.rendered).exists():
        return False
    if suffix in ffmpeg.CONSOLE_SUFFIXES:  # small files, for which settings matter
        return identity(folder / file.path, rendering) == known.sha256
    return bool(known.rendered) or suffix not in NEVER_SEEKABLE


def _tunes_before(rows: Iterable[Row], cache: Cache) -> dict[tuple[str, int, int], int]:
    """How many tunes the files of a manifest hold that have copies in the cache, by path, bytes and time of change."""
    copied = (row for row in rows if row.rendered and not row.piece and Path(row.rendered).parent == cache.folder)
    return dict(Counter((row.file, row.bytes, row.mtime_ns) for row in copied))


def _require_a_used_one(rows: list[Row], folder: Path) -> None:
    if not any(row.state == "used" for row in rows):
        kind, count, example = commonest_reason(rows)
        problem = f"none of the {len(rows)} audio files in {folder} can be used"
        raise DataError(f"{problem}; for {count} of them the reason is: {example}", REMEDIES[kind])


class Journal:
    """What an unfinished scan has measured so far: a line per file, among the caches."""

    def __init__(self, caches: Path) -> None:
        self.caches, self.path = caches, caches / JOURNAL_NAME

    def keep(self, facts: Facts) -> None:
        """Put the facts of one file on record, at once.

        Raises:
            DualdiffError: the folder cannot be written to.
        """
        try:
            append_text(self.path, f"\n{json.dumps(asdict(facts))}\n")  # on a line of its own, even after a torn one
        except OSError as error:
            hint = "the ledger was not changed; check space and permissions"
            raise DualdiffError(f"{self.path} cannot be written: {error.strerror}", hint) from error

    def read(self) -> Iterator[Facts]:
        """The facts on record; a line that an interruption tore is passed over."""
        if self.path.exists():
            for line in self.path.read_bytes().splitlines():
                try:
                    yield Facts(**json.loads(line))
                except (ValueError, TypeError):
                    continue

    def has_any(self) -> bool:
        """Whether there is anything on record."""
        return self.path.exists()

    def discard(self) -> None:
        """Forget what is on record."""
        discard(self.caches, re.compile(re.escape(JOURNAL_NAME)))
