"""What becomes of measured files: each file's game, its state and the reason, then the split.

Both are pure functions of facts and settings; so a changed setting needs no second look at the music.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import replace
from pathlib import PurePosixPath

from dualdiff.audio.ffmpeg import GET_FFMPEG
from dualdiff.audio.midi import GET_FLUIDSYNTH, GET_SOUNDFONT
from dualdiff.core.files import hash_of
from dualdiff.data.analysis import LINK, NEEDS_FFMPEG, NEEDS_FLUIDSYNTH, NEEDS_SOUNDFONT, OWN_CLIP, UNREADABLE, Facts
from dualdiff.data.labels import Label
from dualdiff.data.manifest import DatasetConfig, Row, Split, State, kind_of, used

FEWEST_TO_VALIDATE = 4
"""A game with at least this many pieces of music has one or more held out; so has a data set of this many in all."""

REMEDIES = {
    UNREADABLE: "see that these files play, or convert them to FLAC",
    NEEDS_FFMPEG: GET_FFMPEG,
    NEEDS_FLUIDSYNTH: GET_FLUIDSYNTH,
    NEEDS_SOUNDFONT: GET_SOUNDFONT,
    LINK: "nothing needs to be done: the folder is read once",
    OWN_CLIP: "nothing needs to be done: a model does not learn from clips of its own kind",
    "no game folder": 'sort the tracks into a folder per game, or set dataset.labels = "tag"',
    "no game tag": 'tag the tracks with their game or album, or set dataset.labels = "folder"',
    "no label": "add a line for these files, or for their folder, to the table dataset.labels_csv",
    "too short": "lower dataset.min_duration_s",
    "too long": "raise dataset.max_duration_s",
    "silent": "lower dataset.min_loudness_lufs",
    "duplicate": "nothing needs to be done: the same bytes are used once",
    "near-duplicate": 'the same music is used once; to use all, set dataset.near_duplicates = "keep"',
}
"""The kinds of reason not to use a file, and what helps. A row's reason begins with its kind."""

_UNNAMED = {
    "folder": "no game folder: it lies in the music folder itself",
    "tag": "no game tag: neither a game tag nor an album tag names its game",
    "csv": "no label: the table of labels has no line for it",
}


def judge(facts: Iterable[Facts], config: DatasetConfig, label: Label) -> list[Row]:
    """A row for each file, ordered by path, still without splits.

    Of files with the same bytes, the first is used; of the same music, if so set, the one with the most bandwidth (to
    1 kHz), and of those the longest. Games whose names differ in case only are one.
    """
    ordered = sorted(facts, key=lambda facts: facts.path)
    names = [label(own) for own in ordered]
    spelling: dict[str, str] = {}
    for name in sorted(names):
        spelling.setdefault(name.casefold(), name)
    rows: list[Row] = []
    first_with: dict[str, str] = {}
    for own, name in zip(ordered, names, strict=True):
        row = _row(own, spelling[name.casefold()], config)
        if row.state == "used" and (first := first_with.setdefault(own.sha256, own.path)) != own.path:
            row = _duplicate(row, "duplicate: the same bytes as", first)
        rows.append(row)
    return _one_of_each_music(rows) if config.near_duplicates == "skip" else rows


def _row(facts: Facts, game: str, config: DatasetConfig) -> Row:
    measured = {name: value for name, value in vars(facts).items() if name not in ("error", "fingerprint")}
    state: State = "used"
    if reason := facts.error or _reason(facts, game, config):
        state = "failed" if kind_of(reason) == UNREADABLE else "skipped"
    weight_s = facts.unique_s if config.repeats == "once" else facts.duration_s
    return Row(**measured, game=game, state=state, reason=reason, weight_s=weight_s)


def _duplicate(row: Row, words: str, of: str) -> Row:
    return replace(row, state="skipped", reason=f"{words} {of}", duplicate_of=of)


def _one_of_each_music(rows: Sequence[Row]) -> list[Row]:
    best: dict[str, Row] = {}
    for row in used(rows):
        if row.group and (row.group not in best or _quality(row) > _quality(best[row.group])):
            best[row.group] = row

    def verdict(row: Row) -> Row:
        kept = best.get(row.group, row)
        if row.state != "used" or kept is row:
            return row
        return _duplicate(row, "near-duplicate: the same music as", kept.path)

    return [verdict(row) for row in rows]


def _quality(row: Row) -> tuple[float, float]:
    return round((row.bandwidth_hz or 0) / 1000), row.duration_s


def _reason(facts: Facts, game: str, config: DatasetConfig) -> str:
    """Why a readable file is not used; empty where it is."""
    if not game:
        return _UNNAMED[config.labels]
    if facts.duration_s < config.min_duration_s:
        return f"too short: {facts.duration_s:.2f} s of at least {config.min_duration_s:g} s"
    if facts.duration_s > config.max_duration_s:
        return f"too long: {facts.duration_s:.0f} s of at most {config.max_duration_s:g} s"
    if facts.loudness_lufs is None or facts.loudness_lufs <= config.min_loudness_lufs:
        return f"silent: {facts.loudness_lufs} LUFS, not above {config.min_loudness_lufs:g} LUFS"
    return ""


def with_splits(rows: Sequence[Row], before: Sequence[Row], share: float) -> list[Row]:
    """The rows with a split for each used track: by a hash of its content, so that added tracks move no other.

    All tracks of the same music are on one side. Tracks of the ledger `before` keep their split, known by content or
    else by path. Of the new ones, those whose hash lies below `share` are kept out of training, but never all tracks
    of a game. A game of `FEWEST_TO_VALIDATE` pieces or more has at least one held out, the one with the lowest hash.
    A share of 0 trains on everything.
    """
    games: dict[str, set[str]] = defaultdict(set)  # of each piece of music that is used
    for row in used(rows):
        games[_music(row)].add(row.game)
    splits: dict[str, Split] = dict.fromkeys(games, "train")
    if share > 0:
        kept = _splits_before(rows, before)
        for music in games:
            splits[music] = kept.get(music) or ("validation" if _quantile(music) < share else "train")
        _leave_some_to_each_game(games, splits, kept)
        _hold_out_of_each_game(games, splits, kept)
        _leave_some_to_validate_on(games, splits, kept)
    return [replace(row, split=splits[_music(row)]) if row.state == "used" else row for row in rows]


def _music(row: Row) -> str:
    """What a piece of music is known by: all its tracks have this in common."""
    return hash_of(row.group) if row.group else row.sha256


def _splits_before(rows: Sequence[Row], before: Sequence[Row]) -> dict[str, Split]:
    """The splits that music has by a ledger; music that was on both sides has been trained on.

    Where a file is gone and one of the same name lies there in another format, it is the same piece: converted, or
    notes in place of their recording.
    """
    known = {row.path: row.split for row in used(before)} | {row.sha256: row.split for row in used(before)}
    here = {row.path for row in rows}
    gone = {_stem(row.path): row.split for row in used(before) if not row.piece and row.path not in here}
    splits: dict[str, Split] = {}
    for row in rows:
        split = known.get(row.sha256) or known.get(row.path) or gone.get(_stem(row.path))
        if split and row.sha256 and splits.get(_music(row)) != "train":
            splits[_music(row)] = split
    return splits


def _stem(path: str) -> str:
    """A path without its suffix."""
    return str(PurePosixPath(path).with_suffix(""))


def _quantile(music: str) -> float:
    """A number in [0, 1) that depends on the content alone, evenly spread."""
    return int(music[:13], 16) / 16**13


def _leave_some_to_each_game(
    games: Mapping[str, Set[str]], splits: dict[str, Split], kept: Mapping[str, Split]
) -> None:
    of_game: dict[str, list[str]] = defaultdict(list)
    for music in games:
        for game in games[music]:
            of_game[game].append(music)
    for game in sorted(of_game):
        movable = [music for music in of_game[game] if music not in kept]
        if movable and all(splits[music] == "validation" for music in of_game[game]):
            splits[max(movable, key=_quantile)] = "train"


def _hold_out_of_each_game(games: Mapping[str, Set[str]], splits: dict[str, Split], kept: Mapping[str, Split]) -> None:
    of_game: dict[str, list[str]] = defaultdict(list)
    for music in games:
        for game in games[music]:
            of_game[game].append(music)
    for game in sorted(of_game):
        own = of_game[game]
        movable = [music for music in own if music not in kept and len(games[music]) == 1]
        if len(own) >= FEWEST_TO_VALIDATE and movable and all(splits[music] == "train" for music in own):
            splits[min(movable, key=_quantile)] = "validation"


def _leave_some_to_validate_on(
    games: Mapping[str, Set[str]], splits: dict[str, Split], kept: Mapping[str, Split]
) -> None:
    if len(games) < FEWEST_TO_VALIDATE or "validation" in splits.values():
        return
    pieces = Counter(game for own in games.values() for game in own)

    def unfitness(music: str) -> tuple[bool, bool, float]:
        return any(pieces[game] == 1 for game in games[music]), music in kept, _quantile(music)

    splits[min(games, key=unfitness)] = "validation"


def commonest_reason(rows: Sequence[Row]) -> tuple[str, int, str]:
    """Of files that are not used: the commonest kind of reason, how many it holds for, and one such reason in full."""
    kinds = [kind_of(row.reason) for row in rows if row.reason]
    kind = max(sorted(set(kinds)), key=kinds.count)
    return kind, kinds.count(kind), next(row.reason for row in rows if kind_of(row.reason) == kind)
