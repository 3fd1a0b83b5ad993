"""Beats found in audio: spectral flux, its tempo, and the best path of beats (Ellis 2007).

Source: D. P. W. Ellis, "Beat tracking by dynamic programming", Journal of New Music Research 36(1), 2007. Letters: o
the onset envelope, one value a frame of `HOP_S`; tau the period of the beat in frames.
"""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dualdiff.audio.beat_grid import SLOWEST_BPM, BeatGrid
from dualdiff.audio.dsp import resample

RATE = 16000
HOP_S = 0.01
_HOP, _N_FFT = round(RATE * HOP_S), 1024
_BANDS, _BASS_BANDS = 40, 2

TEMPO_CENTRE_S, TEMPO_OCTAVES = 0.5, 2.0
"""The prior of the period: log-normal around 120 beats a minute, so many octaves wide (Ellis section 3.2)."""

BASS_SHARE = 0.7
"""What the bass counts for when a grid is told from the one between its beats."""

TIGHTNESS = 100.0
"""alpha: how much a step that is not a period costs (Ellis eq. 2)."""

STEADY_S = 0.05
"""Beats that all lie this near a line are those of one tempo: sequenced music, whose grid is that line."""

LEAST_CONFIDENCE = 0.6
"""Grids that are less sure than this are not used."""

Numbers = np.ndarray[Any, np.dtype[np.float64]]


def onset_envelope(waveform: Tensor, sample_rate: int) -> Numbers:
    """The spectral flux of a waveform (C, T), one value each `HOP_S`, of all bands and of the bass alone: (2, frames).

    Decibels of 40 mel bands, differences in time, half-wave rectified, summed over bands, less a local mean of 1 s,
    to a standard deviation of 1.
    """
    mono = waveform.float().mean(0, keepdim=True)
    divisor = math.gcd(sample_rate, RATE)
    mono = resample(mono, sample_rate // divisor, RATE // divisor)[0]
    if len(mono) < 2 * _N_FFT:
        return np.zeros((2, 0))
    spectrum = torch.stft(mono, _N_FFT, _HOP, window=torch.hann_window(_N_FFT), center=True, return_complex=True).abs()
    level = 10 * (_mel() @ spectrum.square()).clamp_min(1e-10).log10()
    level = level.clamp_min(float(level.max()) - 80)
    rise = level.diff(dim=1, prepend=level[:, :1]).clamp_min(0).double()
    return np.stack([_standard(rise.sum(0).numpy()), _standard(rise[:_BASS_BANDS].sum(0).numpy())])


def _standard(flux: Numbers) -> Numbers:
    flux = flux - _smoothed(flux, round(1 / HOP_S))
    return np.asarray(np.convolve(flux / max(flux.std(), 1e-9), _gaussian(2.0), "same"))


def _mel() -> Tensor:
    """Triangular filters of equal width in mel over the bins of the spectrum, (bands, bins)."""
    edges_mel = torch.linspace(0, 2595 * math.log10(1 + RATE / 2 / 700), _BANDS + 2)
    edges = 700 * (10 ** (edges_mel / 2595) - 1)
    bins = torch.linspace(0, RATE / 2, _N_FFT // 2 + 1)
    rise = (bins - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    fall = (edges[2:, None] - bins) / (edges[2:] - edges[1:-1])[:, None]
    return torch.minimum(rise, fall).clamp_min(0)


def _smoothed(values: Numbers, width: int) -> Numbers:
    return np.convolve(np.pad(values, width // 2, mode="edge"), np.ones(width) / width, "same")[
        width // 2 : width // 2 + len(values)
    ]


def track(envelope: Numbers) -> BeatGrid | None:
    """The beats of an onset envelope; None where it is shorter than 5 s, or they are doubtful."""
    grid = beats_of(envelope)
    return grid if grid is not None and grid.confidence >= LEAST_CONFIDENCE else None


def beats_of(envelope: Numbers) -> BeatGrid | None:
    """The beats of an envelope, doubtful or not; None where it is shorter than 5 s or has no eight beats.

    The confidence is the root of the autocorrelation at the beat times the share of beats that are a period apart.
    """
    flux = envelope[0]
    if len(flux) < 5 / HOP_S or not flux.any():
        return None
    period, recurrence = tempo_of(flux)
    frames = best_path(flux, period)
    if len(frames) < 8:
        return None
    times = np.array([_peak(flux, frame) for frame in frames]) * HOP_S
    steps = np.diff(times) / np.median(np.diff(times))
    steadiness = float(np.mean(np.abs(steps - 1) < 0.1))
    confidence = round(max(0.0, recurrence) ** 0.5 * steadiness, 3)
    grid = _on_the_beat(_steady(times) or BeatGrid.of_beats([float(time) for time in times]), envelope)
    return BeatGrid(grid.times_s, grid.beats, source="tracked", confidence=confidence).at_level()


def _on_the_beat(grid: BeatGrid, envelope: Numbers) -> BeatGrid:
    """The grid, moved by half a beat if more begins there in the bass: hats between the beats mislead the flux."""
    flux = BASS_SHARE * envelope[1] + (1 - BASS_SHARE) * envelope[0]
    return max((grid, grid.moved(0.5)), key=lambda own: _onsets_at(own, flux))


def _onsets_at(grid: BeatGrid, flux: Numbers) -> float:
    """The mean of the largest flux within 30 ms of each beat."""
    phase = grid.phase(np.arange(len(flux), dtype=float) * HOP_S)
    beats = np.arange(math.ceil(phase[0]), math.floor(phase[-1]))
    frames = np.interp(beats, phase, np.arange(len(flux))).round().astype(int)
    around = np.clip(frames[:, None] + np.arange(-3, 4), 0, len(flux) - 1)
    return float(flux[around].max(1).mean())


def _gaussian(deviation: float) -> Numbers:
    place = np.arange(-round(4 * deviation), round(4 * deviation) + 1)
    bell = np.exp(-0.5 * (place / deviation) ** 2)
    return np.asarray(bell / bell.sum())


def tempo_of(envelope: Numbers) -> tuple[float, float]:
    """The period of the beat in frames, and the autocorrelation there (1 where all recurs).

    The unbiased autocorrelation of the envelope at a lag, at twice and at four times that lag (a bar of four tells a
    beat from three quarters of one), weighted by the prior; refined by a parabola at eight times the best lag.
    """
    lags = np.arange(round(0.3 / HOP_S), round(1.0 / HOP_S))
    spectrum = np.fft.rfft(envelope - envelope.mean(), 2 * len(envelope))
    sums = np.fft.irfft(np.abs(spectrum) ** 2)[: min(len(envelope) // 2, 9 * int(lags[-1]))]
    correlation = sums / (len(envelope) - np.arange(len(sums)))
    correlation /= max(correlation[0], 1e-12)
    score = sum(_around(correlation, lags * multiple, multiple // 2) for multiple in (1, 2, 4))
    prior = np.exp(-0.5 * (np.log2(lags * HOP_S / TEMPO_CENTRE_S) / TEMPO_OCTAVES) ** 2)
    best = int(lags[np.argmax(score * prior)])
    multiple = max(1, min(8, (len(correlation) - 10) // best))
    near = best * multiple + np.arange(-multiple, multiple + 1)
    peak = _peak(correlation, int(near[correlation[near].argmax()]))
    return peak / multiple, float(correlation[best - 1 : best + 2].max())


def _around(values: Numbers, places: Any, reach: int) -> Numbers:
    """The largest value within a reach of each place; 0 behind the end."""
    padded = np.pad(values, (0, max(0, int(places[-1]) + reach + 1 - len(values))))
    return np.asarray(padded[places[:, None] + np.arange(-reach, reach + 1)].max(1))


def _peak(values: Numbers, index: int) -> float:
    """The place of the maximum of the parabola through a value and its neighbours."""
    if not 0 < index < len(values) - 1:
        return float(index)
    left, middle, right = values[index - 1 : index + 2]
    curve = left - 2 * middle + right
    return float(index) if curve >= 0 else index + float(np.clip(0.5 * (left - right) / curve, -0.5, 0.5))


def best_path(envelope: Numbers, period: float) -> list[int]:
    """The frames of the beats that maximise onsets at beats less the cost of uneven steps (Ellis eqs. 1 and 3).

    C(t) = o(t) + max over tau of C(t - tau) - alpha log(tau/period)^2, for tau of half a period to two.
    """
    steps = np.arange(round(period / 2), round(2 * period) + 1)
    cost = TIGHTNESS * np.log(steps / period) ** 2
    scores, before = np.array(envelope), np.full(len(envelope), -1)
    for frame in range(int(steps[0]), len(envelope)):
        reach = steps[: np.searchsorted(steps, frame, side="right")]
        candidates = scores[frame - reach] - cost[: len(reach)]
        best = int(candidates.argmax())
        if candidates[best] > 0:
            scores[frame] += candidates[best]
            before[frame] = frame - reach[best]
    tail = max(0, len(envelope) - round(period))
    frame = tail + int(scores[tail:].argmax())
    path = []
    while frame >= 0:
        path.append(int(frame))
        frame = before[frame]
    return path[::-1]


def _steady(times_s: Numbers) -> BeatGrid | None:
    """The grid of one tempo that all beats but a few lie near, by least squares; None where there is none.

    Beats are numbered by their distance in median periods, so that a beat left out does not bend the line.
    """
    period = float(np.median(np.diff(times_s)))
    numbers = np.round((times_s - times_s[0]) / period)
    for _ in range(3):  # the period is refined as more beats are counted right
        slope, start = np.polyfit(numbers, times_s, 1)
        numbers = np.round((times_s - start) / slope)
    near = np.abs(times_s - (start + slope * numbers)) < STEADY_S
    if near.mean() < 0.9:
        return None
    slope, start = np.polyfit(numbers[near], times_s[near], 1)
    first, last = float(numbers[0]), float(numbers[-1])
    return BeatGrid((start + slope * first, start + slope * last), (first, last))


def grid_of(waveform: Tensor, sample_rate: int) -> BeatGrid | None:
    """The beats of a waveform (C, T); None where they are doubtful."""
    grid = track(onset_envelope(waveform, sample_rate))
    assert grid is None or SLOWEST_BPM <= grid.bpm < 2 * SLOWEST_BPM + 1e-6
    return grid
