"""Run a convolutional network over a long stretch of time in pieces, with the same result in bounded memory."""

from collections.abc import Callable

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
