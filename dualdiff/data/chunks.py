"""Cut a long stream of tensors into windows with context, so that what is computed piece by piece equals the whole."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor


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
