"""What becomes of measured files: each file's game, its state and the reason, then the split.

Both are pure functions of facts and settings; so a changed setting needs no second look at the music.
"""

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace

from dualdiff.data.ledger import DatasetConfig, Row, Split, kind_of, used
from dualdiff.data.measure import Facts

FEWEST_TO_VALIDATE = 4
"""With so many used tracks or more, at least one is kept out of training."""

REMEDIES = {
    "unreadable": "see that these files play, or convert them to FLAC",
    "no game folder": 'sort the tracks into a folder per game, or set dataset.labels = "tag"',
    "no album tag": 'tag the tracks with their album, or set dataset.labels = "folder"',
    "too short": "lower dataset.min_duration_s",
    "too long": "raise dataset.max_duration_s",
    "silent": "lower dataset.min_loudness_lufs",
    "duplicate": "nothing needs to be done: the same bytes are used once",
}
"""The kinds of reason not to use a file, and what helps. A row's reason begins with its kind."""


def judge(facts: Iterable[Facts], config: DatasetConfig) -> list[Row]:
    """A row for each file, ordered by path, still without splits. Of files with the same bytes, the first is used."""
    rows: list[Row] = []
    first_with: dict[str, str] = {}
    for own in sorted(facts, key=lambda facts: facts.path):
        row = _row(own, config)
        if row.state == "used" and (first := first_with.setdefault(own.sha256, own.path)) != own.path:
            row = replace(row, state="skipped", reason=f"duplicate: the same file as {first}", duplicate_of=first)
        rows.append(row)
    return rows


def _row(facts: Facts, config: DatasetConfig) -> Row:
    measured = {name: value for name, value in asdict(facts).items() if name != "error"}
    game = _game(facts, config)
    if facts.error:
        return Row(**measured, game=game, state="failed", reason=f"unreadable: {facts.error}")
    reason = _reason(facts, game, config)
    return Row(**measured, game=game, state="skipped" if reason else "used", reason=reason)


def _game(facts: Facts, config: DatasetConfig) -> str:
    name = facts.album if config.labels == "tag" else facts.path.rpartition("/")[0].partition("/")[0]
    return " ".join(unicodedata.normalize("NFC", name).split())


def _reason(facts: Facts, game: str, config: DatasetConfig) -> str:
    """Why a readable file is not used; empty where it is."""
    if not game:
        where = "no album tag: nothing names its game"
        return where if config.labels == "tag" else "no game folder: it lies in the music folder itself"
    if facts.duration_s < config.min_duration_s:
        return f"too short: {facts.duration_s:.2f} s of at least {config.min_duration_s:g} s"
    if facts.duration_s > config.max_duration_s:
        return f"too long: {facts.duration_s:.0f} s of at most {config.max_duration_s:g} s"
    if facts.loudness_lufs is None or facts.loudness_lufs <= config.min_loudness_lufs:
        return f"silent: {facts.loudness_lufs} LUFS, not above {config.min_loudness_lufs:g} LUFS"
    return ""


def with_splits(rows: Sequence[Row], before: Sequence[Row], share: float) -> list[Row]:
    """The rows with a split for each used track: by a hash of its content, so that added tracks move no other.

    Tracks of the ledger `before` keep their split, known by content or else by path. Of the new ones, those whose
    hash lies below `share` are kept out of training, but never all tracks of a game. From `FEWEST_TO_VALIDATE` used
    tracks on there is at least one to validate on. A share of 0 trains on everything.
    """
    known = {row.path: row.split for row in used(before)} | {row.sha256: row.split for row in used(before)}
    known = {key: split for key, split in known.items() if split}
    tracks = used(rows)
    kept = {row.path: known.get(row.sha256) or known.get(row.path) or "" for row in tracks}
    splits: dict[str, Split] = {row.path: "train" for row in tracks}
    if share > 0:
        for row in tracks:
            splits[row.path] = kept[row.path] or ("validation" if _quantile(row) < share else "train")
        _leave_a_track_to_each_game(tracks, splits, kept)
        _leave_a_track_to_validate_on(tracks, splits, kept)
    return [replace(row, split=splits.get(row.path, "")) for row in rows]


def _quantile(row: Row) -> float:
    """A number in [0, 1) that depends on the content alone, evenly spread."""
    return int(row.sha256[:13], 16) / 16**13


def _leave_a_track_to_each_game(tracks: Sequence[Row], splits: dict[str, Split], kept: Mapping[str, Split]) -> None:
    for game in sorted({row.game for row in tracks}):
        own = [row for row in tracks if row.game == game]
        movable = [row for row in own if not kept[row.path]]
        if movable and all(splits[row.path] == "validation" for row in own):
            splits[max(movable, key=_quantile).path] = "train"


def _leave_a_track_to_validate_on(tracks: Sequence[Row], splits: dict[str, Split], kept: Mapping[str, Split]) -> None:
    if len(tracks) < FEWEST_TO_VALIDATE or "validation" in splits.values():
        return

    def unfitness(row: Row) -> tuple[bool, bool, float]:
        alone = sum(other.game == row.game for other in tracks) == 1
        return alone, bool(kept[row.path]), _quantile(row)

    splits[min(tracks, key=unfitness).path] = "validation"


def commonest_reason(rows: Sequence[Row]) -> tuple[str, int, str]:
    """Of files that are not used: the commonest kind of reason, how many it holds for, and one such reason in full."""
    kinds = [kind_of(row.reason) for row in rows if row.reason]
    kind = max(sorted(set(kinds)), key=kinds.count)
    return kind, kinds.count(kind), next(row.reason for row in rows if kind_of(row.reason) == kind)
