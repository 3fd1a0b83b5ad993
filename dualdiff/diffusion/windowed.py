"""Time as a canvas: what is longer than a denoiser sees at once, what goes round in a loop, and what is known already.

Everything here wraps a denoiser (`Denoise`) and gives another one, so that any sampler walks over any canvas.
Letters: B batch, C channels, F rows, N columns of time on the canvas, W columns of a window.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from dualdiff.core.rng import Stream
from dualdiff.core.types import Latents, Sigma
from dualdiff.diffusion.preconditioning import Denoise

OVERLAP = 4
"""Neighbouring windows share at least W/4 columns, over which one fades into the other."""

ITERATIONS = 2
"""Of the conjugate gradients that tell free latents what known ones say."""

Runs: TypeAlias = list[tuple[int, int, int]]
"""A window as runs of columns of the canvas: (first column of the window, of the canvas, length)."""


@dataclass(frozen=True)
class Canvas:
    """How N columns are laid out before a denoiser that sees W at once: `count` windows, on a line or round a ring."""

    columns: int
    ring: bool
    window: int
    count: int
    overlap: int
    """Columns over which the weight of a window rises from 0 to 1, at each of its ends."""

    @property
    def is_plain(self) -> bool:
        """Whether the denoiser sees it all as it is."""
        return not self.ring and self.count == 1

    def starts(self, stream: Stream, start: float) -> list[int]:
        """Where the windows begin in the step that starts at a noise level.

        They move from step to step, so that what is averaged at one place in one step is a window's middle in the
        next, and no place is a border throughout: round a ring by any number of columns, on a line all but the first
        and the last together by up to a quarter of an overlap.
        """
        numbers = stream.at(repr(start)).numpy("windows")
        if self.ring:
            shift = int(numbers.integers(self.columns))
            return [(shift + k * self.columns // self.count) % self.columns for k in range(self.count)]
        if self.count == 1:
            return [0]
        last = self.columns - self.window
        shift = int(numbers.integers(-(self.overlap // 4), self.overlap // 4 + 1))
        between = [k * last // (self.count - 1) + shift for k in range(1, self.count - 1)]
        return [0, *(min(max(place, 0), last) for place in between), last]

    def weights(self) -> Tensor:
        """What each column of a window counts for, (W,), above 0: sin^2 ramps at both ends."""
        place = torch.arange(self.window) + 0.5
        ramp = torch.minimum(place, self.window - place).div(self.overlap).clamp_max(1)
        return (ramp * (math.pi / 2)).sin().square()

    def runs(self, start: int) -> Runs:
        """A window from `start` on as runs of the canvas."""
        runs, done = [], 0
        while done < self.window:
            place = (start + done) % self.columns
            length = min(self.window - done, self.columns - place)
            runs.append((done, place, length))
            done += length
        return runs


def lay_out(columns: int, *, longest: int, multiple: int = 1, ring: bool = False) -> Canvas:
    """The canvas of so many columns for a denoiser that has learned from `longest` at once, a multiple of `multiple`.

    A line that fits is one window as it is, and must be a multiple itself. A ring is always wrapped past its ends, by
    an overlap at least, so that the denoiser sees the join as any other place.
    """
    overlap = max(1, longest // OVERLAP)
    if ring and columns + overlap <= longest:
        window = -(-(columns + overlap) // multiple) * multiple
        return Canvas(columns, True, window, 1, window - columns)
    if ring:
        return Canvas(columns, True, longest, -(-columns // (longest - overlap)), overlap)
    if columns <= longest:
        return Canvas(columns, False, columns, 1, 1)
    return Canvas(columns, False, longest, -(-(columns - overlap) // (longest - overlap)), overlap)


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

    def seen(self, windows: Sequence[tuple[int, Runs]]) -> "Known":
        """What windows see of it, each of a clip: a batch of them."""
        parts = [torch.cat([self.latents[clip, ..., at : at + n] for _, at, n in runs], -1) for clip, runs in windows]
        kept = self.kept
        if kept is not None:
            kept = torch.stack([torch.cat([kept[at : at + n] for _, at, n in runs]) for _, runs in windows])
            kept = kept[:, None, None]
        return Known(torch.stack(parts), kept)


def windowed(denoise: Denoise, canvas: Canvas, streams: Sequence[Stream], known: Known | None = None) -> Denoise:
    """Denoise a canvas window by window and average, smoothly weighted, where windows overlap.

    Time and work grow linearly with the canvas, one window of each clip at once. Clip k moves its windows by streams[k]
    alone. The windows of one step see one noisy canvas, and the next step starts from their
    average: so they agree before the details come (Bar-Tal et al. 2023, MultiDiffusion, arXiv 2302.08113). What is
    `known` is held, see `conditioned_on`, in each window by itself, so that memory stays bounded.
    """
    if canvas.is_plain:
        return denoise if known is None else known.hold(denoise)
    weights = canvas.weights()

    def spread(x: Latents, sigma: Sigma, start: float) -> Latents:
        if x.shape[-1] != canvas.columns or len(x) != len(streams):
            raise ValueError(f"{tuple(x.shape)} is not {len(streams)} clips of {canvas.columns} columns")
        weight = weights.to(x)
        answer, total = torch.zeros_like(x), torch.zeros_like(x[:, :1, :1])
        layout = [[canvas.runs(place) for place in canvas.starts(stream, start)] for stream in streams]
        for index in range(canvas.count):
            batch = [(clip, layout[clip][index]) for clip in range(len(x))]
            pieces = [torch.cat([x[clip, ..., at : at + n] for _, at, n in runs], -1) for clip, runs in batch]
            held = denoise if known is None else known.seen(batch).hold(denoise)
            denoised = held(torch.stack(pieces), sigma, start) * weight
            for (clip, runs), piece in zip(batch, denoised, strict=True):
                for begin, at, n in runs:
                    answer[clip, ..., at : at + n] += piece[..., begin : begin + n]
                    total[clip, ..., at : at + n] += weight[begin : begin + n]
        return answer / total

    return spread


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
