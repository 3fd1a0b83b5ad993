"""How badly beliefs about the change of a phase fit the change that there is.

Letters: B batch, F bins, N frames; edges are (B, 4, F, N): x, y to the next frame, x, y to the next bin.
"""

import torch
from torch import Tensor

LOUDNESS_POWER = 0.6
"""Edges count by their magnitude to this power: what is loud is heard, and shows the way to what is quiet."""


def von_mises_nll(beliefs: Tensor, changes: Tensor) -> Tensor:
    """Minus the log likelihood of changes d, but for a constant: ln I0(k) - x cos d - y sin d, k = |(x, y)|.

    `changes` holds cos d and sin d. Both are (B, 4, F, N); gives (B, 2, F, N).
    """
    pairs = _pairs(beliefs)
    concentration = (pairs.square().sum(2) + 1e-8).sqrt()
    evidence = (pairs * _pairs(changes)).sum(2)
    normaliser: Tensor = torch.special.i0e(concentration).log()
    return normaliser + concentration - evidence


def _pairs(edges: Tensor) -> Tensor:
    """(B, 4, F, N) to (B, 2, 2, F, N): x and y to the next frame, x and y to the next bin."""
    return edges.reshape(len(edges), 2, 2, *edges.shape[2:])


def misses(beliefs: Tensor, changes: Tensor) -> Tensor:
    """1 - cos of the angle between the likeliest changes and the true ones, (B, 2, F, N): 0 is right, 2 opposite."""
    pairs = _pairs(beliefs)
    length = (pairs.square().sum(2) + 1e-12).sqrt()
    return 1 - (pairs * _pairs(changes)).sum(2) / length


def by_loudness(values: Tensor, magnitudes: Tensor) -> Tensor:
    """The mean of values (B, 2, F, N) along frames and along bins, (2,), by the edges' magnitudes, (B, 2, F, N)."""
    weights = (magnitudes / magnitudes.amax((1, 2, 3), keepdim=True).clamp_min(1e-20)) ** LOUDNESS_POWER
    return (values * weights).sum((0, 2, 3)) / weights.sum((0, 2, 3)).clamp_min(1e-6)
