"""The ledger: what became of every file of the music folder, and why. One JSON object a line, one line a file.

It loads as it is into Hugging Face `datasets`: every line has the same keys, with values of the same types.
"""

import dataclasses
import json
import types
import typing
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from dualdiff.config import setting
from dualdiff.errors import DataError
from dualdiff.files import write_text_atomically

LEDGER_NAME = "dataset.jsonl"
"""The ledger's file in the project's folder."""

VERSION = 1
"""The version of the lines; a ledger of a newer one is refused."""

State = Literal["used", "skipped", "failed"]
Split = Literal["", "train", "validation"]


@dataclass(frozen=True, kw_only=True)
class DatasetConfig:
    """Where the music is, how it is labelled, and what is refused."""

    folder: str = setting("music", "the folder of music, from here or absolute: folder/<game>/<track>")
    labels: Literal["folder", "tag"] = setting("folder", "what names a track's game: its folder, or its album tag")
    min_duration_s: float = setting(10.0, "shorter tracks are skipped, seconds", above=0)
    max_duration_s: float = setting(3600.0, "longer tracks are skipped, seconds", above=0)
    min_loudness_lufs: float = setting(-60.0, "tracks not above this are skipped, LUFS", minimum=-70, maximum=0)
    validation_share: float = setting(0.05, "share of tracks kept out of training, to measure on", minimum=0, below=1)

    def __post_init__(self) -> None:
        if self.min_duration_s >= self.max_duration_s:
            raise ValueError(
                f"min_duration_s {self.min_duration_s:g} is not below max_duration_s {self.max_duration_s:g}"
            )


@dataclass(frozen=True, kw_only=True)
class Row:
    """One file of the music folder. What could not be measured is empty, 0 or None."""

    version: int = VERSION
    path: str
    """From the music folder, with forward slashes."""
    game: str = ""
    title: str = ""
    """The title tag, or the file's name without its suffix."""
    album: str = ""
    """The game tag, or the album tag."""
    state: State
    reason: str = ""
    """Why the file is not used: a kind, a colon, the details. Empty for used files only."""
    split: Split = ""
    """Empty unless the file is used."""
    duplicate_of: str = ""
    """The path of the used file with the same bytes."""
    duration_s: float = 0.0
    sample_rate: int = 0
    channels: int = 0
    loudness_lufs: float | None = None
    """Integrated loudness (BS.1770) as stereo; -70, the gate, for silence."""
    true_peak_db: float | None = None
    sha256: str = ""
    bytes: int = 0
    mtime_ns: int = 0


def music_folder(project: Path, config: DatasetConfig) -> Path:
    """The folder of music: `dataset.folder`, taken from the project's folder unless it is absolute."""
    return project / Path(config.folder).expanduser()


def write_ledger(path: Path, rows: Iterable[Row]) -> None:
    """Write the ledger atomically, one line a row, ordered by path.

    Raises:
        DualdiffError: the folder cannot be written to.
    """
    ordered = sorted(rows, key=lambda row: row.path)
    lines = [json.dumps(dataclasses.asdict(row), ensure_ascii=False, allow_nan=False) + "\n" for row in ordered]
    write_text_atomically(path, "".join(lines))


def read_ledger(path: Path) -> list[Row]:
    """Read a ledger: its rows, ordered by path.

    Raises:
        DataError: it is missing or empty, a line is broken, or it was written by a newer dualdiff.
    """
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError as error:
        raise DataError(f"there is no ledger {path}", "make it: dualdiff dataset scan") from error
    except OSError as error:
        raise DataError(f"the ledger {path} cannot be read: {error.strerror}", "check its permissions") from error
    rows = [_read_line(path, number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    if not rows:
        raise DataError(f"the ledger {path} is empty", "make it anew: dualdiff dataset scan --rebuild")
    return sorted(rows, key=lambda row: row.path)


def _read_line(path: Path, number: int, line: bytes) -> Row:
    try:
        return row_of(json.loads(line))
    except ValueError as error:
        problem = "it is not JSON" if isinstance(error, json.JSONDecodeError | UnicodeDecodeError) else str(error)
        hint = "make the ledger anew: dualdiff dataset scan --rebuild"
        raise DataError(f"line {number} of the ledger {path} is broken: {problem}", hint) from error
    except DataError as error:
        raise DataError(f"line {number} of the ledger {path}: {error.message}", error.hint) from error


def row_of(table: Any) -> Row:
    """A row from the JSON object of a line.

    Raises:
        ValueError: it is not an object with the keys and types of a row.
        DataError: its version is newer than ours.
    """
    if not isinstance(table, dict):
        raise ValueError("it is not a JSON object")
    version = table.get("version")
    if isinstance(version, int) and version > VERSION:
        raise DataError(f"its version is {version}, this dualdiff reads {VERSION}", "update dualdiff")
    for name, kind in _KINDS.items():
        if name not in table:
            raise ValueError(f'"{name}" is missing')
        if not _fits(table[name], kind):
            raise ValueError(f'"{name}" is {json.dumps(table[name])}')
    if unknown := table.keys() - _KINDS.keys():
        raise ValueError(f'"{min(unknown)}" is not a key of the ledger')
    return Row(**table)


_KINDS = typing.get_type_hints(Row)


def _fits(value: Any, kind: Any) -> bool:
    if isinstance(kind, types.UnionType):
        return any(_fits(value, part) for part in typing.get_args(kind))
    if typing.get_origin(kind) is Literal:
        return value in typing.get_args(kind)
    return type(value) in ((int, float) if kind is float else (kind,))


def used(rows: Iterable[Row], split: Split | None = None) -> list[Row]:
    """The rows of the tracks that are used, all or those of one split, in their order."""
    return [row for row in rows if row.state == "used" and split in (None, row.split)]


def games_of(rows: Iterable[Row]) -> list[str]:
    """The games of the used tracks, sorted: the order of the labels everywhere."""
    return sorted({row.game for row in used(rows)})


@dataclass(frozen=True, kw_only=True)
class GameSummary:
    """What the ledger holds of one game."""

    game: str
    tracks: int
    validation: int
    """How many of the tracks are kept out of training."""
    hours: float
    share: float
    """Of all used hours."""
    skipped: int
    failed: int


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What the ledger holds: a line per game, totals, and how many files each kind of reason left out."""

    games: list[GameSummary]
    tracks: int
    validation: int
    hours: float
    skipped: int
    failed: int
    reasons: dict[str, int]
    """Commonest first."""


def summary(rows: Sequence[Row]) -> Summary:
    """Count what the ledger holds. Files without a game count in the totals only."""
    seconds = sum(row.duration_s for row in used(rows))

    def line(game: str) -> GameSummary:
        own = [row for row in rows if row.game == game]
        own_seconds = sum(row.duration_s for row in used(own))
        return GameSummary(
            game=game,
            tracks=len(used(own)),
            validation=len(used(own, "validation")),
            hours=own_seconds / 3600,
            share=own_seconds / seconds if seconds else 0.0,
            skipped=sum(row.state == "skipped" for row in own),
            failed=sum(row.state == "failed" for row in own),
        )

    return Summary(
        games=[line(game) for game in sorted({row.game for row in rows} - {""})],
        tracks=len(used(rows)),
        validation=len(used(rows, "validation")),
        hours=seconds / 3600,
        skipped=sum(row.state == "skipped" for row in rows),
        failed=sum(row.state == "failed" for row in rows),
        reasons=dict(Counter(kind_of(row.reason) for row in rows if row.reason).most_common()),
    )


def kind_of(reason: str) -> str:
    """The kind of a row's reason: what stands before its colon."""
    return reason.partition(":")[0]
