"""One accelerated iteration as two passes over memory, for CPUs: machine code that keeps a frame in the fastest cache.

The same arithmetic as `griffin_lim`, whose torch operations each go through all of a chunk. Letters: c channels, n
frames of a chunk, N frames, F bins of both transforms as one, M bands. Complex numbers are pairs of floats.
"""

import functools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from dualdiff.core.jit import compiled

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]
DEPTH = 4
"""How many bands a bin belongs to at most."""

Run = Callable[[Callable[[int, int], None], int], None]
"""Does work (first, last) for all of a count, in as many parts as there are threads."""


class Table(NamedTuple):
    """The bands, bin by bin; see `update`."""

    fixed: Floats
    owner: Integers
    deep: Integers
    sums: Floats
    weights: Floats


@contextmanager
def threads() -> Iterator[Run]:
    """Share work among as many threads as torch has; the kernels hold no lock of the interpreter."""
    count = torch.get_num_threads()
    if count == 1:
        yield lambda work, total: work(0, total)
        return
    with ThreadPoolExecutor(count) as pool:

        def run(work: Callable[[int, int], None], total: int) -> None:
            ends = [total * part // count for part in range(count + 1)]
            list(pool.map(work, ends[:-1], ends[1:]))

        yield run


def update(  # noqa: C901 - one pass over a frame, in one function for the compiler
    low: Floats,
    high: Floats,
    low_share: Floats,
    high_share: Floats,
    magnitudes: Floats,
    bands: Floats,
    memory: Floats,
    fixed: Floats,
    owner: Integers,
    deep: Integers,
    sums: Floats,
    weights: Floats,
    numbers: Floats,
    start: int,
    first: int,
    last: int,
) -> None:
    """Replace the spectra of frames `first` to `last` of a chunk by those for the next waveform, in place.

    Args:
        low: (c, n, bins, 2), of the transform for the bass; it has no bins where there is one transform only.
        high: (c, n, bins, 2), of the other.
        low_share: what the bins of `low` that count, its lowest, contribute to the waveform.
        high_share: the same of `high`, its highest.
        magnitudes: (2, N, F), the target of both channels.
        bands: (2, N, M), what the bands of both should sum to.
        memory: (c, N, 4, F), real and imaginary parts of t and of d of the iteration before; replaced.
        fixed: how bound each of the lowest bins is to its own target; those above are not at all.
        owner: (F,), the lowest band that each bin belongs to; `DEPTH` of them follow each other.
        deep: the bins that belong to more than two bands.
        sums: (DEPTH, F), how much of the bin each of its bands sees.
        weights: (DEPTH, F), what each of its bands gives to the bin.
        numbers: alpha, beta, gamma, the most that a band grows by, and from 0, where the channels share the mean of
            their targets, to 1 the weight of their own.
        start: the frame of all that is the chunk's first.
        first: of the chunk.
        last: of the chunk.
    """
    # Loops are short, over rows, and write to few of them: else the compiler does not know that rows lie apart.
    bins, low_bins, bound = magnitudes.shape[2], len(low_share), len(fixed)
    high_first = high.shape[2] - len(high_share)
    alpha, beta, gamma, most, weight = numbers
    tiny, small, half = np.float32(1e-30), np.float32(1e-9), np.float32(0.5)
    keep = np.float32(1) - gamma
    re, im, found = np.empty(bins, np.float32), np.empty(bins, np.float32), np.empty(bins, np.float32)
    wanted = np.empty(bins, np.float32)
    totals, ratio = np.empty((DEPTH, bands.shape[2] + DEPTH), np.float32), np.zeros(bands.shape[2] + DEPTH, np.float32)
    high_re, high_im = re[low_bins:], im[low_bins:]
    for frame in range(first, last):
        here = start + frame
        for channel in range(len(low)):
            below, above = low[channel, frame], high[channel, frame, high_first:]
            for k in range(low_bins):
                re[k], im[k] = below[k, 0], below[k, 1]
            for k in range(len(high_share)):
                high_re[k], high_im[k] = above[k, 0], above[k, 1]
            for k in range(bins):
                found[k] = np.sqrt(re[k] * re[k] + im[k] * im[k])
            own, one, other = magnitudes[channel, here], magnitudes[0, here], magnitudes[1, here]
            for k in range(bound):
                mid = half * (one[k] + other[k])
                wanted[k] = fixed[k] * (mid + weight * (own[k] - mid))
            wanted[bound:] = 0
            totals[:] = small
            for k in range(bins):
                band = owner[k]
                totals[0, band] += found[k] * sums[0, k]
                totals[1, band + 1] += found[k] * sums[1, k]
            for k in deep:
                band = owner[k]
                totals[2, band + 2] += found[k] * sums[2, k]
                totals[3, band + 3] += found[k] * sums[3, k]
            own, one, other = bands[channel, here], bands[0, here], bands[1, here]
            for band in range(len(own)):
                mid = half * (one[band] + other[band])
                total = totals[0, band] + totals[1, band] + totals[2, band] + totals[3, band]
                ratio[band] = min((mid + weight * (own[band] - mid)) / total, most)
            for k in range(bins):
                band = owner[k]
                wanted[k] += found[k] * (ratio[band] * weights[0, k] + ratio[band + 1] * weights[1, k])
            for k in deep:
                band = owner[k]
                wanted[k] += found[k] * (ratio[band + 2] * weights[2, k] + ratio[band + 3] * weights[3, k])
            for side in range(2):
                before, behind = memory[channel, here, side], memory[channel, here, 2 + side]
                part = re if side == 0 else im
                for k in range(bins):
                    now = behind[k] * keep + part[k] * gamma
                    step = now - before[k]
                    before[k], behind[k], part[k] = now, now + beta * step, now + alpha * step
            for k in range(bins):
                wanted[k] /= np.sqrt(re[k] * re[k] + im[k] * im[k] + tiny)
            for k in range(low_bins):
                scale = wanted[k] * low_share[k]
                below[k, 0], below[k, 1] = re[k] * scale, im[k] * scale
            high_wanted = wanted[low_bins:]
            for k in range(len(high_share)):
                scale = high_wanted[k] * high_share[k]
                above[k, 0], above[k, 1] = high_re[k] * scale, high_im[k] * scale
            below[low_bins:] = 0
            high[channel, frame, :high_first] = 0


def overlap_add(buffer: Floats, pieces: Floats, window: Floats, start: int, first: int, last: int) -> None:
    """Add frames to the hops `first` to `last` that they reach, each weighted by the window.

    Args:
        buffer: (C, hops, hop_length).
        pieces: (C, n, at least W), a waveform per frame.
        window: (W,).
        start: the hop of the buffer that the first frame begins with.
        first: of the hops that the frames reach, counted from `start`.
        last: of the hops.
    """
    hop, length = buffer.shape[2], len(window)
    frames = pieces.shape[1]
    for channel in range(buffer.shape[0]):
        for place in range(first, last):
            for shift in range((length + hop - 1) // hop):
                frame = place - shift
                if 0 <= frame < frames:
                    row, at = buffer[channel, start + place], shift * hop
                    piece, weights = pieces[channel, frame, at:], window[at : at + hop]
                    for k in range(len(weights)):
                        row[k] += piece[k] * weights[k]


@functools.cache
def kernels() -> tuple[Callable[..., None], Callable[..., None]]:
    """`update` and `overlap_add` as machine code."""
    import numba

    line, plane, index = numba.float32[::1], numba.float32[:, :, ::1], numba.int64
    spectra, table = numba.float32[:, :, :, ::1], numba.float32[:, ::1]
    sides = (spectra, spectra, line, line, plane, plane, spectra)
    one = numba.void(*sides, line, numba.int64[::1], numba.int64[::1], table, table, line, index, index, index)
    two = numba.void(plane, plane, line, index, index, index)
    return compiled(update, one, True, "numpy"), compiled(overlap_add, two, True)


def floats(tensor: torch.Tensor) -> Any:
    """A tensor of the CPU as an array of floats, complex numbers as pairs, without a copy."""
    return (torch.view_as_real(tensor) if tensor.is_complex() else tensor).numpy()
