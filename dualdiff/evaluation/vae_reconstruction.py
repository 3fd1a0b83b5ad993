"""What a VAE loses of music beyond what its format loses: the same excerpts through the format, without and with it.

Letters: B batch, F bins, N frames, T time in audio samples.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dualdiff.core.errors import DataError
from dualdiff.core.progress import Progress, silent
from dualdiff.core.quality import Quality
from dualdiff.core.types import Sample, Waveform
from dualdiff.evaluation.metrics import log_mel_distance
from dualdiff.evaluation.roundtrip import Comparison, compare
from dualdiff.model_store.model import VAEModel

log = logging.getLogger(__name__)


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


LEAST_FIDELITY, GOOD_FIDELITY = 0.1, 0.4
"""Below the first a VAE keeps no more of music than its mean spectrum; the VAE that ships reaches 0.5 to 0.8."""


@dataclass(frozen=True)
class Fidelity:
    """Log-mel distances from music, dB: of the format's round trip, of the same through a VAE, and of a still sound."""

    format_db: float
    vae_db: float
    still_db: float
    """Of the mean spectrum of each excerpt, held: what can be heard of a VAE that knows no time."""

    @property
    def share(self) -> float:
        """1: as near as the format alone; 0: as far as the still sound, or farther (below 0)."""
        return (self.still_db - self.vae_db) / max(self.still_db - self.format_db, 1e-6)


@torch.no_grad()
def fidelity(vae_model: VAEModel, waveform: Waveform) -> Fidelity:
    """Measure how near a VAE comes to its format's own round trip, on waveforms (B, 2, T) at the format's rate."""
    made = vae_model.format
    sample = made.encode(waveform)
    through = vae_model.vae.decode(vae_model.encode(sample)).to(sample.device)
    still = sample.mean(dim=-1, keepdim=True).expand_as(sample)

    def distance(own: Sample) -> float:
        decoded = made.decode(own, seed=0, quality="draft").cpu()
        pairs = zip(decoded, waveform.cpu(), strict=True)
        found = [log_mel_distance(one[:, : other.shape[-1]], other[:, : one.shape[-1]], rate) for one, other in pairs]
        return sum(found) / len(found)

    rate = made.sample_rate
    return Fidelity(distance(sample), distance(through), distance(still))


def require_fidelity(found: Fidelity, folder: Path, force: bool = False) -> None:
    """Refuse a VAE that keeps no more of music than its mean spectrum: what is trained on its latents is noise.

    Raises:
        DataError: it is one, and `force` is off.
    """
    words = (
        f"the VAE in {folder} is {found.vae_db:.1f} dB from the music; its format alone is {found.format_db:.1f} dB "
        f"from it, and a still sound of the same spectrum {found.still_db:.1f} dB"
    )
    if found.share < LEAST_FIDELITY and not force:
        hint = "train the VAE for longer and encode again, or add --force to train on its latents as they are"
        raise DataError(f"{words}: a UNet would learn noise", hint)
    if found.share < GOOD_FIDELITY:
        log.warning("%s: the VAE may be undertrained", words)


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
