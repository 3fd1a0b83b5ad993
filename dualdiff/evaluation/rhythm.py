"""Rhythm of a waveform: beat strength, tempo and its stability, all from the spectral flux.

Letters: C channels, T audio samples, F frequency bins, N frames. Silence has no beat: its measures are 0.
"""

import math

import torch
from torch import Tensor

from dualdiff.core.types import Waveform
from dualdiff.evaluation.metrics import spectrogram

HOP_S = 0.01
"""From frame to frame of the spectral flux."""
WINDOW_S = 0.03
"""The analysis window is the next power of two of samples above this."""
FLOOR = 1e-3
"""Magnitudes below this share of the largest one are one silence: 60 dB."""
LAGS_S = (0.25, 1.5)
"""Periods of a beat: 240 to 40 per minute."""
USUAL_PERIOD_S, PERIOD_OCTAVES = 0.5, 1.0
"""Centre and standard deviation, in octaves, of the log-normal preference of `tempo_period_s`."""
STABLE_WINDOW_S = 8.0
"""Tempo stability compares windows of this length, half of it apart."""
SAME_TEMPO = 0.04
"""Two tempi closer than this share are the same."""


def spectral_flux(waveform: Waveform, sample_rate: int) -> Tensor:
    """The spectral flux (N,) of a waveform (C, T), a frame each `HOP_S`; see `flux_of_magnitudes`."""
    n_fft = 2 ** math.ceil(math.log2(WINDOW_S * sample_rate))
    return flux_of_magnitudes(spectrogram(waveform.mean(0, keepdim=True), n_fft, round(HOP_S * sample_rate)))


def flux_of_magnitudes(magnitudes: Tensor) -> Tensor:
    """Rises of the log magnitudes (..., F, N), summed over all but time: (N - 1,).

    Half-wave rectified, as in Dixon 2006 ("Onset detection revisited", eq. 1) but of logarithms, so that the level
    does not count.
    """
    floor = magnitudes.amax().clamp_min(1e-12) * FLOOR
    rises = (magnitudes + floor).log().diff(dim=-1).clamp_min(0)
    return rises.flatten(0, -2).sum(dim=0)


def autocorrelation(flux: Tensor) -> Tensor:
    """The unbiased autocorrelation of a series (N,) less its mean, over its variance: (N,); 0 of a constant one."""
    centred = flux.double() - flux.double().mean()
    variance = centred.square().mean()
    if variance <= 1e-12:
        return torch.zeros_like(centred)
    spectrum = torch.fft.rfft(centred, 2 * len(centred)).abs().square()
    sums = torch.fft.irfft(spectrum, 2 * len(centred))[: len(centred)]
    unbiased: Tensor = sums / (len(centred) - torch.arange(len(centred), device=flux.device)) / variance
    return unbiased


def beat_strength(flux: Tensor, hop_s: float, window_s: float) -> float:
    """The strength of the beat: the largest autocorrelation of the flux (N,) at lags of 0.25 to 1.5 s; at most about 1.

    The unbiased autocorrelation over the flux's variance; the mean over windows of `window_s`, of what is shorter over
    the whole. White noise has about 0.15 in windows of 4 s and 0.07 in 16 s.
    """
    first, last = (round(lag / hop_s) for lag in LAGS_S)
    found = [float(autocorrelation(own)[first : last + 1].max()) for own in _windows(flux, hop_s, window_s)]
    return sum(found) / len(found) if found else 0.0


def _windows(flux: Tensor, hop_s: float, window_s: float, overlap: int = 1) -> list[Tensor]:
    """Whole windows, each `1 / overlap` of one behind the last; all of it where it is shorter; none below 2 lags."""
    length = min(round(window_s / hop_s), len(flux))
    if length < 2 * LAGS_S[1] / hop_s:
        return []
    step = max(1, length // overlap)
    return [flux[start : start + length] for start in range(0, len(flux) - length + 1, step)]


def tempo_period_s(flux: Tensor, hop_s: float) -> float:
    """The period of the beat of a flux (N,), seconds; 0 where there is none.

    The lag of the largest autocorrelation, weighted by exp(-(log2(lag / 0.5 s) / 1 octave)^2 / 2) (Ellis 2007, "Beat
    tracking by dynamic programming", eq. 6), refined by a parabola through its neighbours.
    """
    first, last = (round(lag / hop_s) for lag in LAGS_S)
    if len(flux) < 2 * last:
        return 0.0
    found = autocorrelation(flux)
    lags = torch.arange(first, last + 1, dtype=torch.float64)
    octaves = (lags * hop_s / USUAL_PERIOD_S).log2() / PERIOD_OCTAVES
    weighted = found[first : last + 1].cpu() * (-octaves.square() / 2).exp()
    best = first + int(weighted.argmax())
    if found[best] <= 0:
        return 0.0
    before, here, after = (float(found[best + step]) for step in (-1, 0, 1))
    bend = before - 2 * here + after
    shift = 0.5 * (before - after) / bend if bend < 0 else 0.0
    return (best + max(-0.5, min(0.5, shift))) * hop_s


def tempo_stability(flux: Tensor, hop_s: float) -> float:
    """The share of windows of 8 s whose tempo is that of the whole, its half or its double, to 4 %; 1 is steady."""
    whole = tempo_period_s(flux, hop_s)
    own = [tempo_period_s(window, hop_s) for window in _windows(flux, hop_s, STABLE_WINDOW_S, overlap=2)]
    if not whole or not own:
        return 0.0
    same = [any(abs(period * ratio / whole - 1) <= SAME_TEMPO for ratio in (0.5, 1, 2)) for period in own]
    return sum(same) / len(same)
