"""How far apart two sets of music are, as sets of features: the Fréchet distance, and the kernel distance.

Each row of features is of a few seconds, each group of rows of one track or clip. Groups are what was drawn, rows of
one group are alike: so intervals come from drawing groups again. Letters: N rows, D features.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

KERNEL_SCALE = 100.0
"""What the kernel distance is multiplied by, as Chung et al. 2025 do, so that it reads easily."""

Distance = Callable[[Tensor, Tensor, Tensor | None, Tensor | None], float]


@dataclass(frozen=True)
class Estimate:
    """A distance, and between which values it lies in `SHARE` of the draws."""

    value: float
    low: float
    high: float


SHARE = 0.9
"""Of the draws, how many an interval holds."""


def frechet(x: Tensor, y: Tensor, weights_x: Tensor | None = None, weights_y: Tensor | None = None) -> float:
    """The Fréchet distance of the Gaussians with the moments of x (N, D) and y, in float64, without shrinkage.

    |mean - mean'|² + tr(C + C' - 2 (C C')^½), Dowson and Landau 1982; over features of audio FAD, Kilgour et al. 2019.
    It grows with fewer rows, whatever they are: compare distances over equally many. Weights (N,) count rows.
    """
    (mean_x, root_x), (mean_y, root_y) = _moments(x, weights_x), _moments(y, weights_y)
    # tr (C C')^½ is the sum of the singular values of A A', for C = AᵀA: no root of a matrix, and exactly 0 for x = y
    common = torch.linalg.svdvals(root_x @ root_y.T).sum()
    apart = (mean_x - mean_y).square().sum() + root_x.square().sum() + root_y.square().sum() - 2 * common
    return max(float(apart), 0.0)


def _moments(rows: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor]:
    """The mean (D,) of rows, and an upper triangle A with AᵀA their covariance."""
    values = rows.double()
    counts = _counts(values, weights)
    mean = (counts[:, None] * values).sum(dim=0) / counts.sum()
    scaled = (values - mean) * (counts / (counts.sum() - 1)).sqrt()[:, None]
    return mean, torch.linalg.qr(scaled, mode="r").R


def _counts(rows: Tensor, weights: Tensor | None) -> Tensor:
    return torch.ones(len(rows), dtype=torch.float64) if weights is None else weights.double()


def kernel(x: Tensor, y: Tensor, weights_x: Tensor | None = None, weights_y: Tensor | None = None) -> float:
    """The kernel distance of x (N, D) to the reference y: 100 times the unbiased MMD², 0 on average for equal laws.

    Gretton et al. 2012, eq. 3, with a Gaussian kernel whose bandwidth is the median distance within the reference, as
    Chung et al. 2025 ("KAD: No More FAD!") have it. It may fall below 0. Weights count rows; a row is never paired with
    itself, nor with the copies of itself that its weight stands for. It is NaN where that leaves no pair.
    """
    one, other = x.double(), y.double()
    counts, other_counts = _counts(one, weights_x), _counts(other, weights_y)
    width = 2 * torch.pdist(other).median().square().clamp_min(1e-12)

    def mean(a: Tensor, b: Tensor, pairs: Tensor) -> Tensor:
        return (pairs * (-torch.cdist(a, b).square() / width).exp()).sum() / pairs.sum()

    def distinct(n: Tensor) -> Tensor:
        return torch.outer(n, n).fill_diagonal_(0)

    within = mean(one, one, distinct(counts)) + mean(other, other, distinct(other_counts))
    return KERNEL_SCALE * (within - 2 * mean(one, other, torch.outer(counts, other_counts))).item()


def with_interval(distance: Distance, x: list[Tensor], y: list[Tensor], draws: int = 200, seed: int = 0) -> Estimate:
    """A distance between two lists of groups (N, D), with the interval that drawing both lists again gives.

    The percentile bootstrap over groups (Efron 1979). It tells how much the figure hangs on which tracks and clips were
    at hand. With few groups it is too narrow; that of the Fréchet distance lies too high, a draw having fewer distinct
    rows.
    """
    generator = torch.Generator().manual_seed(seed)
    rows_x, rows_y = torch.cat(x), torch.cat(y)

    def drawn(groups: list[Tensor]) -> Tensor:
        picks = torch.randint(len(groups), (len(groups),), generator=generator)
        counts = torch.bincount(picks, minlength=len(groups))
        return counts.repeat_interleave(torch.tensor([len(group) for group in groups]))

    found = torch.tensor([distance(rows_x, rows_y, drawn(x), drawn(y)) for _ in range(draws)], dtype=torch.float64)
    tail = (1 - SHARE) / 2
    low, high = (found.nanquantile(share).item() for share in (tail, 1 - tail))
    return Estimate(distance(rows_x, rows_y, None, None), low, high)


def interval_of_mean(values: Sequence[float], draws: int = 1000, seed: int = 0) -> Estimate:
    """The mean of some values with the interval that drawing them again gives (Efron 1979)."""
    every = torch.tensor(values, dtype=torch.float64)
    picks = torch.randint(len(every), (draws, len(every)), generator=torch.Generator().manual_seed(seed))
    means, tail = every[picks].mean(dim=1), (1 - SHARE) / 2
    low, high = (means.quantile(share).item() for share in (tail, 1 - tail))
    return Estimate(every.mean().item(), low, high)
