"""What lies around a denoiser while it samples: how the time axis is treated, and latents that are given.

Letters: B batch, C channels, F rows, N columns of time.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from torch import Tensor

from dualdiff.diffusion.denoiser import Denoise
from dualdiff.types import Latents, Sigma

Canvas: TypeAlias = Callable[[Denoise], Denoise]
"""How the time axis is treated: a denoiser of what the network can take, made one of the whole clip."""


def as_line(denoise: Denoise) -> Denoise:
    """The canvas that the network sees as it is: one piece, with a beginning and an end."""
    return denoise


@dataclass(frozen=True)
class Known:
    """Latents that are given.

    `latents` (B, C, F, N), normalised, are what sampling starts from, below its noise; `kept`, which broadcasts to
    them, is 1 where they stay what they are, 0 where they are free, or None where nothing is kept.
    """

    latents: Latents
    kept: Tensor | None = None

    def start(self, noise: Latents, sigma: float) -> Latents:
        """What a sampler is given for noise of unit variance (B, C, F, N) and its first noise level."""
        return noise + self.latents / sigma

    def hold(self, denoise: Denoise) -> Denoise:
        """The denoiser whose answer is what is known where that is kept.

        The flow dx/ds = (x - D)/s with D = y is a straight line from y + s0 noise to y: at each noise level s, x is
        there y plus the clip's own noise times s, and the end is y itself, up to the last level's noise.
        """
        if self.kept is None:
            return denoise
        kept = self.kept

        def held(x: Latents, sigma: Sigma, start: float) -> Latents:
            return denoise(x, sigma, start).lerp(self.latents, kept.to(x.dtype).expand_as(x))

        return held
