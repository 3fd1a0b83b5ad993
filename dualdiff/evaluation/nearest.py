"""The nearest place, at any time offset, of passages in many series: sliding normalised correlation by FFT.

The distance of a passage from a place is 1 - r, with r the correlation of the two after each dimension's mean over time
is taken off both. So neither gain nor what does not change (an equalizer, in a space of levels) matters; 0 is the same
up to these, about 1 unrelated, 2 the opposite. What does not vary is like nothing: its distance is 1.

Letters: Q passages of D dimensions and P steps of time; M steps of a series; B blocks of L steps of all series in turn.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

BLOCK = 4096
"""Steps that are transformed at once; a power of two."""
BLOCKS, PASSAGES = 8, 64
"""Blocks and passages that are compared at once: what bounds the memory, to some 100 MB."""
_STILL = 1e-4
"""Places with less than this share of the passages' mean energy do not vary."""


@dataclass(frozen=True)
class Nearest:
    """For each passage, the distance (Q,) of its nearest place, the series' number (Q,), and the step there (Q,).

    Where there is no place at all, the distance is 2 and the number -1.
    """

    distances: Tensor
    series: Tensor
    steps: Tensor


def passages_of(values: Tensor, length: int, hop: int) -> tuple[Tensor, Tensor]:
    """The passages (Q, D, P) of a series (D, M), `hop` steps apart, and where they start (Q,); none if it is short."""
    if values.shape[1] < length:
        return values.new_zeros(0, values.shape[0], length), torch.zeros(0, dtype=torch.long)
    found = values.unfold(1, length, hop).movedim(1, 0)
    return found.contiguous(), torch.arange(found.shape[0]) * hop


def nearest(passages: Tensor, series: Iterable[tuple[int, Tensor]], not_in: Tensor | None = None) -> Nearest:
    """The nearest place of each passage (Q, D, P) in numbered series (D, M), read one after the other.

    `not_in` (Q,) holds for each passage the number of the series that do not count, -1 for none.
    """
    count, length = len(passages), passages.shape[2]
    found = Nearest(torch.full((count,), 2.0), torch.full((count,), -1), torch.zeros(count, dtype=torch.long))
    if not count:
        return found
    centred = passages.float() - passages.float().mean(dim=2, keepdim=True)
    energy = centred.square().sum(dim=(1, 2))
    still = _STILL * energy.mean().clamp_min(1e-12)
    unit = torch.where(energy > still, energy, torch.inf).rsqrt()[:, None, None] * centred
    spectra = [
        torch.fft.rfft(chunk, BLOCK).conj().permute(2, 0, 1).contiguous() for chunk in torch.split(unit, PASSAGES)
    ]
    chunks = torch.split(torch.arange(count), PASSAGES)
    for batch in _batches(series, length):
        strengths = torch.stack([_strengths(block.values, length) for block in batch])
        scales = torch.where(strengths > still, strengths, torch.inf).rsqrt()
        spectrum = torch.fft.rfft(torch.stack([block.values for block in batch])).permute(2, 1, 0).contiguous()
        for chunk, own in zip(chunks, spectra, strict=True):
            alike = torch.fft.irfft((own @ spectrum).permute(1, 2, 0), BLOCK)[..., : scales.shape[1]] * scales
            for number, block in enumerate(batch):
                _keep(found, chunk, 1 - alike[:, number], block, length, None if not_in is None else not_in[chunk])
    return found


@dataclass(frozen=True)
class _Block:
    """Consecutive steps of series put one after the other: values (D, L); of each step its series (L,) and place."""

    values: Tensor
    owners: Tensor
    steps: Tensor


def _batches(series: Iterable[tuple[int, Tensor]], length: int) -> Iterator[list[_Block]]:
    batch: list[_Block] = []
    for block in _blocks(series, length):
        batch.append(block)
        if len(batch) == BLOCKS:
            yield batch
            batch = []
    if batch:
        yield batch


def _blocks(series: Iterable[tuple[int, Tensor]], length: int) -> Iterator[_Block]:
    """Blocks of the same size, each beginning with the last `length` - 1 steps of the one before; zeros at the end."""
    held: list[_Block] = []
    steps = 0
    for number, values in series:
        places = torch.arange(values.shape[1])
        held.append(_Block(values.float(), torch.full_like(places, number), places))
        steps += values.shape[1]
        while steps >= BLOCK:
            whole = _joined(held)
            yield _cut(whole, 0, BLOCK)
            held = [_cut(whole, BLOCK - length + 1, steps)]
            steps -= BLOCK - length + 1
    if steps >= length:
        yield _filled(_joined(held))


def _filled(block: _Block) -> _Block:
    missing = (0, BLOCK - block.values.shape[1])
    pad = torch.nn.functional.pad
    return _Block(pad(block.values, missing), pad(block.owners, missing, value=-1), pad(block.steps, missing))


def _joined(parts: list[_Block]) -> _Block:
    return _Block(
        torch.cat([part.values for part in parts], dim=1),
        torch.cat([part.owners for part in parts]),
        torch.cat([part.steps for part in parts]),
    )


def _cut(block: _Block, first: int, last: int) -> _Block:
    return _Block(block.values[:, first:last], block.owners[first:last], block.steps[first:last])


def _strengths(block: Tensor, length: int) -> Tensor:
    """The energy of each place of a block (D, L) about its own means over time, (L - P + 1,)."""
    sums = torch.nn.functional.pad(block.double().cumsum(dim=1), (1, 0))
    squares = torch.nn.functional.pad(block.double().square().sum(dim=0).cumsum(dim=0), (1, 0))
    within = sums[:, length:] - sums[:, :-length]
    energy = squares[length:] - squares[:-length] - within.square().sum(dim=0) / length
    return energy.clamp_min(0).float()


def _keep(found: Nearest, chunk: Tensor, distances: Tensor, block: _Block, length: int, not_in: Tensor | None) -> None:
    """Take over what is nearer (Q, places) than what was found before; a place lies in one series as a whole."""
    owners = block.owners[: distances.shape[1]]
    counts = (owners >= 0) & (owners == block.owners[length - 1 :])
    allowed = counts.expand(len(chunk), -1)
    if not_in is not None:
        allowed = allowed & (owners != not_in[:, None])
    best, place = torch.where(allowed, distances, 2.0).min(dim=1)
    nearer = best < found.distances[chunk]
    which = chunk[nearer]
    found.distances[which] = best[nearer]
    found.series[which] = owners[place[nearer]]
    found.steps[which] = block.steps[place[nearer]]
