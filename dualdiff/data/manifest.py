"""The ledger: what became of every file of the music folder, and why. One JSON object a line, one line a file.

It loads as it is into Hugging Face `datasets`: every line has the same keys, with values of the same types.
"""

import json
import os
import types
import typing
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from dualdiff.core.config import setting
from dualdiff.core.errors import DataError
from dualdiff.core.files import parse_json, write_text_atomically

LEDGER_NAME = "dataset.jsonl"
"""The ledger's file in the project's folder."""

CACHES = ".dualdiff"
"""The folder in the project's for what the program can make again at any time."""

VERSION = 2
"""The version of the lines; a ledger of another one is refused."""

_ANEW = "make the ledger anew: dualdiff dataset scan --rebuild"

State = Literal["used", "skipped", "failed"]
Split = Literal["", "train", "validation"]


@dataclass(frozen=True, kw_only=True)
class DatasetConfig:
    """Where the music is, how it is labelled, and what is refused."""

    folder: str = setting("music", "the folder of music, from here or absolute: folder/<game>/<track>")
    labels: Literal["folder", "tag", "csv"] = setting(
        "folder", "what names a track's game: its folder, its game or album tag, or a table"
    )
    labels_csv: str = setting("labels.csv", "that table, from here: columns path (of a file or a folder) and game")
    min_duration_s: float = setting(10.0, "shorter tracks are skipped, seconds", above=0)
    max_duration_s: float = setting(3600.0, "longer tracks are skipped, seconds", above=0)
    min_loudness_lufs: float = setting(-60.0, "tracks not above this are skipped, LUFS", minimum=-70, maximum=0)
    near_duplicates: Literal["skip", "keep"] = setting(
        "skip", "the same music again (another gain, codec, rate or start): use the best one, or all of them"
    )
    repeats: Literal["once", "all"] = setting(
        "once", "what a track that plays a loop again counts for when crops are drawn: that loop once, or all it plays"
    )
    render_length_s: float = setting(
        120.0, "console music that does not say how long it plays is rendered for so long, seconds", above=0
    )
    render_fade_s: float = setting(8.0, "and then fades out for so long, unless its tags say, seconds", minimum=0)
    renders: int = setting(
        1,
        "how often each MIDI file and module to train on is played: once as it is, else also in other keys, at 0.9 to"
        " 1.1 of its tempo, by each soundfont in turn",
        minimum=1,
        maximum=12,
    )
    soundfonts: tuple[str, ...] = setting(
        ("auto",), "files whose instruments play MIDI, from here; auto: the one of this machine"
    )
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
    """From the music folder, with forward slashes; a tune of a file of several has `#` and its number at the end."""
    rendered: str = ""
    """The FLAC copy of a file that cannot be read from the middle at once: from the project's folder; see
    `read_ledger`."""
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
    note: str = ""
    """What is odd about the file, though it was read: what its decoder warned of."""
    duplicate_of: str = ""
    """The path of the used file with the same bytes or the same music."""
    group: str = ""
    """The same for all tracks with the same music, and for no other; empty where there is only one."""
    piece: str = ""
    """The path of the piece that this is a render of, in another key, at another tempo; empty for the piece itself."""
    semitones: int = 0
    """How much higher than its piece a render is."""
    tempo: float = 1.0
    """How fast a render is, its piece being 1."""
    soundfont: str = ""
    """The name of the soundfont that plays a render of MIDI."""
    duration_s: float = 0.0
    sample_rate: int = 0
    channels: int = 0
    loudness_lufs: float | None = None
    """Integrated loudness (BS.1770) as stereo; -70, the gate, for silence."""
    true_peak_db: float | None = None
    clipped_share: float | None = None
    """Share of the samples at full scale."""
    silence_share: float | None = None
    """Share of the time below -60 LUFS, by tenths of a second."""
    bandwidth_hz: float | None = None
    """Above it, the mean spectrum stays 80 dB below its highest point."""
    dual_mono: bool = False
    """Stereo whose channels are equal, but for what a codec leaves."""
    dc: float | None = None
    """The mean of the channel that has the larger one; full scale is 1."""
    loop_s: float = 0.0
    """How long the loop is that the track plays more than once; 0 where it plays none."""
    unique_s: float = 0.0
    """How long the track is without what it plays again."""
    weight_s: float = 0.0
    """How much music the track counts for when crops are drawn."""
    folder: str = ""
    """The music folder, where `dataset scan FOLDER` named another than `dataset.folder`: from the project's folder, or
    absolute. The same in all rows."""
    sha256: str = ""
    """Of the file's bytes; for a tune of several and for console music, of these and of how it is rendered."""
    bytes: int = 0
    mtime_ns: int = 0

    @property
    def source(self) -> str:
        """The audio file to read: absolute where there is a copy, else from the music folder."""
        return self.rendered or self.path

    @property
    def file(self) -> str:
        """The path of the file, without the number of the tune; of a render that of its piece."""
        path = self.piece or self.path
        file, mark, number = path.rpartition("#")
        return file if mark and number.isdecimal() and os.path.splitext(file)[1] else path


def music_folder(project: Path, config: DatasetConfig, rows: Sequence[Row] = ()) -> Path:
    """The folder of music: the one that the manifest's rows name, else `dataset.folder`.

    Both are taken from the project's folder unless they are absolute.
    """
    return project / Path(next((row.folder for row in rows if row.folder), config.folder)).expanduser()


def write_ledger(path: Path, rows: Iterable[Row]) -> None:
    """Write the ledger atomically, one line a row, ordered by path; `rendered` as seen from the ledger's folder.

    Raises:
        DualdiffError: the folder cannot be written to.
    """
    ordered = sorted(rows, key=lambda row: row.path)
    lines = [json.dumps(_table(row, path.parent), ensure_ascii=False, allow_nan=False) + "\n" for row in ordered]
    write_text_atomically(path, "".join(lines))


def _table(row: Row, home: Path) -> dict[str, Any]:
    table = {name: getattr(row, name) for name in _KINDS}
    if row.rendered:
        table["rendered"] = Path(row.rendered).relative_to(home.absolute()).as_posix()
    return table


def read_ledger(path: Path) -> list[Row]:
    """Read a ledger: its rows, ordered by path; `rendered` is made absolute.

    Raises:
        DataError: it is missing or empty, a line is broken, or it was written by another version of dualdiff.
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
    _require_splits_of_pieces(path, rows)
    return sorted(rows, key=lambda row: row.path)


def _require_splits_of_pieces(path: Path, rows: Sequence[Row]) -> None:
    """Refuse a render that is not in the split of its piece: a held-out piece would be trained on.

    Raises:
        DataError: there is one.
    """
    splits = {row.path: row.split for row in rows if not row.piece}
    for row in rows:
        if row.piece and row.split != splits.get(row.piece, ""):
            raise DataError(
                f'{row.path} in the ledger {path} has the split "{row.split}", and the piece that it is a render of has'
                f' "{splits.get(row.piece, "")}"',
                "scan again: dualdiff dataset scan --rebuild",
            )


def _read_line(path: Path, number: int, line: bytes) -> Row:
    try:
        row = row_of(parse_json(line))
        return replace(row, rendered=str(path.parent.absolute() / row.rendered)) if row.rendered else row
    except ValueError as error:
        problem = "it is not JSON" if isinstance(error, json.JSONDecodeError | UnicodeDecodeError) else str(error)
        raise DataError(f"line {number} of the ledger {path} is broken: {problem}", _ANEW) from error
    except DataError as error:
        raise DataError(f"line {number} of the ledger {path}: {error.message}", error.hint) from error


def row_of(table: Any) -> Row:
    """A row from the JSON object of a line.

    Raises:
        ValueError: it is not an object with the keys and types of a row.
        DataError: its version is not ours.
    """
    if not isinstance(table, dict):
        raise ValueError("it is not a JSON object")
    version = table.get("version")
    if isinstance(version, int) and version > VERSION:
        raise DataError(f"its version is {version}, this dualdiff reads {VERSION}", "update dualdiff")
    if isinstance(version, int) and version < VERSION:
        raise DataError(f"its version, {version}, is older than this dualdiff's", _ANEW)
    table = {**{name: getattr(Row, name) for name in _ADDED}, **table}
    if problem := _misfit(tuple(table), tuple(map(type, table.values()))):
        raise ValueError(f'"{problem}" is {json.dumps(table[problem]) if problem in table else "missing"}')
    for name, choices in _CHOICES.items():
        if table[name] not in choices:
            raise ValueError(f'"{name}" is {json.dumps(table[name])}')
    return Row(**table)


@lru_cache(maxsize=64)
def _misfit(names: tuple[str, ...], kinds: tuple[type, ...]) -> str:
    """The first key of a row that is missing, or of another type; empty if all fit. Most lines look alike.

    Raises:
        ValueError: there is a key that no row has.
    """
    found = dict(zip(names, kinds, strict=True))
    if problem := next((name for name, allowed in _KINDS.items() if found.get(name) not in allowed), ""):
        return problem
    if unknown := found.keys() - _KINDS.keys():
        raise ValueError(f'"{min(unknown)}" is not a key of the ledger')
    return ""


def _types(hint: Any) -> tuple[type, ...]:
    """The types of JSON values that a field of a row may have."""
    if isinstance(hint, types.UnionType):
        return tuple(kind for part in typing.get_args(hint) for kind in _types(part))
    if typing.get_origin(hint) is Literal:
        return (str,)
    return (int, float) if hint is float else (hint,)


_HINTS = typing.get_type_hints(Row)
_KINDS = {name: _types(hint) for name, hint in _HINTS.items()}
_ADDED = ("piece", "semitones", "tempo", "soundfont", "folder", "note")
"""Keys that older lines of this version lack."""

_CHOICES = {name: typing.get_args(hint) for name, hint in _HINTS.items() if typing.get_origin(hint) is Literal}


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
    by_game: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_game[row.game].append(row)
    seconds = sum(row.duration_s for row in used(rows))

    def line(game: str) -> GameSummary:
        own = by_game[game]
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
        games=[line(game) for game in sorted(by_game.keys() - {""})],
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
