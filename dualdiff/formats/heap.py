"""Heap integration: a phase from its partial derivatives, loudest cells first (Prusa, Balazs and Sondergaard 2017).

Letters: N frames, F frequency bins. Compiled by numba on first use; the same code also runs as plain Python.
"""

import functools
import heapq
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt


def integrate(
    magnitude: npt.NDArray[np.float32],
    per_frame: npt.NDArray[np.float32],
    per_bin: npt.NDArray[np.float32],
    phase: npt.NDArray[np.float64],
    known_frames: int,
    floor: float,
    circular: bool = False,
) -> None:
    """Fill `phase` in place, outward from what is known and from each loudest cell, by the trapezoidal rule.

    Args:
        magnitude: (N, F). Cells below `floor` keep the phase they come with.
        per_frame: (N, F), the derivative of the phase along frames, radians per frame.
        per_bin: (N, F), along bins, radians per bin.
        phase: (N, F), radians. The first `known_frames` frames hold the known phase; the others what a cell keeps
            when it is below the floor or the loudest of its island.
        known_frames: how many frames stay as they are.
        floor: the least magnitude that is integrated.
        circular: whether the first frame follows the last.
    """
    order = np.argsort(-magnitude, axis=None, kind="stable")
    rank = np.empty_like(order)
    rank[order] = np.arange(order.size)
    audible = int(np.count_nonzero(magnitude >= floor))
    _compiled()(order[:audible], rank.reshape(magnitude.shape), per_frame, per_bin, phase, known_frames, circular)


def spread(
    order: npt.NDArray[np.int64],
    rank: npt.NDArray[np.int64],
    per_frame: npt.NDArray[np.float32],
    per_bin: npt.NDArray[np.float32],
    phase: npt.NDArray[np.float64],
    known_frames: int,
    circular: bool,
) -> None:
    """The loop of `integrate`: `order` lists the audible cells by loudness, `rank` says where each cell is in it."""
    frames, bins = rank.shape
    settled = rank >= order.size
    settled[:known_frames] = True
    heap = [np.int64(0) for _ in range(0)]
    if known_frames > 0:
        for k in range(bins):
            if rank[known_frames - 1, k] < order.size:
                heapq.heappush(heap, rank[known_frames - 1, k])
    reached = 0
    while len(heap) > 0 or reached < order.size:
        if len(heap) == 0:  # the loudest cell of the next island, or one settled before
            n, k = order[reached] // bins, order[reached] % bins
            reached += 1
            if settled[n, k]:
                continue
            settled[n, k] = True
        else:
            cell = order[heapq.heappop(heap)]
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
                heapq.heappush(heap, rank[m, j])


@functools.cache
def _compiled() -> Callable[..., Any]:
    """`spread` as machine code, kept on disk for the next run where a folder for it can be written to."""
    import numba

    cells, slopes = numba.int64[::1], numba.float32[:, ::1]
    arguments = (cells, numba.int64[:, ::1], slopes, slopes, numba.float64[:, ::1], numba.int64, numba.boolean)
    signature = numba.void(*arguments)
    try:
        function: Callable[..., Any] = numba.njit(signature, cache=True)(spread)
    except (RuntimeError, OSError):  # numba finds no folder for its cache, or cannot write to it
        function = numba.njit(signature)(spread)
    return function
