"""Iterations that bring a waveform's spectra nearer to the magnitudes that they should have.

Griffin-Lim and its faster relatives: a waveform is made of spectra that have the right magnitudes, and is analysed
again; the phases of those spectra are better ones. Letters: N frames, F frequency bins, M bands, T time; c channels, 1
while both channels are one and 2 afterwards. Spectra are (c, N, F).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from dualdiff.core.progress import Progress, silent
from dualdiff.core.types import Waveform
from dualdiff.formats import fused
from dualdiff.formats.stft import Transform, magnitude, with_magnitude

CHUNK_FRAMES = 128
"""Frames that go through an iteration together: few enough to stay in the processor's cache."""
MOST = 10.0
"""A band grows at most by this factor in one iteration."""
GROUPS = 8
"""Bands are summed in so many groups, each over its own bins: most of the full matrix is zero."""


class Pace(NamedTuple):
    """How the iterations gather speed: alpha, beta and gamma of Nenov et al. 2023, accelerated Griffin-Lim.

    With beta = alpha and gamma = 1 it is fast Griffin-Lim (Perraudin et al. 2013) of momentum alpha.
    """

    alpha: float
    beta: float
    gamma: float


FAST = Pace(0.99, 0.99, 1.0)
"""Fast Griffin-Lim, of the reference."""
ACCELERATED = Pace(0.9, 1.0, 1.2)
"""Found on music, for some tens of iterations from an integrated phase."""


@dataclass(frozen=True)
class Target:
    """What the spectra of a waveform should be like."""

    magnitudes: Tensor
    """(2, N, F)"""
    bands: Tensor | None = None
    """(2, N, M), what `Bands` should see, where that is known better than the single bins."""

    def at(self, first: int, last: int, weight: float) -> tuple[Tensor, Tensor | None]:
        """Both for some frames, (c, n, ...), drawn together to the mean of the channels; one channel at weight 0."""
        bands = None if self.bands is None else _annealed(self.bands[:, first:last], weight)
        return _annealed(self.magnitudes[:, first:last], weight), bands

    def followed_by(self, other: "Target") -> "Target":
        """Both as one, the other behind."""
        bands = None if self.bands is None or other.bands is None else torch.cat([self.bands, other.bands], 1)
        return Target(torch.cat([self.magnitudes, other.magnitudes], 1), bands)


def _annealed(values: Tensor, weight: float) -> Tensor:
    mid = values.mean(0, keepdim=True)
    return torch.lerp(mid, values, weight) if weight > 0 else mid


class Bands:
    """Sums of magnitudes over bands: magnitudes that have the wanted sums, but keep their shape inside of each band.

    A high band is wider than a partial. The least-squares way back fills it evenly, with what no waveform has; this
    lets the iterations find out which of its bins sound.
    """

    def __init__(self, filters: Tensor, free: Tensor, spread: Tensor | None = None) -> None:
        """For filters (F, M), and how free each bin is, (F,): 0 keeps its target.

        What bands should change is spread over bins as `spread` (F, M) says, which is as the filters say unless given.
        """
        spread = filters if spread is None else spread
        self.lowest = lowest = int(free.nonzero()[0]) if free.any() else len(free)
        self._fixed = 1 - free[lowest:]
        weights = spread / spread.sum(1, keepdim=True).clamp_min(1e-6) * free[:, None]
        whole = (filters[:lowest].sum(0) < 1e-3 * filters.sum(0)).nonzero().flatten()
        self._groups = []
        for columns in whole.tensor_split(min(GROUPS, max(len(whole), 1))):
            if len(columns):
                span = slice(int(columns[0]), int(columns[-1]) + 1)
                used = (filters + spread)[:, span].amax(1).nonzero().flatten()
                rows = slice(max(int(used[0]), lowest), int(used[-1]) + 1)
                self._groups.append((span, rows, filters[rows, span].contiguous(), weights[rows, span].T.contiguous()))

    def table(self) -> fused.Table | None:
        """The same for `fused.update`; None where a bin belongs to more bands than that has room for."""
        fixed = torch.cat([self._fixed.new_ones(self.lowest), self._fixed])
        filters, gives = fixed.new_zeros(2, len(fixed), max([span.stop for span, *_ in self._groups], default=1))
        for span, rows, sums, weights in self._groups:
            filters[rows, span] += sums
            gives[rows, span] += weights.T
        used = (filters + gives) > 0
        owner, count = used.int().argmax(1), used.sum(1)
        last = used.shape[1] - 1 - used.flip(1).int().argmax(1)
        if ((last - owner)[count > 0] >= fused.DEPTH).any():
            return None
        places = (owner + torch.arange(fused.DEPTH)[:, None]).clamp_max(used.shape[1] - 1)
        inside = (owner + torch.arange(fused.DEPTH)[:, None]) < used.shape[1]
        sums, weights = (values.gather(1, places.T).T * inside for values in (filters, gives))
        many = ((sums + weights)[2:] > 0).any(0).nonzero().flatten()
        bound = fixed.nonzero().flatten()
        return fused.Table(
            fused.floats(fixed[: int(bound[-1]) + 1 if len(bound) else 0].contiguous()),
            owner.numpy(),
            many.numpy(),
            fused.floats(sums.contiguous()),
            fused.floats(weights.contiguous()),
        )

    def fitted(self, spectra: Tensor, magnitudes: Tensor, bands: Tensor) -> Tensor:
        """The magnitudes of spectra (c, n, F), each band as loud as wanted; the lowest bins as `magnitudes` says."""
        found = magnitude(spectra[..., self.lowest :].clone())
        factor = torch.zeros_like(found)
        for span, rows, sums, weights in self._groups:
            here = slice(rows.start - self.lowest, rows.stop - self.lowest)
            ratio = bands[..., span] / (found[..., here] @ sums).clamp_min_(1e-9)
            factor[..., here] += ratio.clamp_max_(MOST) @ weights
        high = torch.addcmul(factor.mul_(found), magnitudes[..., self.lowest :], self._fixed)
        return torch.cat([magnitudes[..., : self.lowest], high], -1)


def stereo_weight(iteration: int, iterations: int, mono_share: float, last: float = 1.0) -> float:
    """How far the channels have magnitudes of their own after so many iterations: from 0 (both the mean) to `last`.

    It is 0 for the share of the iterations in which both channels agree on one phase.
    """
    done = iteration / iterations if iterations else 1.0
    return last * min(max((done - mono_share) / (1 - mono_share), 0.0), 1.0)


@dataclass(frozen=True)
class Polish:
    """Iterations over a transform."""

    stft: Transform
    iterations: int
    """How many; with 0 the phase stays as it starts."""
    pace: Pace = FAST
    mono_share: float = 0.67
    """For this share of them both channels have the same magnitudes, and so agree on one phase."""
    bands: Bands | None = None
    last_weight: float = 1.0
    """How far the channels have their own magnitudes in the end; the original reference stopped at 0.33."""

    def __call__(
        self,
        target: Target,
        start: Tensor,
        *,
        held: Mapping[int, Tensor] = MappingProxyType({}),
        circular: bool = False,
        progress: Progress = silent,
    ) -> Waveform:
        """A waveform (2, T) near the target.

        The magnitudes anneal from the mean of both channels to each channel's own; while they are equal, one channel is
        computed for both.

        Args:
            target: what to come near to.
            start: the phase to start from, unit spectra (1, N, F).
            held: spectra (2, K, F) that K frames from the one of the key on keep through all iterations.
            circular: whether the first frame follows the last.
            progress: told after each iteration.
        """
        stft, frames = self.stft, start.shape[1]
        envelope = stft.envelope(frames, circular)
        table = self.bands.table() if start.device.type == "cpu" and self.pace.gamma != 1 and self.bands else None
        waveform: Waveform | None = None
        with fused.threads() as run:
            kernels = table is not None and target.bands is not None
            chunk = _InMachineCode(self, target, start, table, run) if kernels else _InTorch(self, target, start)
            for iteration in range(self.iterations + 1):
                weight = stereo_weight(iteration, self.iterations, self.mono_share, self.last_weight)
                channels = 2 if weight > 0 else 1
                padded = None if waveform is None else stft.padded(waveform, circular).expand(channels, -1)
                buffer = stft.empty(channels, frames)
                for first in range(0, frames, CHUNK_FRAMES):
                    last = min(first + CHUNK_FRAMES, frames)
                    if padded is None:
                        spectra = start[:, first:last] * target.at(first, last, weight)[0]
                        _add_holding(stft, buffer, spectra, held, first)
                    else:
                        chunk(buffer, padded, held, first, last, weight)
                waveform = stft.finished(buffer, envelope, circular)
                progress(iteration + 1, self.iterations + 1)
        assert waveform is not None
        return waveform


class _InTorch:
    """One iteration of a chunk of frames by torch's operations, on any device."""

    def __init__(self, polish: Polish, target: Target, start: Tensor) -> None:
        self._polish, self._target, self._memory = polish, target, _Memory(polish.pace, start)

    def __call__(
        self, buffer: Any, padded: Waveform, held: Mapping[int, Tensor], first: int, last: int, weight: float
    ) -> None:
        """Add the next spectra of the frames `first` to `last` of a waveform to a buffer."""
        stft, bands = self._polish.stft, self._polish.bands
        spectra = stft.spectra(padded, first, last)
        magnitudes, sums = self._target.at(first, last, weight)
        if bands is not None and sums is not None:
            magnitudes = bands.fitted(spectra, magnitudes, sums)
        spectra = with_magnitude(self._memory.accelerated(spectra, first), magnitudes)
        _add_holding(stft, buffer, spectra, held, first)


class _InMachineCode:
    """The same by machine code, in two passes over memory; see `fused`."""

    def __init__(
        self, polish: Polish, target: Target, start: Tensor, table: fused.Table | None, run: fused.Run
    ) -> None:
        assert table is not None
        assert target.bands is not None
        self._polish, self._table, self._run = polish, table, run
        self._shares = polish.stft.shares()
        self._targets = [fused.floats(values.contiguous()) for values in (target.magnitudes, target.bands)]
        self._memory = torch.zeros(1, start.shape[1], 4, start.shape[2])

    def __call__(
        self, buffer: Any, padded: Waveform, held: Mapping[int, Tensor], first: int, last: int, weight: float
    ) -> None:
        """See `_InTorch`."""
        if len(self._memory) < len(padded):
            self._memory = self._memory.repeat(2, 1, 1, 1)
        stft, (update, overlap_add) = self._polish.stft, fused.kernels()
        sides = stft.sides(padded, first, last)
        numbers = np.array([*self._polish.pace, MOST, weight], np.float32)
        spectra = map(fused.floats, (*sides, *self._shares))
        memory = fused.floats(self._memory)
        self._run(partial(update, *spectra, *self._targets, memory, *self._table, numbers, first), last - first)
        low_bins, high_bins = map(len, self._shares)
        for begin, kept in held.items():
            _hold(sides[0][..., :low_bins], kept[..., :low_bins] * self._shares[0], begin - first)
            above = sides[1][..., sides[1].shape[-1] - high_bins :]
            _hold(above, kept[..., low_bins:] * self._shares[1], begin - first)
        parts = buffer if isinstance(buffer, tuple) else (buffer,)
        for part, (pieces, window) in zip(parts, stft.pieces(sides), strict=True):
            reached = pieces.shape[1] + -(-len(window) // part.shape[2]) - 1
            self._run(partial(overlap_add, *map(fused.floats, (part, pieces, window)), first), reached)


class _Memory:
    """The spectra of the iterations before: t and d of Nenov et al. 2023, algorithm 1."""

    def __init__(self, pace: Pace, like: Tensor) -> None:
        self._pace = pace
        self._before = torch.zeros_like(like)
        self._behind = torch.zeros_like(like) if pace.gamma != 1 else None

    def accelerated(self, spectra: Tensor, first: int) -> Tensor:
        """c_n of some frames, from their projection; t_n and d_n take the places of those before."""
        if len(self._before) < len(spectra):
            self._before = self._before.repeat(2, 1, 1)
            self._behind = None if self._behind is None else self._behind.repeat(2, 1, 1)
        alpha, beta, gamma = self._pace
        here = slice(first, first + spectra.shape[1])
        before = self._before[:, here]
        if self._behind is None:
            step = spectra - before
            before.copy_(spectra)
            return spectra.add_(step, alpha=alpha)
        behind = self._behind[:, here]
        now = behind.mul_(1 - gamma).add_(spectra, alpha=gamma)
        step = now - before
        before.copy_(now)
        behind.add_(step, alpha=beta)
        return before + alpha * step


def _add_holding(stft: Transform, buffer: Any, spectra: Tensor, held: Mapping[int, Tensor], first: int) -> None:
    """Overlap-add the spectra of frames from `first` on, those that are held in their places."""
    for begin, kept in held.items():
        _hold(spectra, kept, begin - first)
    stft.add(buffer, spectra, first)


def _hold(spectra: Tensor, kept: Tensor, begin: int) -> None:
    """Put what is kept, (2, K, F), in the place of frames from `begin` on, as far as they are there."""
    first, last = max(begin, 0), min(begin + kept.shape[1], spectra.shape[1])
    if first < last:
        part = kept[:, first - begin : last - begin]
        spectra[:, first:last] = part if len(spectra) == 2 else part.mean(0)
