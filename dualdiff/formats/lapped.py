"""Lapped transforms, `mdct` and `mclt`: frequencies over time with the phase, and an exact way back.

Frame n sees the 2M audio samples from (n - 1) M on through the sine window, and has M bins. The MDCT is critically
sampled, as many numbers as the waveform, and orthonormal; the MCLT (Malvar 1999) has the MDST beside it as its
imaginary part, and so a magnitude and a phase, at twice the numbers.
Letters: B batch, T time in audio samples, M bins and hop, N frames.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional

from dualdiff.core.progress import Progress, silent
from dualdiff.core.quality import Quality
from dualdiff.core.types import Sample, Waveform
from dualdiff.formats.config import MCLTConfig, MDCTConfig

TILT_HZ = 500.0
"""Below this music is about as strong at all frequencies; above it falls."""
QUIET = 1e-4
"""The magnitude up to which the logarithm of the MCLT is nearly linear, 1 being that of white noise of variance 1."""


class Lapped:
    """The transform of frames of 2M samples with hop M: to MDCT (real) and MDST (imaginary), and back from either.

    X_k = sqrt(2 / M) sum_n w_n x_n exp(-i pi / M (n + 1/2 + M/2) (k + 1/2)); the MDCT is its real part. Each part alone
    is orthonormal, by the cancelling of aliases between neighbouring frames (Princen and Bradley 1986).
    """

    def __init__(self, bins: int, device: torch.device) -> None:
        self.bins = bins
        place = torch.arange(2 * bins, dtype=torch.float64)
        self.window = torch.sin(math.pi * (place + 0.5) / (2 * bins)).float().to(device)
        centre = torch.arange(bins, dtype=torch.float64) + 0.5
        angle = -math.pi / bins * torch.outer(place + 0.5 + bins / 2, centre)
        matrix = math.sqrt(2 / bins) * torch.cat([angle.cos(), angle.sin()], 1)
        self._matrix = matrix.float().to(device)

    def forward(self, waveform: Waveform, parts: int) -> Tensor:
        """(B, C, T) to (B, C, parts, M, N), N = ceil(T / M) + 1: the MDCT, or with two parts the MDST after it."""
        missing = -waveform.shape[-1] % self.bins
        padded = functional.pad(waveform, (self.bins, missing + self.bins))
        frames = padded.unfold(-1, 2 * self.bins, self.bins) * self.window
        spectra = frames @ self._matrix[:, : parts * self.bins]
        return spectra.view(*spectra.shape[:3], parts, self.bins).permute(0, 1, 3, 4, 2)

    def inverse(self, coefficients: Tensor, circular: bool) -> Waveform:
        """(B, C, parts, M, N) to (B, C, (N - 1) M): the mean of what the parts, each by itself, go back to.

        In a loop, which is `circular`, the first frame follows the last: it has N M audio samples.
        """
        parts = coefficients.shape[2]
        flat = coefficients.movedim(-1, 2).flatten(-2)
        frames = flat @ self._matrix[:, : parts * self.bins].T * (self.window / parts)
        first, second = frames.chunk(2, -1)
        pieces = first.roll(-1, 2) + second if circular else first[:, :, 1:] + second[:, :, :-1]
        waveform: Waveform = pieces.flatten(-2)
        return waveform


class MDCTFormat:
    """Real coefficients, powered with their sign: what is loud comes nearer to what is quiet, as in the mel format."""

    Config = MDCTConfig
    keeps_phase = True

    def __init__(self, config: MDCTConfig = MDCTConfig(), device: str | torch.device = "cpu") -> None:
        self.config, self.device = config, torch.device(device)
        self.sample_rate, self.channels = config.sample_rate, 2
        self.bins = self.hop_length = config.bins
        self._lapped = Lapped(config.bins, self.device)
        scale = config.scale * (1 + self.frequencies() / TILT_HZ) ** -config.tilt
        self._scale = scale[:, None].to(self.device)

    def num_frames(self, samples: int) -> int:
        """N of so many audio samples."""
        return -(-samples // self.hop_length) + 1

    def num_samples(self, frames: int) -> int:
        """T of the waveform that so many frames decode to."""
        return max(frames - 1, 0) * self.hop_length

    def frequencies(self) -> Tensor:
        """The centre of each bin, (F,), Hz."""
        return centres(self.bins, self.sample_rate)

    def encode(self, waveform: Waveform) -> Sample:
        """(B, 2, T) to (B, 2, M, N)."""
        coefficients = self._lapped.forward(waveform.to(self.device, torch.float32), 1)[:, :, 0]
        return coefficients.sign() * coefficients.abs() ** self.config.power / self._scale

    def decode(
        self,
        sample: Sample,
        *,
        seed: int = 0,
        quality: Quality = "default",
        circular: bool = False,
        progress: Progress = silent,
    ) -> Waveform:
        """(B, 2, M, N) to (B, 2, T), exactly, and with a gradient where the sample has one."""
        powered = sample.to(self.device, torch.float32) * self._scale
        coefficients = powered.sign() * powered.abs() ** (1 / self.config.power)
        return self._lapped.inverse(coefficients[:, :, None], circular)


class MCLTFormat:
    """Log magnitude, and the phase as its cosine and sine: three channels for each channel of the audio.

    The angle itself would jump from pi to -pi. On the way back only the direction of cosine and sine counts.
    """

    Config = MCLTConfig
    keeps_phase = True

    def __init__(self, config: MCLTConfig = MCLTConfig(), device: str | torch.device = "cpu") -> None:
        self.config, self.device = config, torch.device(device)
        self.sample_rate, self.channels = config.sample_rate, 6
        self.bins = self.hop_length = config.bins
        self._lapped = Lapped(config.bins, self.device)

    def num_frames(self, samples: int) -> int:
        """N of so many audio samples."""
        return -(-samples // self.hop_length) + 1

    def num_samples(self, frames: int) -> int:
        """T of the waveform that so many frames decode to."""
        return max(frames - 1, 0) * self.hop_length

    def frequencies(self) -> Tensor:
        """The centre of each bin, (F,), Hz."""
        return centres(self.bins, self.sample_rate)

    def encode(self, waveform: Waveform) -> Sample:
        """(B, 2, T) to (B, 6, M, N): of the left, then of the right channel, log magnitude, cosine and sine."""
        parts = self._lapped.forward(waveform.to(self.device, torch.float32), 2)
        magnitude = parts.square().sum(2, keepdim=True).sqrt()
        level = (torch.log1p(magnitude / QUIET) - self.config.mean) / self.config.scale
        return torch.cat([level, math.sqrt(2) * parts / magnitude.clamp_min(1e-30)], 2).flatten(1, 2)

    def decode(
        self,
        sample: Sample,
        *,
        seed: int = 0,
        quality: Quality = "default",
        circular: bool = False,
        progress: Progress = silent,
    ) -> Waveform:
        """(B, 6, M, N) to (B, 2, T), exactly, and with a gradient where the sample has one."""
        batch, _, bins, frames = sample.shape
        parts = sample.to(self.device, torch.float32).reshape(batch, 2, 3, bins, frames)
        level, direction = parts[:, :, :1], parts[:, :, 1:]
        magnitude = torch.expm1((level * self.config.scale + self.config.mean).clamp_min(0)) * QUIET
        length = (direction.square().sum(2, keepdim=True) + 1e-12).sqrt()
        return self._lapped.inverse(magnitude * direction / length, circular)


def centres(bins: int, sample_rate: int) -> Tensor:
    """The centre of each of M bins up to half the sample rate, (M,), Hz."""
    return (torch.arange(bins) + 0.5) * (sample_rate / 2 / bins)
