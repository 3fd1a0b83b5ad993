"""A phase from beliefs about how it changes between neighbouring cells: the start of the `learned` way back.

A belief is a von Mises distribution of the change d along an edge, p(d) proportional to exp(x cos d + y sin d), and is
held as the complex number x + iy. The likeliest phase of all cells together is first grown along the surest edges, as a
spanning tree, then improved cell by cell: given its neighbours, the likeliest phase of a cell is the angle of the sum
of what they say. Changes are counted against those of a tone in the middle of each bin (along frames) and of a pulse in
the middle of each frame (along bins), so that a network sees the same picture at every pitch.
Letters: N frames, F bins; magnitudes (2, N, F); edges (2, N, F), complex, to the next frame and to the next bin.
"""

import functools
import heapq
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dualdiff.formats.pghi import compiled
from dualdiff.formats.phase_retrieval import AUDIBLE, Known, apart, known_or_random, phase_gradient
from dualdiff.formats.stft import Stft

SWEEPS = 10
"""How often each cell is improved."""
QUIETEST = 1e-6
"""Magnitudes count from here, of the loudest: what is quieter is one silence."""

Network = Callable[[Tensor], Tensor]
"""Cells (1, 6, F, N), as `cells` makes them, to edges, (1, 4, F, N): x, y to the next frame, x, y to the next bin."""


def steady(stft: Stft, device: torch.device) -> tuple[Tensor, float]:
    """The changes that are counted from: along frames (F,), and along bins."""
    turns = stft.hop_length * torch.arange(stft.n_fft // 2 + 1, dtype=torch.float64) / stft.n_fft
    return (2 * math.pi * (turns - turns.round())).float().to(device), -2 * math.pi * stft.half / stft.n_fft


def cells(magnitudes: Tensor, stft: Stft, window_std: float, circular: bool = False) -> Tensor:
    """What a network sees of magnitudes (2, N, F): (6, F, N).

    Log magnitude against the loudest cell, balance of left and right, and the unit vectors of the changes along frames
    and bins that the gradient of the magnitudes implies (see `phase_gradient`), by the trapezoidal rule.
    """
    mid = magnitudes.mean(0)
    along_frames, along_bins = phase_gradient(mid, stft, window_std, circular)
    frames_from, bins_from = steady(stft, mid.device)
    per_frame, per_bin = along_frames - frames_from, along_bins - bins_from
    following = per_frame.roll(-1, 0)
    if not circular:
        following[-1] = per_frame[-1]
    per_frame = (per_frame + following) / 2
    per_bin = (per_bin + torch.cat([per_bin[:, 1:], per_bin[:, -1:]], 1)) / 2
    level = (mid / mid.max().clamp_min(1e-30)).clamp_min(QUIETEST).log() / 3 + 2
    balance = (magnitudes[0] - magnitudes[1]) / (magnitudes[0] + magnitudes[1]).clamp_min(1e-12)
    parts = [level, balance, per_frame.cos(), per_frame.sin(), per_bin.cos(), per_bin.sin()]
    return torch.stack(parts).transpose(-1, -2)


def true_edges(spectra: Tensor, stft: Stft) -> tuple[Tensor, Tensor]:
    """The changes in spectra (N, F), as unit vectors (4, F, N), and the magnitudes of the edges, (2, F, N).

    The magnitude of an edge is the geometric mean of its cells; 0 where there is no next frame or bin.
    """
    frames_from, bins_from = steady(stft, spectra.device)
    forth, up = torch.zeros_like(spectra), torch.zeros_like(spectra)
    forth[:-1] = spectra[1:] * spectra[:-1].conj() * _turn(-frames_from)
    up[:, :-1] = spectra[:, 1:] * spectra[:, :-1].conj() * complex(math.cos(bins_from), -math.sin(bins_from))
    edges = torch.stack([forth, up])
    size = edges.abs()
    parts = torch.view_as_real(edges / size.clamp_min(1e-30)).movedim(-1, 1).flatten(0, 1)
    return parts.transpose(-1, -2), size.sqrt().transpose(-1, -2)


@dataclass(frozen=True)
class Edges:
    """What believes, on which transform: a `phase.Starter`."""

    network: Network
    context_frames: int
    """Frames on each side that a belief depends on."""
    stft: Stft
    window_std: float

    def __call__(self, magnitudes: Tensor, known: Known, generator: torch.Generator, circular: bool) -> Tensor:
        """Unit spectra to start from, (1, N, F), shared by both channels: a `phase.Starter`.

        Cells too quiet to be heard have a random phase.
        """
        forth, up = self.beliefs(magnitudes, circular)
        mid = magnitudes.mean(0)
        drawn, fixed = known_or_random(mid, known, generator)
        phase = drawn.float()
        floor = max(mid.max().item() * AUDIBLE, 1e-30)
        loud, after, above = mid.cpu(), forth.cpu(), up.cpu()
        for part in apart(fixed, loud):
            grow(loud[part], after[part], above[part], phase[part], fixed[part], floor, circular)
        return agreed(_turn(phase.to(magnitudes.device)), forth, up, fixed, SWEEPS)[None]

    def beliefs(self, magnitudes: Tensor, circular: bool) -> tuple[Tensor, Tensor]:
        """The edges to the next frame and to the next bin, (N, F) each, as the phase itself changes."""
        stft, frames = self.stft, magnitudes.shape[1]
        seen = cells(magnitudes, stft, self.window_std, circular)
        margin = min(self.context_frames, frames) if circular else 0
        if margin:
            seen = torch.cat([seen[..., -margin:], seen, seen[..., :margin]], -1)
        parts = self.network(seen[None])[0, ..., margin : margin + frames].transpose(-1, -2).float().contiguous()
        frames_from, bins_from = steady(stft, magnitudes.device)
        forth = torch.complex(parts[0], parts[1]) * _turn(frames_from)
        up = torch.complex(parts[2], parts[3]) * complex(math.cos(bins_from), math.sin(bins_from))
        if not circular:
            forth[-1] = 0
        up[:, -1] = 0
        return forth, up


def grow(mid: Tensor, forth: Tensor, up: Tensor, phase: Tensor, known: Tensor, floor: float, circular: bool) -> None:
    """Fill `phase` (N, F) in place, from frames `known` (N,) and from each loudest cell on, along the surest edges.

    How sure an edge is: its concentration times the square root of the magnitude of its quieter cell (what is quiet and
    beside it is easily led astray).
    """
    root = mid.clamp_min(1e-30).sqrt()
    next_frame, next_bin = root.roll(-1, 0), root.roll(-1, 1)
    sure_forth = (forth.abs() * torch.minimum(root, next_frame)).float()
    sure_up = (up.abs() * torch.minimum(root, next_bin)).float()
    order = np.argsort(-mid.numpy(), axis=None, kind="stable")
    audible = mid >= floor
    order = order[: int(audible.sum())]
    changes = (forth.angle().contiguous().numpy(), up.angle().contiguous().numpy())
    seeds = np.flatnonzero(known.numpy()[:, None] & np.ones(mid.shape[1], dtype=bool))
    _compiled()(order, sure_forth.numpy(), sure_up.numpy(), *changes, phase.numpy(), audible.numpy(), seeds, circular)


def spread(
    order: npt.NDArray[np.int64],
    sure_forth: npt.NDArray[np.float32],
    sure_up: npt.NDArray[np.float32],
    forth: npt.NDArray[np.float32],
    up: npt.NDArray[np.float32],
    phase: npt.NDArray[np.float32],
    audible: npt.NDArray[np.bool_],
    seeds: npt.NDArray[np.int64],
    circular: bool,
) -> None:
    """The loop of `grow`: Prim's algorithm, island by island of audible cells, which `order` lists by loudness.

    A cell waits in the heap once for each neighbour that has reached it, with the phase that this one gives it.
    """
    frames, bins = phase.shape
    settled = ~audible
    heap = [(np.float32(0), np.int64(0), np.float32(0)) for _ in range(0)]
    for seed in seeds:
        settled[seed // bins, seed % bins] = False
        heapq.heappush(heap, (np.float32(-np.inf), seed, phase[seed // bins, seed % bins]))
    reached = 0
    while len(heap) > 0 or reached < order.size:
        if len(heap) == 0:  # the loudest cell of the next island, or one settled before
            cell = np.int64(order[reached])
            reached += 1
            angle = phase[cell // bins, cell % bins]
        else:
            _, cell, angle = heapq.heappop(heap)
        n, k = cell // bins, cell % bins
        if settled[n, k]:
            continue
        settled[n, k] = True
        phase[n, k] = angle
        m = (n + 1) % frames if circular else n + 1
        if m < frames and not settled[m, k]:
            heapq.heappush(heap, (-sure_forth[n, k], np.int64(m * bins + k), np.float32(angle + forth[n, k])))
        m = (n - 1) % frames if circular else n - 1
        if m >= 0 and not settled[m, k]:
            heapq.heappush(heap, (-sure_forth[m, k], np.int64(m * bins + k), np.float32(angle - forth[m, k])))
        if k + 1 < bins and not settled[n, k + 1]:
            heapq.heappush(heap, (-sure_up[n, k], np.int64(n * bins + k + 1), np.float32(angle + up[n, k])))
        if k > 0 and not settled[n, k - 1]:
            heapq.heappush(heap, (-sure_up[n, k - 1], np.int64(n * bins + k - 1), np.float32(angle - up[n, k - 1])))


@functools.cache
def _compiled() -> Callable[..., Any]:
    """`spread` as machine code."""
    import numba

    real = numba.float32[:, ::1]
    cells_of, yes = numba.int64[::1], numba.boolean
    return compiled(spread, numba.void(cells_of, real, real, real, real, real, yes[:, ::1], cells_of, yes))


def agreed(unit: Tensor, forth: Tensor, up: Tensor, known: Tensor, sweeps: int) -> Tensor:
    """Unit spectra (N, F), each cell in turn moved to its likeliest phase given its neighbours; `known` frames stay.

    Cells take turns like the fields of a chessboard, so that those which move at once are no neighbours. Each step
    makes the whole likelier. In a loop of an odd number of frames, neighbours may move at once at its seam.
    """
    frames, bins = unit.shape
    place = torch.arange(frames, device=unit.device)[:, None] + torch.arange(bins, device=unit.device)
    turns = [(place % 2 == side) & ~known.to(unit.device)[:, None] for side in (0, 1)]
    for _ in range(sweeps):
        for turn in turns:
            said = (forth * unit).roll(1, 0) + forth.conj() * unit.roll(-1, 0)
            said += (up * unit).roll(1, 1) + up.conj() * unit.roll(-1, 1)
            size = said.abs()
            unit = torch.where(turn & (size > 1e-6), said / size.clamp_min(1e-6), unit)
    return unit


def _turn(angle: Tensor) -> Tensor:
    return torch.complex(angle.cos(), angle.sin())
