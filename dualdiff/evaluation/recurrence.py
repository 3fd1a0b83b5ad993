"""Recurrence: how much of a piece comes again a whole number of beats later, as game music does.

A pattern is 2 or 4 beats of pitch classes and onsets. Letters: C channels, T audio samples, D dimensions, N frames.
"""

import torch
from torch import Tensor

from dualdiff.core.types import Waveform
from dualdiff.evaluation.metrics import chroma
from dualdiff.evaluation.rhythm import HOP_S, spectral_flux, tempo_period_s

FRAME_S = 0.05
"""From frame to frame of the series that are compared."""
PATTERN_BEATS = (2, 4)
LAGS_BEATS = (4, 8, 16, 32)
"""Musical lags: one, two, four and eight bars of four beats."""
SLACK = 0.02
"""A lag may be off by this share, and by a frame, as a measured tempo is."""
ALIKE = 0.7
"""Patterns whose correlation is at least this are the same."""


def recurrence(waveform: Waveform, sample_rate: int, beats: int = 4) -> float:
    """The share of patterns of so many beats of a waveform (C, T) that recur at a musical lag; 1 where all do.

    A pattern recurs if its correlation r with what lies 4, 8, 16 or 32 beats before or behind it is at least 0.7. r is
    the mean of two, of the pitch classes and of the onsets, each of the frames of both patterns (the cosine, after the
    mean of the whole waveform is taken off each dimension, so that what lasts throughout is no pattern): the diagonals
    of a self-similarity matrix (Foote 1999, "Visualizing music and audio using self-similarity"). Patterns start at
    each beat of the measured tempo; 0 where there is no beat, or less than a pattern and a lag.
    """
    flux = spectral_flux(waveform, sample_rate)
    beat = tempo_period_s(flux, HOP_S) / FRAME_S
    if not beat:
        return 0.0
    onsets, classes = _frames(flux, HOP_S), _frames(chroma(waveform, sample_rate), 2048 / sample_rate)
    return recurring_share((_centred(classes), _centred(onsets)), beat, beats)


def recurring_share(series: tuple[Tensor, ...], beat: float, beats: int) -> float:
    """The share of patterns that recur, of series (D, N) with `beat` frames a beat; see `recurrence`."""
    frames = min(own.shape[1] for own in series)
    length = round(beats * beat)
    starts = (torch.arange(0, max((frames - length) / beat, 0)) * beat).round().long()
    best = torch.full((len(starts),), -1.0)
    for lag in _lags(beat, frames - length):
        likeness = torch.stack([_diagonal(own[:, :frames], lag, length) for own in series]).mean(dim=0)
        for places in (starts, starts - lag):  # what comes behind a pattern, and what came before it
            inside = (places >= 0) & (places < len(likeness))
            best[inside] = torch.maximum(best[inside], likeness[places[inside]])
    return float((best >= ALIKE).double().mean()) if len(starts) else 0.0


def _lags(beat: float, longest: int) -> list[int]:
    """The lags that are tried, frames: each musical one with its slack."""
    found = set()
    for beats in LAGS_BEATS:
        slack = 1 + round(SLACK * beats * beat)
        found |= {round(beats * beat) + step for step in range(-slack, slack + 1)}
    return sorted(lag for lag in found if 0 < lag < longest)


def _diagonal(series: Tensor, lag: int, length: int) -> Tensor:
    """The cosine of each pattern of a series (D, N) with the one `lag` frames later, (N - lag - length + 1,)."""
    one, other = series[:, :-lag], series[:, lag:]
    products = torch.stack([(one * other).sum(0), one.square().sum(0), other.square().sum(0)])
    sums = torch.nn.functional.pad(products.double().cumsum(1), (1, 0))
    inner, first, second = sums[:, length:] - sums[:, :-length]
    cosine: Tensor = inner / (first * second).clamp_min(1e-18).sqrt()
    return cosine.float()


def _frames(series: Tensor, hop_s: float) -> Tensor:
    """A series (D, N) or (N,), a column each `hop_s`, as the means of frames of `FRAME_S`: (D, N')."""
    rows = series if series.ndim == 2 else series[None]
    count = int(rows.shape[1] * hop_s / FRAME_S)
    if count < 1:
        return rows.new_zeros(len(rows), 0)
    if hop_s > FRAME_S:
        places = ((torch.arange(count) + 0.5) * FRAME_S / hop_s).long().clamp_max(rows.shape[1] - 1)
        return rows[:, places]
    whole = rows[:, : round(count * FRAME_S / hop_s)]
    return torch.nn.functional.adaptive_avg_pool1d(whole[None].float(), count)[0]


def _centred(series: Tensor) -> Tensor:
    return series - series.mean(dim=1, keepdim=True)
