"""Statistics of a melody: intervals, range, note rate and repeated figures of the highest notes of a transcription."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from dualdiff.evaluation.notes import Note

TOGETHER_S = 0.05
"""Notes that start within this of each other are one chord."""
WIDEST = 12
"""Larger intervals, semitones, count as this in the histogram."""
FIGURE = 4
"""Intervals of a figure: five notes."""
RANGE_SHARES = (0.05, 0.95)
"""Quantiles of the pitch that the range lies between."""
STEP = 2
"""Semitones up to which an interval is a step."""


@dataclass(frozen=True)
class Melody:
    """What is measured of the melody of a piece."""

    notes_per_s: float
    """All notes, not only those of the melody."""
    range_semitones: float
    step_share: float
    """The share of intervals, unisons apart, of at most two semitones."""
    repeated_share: float
    """The share of figures of four intervals that come more than once."""
    intervals: Mapping[int, float]
    """The share of each interval, -12 to 12 semitones."""


def melody_of(notes: Sequence[Note], length_s: float) -> Melody:
    """The melody's statistics of the notes of a piece that lasts `length_s` seconds.

    The melody is the skyline: of notes that start together the highest (Uitdenbogerd and Zobel 1999, "Melodic matching
    techniques for large music databases"). Without two notes its shares are 0.
    """
    pitches = skyline(notes)
    steps = [later - earlier for earlier, later in pairwise(pitches)]
    moving = [abs(step) for step in steps if step]
    low, high = (_quantile(pitches, share) for share in RANGE_SHARES)
    return Melody(
        notes_per_s=len(notes) / length_s if length_s > 0 else 0.0,
        range_semitones=high - low,
        step_share=sum(step <= STEP for step in moving) / len(moving) if moving else 0.0,
        repeated_share=repeated_share(steps),
        intervals=_shares([max(-WIDEST, min(WIDEST, step)) for step in steps]),
    )


def skyline(notes: Sequence[Note]) -> list[int]:
    """The pitches of the highest notes, of each group of notes that start together one."""
    pitches: list[int] = []
    start_s = -math.inf
    for note in sorted(notes, key=lambda note: (note.start_s, note.pitch)):
        if note.start_s - start_s > TOGETHER_S:
            start_s = note.start_s
            pitches.append(note.pitch)
        else:
            pitches[-1] = max(pitches[-1], note.pitch)
    return pitches


def repeated_share(steps: Sequence[int], length: int = FIGURE) -> float:
    """The share of the figures of so many intervals that come more than once, repetitions of a single note apart."""
    figures = [tuple(steps[first : first + length]) for first in range(len(steps) - length + 1)]
    moving = [figure for figure in figures if any(figure)]
    counts = Counter(moving)
    return sum(counts[figure] > 1 for figure in moving) / len(moving) if moving else 0.0


def interval_distance(one: Mapping[int, float], other: Mapping[int, float]) -> float:
    """The Jensen-Shannon distance of two interval histograms, the root of Lin 1991 in bits: 0 is equal, 1 disjoint."""
    keys = set(one) | set(other)
    if not one or not other:
        return float(bool(one) != bool(other))
    total = 0.0
    for key in keys:
        shares = one.get(key, 0.0), other.get(key, 0.0)
        middle = sum(shares) / 2
        total += sum(share / 2 * math.log2(share / middle) for share in shares if share > 0)
    return math.sqrt(max(total, 0.0))


def mean_intervals(histograms: Sequence[Mapping[int, float]]) -> dict[int, float]:
    """The mean of some interval histograms, those without an interval left out."""
    full = [own for own in histograms if own]
    keys = sorted({key for own in full for key in own})
    return {key: sum(own.get(key, 0.0) for own in full) / len(full) for key in keys}


def _shares(steps: Sequence[int]) -> dict[int, float]:
    return {step: count / len(steps) for step, count in sorted(Counter(steps).items())}


def _quantile(values: Sequence[int], share: float) -> float:
    """The quantile of some values, linear between neighbours; 0 of none."""
    if not values:
        return 0.0
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])
