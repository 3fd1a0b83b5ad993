"""Schedules and samplers, against a Gaussian whose flow is known in closed form."""

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from dualdiff.diffusion.preconditioning import Denoiser, guided
from dualdiff.diffusion.sampler import SAMPLERS, draw_noise, sigma_schedule

SIGMA_DATA, SIGMA_MIN, SIGMA_MAX = 0.5, 0.03, 80.0
ORDERS = {"euler": 1, "heun": 2, "dpmpp_2m": 2}


def gaussian(x: Tensor, sigma: Tensor, start: float) -> Tensor:
    """The ideal denoiser of N(0, sigma_data^2)."""
    return x * (SIGMA_DATA**2 / (SIGMA_DATA**2 + sigma**2)).view(-1, 1, 1, 1)


def exact(noise: Tensor, sigma_max: float, sigma: float) -> Tensor:
    """Where the flow of `gaussian` takes noise: x keeps its ratio to the standard deviation of the noisy data."""
    return noise * sigma_max * math.sqrt((SIGMA_DATA**2 + sigma**2) / (SIGMA_DATA**2 + sigma_max**2))


def generators(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def test_the_schedule_is_the_equation_and_ends_at_sigma_min():
    sigmas = sigma_schedule(4, SIGMA_MIN, SIGMA_MAX, rho=7)
    high, low = 80 ** (1 / 7), 0.03 ** (1 / 7)
    expected = [(high + i / 4 * (low - high)) ** 7 for i in range(5)]
    torch.testing.assert_close(sigmas, torch.tensor(expected, dtype=torch.float64))
    assert (sigmas[0], sigmas[-1]) == (SIGMA_MAX, SIGMA_MIN)


@pytest.mark.parametrize(("num_steps", "sigma_min"), [(0, 0.1), (4, 0.0), (4, 90.0)])
def test_an_impossible_schedule_is_refused(num_steps, sigma_min):
    with pytest.raises(ValueError, match=r"num_steps|sigma_min"):
        sigma_schedule(num_steps, sigma_min, SIGMA_MAX)


def test_every_sampler_has_its_order_here():
    assert set(ORDERS) == set(SAMPLERS)


@pytest.mark.parametrize(("name", "order"), ORDERS.items())
def test_the_error_falls_with_the_order_of_the_sampler(name, order):
    noise = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    steps = (32, 64, 128, 256)
    target = exact(noise, SIGMA_MAX, SIGMA_MIN)
    errors = []
    for num_steps in steps:
        out = SAMPLERS[name](gaussian, noise, sigma_schedule(num_steps, SIGMA_MIN, SIGMA_MAX))
        errors.append((out / target - 1).abs().item())
    slopes = [math.log2(coarse / fine) for coarse, fine in pairwise(errors)]
    assert slopes == pytest.approx([order] * 3, abs=0.06)


@pytest.mark.parametrize("name", SAMPLERS)
def test_what_is_left_at_the_end_has_the_variance_the_decoder_expects(name):
    noise = draw_noise(generators(*range(8)), (4, 16, 16), "cpu")
    out = SAMPLERS[name](gaussian, noise, sigma_schedule(64, SIGMA_MIN, SIGMA_MAX))
    expected = math.sqrt(SIGMA_DATA**2 + SIGMA_MIN**2)
    assert out.std().item() == pytest.approx(expected, rel=0.06)


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_last_step_to_zero_lands_on_the_denoised_latents(name):
    noise = torch.randn(2, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    seen = []

    def denoise(x: Tensor, sigma: Tensor, start: float) -> Tensor:
        seen.append(gaussian(x, sigma, start))
        return seen[-1]

    out = SAMPLERS[name](denoise, noise, torch.cat([sigma_schedule(5, SIGMA_MIN, SIGMA_MAX), torch.zeros(1)]))
    assert torch.equal(out, seen[-1])


@pytest.mark.parametrize(("name", "evaluations"), [("euler", 10), ("heun", 20), ("dpmpp_2m", 10)])
def test_evaluations_and_callbacks_are_counted_by_steps(name, evaluations):
    calls, steps, starts = [], [], []

    def denoise(x: Tensor, sigma: Tensor, start: float) -> Tensor:
        calls.append(sigma)
        starts.append(start)
        return gaussian(x, sigma, start)

    sigmas = sigma_schedule(10, SIGMA_MIN, SIGMA_MAX)
    SAMPLERS[name](denoise, torch.ones(3, 1, 1, 1), sigmas, callback=lambda done, total: steps.append((done, total)))
    assert len(calls) == evaluations
    assert all(sigma.shape == (3,) for sigma in calls)
    assert steps == [(k, 10) for k in range(1, 11)]
    assert sorted(set(starts), reverse=True) == sigmas[:-1].tolist()


def labelled(x: Tensor, sigma: Tensor, labels: Tensor) -> Tensor:
    """A denoiser of data around the label's first entry."""
    mean = labels[:, :1, None, None]
    return mean + gaussian(x - mean, sigma, 0.0)


def test_a_guided_step_of_heun_is_guided_in_both_halves():
    sigmas = torch.tensor([2.0, 1.0], dtype=torch.float64)
    noise = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    labels = torch.ones(1, 1, dtype=torch.float64)
    whole = SAMPLERS["heun"](guided(labelled, labels, 3.0), noise, sigmas)
    inside = SAMPLERS["heun"](guided(labelled, labels, 3.0, interval=(1.5, 2.0)), noise, sigmas)
    outside = SAMPLERS["heun"](guided(labelled, labels, 3.0, interval=(0.5, 1.5)), noise, sigmas)
    assert torch.equal(inside, whole)
    assert torch.equal(outside, SAMPLERS["heun"](guided(labelled, labels, 1.0), noise, sigmas))


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_clip_is_the_same_alone_and_in_a_batch(name):
    sigmas = sigma_schedule(12, SIGMA_MIN, SIGMA_MAX)

    def clips(*seeds: int) -> Tensor:
        noise = draw_noise(generators(*seeds), (2, 4, 6), "cpu")
        denoiser = Denoiser(lambda x, c_noise, labels: torch.tanh(x), SIGMA_DATA)
        denoise = guided(denoiser, torch.ones(len(seeds), 1), 2.0)
        return SAMPLERS[name](denoise, noise, sigmas)

    together = clips(*range(8))
    torch.testing.assert_close(clips(7)[0], together[7], rtol=1e-6, atol=1e-7)
    assert not torch.allclose(together[6], together[7])


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_variation_keeps_what_the_start_level_leaves(name):
    known = torch.full((1, 1, 1, 1), 0.7, dtype=torch.float64)
    noise = torch.full((1, 1, 1, 1), -0.4, dtype=torch.float64)
    sigmas = sigma_schedule(200, SIGMA_MIN, 0.5)
    out = SAMPLERS[name](gaussian, noise + known / 0.5, sigmas)
    torch.testing.assert_close(out, exact(noise + known / 0.5, 0.5, SIGMA_MIN), rtol=1e-2, atol=0)


def test_no_gradients_are_kept():
    noise = torch.ones(1, 1, 1, 1, requires_grad=True)
    assert not SAMPLERS["heun"](gaussian, noise, sigma_schedule(3, SIGMA_MIN, SIGMA_MAX)).requires_grad


def test_levels_that_do_not_fall_are_refused():
    noise = torch.ones(2, 1, 1, 1)
    with pytest.raises(ValueError, match="fall strictly"):
        SAMPLERS["euler"](gaussian, noise, torch.tensor([1.0, 1.0]))
