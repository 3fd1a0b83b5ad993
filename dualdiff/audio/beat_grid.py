"""Where the beats and bars of a track lie, and what a column of latents learns of it.

Letters: p the phase in beats, b the phase in bars, N columns of time, R channels of rhythm.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch

from dualdiff.core.types import RHYTHM_CHANNELS, Rhythm

SLOWEST_BPM = 80.0
"""Grids are brought to this tempo up to twice as much, by doubling or halving: else one music had two grids."""

KNOT_ERROR_S = 0.004
"""Beats that lie on a line up to this error are kept as its two ends."""

Numbers = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class BeatGrid:
    """The beats of a track as knots: at `times_s`, rising, it is at `beats`; between them the tempo is constant."""

    times_s: tuple[float, ...]
    beats: tuple[float, ...]
    beats_per_bar: int = 0
    """0 where bars are not known."""
    first_bar: float = 0.0
    """A beat on which a bar begins."""
    source: Literal["exact", "tracked", "requested"] = "exact"
    confidence: float = 1.0

    def __post_init__(self) -> None:
        if len(self.times_s) < 2 or len(self.times_s) != len(self.beats):
            raise ValueError("a grid has at least two knots, each with a time and a beat")
        if min(np.diff(self.times_s)) <= 0 or min(np.diff(self.beats)) <= 0:
            raise ValueError("the knots of a grid rise")

    @classmethod
    def steady(cls, bpm: float, beats_per_bar: int = 0) -> "BeatGrid":
        """The grid of one tempo: p(t) = t bpm/60."""
        return cls((0.0, 60.0), (0.0, bpm), beats_per_bar, source="requested")

    @classmethod
    def of_beats(cls, times_s: Sequence[float], beats_per_bar: int = 0, first_bar: int = 0, **facts: Any) -> "BeatGrid":
        """The grid of beats at these times, with as few knots as keep them to `KNOT_ERROR_S`."""
        kept = _knots(np.asarray(times_s, float))
        times = tuple(round(float(times_s[index]), 4) for index in kept)
        return cls(times, tuple(map(float, kept)), beats_per_bar, float(first_bar), **facts)

    @property
    def bpm(self) -> float:
        """The median tempo, beats a minute."""
        beats, times = np.asarray(self.beats), np.asarray(self.times_s)
        tempos = np.diff(beats) / np.diff(times)
        order = np.argsort(tempos)
        weight = np.cumsum(np.diff(times)[order])
        return 60 * float(tempos[order][np.searchsorted(weight, weight[-1] / 2)])

    def phase(self, times_s: Numbers) -> Numbers:
        """The beat p at times in seconds; before the first knot and after the last at the median tempo."""
        times, beats = np.asarray(self.times_s), np.asarray(self.beats)
        rate = self.bpm / 60
        inside = np.interp(times_s, times, beats)
        before, after = np.minimum(times_s - times[0], 0), np.maximum(times_s - times[-1], 0)
        return np.asarray(inside + (before + after) * rate, float)

    def at_level(self, slowest_bpm: float = SLOWEST_BPM) -> "BeatGrid":
        """The same grid with its beat doubled or halved until the tempo lies in [slowest, twice slowest)."""
        octaves = -math.floor(math.log2(self.bpm / slowest_bpm))
        factor, per_bar = 2.0**octaves, self.beats_per_bar * 2.0**octaves
        beats = tuple(beat * factor for beat in self.beats)
        whole = per_bar == int(per_bar)
        return replace(self, beats=beats, beats_per_bar=int(per_bar) if whole else 0, first_bar=self.first_bar * factor)

    def shifted(self, seconds: float) -> "BeatGrid":
        """The grid of the track from a time on: what was at `seconds` is at 0."""
        return replace(self, times_s=tuple(time - seconds for time in self.times_s))

    def moved(self, beats: float) -> "BeatGrid":
        """The grid whose beats lie so many beats later."""
        return replace(self, beats=tuple(beat - beats for beat in self.beats))

    def channels(self, times_s: Numbers) -> Rhythm:
        """The channels of rhythm at times (N,) in seconds: (R, N), float32, of unit variance where there is a grid.

        cos 2 pi p, sin 2 pi p, cos 4 pi p, sin 4 pi p, those of the bar's phase b likewise where it is known (else 0),
        and ones.
        """
        p = self.phase(times_s)
        b = (p - self.first_bar) / self.beats_per_bar if self.beats_per_bar else None
        waves = [
            part(2 * np.pi * k * phase) * math.sqrt(2) if phase is not None else np.zeros_like(p)
            for phase in (p, b)
            for k in (1, 2)
            for part in (np.cos, np.sin)
        ]
        return torch.from_numpy(np.stack([*waves, np.ones_like(p)])).float()

    def to_json(self) -> dict[str, Any]:
        """The grid as JSON values."""
        return {**vars(self), "times_s": list(self.times_s), "beats": list(self.beats)}

    @classmethod
    def from_json(cls, table: Mapping[str, Any]) -> "BeatGrid":
        """The inverse of `to_json`.

        Raises:
            ValueError, TypeError, KeyError: it is not that of a grid.
        """
        return cls(**{**table, "times_s": tuple(table["times_s"]), "beats": tuple(table["beats"])})


def no_rhythm(columns: int) -> Rhythm:
    """The channels (R, N) where there is no grid: zeros."""
    return torch.zeros(RHYTHM_CHANNELS, columns)


def _knots(times_s: Numbers) -> list[int]:
    """The indices of as few beats as lines between them need to keep all to `KNOT_ERROR_S` (Douglas and Peucker)."""
    kept, spans = {0, len(times_s) - 1}, [(0, len(times_s) - 1)]
    while spans:
        first, last = spans.pop()
        index = np.arange(first, last + 1)
        line = np.interp(index, [first, last], [times_s[first], times_s[last]])
        error = np.abs(line - times_s[first : last + 1])
        worst = int(error.argmax())
        if error[worst] > KNOT_ERROR_S:
            kept.add(first + worst)
            spans += [(first, first + worst), (first + worst, last)]
    return sorted(kept)
