"""The `waveform` format: the audio itself, as one row, or folded into rows of neighbouring audio samples.

Letters: B batch, T time in audio samples, F rows, N frames.
"""

import torch
from torch import Tensor

from dualdiff.core.progress import Progress, silent
from dualdiff.core.quality import Quality
from dualdiff.core.types import Sample, Waveform
from dualdiff.formats.config import WaveformConfig


class WaveformFormat:
    """Frame n holds the audio samples n F .. n F + F - 1, divided by `scale`; the last one is filled up with zeros."""

    Config = WaveformConfig
    keeps_phase = True

    def __init__(self, config: WaveformConfig = WaveformConfig(), device: str | torch.device = "cpu") -> None:
        self.config, self.device = config, torch.device(device)
        self.sample_rate, self.channels = config.sample_rate, 2
        self.bins = self.hop_length = config.rows

    def num_frames(self, samples: int) -> int:
        """N of so many audio samples."""
        return -(-samples // self.hop_length)

    def num_samples(self, frames: int) -> int:
        """T of the waveform that so many frames decode to."""
        return frames * self.hop_length

    def frequencies(self) -> Tensor:
        """Rows of a waveform have no frequency of their own: these only tell the rows apart, (F,)."""
        return torch.arange(1.0, self.bins + 1)

    def encode(self, waveform: Waveform) -> Sample:
        """(B, 2, T) to (B, 2, F, N)."""
        missing = -waveform.shape[-1] % self.hop_length
        padded = torch.nn.functional.pad(waveform.to(self.device, torch.float32), (0, missing))
        frames = padded.view(*padded.shape[:2], -1, self.bins)
        return frames.transpose(-1, -2) / self.config.scale

    def decode(
        self,
        sample: Sample,
        *,
        seed: int = 0,
        quality: Quality = "default",
        circular: bool = False,
        progress: Progress = silent,
    ) -> Waveform:
        """(B, 2, F, N) to (B, 2, T), exactly, and with a gradient where the sample has one."""
        return sample.to(self.device, torch.float32).transpose(-1, -2).flatten(-2) * self.config.scale
