"""Noise laws: each inverse against its own density, each density against its equation, and the stratification."""

import math
import typing
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dualdiff.core.errors import ConfigError
from dualdiff.diffusion.config import NoiseConfig
from dualdiff.diffusion.noise_distribution import (
    Learned,
    LogLinear,
    LogNormal,
    LogSech,
    log_sigma_grid,
    make_law,
    stratified_quantiles,
)

SIGMA_DATA, SIGMA_MIN, SIGMA_MAX = 0.5, 0.03, 80.0
LOW, HIGH = math.log(SIGMA_MIN), math.log(SIGMA_MAX)


def bumpy(log_sigma: Tensor) -> Tensor:
    """A log variance with a valley in the middle, as a trained model has."""
    return 0.3 * (log_sigma - 0.2) ** 2 + 0.2 * (3 * log_sigma).sin()


def learned(temperature: float = 4.4, floor: float = 0.1, points: int = 65) -> Learned:
    values = bumpy(log_sigma_grid(SIGMA_MIN, SIGMA_MAX, points))
    return Learned(values, temperature, floor, SIGMA_MIN, SIGMA_MAX)


LAWS = {
    "log-normal": LogNormal(-0.4, 1.0, SIGMA_MIN, SIGMA_MAX),
    "log-normal cut": LogNormal(-3.0, 1.5, SIGMA_MIN, SIGMA_MAX),
    "log-sech": LogSech(SIGMA_DATA, SIGMA_MIN, SIGMA_MAX),
    "log-linear": LogLinear(SIGMA_MIN, SIGMA_MAX),
    "learned": learned(),
    "learned flat": learned(temperature=0.0),
    "learned sharp": learned(temperature=40.0, floor=0.01),
}


@pytest.fixture(params=LAWS)
def law(request):
    return LAWS[request.param]


def mass_below(law, log_sigma: Tensor) -> Tensor:
    """The CDF by integrating the density from the low end (the trapezoid rule on 512 intervals in each stretch)."""
    edges = torch.cat([torch.tensor([LOW], dtype=torch.float64), log_sigma.double()])
    share = torch.linspace(0, 1, 513, dtype=torch.float64)
    points = torch.lerp(edges[:-1, None], edges[1:, None], share).clamp(LOW, HIGH)
    return torch.trapezoid(law.log_density(points).exp(), points, dim=1).cumsum(0)


def test_the_mass_below_the_level_of_a_quantile_is_the_quantile(law):
    quantiles = torch.linspace(0.001, 0.999, 333, dtype=torch.float64)
    torch.testing.assert_close(mass_below(law, law.sigma(quantiles).double().log()), quantiles, atol=1e-5, rtol=0)


def test_the_whole_mass_is_one_and_lies_in_the_range(law):
    ends = law.sigma(torch.tensor([0.0, 1.0]))
    torch.testing.assert_close(ends, torch.tensor([SIGMA_MIN, SIGMA_MAX]))
    assert mass_below(law, torch.linspace(LOW, HIGH, 65, dtype=torch.float64))[-1].item() == pytest.approx(1, abs=1e-5)
    assert (law.log_density(torch.tensor([LOW - 0.01, HIGH + 0.01])) == -math.inf).all()


def test_levels_drawn_at_random_follow_the_density(law):
    uniform = torch.rand(200_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    edges = torch.linspace(LOW, HIGH, 33, dtype=torch.float64)
    counts = torch.histogram(law.sigma(uniform).double().log().clamp(LOW, HIGH), edges)[0]
    expected = 200_000 * mass_below(law, edges[1:]).diff(prepend=torch.zeros(1, dtype=torch.float64))
    chi_square = ((counts - expected) ** 2 / expected.clamp_min(1)).sum().item()
    assert chi_square < 65  # 31 degrees of freedom: passed by chance once in 3000 seeds


def test_levels_rise_with_quantiles_and_are_float32(law):
    levels = law.sigma(torch.linspace(0, 1, 1001))
    assert levels.dtype == torch.float32
    assert (levels.diff() > 0).all()


def test_quantiles_outside_of_zero_to_one_are_refused(law):
    for wrong in (-0.01, 1.01, math.nan):
        with pytest.raises(ValueError, match="quantiles"):
            law.sigma(torch.tensor([wrong]))


def test_log_normal_without_its_tails_is_the_normal_law():
    wide = LogNormal(-0.4, 1.0, 1e-5, 1e5)
    normal = torch.distributions.Normal(torch.tensor(-0.4).double(), torch.tensor(1.0).double())
    points = torch.linspace(-4, 3, 50, dtype=torch.float64)
    torch.testing.assert_close(wide.log_density(points), normal.log_prob(points))
    torch.testing.assert_close(wide.sigma(normal.cdf(points)).double().log(), points, atol=1e-5, rtol=0)


def test_log_sech_is_uniform_in_the_angle_and_has_the_density_of_sech():
    wide = LogSech(SIGMA_DATA, 1e-7, 1e7)
    theta = torch.linspace(0.01, math.pi / 2 - 0.01, 50, dtype=torch.float64)
    sigma = SIGMA_DATA / theta.tan()
    torch.testing.assert_close(wide.sigma(1 - theta / (math.pi / 2)).double(), sigma, rtol=2e-5, atol=0)
    x = (sigma / SIGMA_DATA).log()
    torch.testing.assert_close(wide.log_density(sigma.log()), (1 / (math.pi * x.cosh())).log(), atol=1e-6, rtol=0)


def test_log_linear_is_uniform_in_the_logarithm():
    law = LAWS["log-linear"]
    torch.testing.assert_close(law.sigma(torch.tensor([0.5])), torch.tensor([math.sqrt(SIGMA_MIN * SIGMA_MAX)]))
    torch.testing.assert_close(law.log_density(torch.zeros(1)).exp(), torch.tensor([1 / (HIGH - LOW)]).double())


def test_the_learned_law_weighs_progress_against_its_floor():
    law, grid = learned(temperature=2.0, floor=0.25), log_sigma_grid(SIGMA_MIN, SIGMA_MAX, 65)
    follows = (-2.0 * bumpy(grid)).exp()
    follows = follows / torch.trapezoid(follows, grid)
    torch.testing.assert_close(law.log_density(grid).exp(), 0.75 * follows + 0.25 / (HIGH - LOW))


def test_the_learned_law_does_not_care_for_the_level_of_u():
    values = bumpy(log_sigma_grid(SIGMA_MIN, SIGMA_MAX, 65))
    shifted = Learned(values - 900.0, 4.4, 0.1, SIGMA_MIN, SIGMA_MAX)
    torch.testing.assert_close(shifted.density, learned().density)


@pytest.mark.parametrize(("values", "floor"), [([0.0], 0.1), ([0.0, math.nan], 0.1), ([0.0, 1.0], 0.0)])
def test_a_learned_law_needs_finite_values_and_a_floor(values, floor):
    with pytest.raises(ValueError, match="learned law"):
        Learned(torch.tensor(values), 1.0, floor, SIGMA_MIN, SIGMA_MAX)


@given(st.integers(1, 64), st.floats(0, 1, exclude_max=True), st.lists(st.integers(0, 64), max_size=5))
def test_every_cell_holds_one_quantile_however_the_batch_is_cut(total, offset, cuts):
    edges = [0, *sorted(min(cut, total) for cut in cuts), total]
    parts = [stratified_quantiles(a, b - a, total, offset) for a, b in pairwise(edges)]
    quantiles = torch.cat(parts)
    assert torch.equal(quantiles, stratified_quantiles(0, total, total, offset))
    lower = torch.arange(total + 1, dtype=torch.float64) / total
    assert ((lower[:-1] <= quantiles) & (quantiles < lower[1:])).all()


def test_stratified_quantiles_are_the_equation():
    expected = torch.tensor([2.25, 3.25, 4.25], dtype=torch.float64) / 8
    assert torch.equal(stratified_quantiles(2, 3, 8, 0.25), expected)


@pytest.mark.parametrize(("first", "count", "offset"), [(6, 3, 0.5), (-1, 3, 0.5), (0, 8, 1.0), (0, 8, -0.1)])
def test_quantiles_outside_of_the_batch_are_refused(first, count, offset):
    with pytest.raises(ValueError, match="no quantiles"):
        stratified_quantiles(first, count, 8, offset)


def test_every_law_of_the_settings_can_be_made():
    names = typing.get_args(typing.get_type_hints(NoiseConfig)["law"])
    laws = [make_law(NoiseConfig(law=name), SIGMA_MIN, SIGMA_DATA, bumpy, step=0) for name in names]
    assert {type(law) for law in laws} == {Learned, LogNormal, LogSech, LogLinear}


def test_the_temperature_of_the_learned_law_warms_up_from_uniform():
    config = NoiseConfig(law="learned", learned_warmup_steps=100)
    points = torch.linspace(LOW, HIGH, 99, dtype=torch.float64)

    def density(config: NoiseConfig, step: int) -> Tensor:
        return make_law(config, SIGMA_MIN, SIGMA_DATA, bumpy, step).log_density(points)

    torch.testing.assert_close(density(config, 0), LAWS["log-linear"].log_density(points))
    half = NoiseConfig(law="learned", learned_temperature=2.2, learned_warmup_steps=0)
    torch.testing.assert_close(density(config, 50), density(half, 0))
    values = bumpy(log_sigma_grid(SIGMA_MIN, SIGMA_MAX))
    warm = Learned(values, config.learned_temperature, config.learned_floor, SIGMA_MIN, SIGMA_MAX)
    torch.testing.assert_close(density(config, 100), warm.log_density(points))
    assert torch.equal(density(config, 100), density(config, 5000))


def test_the_learned_law_asks_the_model_without_a_graph():
    gain = torch.ones(1, requires_grad=True)
    law = make_law(NoiseConfig(), SIGMA_MIN, SIGMA_DATA, lambda log_sigma: gain * bumpy(log_sigma), step=10_000)
    assert not law.sigma(torch.tensor([0.5])).requires_grad
    with pytest.raises(ValueError, match="needs u"):
        make_law(NoiseConfig(), SIGMA_MIN, SIGMA_DATA, None, step=0)


def test_an_empty_range_and_a_law_outside_of_it_are_the_users_to_mend():
    with pytest.raises(ConfigError, match="are no range"):
        make_law(NoiseConfig(sigma_max=0.01), SIGMA_MIN, SIGMA_DATA, bumpy, step=0)
    with pytest.raises(ConfigError, match="log_normal_mean = 20") as caught:
        make_law(NoiseConfig(law="log-normal", log_normal_mean=20.0), SIGMA_MIN, SIGMA_DATA, None, step=0)
    assert "between -3.51 and 4.38" in caught.value.hint
