"""Excerpts of the tracks of a data set, equally long, spread over games and tracks."""

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from dualdiff import audio
from dualdiff.core.errors import DataError
from dualdiff.data.manifest import Row
from dualdiff.evaluation.music import MusicExcerpt


def read_excerpts(
    rows: Sequence[Row], folder: Path, *, sample_rate: int, length_s: float, count: int
) -> Iterator[MusicExcerpt]:
    """Excerpts of `length_s` of the tracks of `rows` in the music folder, `count` in all where the tracks have as many.

    Games take turns, and the tracks of a game; excerpts of one track do not overlap, and spread from its middle.

    Raises:
        DataError: a track cannot be read, or none is as long.
    """
    long = [row for row in rows if row.duration_s >= length_s]
    if not long:
        problem = f"no track of {len(rows)} is as long as {length_s:g} s"
        raise DataError(problem, "take a shorter --length")
    for row, start_s in places(long, length_s, count):
        waveform = audio.read(folder / row.source, sample_rate=sample_rate, start_s=start_s, duration_s=length_s)
        yield MusicExcerpt(waveform, sample_rate, row.path, row.game)


def places(rows: Sequence[Row], length_s: float, count: int) -> list[tuple[Row, float]]:
    """Which tracks excerpts are taken from, and where they start, seconds."""
    games: dict[str, list[Row]] = {}
    for row in rows:
        games.setdefault(row.game, []).append(row)
    turns = {game: _turns(own, length_s) for game, own in games.items()}
    most = sum(int(row.duration_s / length_s) for row in rows)
    return list(islice(_round_robin(list(turns.values())), min(count, most)))


def _round_robin(sources: list[Iterator[tuple[Row, float]]]) -> Iterator[tuple[Row, float]]:
    """One of each in turn, until all are empty."""
    left = list(sources)
    while left:
        for source in list(left):
            found = next(source, None)
            if found is None:
                left.remove(source)
            else:
                yield found


def _turns(rows: Sequence[Row], length_s: float) -> Iterator[tuple[Row, float]]:
    """The places of a game: each track's middle in turn, then those next to it."""
    return _round_robin([iter([(row, start_s) for start_s in _starts(row.duration_s, length_s)]) for row in rows])


def _starts(duration_s: float, length_s: float) -> list[float]:
    """Where excerpts that do not overlap start, the middle one first."""
    count = int(duration_s / length_s)
    first = (duration_s - count * length_s) / 2
    starts = [first + number * length_s for number in range(count)]
    return sorted(starts, key=lambda start_s: abs(start_s + length_s / 2 - duration_s / 2))
