"""Phase gradient heap integration (PGHI, Prusa, Balazs and Sondergaard 2017): a phase from magnitudes alone.

The magnitudes of a Gaussian window determine both partial derivatives of the phase; they are integrated outward from
the loudest cells.

The heap is a row of stacks, one for each tenth of a decibel: as good an order as an exact one, in linear time. Letters:
N frames, F frequency bins. Compiled by numba on first use; the same code also runs as plain Python.
"""

import functools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dualdiff.core.jit import compiled
from dualdiff.formats.dual_stft import SplitStft
from dualdiff.formats.stft import Stft

AUDIBLE = 1e-4
"""Cells this far below the loudest, as a factor, get a random phase to start from instead of an integrated one."""

LEVELS_PER_NEPER = 86.86
"""Ten a decibel."""
MOST_LEVELS = 4000
"""400 dB: what is louder is as loud."""

Known = Mapping[int, Tensor]
"""Spectra (2, K, F) that are known of K frames, by the number of the first of them."""


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


@dataclass(frozen=True)
class Integrated:
    """A start from integrated phases: a `phase_retrieval.Starter`."""

    stft: Stft
    window_std: float
    """Standard deviation of the (nearly Gaussian) window, audio samples."""

    def __call__(self, magnitudes: Tensor, known: Known, generator: torch.Generator, circular: bool) -> Tensor:
        """See `phase_retrieval.Starter`."""
        mid = magnitudes.mean(0).cpu()
        phase, fixed = known_or_random(mid, known, generator)
        slopes = phase_gradient(mid, self.stft, self.window_std, circular)
        outward(mid, *slopes, phase, fixed, circular)
        return unit_spectra(phase, magnitudes.device)


def known_or_random(mid: Tensor, known: Known, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """The phases (N, F), float64, of known spectra, random ones elsewhere; and which frames are known, (N,)."""
    phase = torch.rand(mid.shape, generator=generator, dtype=torch.float64) * 2 * math.pi
    fixed = torch.zeros(len(mid), dtype=torch.bool)
    for first, spectra in known.items():
        here = slice(first, min(first + spectra.shape[1], len(mid)))
        phase[here] = spectra[:, : max(here.stop - first, 0)].mean(0).angle().cpu().to(phase)
        fixed[here] = True
    return phase, fixed


def outward(mid: Tensor, per_frame: Tensor, per_bin: Tensor, phase: Tensor, known: Tensor, circular: bool) -> None:
    """Integrate in place from frames `known` (N,) and from the loudest cells, as far as anything is audible."""
    floor = max(mid.max().item() * AUDIBLE, 1e-30)
    for part in apart(known, mid):
        slopes = per_frame[part].numpy(), per_bin[part].numpy()
        integrate(mid[part].numpy(), *slopes, phase[part].numpy(), known[part].numpy(), floor, circular)


def apart(known: Tensor, magnitude: Tensor) -> list[slice]:
    """The frames of magnitudes (N, F) in parts that are grown each by itself, with what is `known` (N,) at one end.

    A phase grows along the loudest cells, so from one side through all of a gap; and what does not fit would come to
    lie at its other border, where the music goes on unchanged. It is better placed in the quietest frame of the middle.
    """
    gaps = (~known).nonzero().flatten()
    if not len(gaps) or not known[: int(gaps[0])].any() or not known[int(gaps[-1]) :].any():
        return [slice(0, len(known))]
    first, last = int(gaps[0]), int(gaps[-1]) + 1
    margin = (last - first) // 4
    middle = magnitude[first + margin : last - margin].square().sum(1)
    cut = first + margin + int(middle.argmin()) if len(middle) else first
    return [slice(0, cut), slice(cut, len(known))]


def unit_spectra(phase: Tensor, device: torch.device) -> Tensor:
    """(N, F) to (1, N, F), complex."""
    return torch.complex(phase.cos().float(), phase.sin().float())[None].to(device)


def phase_gradient(
    magnitude: Tensor, stft: Stft, window_std: float, circular: bool = False, first_bin: int = 0
) -> tuple[Tensor, Tensor]:
    """Both partial derivatives of the phase of (N, F) magnitudes, as a Gaussian window ties them to the magnitudes.

    Prusa et al. 2017, with lambda = 2 pi std^2, hop a, n_fft M, and phases that count from the start of a window of W
    samples, for bins from `first_bin` on: along frames (a M / lambda) d ln|X|/dk + 2 pi a k / M, wrapped to one turn;
    along bins -(lambda / (a M)) d ln|X|/dn - pi W / M. Central differences, one-sided at the borders (but for the
    frames of a loop, which is `circular`). Returns (N, F) twice.
    """
    ratio = stft.hop_length * stft.n_fft / (2 * math.pi * window_std**2)
    log = magnitude.clamp_min(max(magnitude.max().item() * 1e-10, 1e-30)).log_()
    bins = torch.arange(first_bin, first_bin + log.shape[1], dtype=torch.float64)  # which Apple's GPUs do not have
    turns = stft.hop_length * bins / stft.n_fft
    advance = (2 * math.pi * (turns - turns.round())).float().to(log.device)
    rise = (log.roll(-1, 0) - log.roll(1, 0)) / 2 if circular else _slope(log, 0)
    return ratio * _slope(log, 1) + advance, rise / -ratio - 2 * math.pi * stft.half / stft.n_fft


def _slope(values: Tensor, dim: int) -> Tensor:
    """Central differences along a dimension."""
    if values.shape[dim] < 2:
        return torch.zeros_like(values)
    slope: Tensor = torch.gradient(values, dim=dim)[0]
    return slope


@dataclass(frozen=True)
class SplitStart:
    """Integrated phases to start from, of both windows as one: a `phase_retrieval.Starter`.

    Counted from the middle of a window, the phases of a sound are the same in both transforms. So one integration goes
    through both, side by side at the crossover's middle; what each has beyond it follows from the other.
    """

    stft: SplitStft
    stds: tuple[float, float]
    """Standard deviations of the long and the short window, audio samples."""

    def __call__(self, magnitudes: Tensor, known: Known, generator: torch.Generator, circular: bool) -> Tensor:
        """See `phase_retrieval.Starter`."""
        stft = self.stft
        mid = magnitudes.mean(0).cpu()
        low, high = _from_the_middle(stft.low), _from_the_middle(stft.high)
        centred = torch.cat([low[: stft.low_bins], high[stft.high_first :]])
        phase, fixed = known_or_random(mid, known, generator)
        phase += centred
        per_frame, per_bin = self._gradients(mid, circular)
        joined = self._joined()
        loud, along_frames, along_bins, found = (
            values[:, joined].contiguous() for values in (mid, per_frame, per_bin, phase)
        )
        outward(loud, along_frames, along_bins, found, fixed, circular)
        new = (~fixed).nonzero().flatten()
        phase[new[:, None], joined] = found[new]
        for bin, near, bins in self._beyond(joined):
            phase[new, bin] = phase[new, near] + bins * per_bin[new, near]
        return unit_spectra(phase - centred, magnitudes.device)

    def _gradients(self, mid: Tensor, circular: bool) -> tuple[Tensor, Tensor]:
        """Both derivatives of the phases (N, F) that count from the middle of the window."""
        stft, found = self.stft, []
        for part, transform, std, first in (
            (mid[:, : stft.low_bins], stft.low, self.stds[0] / stft.factor, 0),
            (mid[:, stft.low_bins :], stft.high, self.stds[1], stft.high_first),
        ):
            per_frame, per_bin = phase_gradient(part, transform, std, circular, first)
            found.append((per_frame, per_bin + 2 * math.pi * transform.half / transform.n_fft))
        return torch.cat([each[0] for each in found], 1), torch.cat([each[1] for each in found], 1)

    def _joined(self) -> Tensor:
        """The bins of each window on its side of the crossover's middle, in order."""
        hz, stft = self.stft.frequencies_hz, self.stft
        below = hz[: stft.low_bins] < stft.crossover_hz
        return torch.cat([below, hz[stft.low_bins :] >= stft.crossover_hz]).nonzero().flatten()

    def _beyond(self, joined: Tensor) -> Iterator[tuple[int, int, float]]:
        """Each bin that is not joined, the nearest one of the other window that is, and how many of its bins apart."""
        hz, stft = self.stft.frequencies_hz, self.stft
        steps_hz = (hz[1] - hz[0], hz[-1] - hz[-2])
        for bin in sorted(set(range(stft.bins)) - set(joined.tolist())):
            above = bin < stft.low_bins
            others = joined[(joined >= stft.low_bins) == above]
            near = int(others[(hz[others] - hz[bin]).abs().argmin()])
            yield bin, near, ((hz[bin] - hz[near]) / steps_hz[above]).item()


def _from_the_middle(stft: Stft) -> Tensor:
    """What phases that count from the middle of a window have more than those from its first sample, (F,)."""
    return 2 * math.pi * stft.half / stft.n_fft * torch.arange(stft.bins, dtype=torch.float64)
