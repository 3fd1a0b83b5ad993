"""Long stretches of time in pieces, with the same result as at once, in bounded memory."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor


def in_pieces(
    network: Callable[[Tensor], Tensor], x: Tensor, *, piece: int, context: int, circular: bool = False
) -> Tensor:
    """network(x) for x (..., N), run over `piece` columns at a time, each with `context` columns on both sides.

    Equal to running it at once, to rounding, if no output depends on inputs farther away than `context`. A `circular`
    x goes on at its ends, a number of times if a context needs it; other ends are the network's own (its padding). What
    fits into one piece and is not circular is run as it is. The network scales time by a fixed ratio, so piece, context
    and N are multiples of what it shrinks by.
    """
    columns = x.shape[-1]
    if columns <= piece and not circular:
        return network(x)
    outputs: list[Tensor] = []
    for first in range(0, columns, piece):
        last = min(first + piece, columns)
        if circular:
            places = torch.arange(first - context, last + context, device=x.device) % columns
            before, part = context, x[..., places]
        else:
            before = first - max(0, first - context)
            part = x[..., first - before : last + context]
        answer = network(part)
        scale = answer.shape[-1] / part.shape[-1]
        outputs.append(answer[..., round(before * scale) : round((before + last - first) * scale)])
    return torch.cat(outputs, -1)


@dataclass(frozen=True)
class Window:
    """A piece of a stream, (..., before + length + after), whose core is `tensor[..., before : before + length]`."""

    tensor: Tensor
    before: int
    length: int
    is_last: bool


def windows(pieces: Iterable[Tensor], length: int, context: int) -> Iterator[Window]:
    """Windows over the concatenation of `pieces` along the last axis, in bounded memory.

    Cores of `length` (the last one 1 to `length`) follow each other without gap; each window has `context`, at least
    1, on both sides of its core, or as much as there is.
    """
    stream = iter(pieces)
    held: Tensor | None = None  # from position `start` on
    start = core = 0
    ended = False
    while True:
        parts = [] if held is None else [held]
        stop = start + sum(part.shape[-1] for part in parts)
        while not ended and stop < core + length + context:
            piece = next(stream, None)
            ended = piece is None
            if piece is not None:
                parts.append(piece)
                stop += piece.shape[-1]
        if stop <= core:
            return
        held = torch.cat(parts, dim=-1)
        first = max(0, core - context)
        is_last = ended and stop <= core + length
        tensor = held[..., first - start : core + length + context - start]
        yield Window(tensor, core - first, min(length, stop - core), is_last)
        if is_last:
            return
        core += length
        held = held[..., max(0, core - context) - start :]
        start = max(0, core - context)
