"""The multi-scale spectral loss in one dimension, with its phase: for formats whose samples keep the phase.

Two waveforms are compared in the spectra of blocks from 1 ms to seconds long. Letters: B batch, T time in audio
samples, I = 2B mono waveforms, F bins, m blocks.
"""

import math

import torch
from torch import Tensor, nn

from dualdiff.core.types import Waveform
from dualdiff.losses.config import SpectralLoss1dConfig

FLOOR = 1e-4
"""Magnitudes below this are one silence: of a scale where white noise of the loudness of music has some 0.1."""


class SpectralLoss1d(nn.Module):
    """How far a reconstruction is from its waveform, in Hann-windowed blocks that overlap by half.

    With G and F the spectra of reconstruction and target, scaled so that white noise of variance v has |F|^2 of v on
    average, and l = ln max(|F|, floor): amplitude is the mean of |l(G) - l(F)|; phase that of d/pi w (l(F) - ln floor),
    d the angle between G and F in [0, pi], w = 1127 / (700 + f) the derivative of the mel scale: what is loud
    and low counts most. Left and right are replaced by (L + R) / sqrt(2) and (L - R) / sqrt(2). Means are over
    everything, block sizes weighing the same.
    """

    def __init__(self, config: SpectralLoss1dConfig, sample_rate: int) -> None:
        super().__init__()
        self.config, self.sample_rate = config, sample_rate

    def forward(
        self, reconstruction: Waveform, target: Waveform, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """The terms "amplitude" and "phase" (the latter times phase_weight) of two waveforms (B, 2, T), as scalars.

        `generator` draws where the blocks of each size begin; without it they begin at 0. The target gets no gradient.

        Raises:
            ValueError: shapes that differ or are not (B, 2, T), or T shorter than the shortest block.
        """
        shape = reconstruction.shape
        sizes = [size for size in self.config.block_sizes if size <= shape[-1]]
        if shape != target.shape or len(shape) != 3 or shape[1] != 2 or not sizes:
            raise ValueError(f"waveforms of {tuple(shape)} and {tuple(target.shape)} cannot be compared in blocks")
        with torch.autocast(reconstruction.device.type, enabled=False):
            pair = [_mid_and_side(waveform.float()) for waveform in (reconstruction, target.detach())]
            terms = [self._one_size(pair[0], pair[1], size, generator) for size in sizes]
            amplitude, phase = (torch.stack(values).mean() for values in zip(*terms, strict=True))
        return {"amplitude": amplitude, "phase": phase * self.config.phase_weight}

    def _one_size(
        self, reconstruction: Tensor, target: Tensor, size: int, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        """The mean amplitude and phase distances of (2B, T) for one block size."""
        most = min(size, target.shape[-1] - size + 1)
        offset = 0
        if generator is not None:
            offset = int(torch.randint(most, (), generator=generator, device=generator.device))
        given, wanted = (_spectra(waveform[:, offset:], size) for waveform in (reconstruction, target))
        level = (wanted.abs() / FLOOR).clamp_min(1).log()
        amplitude = ((_magnitude(given) / FLOOR).clamp_min(1).log() - level).abs().mean()
        frequencies = torch.linspace(0, self.sample_rate / 2, given.shape[-1], device=given.device)
        weight = level * (1127 / (700 + frequencies)) / math.pi
        return amplitude, (_angle(given, wanted) * weight).mean()


def _mid_and_side(waveform: Waveform) -> Tensor:
    """(B, 2, T) to sums and differences of the channels, orthonormal, (2B, T)."""
    left, right = waveform.unbind(1)
    return torch.cat([left + right, left - right]) / math.sqrt(2)


def _spectra(waveform: Tensor, size: int) -> Tensor:
    """(I, T) to (I, m, F), the spectra of blocks that overlap by half."""
    window = torch.hann_window(size, device=waveform.device)
    blocks = waveform.unfold(-1, size, size // 2) * (window / window.square().sum().sqrt())
    spectra: Tensor = torch.fft.rfft(blocks)
    return spectra


def _magnitude(spectra: Tensor) -> Tensor:
    """|spectra|, with a derivative at 0."""
    return (spectra.real.square() + spectra.imag.square() + 1e-16).sqrt()


def _angle(given: Tensor, wanted: Tensor) -> Tensor:
    """The angle between spectra, [0, pi]. `given` is moved by the floor towards `wanted`: it bounds the derivative."""
    direction = wanted / wanted.abs().clamp_min(1e-20)
    turned = given * direction.conj()
    return torch.atan2(turned.imag.abs(), turned.real + FLOOR)
