"""Preconditioning, the loss weight, and guidance, each from its equation."""

import math

import pytest
import torch
from torch import Tensor

from dualdiff.diffusion.preconditioning import (
    Away,
    Denoiser,
    Preconditioning,
    autoguided,
    conditioned,
    guided,
    loss_weight,
)
from dualdiff.diffusion.sampler import dpmpp_2m, sigma_schedule

SIGMA_DATA = 0.5


def network(x: Tensor, c_noise: Tensor, labels: Tensor) -> Tensor:
    """A stand-in that depends on all it is given, clip by clip."""
    shift = c_noise + labels @ torch.linspace(1, 2, labels.shape[1])
    return torch.tanh(x + shift.view(-1, 1, 1, 1))


def batch(clips: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(clips, 2, 4, 5, generator=generator)
    sigma = torch.rand(clips, generator=generator) + 0.1
    return x, sigma, torch.eye(clips)


def test_the_scales_are_those_of_edm():
    scales = Preconditioning(SIGMA_DATA)
    sigma = torch.tensor([0.002, 0.5, 80.0], dtype=torch.float64)
    total = sigma**2 + 0.25
    torch.testing.assert_close(scales.c_skip(sigma), 0.25 / total)
    torch.testing.assert_close(scales.c_out(sigma), sigma * 0.5 / total.sqrt())
    torch.testing.assert_close(scales.c_in(sigma), 1 / total.sqrt())
    torch.testing.assert_close(scales.c_noise(sigma), sigma.log() / 4)


def test_the_network_sees_and_is_asked_for_unit_variance():
    generator = torch.Generator().manual_seed(1)
    scales = Preconditioning(SIGMA_DATA)
    for sigma in torch.tensor([0.05, 0.5, 5.0]):
        clean = SIGMA_DATA * torch.randn(100_000, generator=generator)
        noisy = clean + sigma * torch.randn(100_000, generator=generator)
        target = (clean - scales.c_skip(sigma) * noisy) / scales.c_out(sigma)
        assert (scales.c_in(sigma) * noisy).std().item() == pytest.approx(1, abs=0.02)
        assert target.std().item() == pytest.approx(1, abs=0.02)


def test_the_loss_weight_makes_the_network_error_weigh_the_same_at_every_level():
    sigma = torch.logspace(-3, 2, 20, dtype=torch.float64)
    c_out = Preconditioning(SIGMA_DATA).c_out(sigma)
    torch.testing.assert_close(loss_weight(sigma, SIGMA_DATA) * c_out**2, torch.ones_like(sigma))


def test_the_denoiser_surrounds_the_network_with_the_scales():
    x, sigma, labels = batch()
    denoised = Denoiser(network, SIGMA_DATA)(x, sigma, labels)
    for k in range(3):
        s = sigma[k].item()
        root = math.sqrt(s**2 + 0.25)
        answer = network(x[k : k + 1] / root, torch.tensor([math.log(s) / 4]), labels[k : k + 1])
        expected = 0.25 / root**2 * x[k : k + 1] + s * 0.5 / root * answer
        torch.testing.assert_close(denoised[k : k + 1], expected)


def test_the_optimal_network_of_gaussian_data_answers_zero():
    x, sigma, labels = batch()
    wiener = x * (0.25 / (0.25 + sigma**2)).view(-1, 1, 1, 1)
    silent = Denoiser(lambda scaled, c_noise, labels: torch.zeros_like(scaled), SIGMA_DATA)
    torch.testing.assert_close(silent(x, sigma, labels), wiener)


def test_a_network_in_low_precision_leaves_the_rest_in_float32():
    x, sigma, labels = batch()
    denoised = Denoiser(lambda *inputs: network(*inputs).bfloat16(), SIGMA_DATA)(x, sigma, labels)
    assert denoised.dtype == torch.float32
    torch.testing.assert_close(denoised, Denoiser(network, SIGMA_DATA)(x, sigma, labels), atol=4e-3, rtol=0)


class Counting:
    """A denoiser that remembers the size of each batch."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def __call__(self, x: Tensor, sigma: Tensor, labels: Tensor) -> Tensor:
        self.batches.append(len(x))
        return Denoiser(network, SIGMA_DATA)(x, sigma, labels)


def test_guidance_in_one_double_batch_equals_two_single_calls():
    x, sigma, labels = batch()
    denoiser = Counting()
    out = guided(denoiser, labels, scale=3.0)(x, sigma, 1.0)
    assert denoiser.batches == [6]
    with_labels = denoiser(x, sigma, labels)
    without = denoiser(x, sigma, torch.zeros_like(labels))
    torch.testing.assert_close(out, without + 3.0 * (with_labels - without))


def test_guidance_costs_nothing_where_it_changes_nothing():
    x, sigma, labels = batch()
    for scale, wanted in ((1.0, labels), (3.0, torch.zeros_like(labels))):
        denoiser = Counting()
        out = guided(denoiser, wanted, scale)(x, sigma, 1.0)
        assert denoiser.batches == [3]
        assert torch.equal(out, denoiser(x, sigma, wanted))


def test_guidance_applies_to_steps_that_start_inside_its_interval():
    x, sigma, labels = batch()
    denoiser = Denoiser(network, SIGMA_DATA)
    denoise = guided(denoiser, labels, 3.0, interval=(0.3, 2.0))
    plain, full = conditioned(denoiser, labels)(x, sigma, 1.0), guided(denoiser, labels, 3.0)(x, sigma, 1.0)
    assert not torch.equal(plain, full)
    for start, expected in ((0.3, plain), (0.31, full), (2.0, full), (2.1, plain)):
        assert torch.equal(denoise(x, sigma, start), expected)


def test_autoguidance_moves_away_from_the_worse_denoiser_inside_its_interval():
    x, sigma, labels = batch()
    good = Denoiser(network, SIGMA_DATA)
    worse = Denoiser(lambda scaled, c_noise, labels: 0.5 * network(scaled, c_noise, labels), SIGMA_DATA)
    better, bad = good(x, sigma, labels), worse(x, sigma, labels)
    denoise = autoguided(good, worse, labels, 2.0, interval=(0.3, 2.0))
    torch.testing.assert_close(denoise(x, sigma, 1.0), bad + 2.0 * (better - bad))
    assert torch.equal(denoise(x, sigma, 3.0), better)


def test_guidance_away_from_labels_has_them_in_its_base():
    x, sigma, labels = batch()
    unwanted = labels.roll(1, 0)
    denoiser = Counting()
    wanted, away = denoiser(x, sigma, labels), denoiser(x, sigma, unwanted)
    without = denoiser(x, sigma, torch.zeros_like(labels))
    denoiser.batches.clear()
    out = guided(denoiser, labels, 3.0, away=Away(unwanted, torch.ones(3)))(x, sigma, 1.0)
    torch.testing.assert_close(out, away + 3.0 * (wanted - away))
    share = torch.tensor([0.0, 0.5, 2.0])
    out = guided(denoiser, labels, 3.0, away=Away(unwanted, share))(x, sigma, 1.0)
    base = without + share[:, None, None, None] * (away - without)
    torch.testing.assert_close(out, base + 3.0 * (wanted - base))
    assert denoiser.batches == [6, 9]
    only = guided(denoiser, torch.zeros_like(labels), 3.0, away=Away(unwanted, torch.ones(3)))(x, sigma, 1.0)
    torch.testing.assert_close(only, away + 3.0 * (without - away))
    worse = Denoiser(lambda scaled, c_noise, labels: 0.5 * network(scaled, c_noise, labels), SIGMA_DATA)
    out = autoguided(denoiser, worse, labels, 2.0, away=Away(unwanted, torch.ones(3)))(x, sigma, 1.0)
    bad = worse(x, sigma, unwanted)
    torch.testing.assert_close(out, bad + 2.0 * (wanted - bad))


def two_games(x: Tensor, sigma: Tensor, labels: Tensor) -> Tensor:
    """The exact denoiser of two games, N(-1, 0.5^2) and N(1, 0.5^2), by label; without one, of both alike."""
    s = sigma.view(-1, 1, 1, 1)
    variance = s**2 + SIGMA_DATA**2
    answers = [mean + (x - mean) * SIGMA_DATA**2 / variance for mean in (-1.0, 1.0)]
    chances = [labels[:, k].view(-1, 1, 1, 1) + 1e-9 for k in (0, 1)]
    chances = [
        chance * (-((x - mean) ** 2) / (2 * variance)).exp() for chance, mean in zip(chances, (-1.0, 1.0), strict=True)
    ]
    return sum(c * a for c, a in zip(chances, answers, strict=True)) / sum(chances)


def test_samples_led_away_from_a_game_are_less_like_it():
    noise = torch.randn(400, 1, 1, 1, generator=torch.Generator().manual_seed(0))
    none, second = torch.zeros(400, 2), torch.tensor([[0.0, 1.0]]).repeat(400, 1)

    def share(scale: float, away: Away | None) -> float:
        x = dpmpp_2m(guided(two_games, none, scale, away=away), noise, sigma_schedule(40, 0.02, 80.0))
        return float((x > 0).float().mean())

    assert share(2.0, None) == pytest.approx(0.5, abs=0.08)
    shares = [share(2.0, Away(second, torch.full((400,), amount))) for amount in (0.25, 1.0)]
    assert shares[1] < shares[0] < 0.45
    assert shares[1] < 0.25
