"""The 2-D spectral loss, against a reference that spells it out, and at the places where gradients break."""

import math

import pytest
import torch
from torch import Tensor

from dualdiff.core.errors import ConfigError
from dualdiff.losses import spectral
from dualdiff.losses.config import SpectralLossConfig
from dualdiff.losses.spectral import FLAT_TOP, SpectralLoss2d, flat_top, pointwise_loss


def pair(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    target = torch.randn(*shape, generator=generator, dtype=dtype)
    return target + 0.5 * torch.randn(*shape, generator=generator, dtype=dtype), target


def loss(*sizes: int, overlap: int = 2, **settings: object) -> SpectralLoss2d:
    return SpectralLoss2d(SpectralLossConfig(block_sizes=sizes, overlap=overlap, **settings))


def reflected(index: int, length: int) -> int:
    index = abs(index)
    return 2 * (length - 1) - index if index >= length else index


def reference_blocks(picture: Tensor, size: int, step: int, offset: tuple[int, int]) -> list[Tensor]:
    """The windowed spectra of all blocks of one picture (F, N)."""
    bins, frames = picture.shape
    margin = size // 2
    padded = torch.stack(
        [
            torch.stack([picture[reflected(i, bins), reflected(j, frames)] for j in range(-margin, frames + margin)])
            for i in range(-margin, bins + margin)
        ]
    )
    window = torch.tensor(
        [sum(a * math.cos(2 * math.pi * k * i / size) for k, a in enumerate(FLAT_TOP)) for i in range(size)]
    ).double()
    window /= window.square().sum().sqrt()
    return [
        torch.fft.rfft2(padded[i : i + size, j : j + size] * torch.outer(window, window))
        for i in range(offset[0], padded.shape[0] - size + 1, step)
        for j in range(offset[1], padded.shape[1] - size + 1, step)
    ]


def reference(
    given: Tensor, wanted: Tensor, size: int, step: int, offset: tuple[int, int] = (0, 0)
) -> tuple[float, float]:
    """The mean amplitude and phase terms for one block size, bin by bin."""
    amplitudes, phases = [], []
    largest = math.hypot(size // 2, size // 2)
    for clip in range(len(given)):
        for sign in (1, -1):
            one, other = ((x[clip, 0] + sign * x[clip, 1]) / math.sqrt(2) for x in (given, wanted))
            blocks = (reference_blocks(picture, size, step, offset) for picture in (one, other))
            for g, f in zip(*blocks, strict=True):
                for row in range(size):
                    for column in range(size // 2 + 1):
                        distance = math.hypot(row if row <= size // 2 else row - size, column)
                        a, b = g[row, column], f[row, column]
                        turn = abs((a.angle() - b.angle()).item())
                        turn = min(turn, 2 * math.pi - turn)
                        amplitudes.append(abs(a.abs() - b.abs()).item() * (distance + 1) / (largest + 1))
                        phases.append(turn * b.abs().item() / (distance + 1) / math.pi)
    return [sum(amplitudes) / len(amplitudes), sum(phases) / len(phases)]


def both(module: SpectralLoss2d, given: Tensor, wanted: Tensor, seed: int | None = None) -> list[float]:
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    terms = module(given, wanted, generator)
    return [terms["amplitude"].item(), terms["phase"].item()]


@pytest.mark.parametrize(("size", "overlap", "step"), [(4, 2, 2), (8, 4, 2), (8, 1, 8), (5, 2, 2), (7, 8, 1)])
def test_the_loss_is_what_its_equations_say(size, overlap, step):
    given, wanted = pair(2, 2, 9, 7)
    assert both(loss(size, overlap=overlap), given, wanted) == pytest.approx(
        reference(given, wanted, size, step), rel=1e-6
    )


def test_block_sizes_weigh_the_same():
    given, wanted = pair(1, 2, 9, 8)
    single = [both(loss(size), given, wanted) for size in (4, 8)]
    assert both(loss(4, 8), given, wanted) == pytest.approx([sum(terms) / 2 for terms in zip(*single, strict=True)])


@pytest.mark.parametrize("sizes", [(4, 5), (7,)])
def test_the_gradient_is_that_of_the_loss(sizes):
    given, wanted = pair(1, 2, 7, 6)
    module = loss(*sizes)

    def terms(x: Tensor) -> tuple[Tensor, Tensor]:
        out = module(x, wanted)
        return out["amplitude"], out["phase"]

    assert torch.autograd.gradcheck(terms, (given.requires_grad_(),), atol=1e-6)


def test_identical_samples_are_at_no_distance_and_have_finite_gradients():
    _, wanted = pair(2, 2, 40, 36, dtype=torch.float32)
    given = wanted.clone().requires_grad_()
    terms = loss(8, 16, 32, overlap=8)(given, wanted)
    (terms["amplitude"] + terms["phase"]).backward()
    assert terms["amplitude"].item() == pytest.approx(0, abs=1e-7)
    assert terms["phase"].item() == pytest.approx(0, abs=1e-6)
    assert given.grad.isfinite().all()


@pytest.mark.parametrize("level", [0.0, -3.0])
@pytest.mark.parametrize("silent", ["reconstruction", "target", "both"])
def test_silence_has_finite_gradients(silent, level):
    given, wanted = pair(1, 2, 20, 20, dtype=torch.float32)
    given = torch.full_like(given, level) if silent != "target" else given
    wanted = torch.full_like(wanted, level) if silent != "reconstruction" else wanted
    given.requires_grad_()
    terms = loss(8, 16)(given, wanted)
    (terms["amplitude"] + terms["phase"]).backward()
    assert all(term.isfinite() for term in terms.values())
    assert given.grad.isfinite().all()
    assert given.grad.abs().max() < 1


def test_the_loss_grows_with_the_level_of_both_samples():
    given, wanted = pair(1, 2, 20, 20)
    once, thrice = (both(loss(8), factor * given, factor * wanted) for factor in (1, 3))
    assert thrice == pytest.approx([3 * term for term in once], rel=1e-6)


def test_only_amplitude_sees_a_gain_and_only_phase_a_change_of_sign():
    _, wanted = pair(1, 2, 20, 20)
    amplitude, phase = both(loss(8), 0.5 * wanted, wanted)
    assert phase == pytest.approx(0, abs=1e-9)
    assert amplitude > 0.01
    amplitude, phase = both(loss(8), -wanted, wanted)
    assert amplitude == pytest.approx(0, abs=1e-9)
    assert phase > 0.01


def test_the_channels_are_compared_as_sum_and_difference():
    _, wanted = pair(1, 2, 20, 20)
    amplitude, phase = both(loss(8), wanted.flip(1), wanted)  # turns the difference around, and nothing else
    assert amplitude == pytest.approx(0, abs=1e-9)
    assert phase > 0.01
    mono = wanted[:, :1].expand(-1, 2, -1, -1)
    assert both(loss(8), mono.flip(1), mono) == pytest.approx([0, 0], abs=1e-9)


def test_white_noise_has_spectra_of_unit_power():
    _, noise = pair(4, 2, 64, 64)
    amplitude, _ = both(loss(16), torch.zeros_like(noise), noise)
    weights = spectral.block_tables(16).amplitude_weight
    assert amplitude == pytest.approx(math.sqrt(math.pi) / 2 * weights.mean().item(), rel=0.03)


def test_the_flat_top_window_is_symmetric_and_nearly_flat_at_its_top():
    window = flat_top(64) / flat_top(64).max()
    torch.testing.assert_close(window[1:], window[1:].flip(0))
    assert window.argmax() == 32
    assert flat_top(64).square().sum().item() == pytest.approx(1)
    assert abs(window[0]) < 1e-3


def test_the_grid_moves_with_the_generator_alone():
    given, wanted = pair(1, 2, 23, 19)
    module = loss(11, random_offset=True)
    drawn = torch.randint(6, (2,), generator=torch.Generator().manual_seed(5)).tolist()
    assert drawn != [0, 0]
    assert both(module, given, wanted, seed=5) == pytest.approx(reference(given, wanted, 11, 6, tuple(drawn)), rel=1e-6)
    assert both(module, given, wanted, seed=5) == both(module, given, wanted, seed=5)
    assert both(module, given, wanted) == both(loss(11), given, wanted)
    assert both(loss(11), given, wanted, seed=5) == both(loss(11), given, wanted)


def test_all_prime_sizes_work_with_every_offset():
    given, wanted = pair(1, 2, 32, 40, dtype=torch.float32)
    given.requires_grad_()
    module = loss(11, 13, 17, 19, 23, 29, 31, overlap=4, random_offset=True)
    for seed in range(5):
        terms = module(given, wanted, torch.Generator().manual_seed(seed))
        (terms["amplitude"] + terms["phase"]).backward()
    assert given.grad.isfinite().all()
    assert (given.grad != 0).all()


def test_the_phase_weight_multiplies_the_phase_term():
    given, wanted = pair(1, 2, 12, 12)
    plain, heavy = both(loss(8), given, wanted), both(loss(8, phase_weight=2.5), given, wanted)
    assert heavy == pytest.approx([plain[0], 2.5 * plain[1]])


def test_how_many_strips_are_worked_on_at_a_time_changes_nothing(monkeypatch):
    given, wanted = pair(1, 2, 24, 24)
    given.requires_grad_()

    def result() -> tuple[list[float], Tensor]:
        terms = loss(8)(given, wanted)
        (gradient,) = torch.autograd.grad(terms["amplitude"] - 2 * terms["phase"], given)
        return [term.item() for term in terms.values()], gradient

    whole, gradient = result()
    monkeypatch.setattr(spectral, "CPU_STRIP_ELEMENTS", 1)
    strips, same = result()
    assert strips == pytest.approx(whole)
    torch.testing.assert_close(same, gradient)


def test_the_target_and_a_validation_need_no_gradient():
    given, wanted = pair(1, 2, 12, 12)
    module = loss(8)
    terms = module(given, wanted.requires_grad_())
    assert not terms["amplitude"].requires_grad
    assert both(module, given.requires_grad_(), wanted) == [terms["amplitude"].item(), terms["phase"].item()]


def test_it_is_computed_in_float32_under_autocast_and_from_bfloat16():
    given, wanted = pair(1, 2, 12, 12, dtype=torch.float32)
    module = loss(8)
    outside = both(module, given.bfloat16().float(), wanted)
    with torch.autocast("cpu", torch.bfloat16):
        terms = module(given.bfloat16(), wanted)
    assert terms["amplitude"].dtype == torch.float32
    assert [term.item() for term in terms.values()] == outside


def test_a_sample_too_small_to_reflect_is_the_users_to_mend():
    given, wanted = pair(1, 2, 40, 32)
    with pytest.raises(ConfigError, match="more than 32 bins and frames; the samples have 40 bins x 32 frames"):
        loss(8, 64)(given, wanted)


def test_shapes_that_do_not_fit_are_refused():
    given, wanted = pair(1, 2, 12, 12)
    for left, right in ((given, wanted[..., 1:]), (given[0], wanted[0]), (given[:, :1], wanted[:, :1])):
        with pytest.raises(ValueError, match="are not both"):
            loss(4)(left, right)


def test_the_pointwise_loss_is_the_mean_absolute_difference():
    given, wanted = torch.tensor([[1.0, -2.0]]), torch.tensor([[0.5, 2.0]])
    assert pointwise_loss(given, wanted).item() == pytest.approx(2.25)
