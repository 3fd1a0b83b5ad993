"""Time as a canvas: what is longer than a denoiser sees at once, and what goes round in a loop.

Everything here wraps a denoiser (`Denoise`) and gives another one, so that any sampler walks over any canvas.
Letters: B batch, C channels, F rows, N columns of time on the canvas, W columns of a window.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dualdiff.core.rng import Stream
from dualdiff.core.types import Latents, Sigma
from dualdiff.diffusion.inpainting_guidance import Known, Runs, Windows, columns_of
from dualdiff.diffusion.preconditioning import Denoise

OVERLAP = 4
"""Neighbouring windows share at least W/4 columns, over which one fades into the other."""


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


def windowed(
    denoise: Denoise,
    canvas: Canvas,
    streams: Sequence[Stream],
    known: Known | None = None,
    at: Callable[[Windows], Denoise] | None = None,
) -> Denoise:
    """Denoise a canvas window by window and average, smoothly weighted, where windows overlap.

    Time and work grow linearly with the canvas, one window of each clip at once. Clip k moves its windows by streams[k]
    alone. The windows of one step see one noisy canvas, and the next step starts from their
    average: so they agree before the details come (Bar-Tal et al. 2023, MultiDiffusion, arXiv 2302.08113). What is
    `known` is held, see `conditioned_on`, in each window by itself, so that memory stays bounded.
    `at` gives the denoiser for windows, where it is another one in each, as their beats are.
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
            own = denoise if at is None else at(batch)
            held = own if known is None else known.seen(batch).hold(own)
            denoised = held(columns_of(x, batch), sigma, start) * weight
            for (clip, runs), piece in zip(batch, denoised, strict=True):
                for begin, first, n in runs:
                    answer[clip, ..., first : first + n] += piece[..., begin : begin + n]
                    total[clip, ..., first : first + n] += weight[begin : begin + n]
        return answer / total

    return spread
