"""Add a format of one's own.

    python examples/add_a_format.py

A format is any class with the attributes and methods of `dualdiff.formats.base.Format`. Entered in `FORMATS` under a
name, it is a legal value of `format.name` in dualdiff.toml, and every command works with it. This one folds the
waveform itself into rows, so nothing is lost on the way back; whether a VAE likes it is another question.
"""

from dataclasses import dataclass
from typing import Literal

import torch

from dualdiff.core.config import read, setting
from dualdiff.core.progress import Progress, silent
from dualdiff.core.types import Quality, Sample, Waveform
from dualdiff.formats.base import FORMATS
from dualdiff.project.settings import Settings


@dataclass(frozen=True, kw_only=True)
class FoldedConfig:
    """The constants of the format: they travel with each model."""

    name: Literal["folded"] = setting("folded", "the format")
    sample_rate: int = setting(32000, "audio samples per second, Hz", minimum=8000)
    rows: int = setting(256, "audio samples per frame", minimum=16)
    scale: float = setting(10.0, "what brings music to unit variance", above=0)
    loudness_lufs: float = setting(-20.0, "tracks are brought to this loudness on reading, LUFS", maximum=0)


class Folded:
    """Frame n holds the audio samples n*rows .. n*rows + rows - 1."""

    Config = FoldedConfig

    def __init__(self, config: FoldedConfig, device: str | torch.device = "cpu") -> None:
        self.config, self.device = config, torch.device(device)
        self.sample_rate, self.channels, self.bins, self.hop_length = config.sample_rate, 2, config.rows, config.rows

    def num_frames(self, samples: int) -> int:
        """Whole frames in so many audio samples."""
        return samples // self.hop_length

    def num_samples(self, frames: int) -> int:
        """Audio samples in so many frames."""
        return frames * self.hop_length

    def frequencies(self) -> torch.Tensor:
        """Rows of a folded waveform have no frequency; these only tell them apart."""
        return torch.linspace(1, self.bins, self.bins)

    def encode(self, waveform: Waveform) -> Sample:
        """(B, 2, T) to (B, 2, rows, N)."""
        return waveform.unflatten(-1, (-1, self.bins)).transpose(-1, -2) * self.config.scale

    def decode(
        self,
        sample: Sample,
        *,
        seed: int = 0,
        quality: Quality = "default",
        circular: bool = False,
        progress: Progress = silent,
    ) -> Waveform:
        """(B, 2, rows, N) to (B, 2, T); exact, so that there is nothing to choose."""
        return sample.transpose(-1, -2).flatten(-2) / self.config.scale


FORMATS["folded"] = Folded

if __name__ == "__main__":
    settings, _ = read(Settings, '[format]\nname = "folded"\nrows = 128\n', "dualdiff.toml")
    made = FORMATS[settings.format.name](settings.format)
    waveform = torch.randn(1, 2, made.num_samples(100)) * 0.1
    sample = made.encode(waveform)
    error = (made.decode(sample) - waveform).abs().max().item()
    print(
        f"{settings.format.name}: {tuple(waveform.shape)} -> {tuple(sample.shape)}, back with an error of {error:.1e}"
    )
