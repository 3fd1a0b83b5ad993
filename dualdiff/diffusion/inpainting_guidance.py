"""Denoise what is free given latents that are known: for extending, inpainting and loops.

Everything here wraps a denoiser (`Denoise`) and gives another one. Letters: B batch, C channels, F rows, N columns of
time, W columns of a window.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from dualdiff.core.types import Latents, Sigma
from dualdiff.diffusion.preconditioning import Denoise

ITERATIONS = 2
"""Of the conjugate gradients that tell free latents what known ones say."""

Runs: TypeAlias = list[tuple[int, int, int]]
"""A window as runs of columns of the canvas: (first column of the window, of the canvas, length)."""


Windows: TypeAlias = Sequence[tuple[int, Runs]]
"""A batch of windows: the clip of each, and its runs."""


def columns_of(values: Tensor, windows: Windows) -> Tensor:
    """What windows see of values (B, ..., N) of clips: (windows, ..., W)."""
    return torch.stack([torch.cat([values[clip, ..., at : at + n] for _, at, n in runs], -1) for clip, runs in windows])


@dataclass(frozen=True)
class Known:
    """Latents that are given.

    `latents` (B, C, F, N), normalised, are what sampling starts from, below its noise; `kept` (N,) is 1 where they stay
    what they are, 0 where they are free, or None where nothing is kept.
    """

    latents: Latents
    kept: Tensor | None = None

    def start(self, noise: Latents, sigma: float) -> Latents:
        """What a sampler is given for noise of unit variance (B, C, F, N) and its first noise level."""
        return noise + self.latents / sigma

    def hold(self, denoise: Denoise) -> Denoise:
        """The denoiser that keeps what is kept and goes on from it where it is free."""
        return denoise if self.kept is None else conditioned_on(denoise, self.latents, self.kept)

    def seen(self, windows: Windows) -> "Known":
        """What windows see of it, each of a clip: a batch of them."""
        kept = self.kept
        if kept is not None:
            kept = torch.stack([torch.cat([kept[at : at + n] for _, at, n in runs]) for _, runs in windows])
            kept = kept[:, None, None]
        return Known(columns_of(self.latents, windows), kept)


def conditioned_on(denoise: Denoise, known: Latents, kept: Tensor, iterations: int = ITERATIONS) -> Denoise:
    """Denoise what is free given what is known: latents (B, C, F, N) where `kept`, which broadcasts to them, is 1.

    There D becomes the known latents. To a sampler that starts from `Known.start` this is the straight line known +
    s noise: at each step they are there at just that step's noise level, and at the end themselves.

    That alone shows the free columns only noisy neighbours, and leaves a seam. What the clean ones tell besides is the
    regression of the free columns on what the denoiser got wrong of the known ones, C_fk C_kk^-1 (known - D_k), with
    C = s^2 dD/dx, the posterior covariance (Tweedie; Rozet et al. 2024, arXiv 2405.13712). The inverse is taken by
    conjugate gradients, which costs one backward pass through the denoiser per iteration.
    """
    fixed = kept.to(known)

    def held(x: Latents, sigma: Sigma, start: float) -> Latents:
        if fixed.all():
            return known.clone()
        if not fixed.any():
            return denoise(x, sigma, start)
        with torch.inference_mode(False), torch.enable_grad():
            noisy = x.clone().requires_grad_()
            denoised = denoise(noisy, sigma, start)
        variance = sigma.to(x.dtype).view(-1, 1, 1, 1).square()

        def covariance(v: Tensor) -> Tensor:
            return variance * torch.autograd.grad(denoised, noisy, v, retain_graph=True)[0]

        residual = (known - denoised.detach()) * fixed
        return torch.lerp(denoised.detach() + regressed(covariance, residual, fixed, iterations), known, fixed)

    return held


def regressed(covariance: Callable[[Tensor], Tensor], residual: Tensor, fixed: Tensor, iterations: int) -> Tensor:
    """C F (F C F)^-1 residual, by conjugate gradients, each clip (B, ...) by itself; F keeps where `fixed` is 1.

    A covariance that a network gives is only nearly symmetric and positive: a clip whose curvature is not positive
    keeps what it has found until then.
    """
    dims = tuple(range(1, residual.ndim))
    answer, direction = torch.zeros_like(residual), residual
    square = residual.square().sum(dims, keepdim=True)
    alive = square > 0
    for _ in range(iterations):
        spread = covariance(direction)
        curvature = (direction * spread).sum(dims, keepdim=True)
        alive = alive & (curvature > 0)
        step = torch.where(alive, square / curvature.clamp_min(torch.finfo(square.dtype).tiny), 0)
        answer = answer + step * spread
        residual = residual - step * spread * fixed
        fresh = residual.square().sum(dims, keepdim=True)
        direction = (
            residual + torch.where(alive, fresh / square.clamp_min(torch.finfo(square.dtype).tiny), 0) * direction
        )
        square = fresh
    return answer
