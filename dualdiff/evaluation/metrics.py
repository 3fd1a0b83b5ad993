"""How near a waveform is to another, and what a waveform is like: pure functions, each with its unit.

Letters: C channels, T time in samples, F frequency bins, N frames. Waveforms are (C, T); pairs have the same shape.
Every number is finite for finite audio, silence included.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
import torchaudio
from torch import Tensor

from dualdiff.audio import loudness_lufs
from dualdiff.core.types import Waveform
from dualdiff.evaluation import notes

RESOLUTIONS = (512, 1024, 2048)
"""n_fft of the multi-resolution distance; the hop is a quarter."""
FLOOR = 1e-5
"""Magnitudes below this are one silence: 100 dB below full scale."""
PIECE_S = 30.0
"""`measure` averages over pieces of this length, so that memory stays bounded."""
_STEREO_BLOCK = 32  # frames over which coherence and level difference are taken, 0.5 s at 32 kHz


def spectrogram(waveform: Waveform, n_fft: int, hop_length: int) -> Tensor:
    """Magnitudes (C, F, N) with a Hann window, a full-scale tone being 1; short audio gets silence behind."""
    return _spectra(waveform, n_fft, hop_length).abs()


def _spectra(waveform: Waveform, n_fft: int, hop_length: int) -> Tensor:
    missing = n_fft - waveform.shape[-1]
    padded = torch.nn.functional.pad(waveform, (0, missing)) if missing > 0 else waveform
    window = torch.hann_window(n_fft, device=waveform.device)
    return torch.stft(padded, n_fft, hop_length, window=window, return_complex=True) * (2 / window.sum())


def multi_resolution_stft(estimate: Waveform, target: Waveform, sample_rate: int) -> float:
    """Spectral convergence plus mean |difference of log magnitudes|, over three resolutions; 0 is equal.

    Yamamoto et al. 2020 (Parallel WaveGAN), eq. 4-6.
    """
    total = 0.0
    for n_fft in RESOLUTIONS:
        one, other = (spectrogram(waveform, n_fft, n_fft // 4).clamp_min(FLOOR) for waveform in (estimate, target))
        total += _convergence(one, other) + (one.log() - other.log()).abs().mean().item()
    return total / len(RESOLUTIONS)


def spectral_convergence(estimate: Waveform, target: Waveform, sample_rate: int) -> float:
    """|difference of magnitudes| / |magnitudes of the target|, Frobenius norms; 0 is equal."""
    return _convergence(*(spectrogram(waveform, 2048, 512) for waveform in (estimate, target)))


def _convergence(estimate: Tensor, target: Tensor) -> float:
    return float((estimate - target).norm() / target.norm().clamp_min(FLOOR))


def log_mel_distance(estimate: Waveform, target: Waveform, sample_rate: int) -> float:
    """Mean |difference| of 80 mel bands, dB; what is below -100 dB of full scale counts as -100."""
    one, other = (_log_mel(waveform, sample_rate, 80) for waveform in (estimate, target))
    return (one - other).abs().mean().item()


def _log_mel(waveform: Waveform, sample_rate: int, bands: int) -> Tensor:
    """(C, bands, N), dB."""
    magnitudes = spectrogram(waveform, 2048, 512)
    mel = _mel_filters(sample_rate, bands).to(magnitudes.device) @ magnitudes
    return 20 * mel.clamp_min(FLOOR).log10()


@lru_cache(maxsize=8)
def _mel_filters(sample_rate: int, bands: int, n_fft: int = 2048) -> Tensor:
    """Triangular filters (bands, F), each with sum 1."""
    filters = torchaudio.functional.melscale_fbanks(n_fft // 2 + 1, 40.0, sample_rate / 2, bands, sample_rate)
    scaled: Tensor = (filters / filters.sum(0).clamp_min(FLOOR)).T
    return scaled


def chroma_cosine(estimate: Waveform, target: Waveform, sample_rate: int) -> float:
    """Cosine of the magnitudes of the twelve pitch classes, mean over frames weighted by level; 1 is best."""
    one, other = (chroma(waveform, sample_rate) for waveform in (estimate, target))
    cosine = torch.nn.functional.cosine_similarity(one, other, dim=0, eps=1e-12)
    return _weighted_mean(cosine, other.norm(dim=0), empty=1.0)


def chroma(waveform: Waveform, sample_rate: int) -> Tensor:
    """Magnitudes of the pitch classes, (12, N), 100 to 5000 Hz, of the mean of the channels; class 0 is A (440 Hz)."""
    n_fft = 8192
    magnitudes = spectrogram(waveform.mean(0, keepdim=True), n_fft, n_fft // 4)[0]
    frequencies = torch.arange(n_fft // 2 + 1, device=waveform.device) * (sample_rate / n_fft)
    used = (frequencies >= 100) & (frequencies <= 5000)
    classes = (12 * (frequencies[used] / 440).log2()).round().long() % 12
    return magnitudes.new_zeros(12, magnitudes.shape[1]).index_add_(0, classes, magnitudes[used])


def onset_correlation(estimate: Waveform, target: Waveform, sample_rate: int) -> float:
    """Correlation of the onset envelopes (rises of 40 mel bands in dB, summed); 1 is the same rhythm."""
    one, other = (_onsets(waveform, sample_rate) for waveform in (estimate, target))
    one, other = one - one.mean(), other - other.mean()
    if one.norm() < FLOOR or other.norm() < FLOOR:
        return float(one.norm() < FLOOR and other.norm() < FLOOR)
    return torch.nn.functional.cosine_similarity(one, other, dim=0).item()


def _onsets(waveform: Waveform, sample_rate: int) -> Tensor:
    levels = _log_mel(waveform.mean(0, keepdim=True), sample_rate, 40)[0].clamp_min(-80)
    return levels.diff(dim=-1).clamp_min(0).mean(0)


def coherence_error(estimate: Waveform, target: Waveform, sample_rate: int) -> float:
    """Mean |difference| of how coherent left and right are, 0 to 1, per band and half second; 0 is equal.

    The loudest parts of the target count most.
    """
    (one, _, _), (other, _, weight) = (_stereo(waveform, sample_rate) for waveform in (estimate, target))
    return _weighted_mean((one - other).abs(), weight, empty=0.0)


def level_difference_error_db(estimate: Waveform, target: Waveform, sample_rate: int) -> float:
    """Mean |difference| of how much louder left is than right, dB (30 at most), as `coherence_error` counts."""
    (_, one, _), (_, other, weight) = (_stereo(waveform, sample_rate) for waveform in (estimate, target))
    return _weighted_mean((one - other).abs(), weight, empty=0.0)


def _stereo(waveform: Waveform, sample_rate: int) -> tuple[Tensor, Tensor, Tensor]:
    """Coherence, level difference (dB) and magnitude of 24 mel bands in blocks of frames, (24, blocks) each."""
    left, right = _spectra(waveform, 2048, 512)
    filters = _mel_filters(sample_rate, 24).to(left.device)

    def in_blocks(values: Tensor) -> Tensor:
        banded = filters @ values
        missing = -banded.shape[-1] % _STEREO_BLOCK
        return torch.nn.functional.pad(banded, (0, missing)).unfold(-1, _STEREO_BLOCK, _STEREO_BLOCK).mean(-1)

    powers = [in_blocks(side.abs().square()).clamp_min(FLOOR**2) for side in (left, right)]
    cross = left * right.conj()
    shared = torch.complex(in_blocks(cross.real), in_blocks(cross.imag)).abs()
    difference_db = (10 * (powers[0] / powers[1]).log10()).clamp(-30, 30)
    return shared / (powers[0] * powers[1]).sqrt(), difference_db, (powers[0] + powers[1] - 2 * FLOOR**2).sqrt()


def _weighted_mean(values: Tensor, weights: Tensor, empty: float) -> float:
    total = weights.sum()
    return ((values * weights).sum() / total).item() if total > 0 else empty


def loudness_difference_lu(estimate: Waveform, target: Waveform, sample_rate: int) -> float:
    """How much louder the estimate is, LU; what is not heard counts as -70 LUFS."""
    one, other = (max(loudness_lufs(waveform, sample_rate), -70.0) for waveform in (estimate, target))
    return one - other


def bandwidth_hz(waveform: Waveform, sample_rate: int, share: float = 0.99) -> float:
    """The frequency below which a share of the power lies, Hz; 0 for silence."""
    power = _mean_power(waveform)
    if power.sum() <= 0:
        return 0.0
    edge = int(torch.searchsorted(power.cumsum(0) / power.sum(), share))
    return min(edge, len(power) - 1) * sample_rate / 2 / (len(power) - 1)


def bandwidth_difference_hz(estimate: Waveform, target: Waveform, sample_rate: int) -> float:
    """How much further up the power of the estimate reaches, all but a thousandth of it, Hz."""
    return bandwidth_hz(estimate, sample_rate, 0.999) - bandwidth_hz(target, sample_rate, 0.999)


def spectral_flatness(waveform: Waveform) -> float:
    """Geometric over arithmetic mean of the power spectrum, 0 (tones, silence) to 1 (white noise)."""
    power = _mean_power(waveform)[1:-1].clamp_min(1e-20)
    return (power.log().mean().exp() / power.mean()).item() if power.max() > 1e-20 else 0.0


def _mean_power(waveform: Waveform) -> Tensor:
    """Welch's power spectrum over all channels and time, (F,), float64."""
    return spectrogram(waveform, 2048, 1024).double().square().mean((0, 2))


@dataclass(frozen=True)
class Metric:
    """A distance or likeness of two waveforms (estimate, target, sample_rate)."""

    title: str
    unit: str
    best: str
    """Which end is good: low, high or near 0."""
    compute: Callable[[Waveform, Waveform, int], float]
    is_available: Callable[[], bool] = lambda: True
    missing: str = ""
    """What to do to have it."""

    @property
    def higher_is_better(self) -> bool:
        """Whether more is better."""
        return self.best == "high"

    @property
    def definition(self) -> str:
        """What it is, in a sentence."""
        return " ".join((self.compute.__doc__ or "").partition("\n\n")[0].split())


NEAR = "near 0"
METRICS = {
    "multi_resolution_stft": Metric("multi-resolution STFT", "", "low", multi_resolution_stft),
    "spectral_convergence": Metric("spectral convergence", "", "low", spectral_convergence),
    "log_mel_distance": Metric("log-mel distance", "dB", "low", log_mel_distance),
    "chroma_cosine": Metric("chroma", "", "high", chroma_cosine),
    "onset_correlation": Metric("onsets", "", "high", onset_correlation),
    "note_agreement": Metric("notes", "F1", "high", notes.note_agreement, notes.is_available, f"needs {notes.MISSING}"),
    "coherence_error": Metric("stereo coherence error", "", "low", coherence_error),
    "level_difference_error_db": Metric("left-right error", "dB", "low", level_difference_error_db),
    "bandwidth_difference_hz": Metric("bandwidth", "Hz", NEAR, bandwidth_difference_hz),
    "loudness_difference_lu": Metric("loudness", "LU", NEAR, loudness_difference_lu),
}
"""By name, in the order of tables."""


def measure(estimate: Waveform, target: Waveform, sample_rate: int) -> dict[str, float]:
    """All metrics that are available, of two (2, T) waveforms; mean over pieces of 30 s weighted by their length."""
    length = round(PIECE_S * sample_rate)
    values = {name: 0.0 for name, metric in METRICS.items() if metric.is_available()}
    for first in range(0, target.shape[-1], length):
        pieces = estimate[:, first : first + length], target[:, first : first + length]
        share = pieces[1].shape[-1] / target.shape[-1]
        for name in values:
            values[name] += share * METRICS[name].compute(*pieces, sample_rate)
    if not all(math.isfinite(value) for value in values.values()):
        raise ValueError("the waveforms hold values that are not finite numbers")
    return values
