"""The multi-scale spectral loss in two dimensions: blocks of the sample, seen through a window and a 2-D FFT.

A block of b x b bins and frames becomes the complex spectrum F = R (w x w') C: windowed discrete Fourier transforms, C
of the frames (real input, so only frequencies up to b/2) and R of the bins. Both are matrix products here, not FFTs:
neighbouring blocks share all their columns, so C is applied once per row of the sample instead of once per block,
and on a CPU two small dense products beat the FFT of many overlapping little blocks. Prime sizes cost no more.
Letters: B batch, F bins, N frames, b block size, K = b//2 + 1 frequencies along frames, m x n grid of blocks,
I = B C pictures (one per clip and channel), L = I n K columns of one strip of blocks.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from dualdiff.core.errors import ConfigError
from dualdiff.core.types import Sample
from dualdiff.losses.config import SpectralLossConfig

FLAT_TOP = (0.21557895, -0.41663158, 0.277263158, -0.083578947, 0.006947368)  # cosine terms 0 to 4 (d'Antona, Ferrero)
MAGNITUDE_EPSILON = 1e-6  # rounds the tip of |F| at 0, where it has no derivative
PHASE_EPSILON = 1e-4  # bounds the derivative of the phase, 1/|F|, where there is next to nothing to have one
CPU_STRIP_ELEMENTS = 2**17  # spectrum values worked on at a time: what fits the cache of a core
GPU_STRIP_ELEMENTS = 2**23  # and what keeps an accelerator busy


class BlockTables(NamedTuple):
    """The constants of one block size, float64 on the CPU: what the transforms multiply and how bins are weighed."""

    size: int
    columns: Tensor  # (b, 2K): windowed cosines and negative sines over frames
    rows: Tensor  # (2b, 2b): the complex windowed transform over bins, on real and imaginary parts in turn
    amplitude_weight: Tensor  # (b, K): lambda_min/lambda
    phase_weight: Tensor  # (b, K): lambda/pi


class SpectralLoss2d(nn.Module):
    """How far a reconstruction is from its sample, in the spectra of overlapping blocks of several sizes.

    With lambda(f) = 1/(|f| + 1), f in cycles per block and d in [0, pi] the angle between the spectra G of the
    reconstruction and F of the target: amplitude is the mean of | |G| - |F| | lambda_min/lambda(f), which watches fine
    detail, and phase that of d |F| lambda(f)/pi, which watches where coarse shapes are. Means are over everything,
    block sizes weighing the same. The spectra are scaled so that white noise of variance 1 has |F| of 1 on average
    (root mean square); left and right are replaced by (L + R)/sqrt(2) and (L - R)/sqrt(2).
    """

    def __init__(self, config: SpectralLossConfig) -> None:
        super().__init__()
        self.config = config
        self.tables = [block_tables(size) for size in config.block_sizes]
        self._copies: dict[tuple[torch.dtype, torch.device], list[BlockTables]] = {}

    def forward(
        self, reconstruction: Sample, target: Sample, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """The terms "amplitude" and "phase" (the latter times phase_weight) of two samples (B, C, F, N), as scalars.

        Computed in float32, or float64 if the reconstruction is, whatever autocast says. The target gets no gradient.
        `generator` draws the offset of the grids where the settings ask for one; without it they stay where they are.
        A reconstruction of exact zeros gets no gradient either: a spectrum of nothing has no direction to grow in.

        Raises:
            ConfigError: a sample too small for the largest block to be padded by reflection.
            ValueError: shapes that differ or are not (B, C, F, N), with an even C.
        """
        self._check(reconstruction, target)
        exact = torch.float64 if reconstruction.dtype == torch.float64 else torch.float32
        with torch.autocast(reconstruction.device.type, enabled=False):
            pair = [_mid_and_side(sample.to(exact)) for sample in (reconstruction, target.detach())]
            tables_here = self._tables_like(pair[0])
            terms = [self._one_size(pair[0], pair[1], tables, generator) for tables in tables_here]
            amplitude, phase = (torch.stack(values).mean() for values in zip(*terms, strict=True))
        return {"amplitude": amplitude, "phase": phase * self.config.phase_weight}

    def _tables_like(self, sample: Tensor) -> list[BlockTables]:
        """The tables in the type and on the device of a sample: copied there once, not at each step."""
        place = (sample.dtype, sample.device)
        if place not in self._copies:
            self._copies[place] = [
                BlockTables(size, *(constant.to(sample) for constant in constants)) for size, *constants in self.tables
            ]
        return self._copies[place]

    def _check(self, reconstruction: Sample, target: Sample) -> None:
        shape, largest = reconstruction.shape, max(self.config.block_sizes)
        if shape != target.shape or len(shape) != 4 or shape[1] % 2:
            found = f"{tuple(shape)} and {tuple(target.shape)}"
            raise ValueError(f"samples of shapes {found} are not both (B, C, F, N) with an even C")
        if min(shape[2:]) <= largest // 2:
            found = f"{shape[2]} bins x {shape[3]} frames"
            message = f"blocks of {largest} need more than {largest // 2} bins and frames; the samples have {found}"
            raise ConfigError(message, "use smaller block_sizes or longer crops")

    def _one_size(
        self, reconstruction: Tensor, target: Tensor, tables: BlockTables, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        """The mean amplitude and phase distances of pictures (F, I, N) for one block size."""
        step = max(1, round(tables.size / self.config.overlap))
        offset = (0, 0)
        if self.config.random_offset and generator is not None:
            drawn = torch.randint(step, (2,), generator=generator, device=generator.device).tolist()
            offset = (drawn[0], drawn[1])
        given, wanted = (_column_spectra(picture, tables, step, offset) for picture in (reconstruction, target))
        values, slopes = _block_distances(given.detach(), wanted, tables, step, differentiate=given.requires_grad)
        if slopes is None:
            return values[0], values[1]
        change = given - given.detach()  # zero, with a gradient: carries the slopes, which are known already
        return values[0] + (change * slopes[:, 0]).sum(), values[1] + (change * slopes[:, 1]).sum()


def pointwise_loss(reconstruction: Sample, target: Sample) -> Tensor:
    """The mean absolute difference of two samples (B, C, F, N): the plain loss to measure the spectral one against."""
    return (reconstruction.float() - target.float()).abs().mean()


def flat_top(size: int) -> Tensor:
    """The periodic five-term flat-top window (size,), float64, scaled to a sum of squares of 1."""
    angle = 2 * math.pi * torch.arange(size, dtype=torch.float64) / size
    window = torch.stack([weight * (order * angle).cos() for order, weight in enumerate(FLAT_TOP)]).sum(0)
    return window / window.square().sum().sqrt()


def block_tables(size: int) -> BlockTables:
    """The constants of blocks of `size` x `size`."""
    window, places = flat_top(size), torch.arange(size, dtype=torch.float64)
    angle = 2 * math.pi / size * torch.outer(places, places)
    cosines, sines = window * angle.cos(), window * angle.sin()  # (frequency, place)
    half = size // 2 + 1
    columns = torch.cat([cosines[:half], -sines[:half]]).T.contiguous()
    # (c - i s)(x + i y) = (c x + s y) + i (c y - s x): the parts x and y of each bin stand next to each other
    real, imaginary = torch.stack([cosines, sines], 2), torch.stack([-sines, cosines], 2)
    rows = torch.stack([real, imaginary]).reshape(2 * size, 2 * size)
    frequency = torch.hypot(torch.fft.fftfreq(size, 1 / size, dtype=torch.float64)[:, None], places[None, :half])
    rising = (frequency + 1) / (frequency.max() + 1)
    return BlockTables(size, columns, rows, rising, 1 / ((frequency + 1) * math.pi))


def _mid_and_side(sample: Sample) -> Tensor:
    """(B, C, F, N) to pictures (F, I, N): sum and difference of left and right channels, orthonormal."""
    left, right = (half.flatten(0, 1) for half in sample.chunk(2, 1))
    return (torch.cat([left + right, left - right]) / math.sqrt(2)).transpose(0, 1)


def _column_spectra(picture: Tensor, tables: BlockTables, step: int, offset: tuple[int, int]) -> Tensor:
    """The transform over frames: a picture (F, I, N) to strips (2 padded F, L), real and imaginary rows in turn."""
    margin = tables.size // 2
    padded = functional.pad(picture.transpose(0, 1), (margin,) * 4, mode="reflect").transpose(0, 1)
    blocks = padded[offset[0] :, :, offset[1] :].unfold(2, tables.size, step)  # (padded F, I, n, b)
    spectra = blocks.reshape(-1, tables.size) @ tables.columns.to(picture)
    parts = spectra.view(blocks.shape[0], -1, 2, tables.columns.shape[1] // 2)  # (padded F, I n, 2, K)
    return parts.transpose(1, 2).reshape(2 * blocks.shape[0], -1)


@torch.no_grad()
def _block_distances(
    given: Tensor, wanted: Tensor, tables: BlockTables, step: int, *, differentiate: bool
) -> tuple[Tensor, Tensor | None]:
    """The transform over bins, and both distances, for all blocks of one size.

    Takes strips of reconstruction and target (2 padded F, L); gives the mean distances of amplitude and of phase (2,),
    and on demand their derivatives by the strip of the reconstruction (2 padded F, 2, L).

    The spectra of overlapping blocks hold overlap^2 times the numbers of the sample. They are made, compared and
    differentiated a few rows of blocks at a time and never stored, which takes a fifth of the time that autograd
    needs to store and replay every intermediate at overlap 8.
    """
    height, width = given.shape
    size, count = tables.size, (height // 2 - tables.size) // step + 1
    view = ((count, 2 * size, width), (2 * step * width, width, 1))
    given_blocks, wanted_blocks = given.contiguous().as_strided(*view), wanted.contiguous().as_strided(*view)
    rows = tables.rows.to(given)
    weights = [_repeated(weight.to(given), width) for weight in (tables.amplitude_weight, tables.phase_weight)]
    at_once = max(1, (CPU_STRIP_ELEMENTS if given.device.type == "cpu" else GPU_STRIP_ELEMENTS) // (size * width))
    slopes = given.new_zeros(height, 2, width) if differentiate else None
    sums: list[Tensor] = []
    for first in range(0, count, at_once):
        pair = rows @ given_blocks[first : first + at_once], rows @ wanted_blocks[first : first + at_once]
        total, by_spectrum = _compare(*pair, weights[0], weights[1], differentiate=differentiate)
        sums.append(total)
        if slopes is not None:
            for index, by_strip in enumerate(rows.T @ by_spectrum.flatten(2), start=first):
                slopes[2 * step * index : 2 * (step * index + size)] += by_strip.view(-1, 2, width)
    elements = count * size * width
    return torch.stack(sums).sum(0) / elements, None if slopes is None else slopes.div_(elements)


def _repeated(weight: Tensor, width: int) -> Tensor:
    """A weight (b, K) for every picture and block of a strip: (b, L)."""
    return weight[:, None, :].expand(-1, width // weight.shape[1], -1).reshape(len(weight), width)


def _compare(
    given: Tensor, wanted: Tensor, amplitude_weight: Tensor, phase_weight: Tensor, *, differentiate: bool
) -> tuple[Tensor, Tensor]:
    """Spectra (M, 2b, L), real then imaginary, to the summed distances (2,) and their derivatives (M, 2b, 2, L).

    The derivatives are those by the real and imaginary parts of `given`, of amplitude and phase in turn.
    With G = x + iy and P = G conj(F): d|G|/d(x, y) = (x, y)/|G|, d arg P/d(x, y) = (-y, x)/|G|^2.
    """
    (x, y), (u, v) = given.chunk(2, 1), wanted.chunk(2, 1)
    power = (x * x).addcmul_(y, y)
    given_magnitude = (power + MAGNITUDE_EPSILON**2).sqrt_()
    magnitude = (u * u).addcmul_(v, v).add_(MAGNITUDE_EPSILON**2).sqrt_()
    excess = given_magnitude - magnitude
    by_magnitude = excess.sign().mul_(amplitude_weight)
    crossed = (y * u).addcmul_(x, v, value=-1)
    angle = torch.atan2(crossed.abs(), (x * u).addcmul_(y, v))
    by_angle = magnitude.mul_(phase_weight)
    sums = torch.stack([(excess * by_magnitude).sum(), (angle * by_angle).sum()])
    if not differentiate:
        return sums, given.new_empty(0)
    radial = by_magnitude.div_(given_magnitude)
    turning = crossed.sign_().mul_(by_angle).div_(power.add_(PHASE_EPSILON**2))
    slopes = given.new_empty(*given.shape[:2], 2, given.shape[2])
    by_x, by_y = slopes.chunk(2, 1)
    torch.mul(x, radial, out=by_x[:, :, 0])
    torch.mul(y, radial, out=by_y[:, :, 0])
    torch.mul(y, turning, out=by_x[:, :, 1]).neg_()
    torch.mul(x, turning, out=by_y[:, :, 1])
    return sums, slopes
