"""Distances between sets of features, against closed forms."""

import math

import pytest
import torch

from dualdiff.evaluation.distances import KERNEL_SCALE, frechet, kernel, with_interval


def normal(count, features, seed, scale=1.0, shift=0.0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, features, generator=generator, dtype=torch.float64) * scale + shift


def test_frechet_is_that_of_the_gaussians():
    """Of diagonal Gaussians: |difference of means|² + sum of (difference of deviations)²."""
    x, y = normal(200_000, 3, 0, scale=2.0), normal(200_000, 3, 1, scale=0.5, shift=1.0)
    assert frechet(x, y) == pytest.approx(3 * 1.0 + 3 * 1.5**2, rel=0.01)


def test_frechet_of_full_covariances_is_the_formula():
    mix = torch.tensor([[1.0, 0.3], [-0.4, 0.8]], dtype=torch.float64)
    x, y = normal(50, 2, 0), normal(60, 2, 1) @ mix
    one, other = torch.cov(x.T), torch.cov(y.T)
    root = torch.linalg.eigvals(one @ other).real.sqrt().sum()
    expected = (x.mean(0) - y.mean(0)).square().sum() + one.trace() + other.trace() - 2 * root
    assert frechet(x, y) == pytest.approx(expected.item(), rel=1e-9)
    assert frechet(x, y) == pytest.approx(frechet(y, x), rel=1e-9)


def test_frechet_of_fewer_rows_than_features_is_finite_and_none_to_itself():
    x = normal(5, 40, 0)
    assert frechet(x, x) < 1e-9
    assert 0 < frechet(x, normal(7, 40, 1)) < math.inf


def test_weights_count_rows():
    x, y = normal(6, 2, 0), normal(5, 2, 1)
    counts = torch.tensor([2, 0, 1, 3, 1, 0])
    assert frechet(x, y, counts) == pytest.approx(frechet(x.repeat_interleave(counts, dim=0), y), rel=1e-9)


def test_kernel_distance_is_the_formula():
    x, y = torch.tensor([[0.0], [1.0]]), torch.tensor([[0.0], [2.0], [5.0]])
    width = 2 * 3.0**2  # distances 2, 3, 5: the median is 3

    def k(a, b):
        return math.exp(-((a - b) ** 2) / width)

    across = sum(k(a, b) for a in (0, 1) for b in (0, 2, 5)) / 6
    expected = k(0, 1) + (k(0, 2) + k(0, 5) + k(2, 5)) / 3 - 2 * across
    assert kernel(x, y) == pytest.approx(KERNEL_SCALE * expected, rel=1e-9)


def test_kernel_distance_is_none_on_average_between_equal_laws_and_grows_with_a_shift():
    same = [kernel(normal(40, 4, 2 * seed), normal(40, 4, 2 * seed + 1)) for seed in range(40)]
    assert abs(sum(same) / len(same)) < 0.15
    assert min(same) < 0 < max(same)
    shifted = [kernel(normal(200, 4, 0, shift=shift), normal(200, 4, 1)) for shift in (0.0, 0.3, 1.0, 3.0)]
    assert shifted == sorted(shifted)


def test_a_copy_of_a_row_is_not_paired_with_it():
    x, y = normal(3, 2, 0), normal(8, 2, 1)
    counts = torch.tensor([2, 1, 0])
    within = sum(
        counts[i] * counts[j] * torch.exp(-(x[i] - x[j]).square().sum() / (2 * torch.pdist(y).median() ** 2))
        for i in range(3)
        for j in range(3)
        if i != j
    ) / sum(counts[i] * counts[j] for i in range(3) for j in range(3) if i != j)
    plain = kernel(x[:2], y)
    across = torch.exp(-torch.cdist(x, y).square() / (2 * torch.pdist(y).median() ** 2)).mean(dim=1)
    once = torch.exp(-(x[0] - x[1]).square().sum() / (2 * torch.pdist(y).median() ** 2))
    change = KERNEL_SCALE * (within - once - 2 * (2 * across[0] + across[1]) / 3 + (across[0] + across[1]))
    assert kernel(x, y, counts) == pytest.approx((plain + change).item(), rel=1e-9)


@pytest.mark.parametrize("distance", [frechet, kernel])
def test_an_interval_holds_the_distance_of_the_laws(distance):
    x = [normal(4, 3, seed, shift=0.8) for seed in range(30)]
    y = [normal(4, 3, 100 + seed) for seed in range(30)]
    found = with_interval(distance, x, y, draws=100)
    truth = distance(normal(3000, 3, 1, shift=0.8), normal(3000, 3, 2))
    assert found.low < truth < found.high
    assert found.low < found.value < found.high
    assert with_interval(distance, x, y, draws=100) == found, "the same draws every time"


def test_a_draw_without_a_pair_does_not_count():
    found = with_interval(kernel, [normal(1, 2, 0), normal(1, 2, 1)], [normal(4, 2, 2), normal(4, 2, 3)], draws=40)
    assert math.isfinite(found.low)
    assert found.low <= found.value <= found.high


def test_groups_that_differ_make_the_interval_wide():
    """The same rows, once drawn one by one and once in groups of alike rows."""
    centres = normal(12, 3, 0)
    groups = [centre + 0.1 * normal(10, 3, 1 + index) for index, centre in enumerate(centres)]
    reference = [normal(10, 3, 50 + index) for index in range(12)]
    rows = [row[None] for group in groups for row in group]
    wide, narrow = (with_interval(frechet, made, reference, draws=60) for made in (groups, rows))
    assert wide.value == pytest.approx(narrow.value)
    assert wide.high - wide.low > 1.3 * (narrow.high - narrow.low)
