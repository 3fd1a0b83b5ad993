"""Heap integration: a phase from its partial derivatives, loudest cells first (Prusa, Balazs and Sondergaard 2017).

The heap is a row of stacks, one for each tenth of a decibel: as good an order as an exact one, in linear time. Letters:
N frames, F frequency bins. Compiled by numba on first use; the same code also runs as plain Python.
"""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from dualdiff.core.jit import compiled

LEVELS_PER_NEPER = 86.86
"""Ten a decibel."""
MOST_LEVELS = 4000
"""400 dB: what is louder is as loud."""


def integrate(
    magnitude: npt.NDArray[np.float32],
    per_frame: npt.NDArray[np.float32],
    per_bin: npt.NDArray[np.float32],
    phase: npt.NDArray[np.float64],
    known: npt.NDArray[np.bool_],
    floor: float,
    circular: bool = False,
) -> None:
    """Fill `phase` in place, outward from what is known and from each loudest cell, by the trapezoidal rule.

    Args:
        magnitude: (N, F). Cells below `floor` keep the phase they come with.
        per_frame: (N, F), the derivative of the phase along frames, radians per frame.
        per_bin: (N, F), along bins, radians per bin.
        phase: (N, F), radians. Known frames hold the known phase; the others what a cell keeps when it is below the
            floor or the loudest of its island.
        known: (N,), which frames stay as they are: what they say spreads into those beside them.
        floor: the least magnitude that is integrated, above 0.
        circular: whether the first frame follows the last.
    """
    above = np.log(np.maximum(magnitude, floor / 2) / floor)
    levels = np.where(magnitude >= floor, np.minimum(above * LEVELS_PER_NEPER + 1, MOST_LEVELS), 0).astype(np.uint16)
    order = np.argsort(MOST_LEVELS - levels, axis=None, kind="stable")[: np.count_nonzero(levels)]
    settled = levels == 0
    settled[known] = True
    beside = np.roll(~known, 1) | np.roll(~known, -1)
    seeds = np.flatnonzero((levels > 0) & (known & beside)[:, None])
    _compiled()(order, levels, per_frame, per_bin, phase, settled, seeds, circular)


def spread(
    order: npt.NDArray[np.int64],
    levels: npt.NDArray[np.uint16],
    per_frame: npt.NDArray[np.float32],
    per_bin: npt.NDArray[np.float32],
    phase: npt.NDArray[np.float64],
    settled: npt.NDArray[np.bool_],
    seeds: npt.NDArray[np.int64],
    circular: bool,
) -> None:
    """The loop of `integrate`: `order` lists the audible cells, loudest first; from `seeds` it starts outward."""
    frames, bins = levels.shape
    stacks = np.full(MOST_LEVELS + 1, -1, dtype=np.int64)  # the cell on top of each level's stack
    below = np.empty(frames * bins, dtype=np.int64)  # the cell below each in its stack
    top = np.int64(0)
    for cell in seeds:
        level = levels[cell // bins, cell % bins]
        below[cell], stacks[level] = stacks[level], cell
        top = max(top, np.int64(level))
    reached = 0
    while True:
        while top > 0 and stacks[top] < 0:
            top -= 1
        if top > 0:
            cell = stacks[top]
            stacks[top] = below[cell]
        else:  # the loudest cell of the next island
            while reached < len(order) and settled[order[reached] // bins, order[reached] % bins]:
                reached += 1
            if reached == len(order):
                break
            cell = order[reached]
            settled[cell // bins, cell % bins] = True
        n, k = cell // bins, cell % bins
        for step_n, step_k in ((1, 0), (-1, 0), (0, 1), (0, -1)):
            m, j = n + step_n, k + step_k
            if circular:
                m %= frames
            if 0 <= m < frames and 0 <= j < bins and not settled[m, j]:
                along_frames = 0.5 * step_n * (per_frame[n, k] + per_frame[m, j])
                along_bins = 0.5 * step_k * (per_bin[n, k] + per_bin[m, j])
                phase[m, j] = phase[n, k] + along_frames + along_bins
                settled[m, j] = True
                level = levels[m, j]
                below[m * bins + j], stacks[level] = stacks[level], m * bins + j
                top = max(top, np.int64(level))


@functools.cache
def _compiled() -> Callable[..., Any]:
    """`spread` as machine code."""
    import numba

    cells, slopes = numba.int64[::1], numba.float32[:, ::1]
    grids = (numba.uint16[:, ::1], slopes, slopes, numba.float64[:, ::1], numba.boolean[:, ::1])
    signature = numba.void(cells, *grids, cells, numba.boolean)
    return compiled(spread, signature)
