"""What a VAE loses of music beyond what its format loses: the same excerpts through the format, without and with it.

Letters: B batch, F bins, N frames, T time in audio samples.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dualdiff.core.progress import Progress, silent
from dualdiff.core.quality import Quality
from dualdiff.core.types import Sample, Waveform
from dualdiff.evaluation.roundtrip import Comparison, compare
from dualdiff.model_store.model import VAEModel


class ThroughVAE:
    """A format whose samples have been through a VAE: to the mode of their latents, and back."""

    def __init__(self, vae_model: VAEModel) -> None:
        self.vae_model, self.format = vae_model, vae_model.format
        self.config: Any = self.format.config
        self.sample_rate, self.channels = self.format.sample_rate, self.format.channels
        self.bins, self.hop_length = self.format.bins, self.format.hop_length

    def encode(self, waveform: Waveform) -> Sample:
        """(B, 2, T) to (B, 2, F, N), as the VAE gives it back."""
        sample = self.format.encode(waveform)
        frames = sample.shape[-1]
        missing = -frames % self.vae_model.vae.reduction
        filled = torch.cat([sample, sample[..., -1:].expand(*sample.shape[:-1], missing)], dim=-1)
        with torch.inference_mode():
            return self.vae_model.vae.decode(self.vae_model.encode(filled))[..., :frames]

    def decode(
        self,
        sample: Sample,
        *,
        seed: int = 0,
        quality: Quality = "default",
        circular: bool = False,
        progress: Progress = silent,
    ) -> Waveform:
        """As the format decodes it."""
        return self.format.decode(sample, seed=seed, quality=quality, circular=circular, progress=progress)

    def frequencies(self) -> Tensor:
        """As the format has them."""
        return self.format.frequencies()

    def num_frames(self, samples: int) -> int:
        """As the format has them."""
        return self.format.num_frames(samples)

    def num_samples(self, frames: int) -> int:
        """As the format has them."""
        return self.format.num_samples(frames)


def reconstruction(
    paths: Sequence[Path], vae_model: VAEModel, *, duration_s: float = 10.0, seed: int = 0, progress: Progress = silent
) -> tuple[Comparison, Comparison]:
    """How the middles of some files come back through the format alone, and through format and VAE.

    Raises:
        DataError: no paths, or a file that cannot be read.
    """

    def half(first: int) -> Progress:
        return lambda done, total, note="": progress(first * total + done, 2 * total, note)

    (alone,) = compare(paths, vae_model.format, (), duration_s=duration_s, seed=seed, progress=half(0))
    (through,) = compare(paths, ThroughVAE(vae_model), (), duration_s=duration_s, seed=seed, progress=half(1))
    return alone, replace(through, name=f"{through.name} + VAE")
