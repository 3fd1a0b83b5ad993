"""The space that diffusion works in: latents normalised per channel.

Letters: B batch, C channels, F rows, N columns.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from dualdiff.core.types import Latents

SIGMA_DATA = 0.5
"""The standard deviation that latents are normalised to before diffusion."""


@dataclass(frozen=True, kw_only=True)
class LatentSpace:
    """How latents are normalised for diffusion, and the noise level below which they are the VAE's own noise."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    sigma_min: float

    def normalise(self, latents: Latents) -> Latents:
        """(B, C, F, N) of the VAE to mean 0 and standard deviation `SIGMA_DATA` per channel."""
        mean, std = self._broadcast(latents)
        return (latents - mean) / std * SIGMA_DATA

    def restore(self, latents: Latents) -> Latents:
        """The inverse of `normalise`."""
        mean, std = self._broadcast(latents)
        return latents / SIGMA_DATA * std + mean

    def _broadcast(self, like: Tensor) -> tuple[Tensor, Tensor]:
        return tuple(torch.tensor(values, device=like.device)[:, None, None] for values in (self.mean, self.std))  # type: ignore[return-value]
