"""Measures of music: sets of excerpts as rows of one table, from real music to white noise.

Every row has equally long excerpts at one loudness, so that rows can be compared: recurrence and distances depend on
length and count. Letters: C channels, T audio samples, N rows of features, D features.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import mean

import torch
from torch import Tensor

from dualdiff import audio
from dualdiff.core.types import Waveform
from dualdiff.evaluation import melody, notes
from dualdiff.evaluation.distances import Distance, Estimate, frechet, interval_of_mean, kernel, with_interval
from dualdiff.evaluation.embedding import embed
from dualdiff.evaluation.melody import interval_distance, mean_intervals, melody_of
from dualdiff.evaluation.recurrence import recurrence
from dualdiff.evaluation.rhythm import HOP_S, beat_strength, spectral_flux, tempo_stability
from dualdiff.evaluation.tonality import key_clarity

LOUDNESS_LUFS = -16.0
"""All music is measured at this loudness."""
LEAST_ROWS = 16
"""Distances of fewer rows of features say nothing."""
SHORT_S, LONG_S = 4.0, 16.0
"""Windows of the beat strength."""
LEAST_OF_LONG = 0.99
"""An excerpt of at least this share of the long window is measured in it."""


@dataclass(frozen=True)
class MusicExcerpt:
    """A piece of music to measure: (C, T), the track or clip that it is of, and its game."""

    waveform: Waveform
    sample_rate: int
    track: str
    game: str = ""


@dataclass(frozen=True)
class ExcerptMeasures:
    """What is measured of one excerpt: values by name, the interval histogram, features (N, D)."""

    track: str
    game: str
    values: Mapping[str, float]
    intervals: Mapping[int, float]
    features: Tensor


@dataclass(frozen=True)
class MusicRow:
    """One row of the table: a set of excerpts, and each measure with its 90 % interval over excerpts or tracks."""

    name: str
    excerpts: int
    values: Mapping[str, Estimate] = field(default_factory=dict)


@dataclass(frozen=True)
class Measure:
    """A measure of music: its title, its unit, which end is good, and what it is."""

    title: str
    unit: str
    best: str
    """low, high, or real: as real music has it."""
    definition: str
    decimals: int = 2


def _words(function: Callable[..., object]) -> str:
    """The first sentence of a function's documentation."""
    return " ".join((function.__doc__ or "").partition("\n\n")[0].split())


_SKYLINE = "Of the highest of the notes that the bundled note network finds (skyline melody)"
MEASURES: dict[str, Measure] = {
    "fad": Measure("FAD", "", "low", _words(frechet), 1),
    "kad": Measure("KAD", "", "low", _words(kernel), 1),
    "beat_strength_4s": Measure("beat strength, 4 s", "", "real", _words(beat_strength)),
    "beat_strength_16s": Measure("beat strength, 16 s", "", "real", _words(beat_strength)),
    "tempo_stability": Measure("tempo stability", "", "real", _words(tempo_stability)),
    "recurrence_2_beats": Measure("recurrence, 2 beats", "", "real", _words(recurrence)),
    "recurrence_4_beats": Measure("recurrence, 4 beats", "", "real", _words(recurrence)),
    "key_clarity": Measure("key clarity", "", "real", _words(key_clarity)),
    "notes_per_s": Measure("notes", "1/s", "real", "All notes that the bundled note network finds, per second."),
    "range_semitones": Measure(
        "melody's range", "semitones", "real", f"{_SKYLINE}: from the 5 % to the 95 % quantile.", 1
    ),
    "step_share": Measure(
        "melody's steps", "", "real", f"{_SKYLINE}: the share of intervals of one or two semitones, unisons apart."
    ),
    "repeated_share": Measure("repeated figures", "", "real", f"{_SKYLINE}: {_words(melody.repeated_share)}"),
    "interval_distance": Measure(
        "intervals", "", "low", f"{_SKYLINE}, from the reference: {_words(interval_distance)}"
    ),
    "diversity": Measure(
        "diversity", "", "real", "Mean distance of the mean features of two excerpts of different tracks or clips."
    ),
}
"""By name, in the order of tables."""


def measured(excerpt: MusicExcerpt) -> ExcerptMeasures:
    """Measure one excerpt. Notes are left out where onnxruntime is missing; the long beat where it is too short."""
    waveform = audio.levelled(excerpt.waveform.cpu().float(), excerpt.sample_rate, LOUDNESS_LUFS)
    rate, length_s = excerpt.sample_rate, waveform.shape[-1] / excerpt.sample_rate
    flux = spectral_flux(waveform, rate)
    values = {
        "beat_strength_4s": beat_strength(flux, HOP_S, SHORT_S),
        "tempo_stability": tempo_stability(flux, HOP_S),
        "recurrence_2_beats": recurrence(waveform, rate, 2),
        "recurrence_4_beats": recurrence(waveform, rate, 4),
        "key_clarity": key_clarity(waveform, rate),
    }
    if length_s >= LEAST_OF_LONG * LONG_S:
        values["beat_strength_16s"] = beat_strength(flux, HOP_S, LONG_S)
    intervals: Mapping[int, float] = {}
    if notes.is_available():
        tune = melody_of(notes.transcribe(waveform, rate), length_s)
        intervals = tune.intervals
        names = ("notes_per_s", "range_semitones", "step_share", "repeated_share")
        values |= {name: float(getattr(tune, name)) for name in names}
    return ExcerptMeasures(excerpt.track, excerpt.game, values, intervals, embed(waveform, rate))


def music_row(
    name: str, own: Sequence[ExcerptMeasures], reference: Sequence[ExcerptMeasures] = (), rows: int = 0
) -> MusicRow:
    """A row of the table: means over excerpts, and distances to a reference over at most `rows` rows of each (0: all).

    A measure that cannot be taken is not in it: notes without onnxruntime, distances of fewer than 16 rows.
    """
    values: dict[str, Estimate] = {}
    for key in MEASURES:
        found = [one.values[key] for one in own if key in one.values]
        if found:
            values[key] = interval_of_mean(found)
    values |= _distances(own, reference, rows)
    if any(one.intervals for one in own) and any(one.intervals for one in reference):
        apart = interval_distance(*(mean_intervals([one.intervals for one in side]) for side in (own, reference)))
        values["interval_distance"] = Estimate(apart, apart, apart)
    spread = diversity(own)
    if spread is not None:
        values["diversity"] = Estimate(spread, spread, spread)
    return MusicRow(name, len(own), {key: values[key] for key in MEASURES if key in values})


def _distances(own: Sequence[ExcerptMeasures], reference: Sequence[ExcerptMeasures], rows: int) -> dict[str, Estimate]:
    count = min(_rows(own), _rows(reference), *([rows] if rows else []))
    if count < LEAST_ROWS:
        return {}
    sides = [thinned(grouped(side), count) for side in (own, reference)]
    distances: dict[str, Distance] = {"fad": frechet, "kad": kernel}
    return {key: with_interval(distance, sides[0], sides[1]) for key, distance in distances.items()}


def _rows(measured: Sequence[ExcerptMeasures]) -> int:
    return sum(len(one.features) for one in measured)


def grouped(measured: Sequence[ExcerptMeasures]) -> list[Tensor]:
    """The features by track or clip, (N, D) each: what a bootstrap draws."""
    tracks: dict[str, list[Tensor]] = {}
    for one in measured:
        tracks.setdefault(one.track, []).append(one.features)
    return [torch.cat(parts) for parts in tracks.values()]


def thinned(groups: Sequence[Tensor], rows: int) -> list[Tensor]:
    """At most so many rows of some groups (N, D), evenly from all."""
    numbers = torch.cat([torch.full((len(group),), number) for number, group in enumerate(groups)])
    if len(numbers) <= rows:
        return list(groups)
    kept = torch.linspace(0, len(numbers) - 1, rows).round().long()
    every, of = torch.cat(list(groups))[kept], numbers[kept]
    return [every[of == number] for number in sorted(set(of.tolist()))]


def diversity(measured: Sequence[ExcerptMeasures]) -> float | None:
    """The mean distance between the mean features of different tracks or clips; None of fewer than two of them."""
    means = [group.mean(dim=0) for group in grouped(measured)]
    return float(torch.pdist(torch.stack(means)).mean()) if len(means) > 1 else None


def halves(measured: Sequence[ExcerptMeasures]) -> tuple[list[ExcerptMeasures], list[ExcerptMeasures]]:
    """Every other track, and the rest; of a single track every other excerpt."""
    tracks = list(dict.fromkeys(one.track for one in measured))
    if len(tracks) == 1:
        return list(measured[::2]), list(measured[1::2])
    first = set(tracks[::2])
    return [one for one in measured if one.track in first], [one for one in measured if one.track not in first]


def by_game(measured: Sequence[ExcerptMeasures], game: str, *, others: bool = False) -> list[ExcerptMeasures]:
    """The excerpts of a game, or of all others."""
    return [one for one in measured if (one.game == game) is not others]


def mean_of(measured: Sequence[ExcerptMeasures], key: str) -> float | None:
    """The mean of a measure over those excerpts that have it."""
    found = [one.values[key] for one in measured if key in one.values]
    return mean(found) if found else None
