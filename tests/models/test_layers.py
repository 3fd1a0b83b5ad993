"""Magnitude-preserving layers against their formulas."""

import math

import pytest
import torch
from torch import nn

from dualdiff.models.layers import (
    Attention,
    Block,
    FourierFeatures,
    MPConv,
    bake,
    mp_cat,
    mp_silu,
    mp_sum,
    normalise_after_updates_only,
    position_channels,
    renormalise,
    unit,
)


@pytest.mark.parametrize(("shape", "dims"), [((3, 5, 2, 4), 1), ((4, 3, 3, 3), (1, 2, 3)), ((2, 3, 4, 6), 3)])
def test_unit_has_the_gradient_of_its_formula(shape, dims):
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: unit(x, dims, 0.7), x)
    slopes = torch.randn(shape, dtype=torch.float64)
    formula = 0.7 * x / (1e-4 + x.square().mean(dim=dims, keepdim=True).sqrt())
    assert torch.allclose(unit(x, dims, 0.7), formula)
    expected = torch.autograd.grad(formula, x, slopes)
    assert torch.allclose(torch.autograd.grad(unit(x, dims, 0.7), x, slopes)[0], expected[0])


def test_silence_has_a_slope_even_where_the_smallest_numbers_are_taken_for_0():
    zeros = torch.zeros(2, 5, 3, requires_grad=True)
    for flushed in (False, True):
        torch.set_flush_denormal(flushed)
        try:
            slope = torch.autograd.grad(unit(zeros).sum(), zeros)[0]
        finally:
            torch.set_flush_denormal(False)
        assert torch.allclose(slope, torch.full_like(slope, 1e4))


def test_unit_divides_by_epsilon_plus_rms() -> None:
    x = torch.randn(2, 5, 3, 3) * 7
    expected = x / (1e-4 + (x.square().sum(1, keepdim=True) / 5).sqrt())
    assert torch.allclose(unit(x), expected)
    assert torch.equal(unit(torch.zeros(1, 4)), torch.zeros(1, 4))


def test_unit_takes_its_norm_in_float32_for_bfloat16() -> None:
    x = torch.full((1, 1000), 100.0, dtype=torch.bfloat16)  # the square sum overflows bfloat16's precision
    assert unit(x).dtype == torch.bfloat16
    assert torch.allclose(unit(x).float(), torch.ones(1, 1000), atol=1e-2)


def test_mp_silu_keeps_unit_rms() -> None:
    x = torch.randn(1_000_000, generator=torch.Generator().manual_seed(0))
    assert mp_silu(x).square().mean().sqrt().item() == pytest.approx(1.0, abs=5e-3)


@pytest.mark.parametrize("t", [0.3, 0.5, 0.9])
def test_mp_sum_and_mp_cat_follow_their_formulas_and_keep_unit_variance(t: float) -> None:
    generator = torch.Generator().manual_seed(1)
    a, b = torch.randn(4, 6, 64, 64, generator=generator), torch.randn(4, 2, 64, 64, generator=generator)
    summed = mp_sum(a[:, :2], b, t)
    assert torch.allclose(summed, ((1 - t) * a[:, :2] + t * b) / math.sqrt((1 - t) ** 2 + t**2), atol=1e-6)
    assert summed.std().item() == pytest.approx(1, abs=0.02)
    k = math.sqrt(8 / ((1 - t) ** 2 + t**2))
    joined = mp_cat(a, b, t)
    assert torch.allclose(joined[:, :6], a * k * (1 - t) / math.sqrt(6), atol=1e-5)
    assert torch.allclose(joined[:, 6:], b * k * t / math.sqrt(2), atol=1e-5)
    assert joined.square().mean().sqrt().item() == pytest.approx(1, abs=0.02)


def test_used_weight_has_unit_rows_whatever_is_stored() -> None:
    conv = MPConv(7, 5)
    with torch.no_grad():
        conv.weight.mul_(13)
    norms = conv.used_weight(torch.float32).flatten(1).norm(dim=1)
    assert torch.allclose(norms, torch.ones(5), atol=1e-4)


def test_gradient_is_orthogonal_to_the_weight() -> None:
    conv = MPConv(4, 3).double()
    conv(torch.randn(2, 4, 8, 8, dtype=torch.float64)).square().mean().backward()
    assert conv.weight.grad is not None
    inner = (conv.weight.grad * conv.weight).flatten(1).sum(1)
    scale = conv.weight.grad.flatten(1).norm(dim=1) * conv.weight.flatten(1).norm(dim=1)
    assert (inner / scale).abs().max().item() < 1e-3  # the 1e-4 beside the norm leaves this much


def test_renormalise_restores_the_sphere_without_changing_the_output() -> None:
    layer = nn.Sequential(MPConv(4, 6), MPConv(6, 2))
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(torch.randn_like(parameter))
    x = torch.randn(1, 4, 8, 8)
    before = layer(x)
    renormalise(layer)
    assert torch.allclose(layer(x), before, atol=1e-3)
    for parameter in layer.parameters():
        rms = parameter.flatten(1).square().mean(1).sqrt()
        assert torch.allclose(rms, torch.ones_like(rms), atol=2e-4)


def test_normalisation_after_updates_only_keeps_the_output_but_not_the_projection() -> None:
    torch.manual_seed(0)
    layer, x = MPConv(6, 5), torch.randn(2, 6, 4, 4)
    before = layer(x)
    normalise_after_updates_only(layer)
    torch.testing.assert_close(layer(x), before, rtol=1e-3, atol=1e-3)
    layer(x).square().sum().backward()
    assert layer.weight.grad is not None
    along = (layer.weight.grad * layer.weight).sum((1, 2, 3))
    assert along.abs().min() > 1e-3, "the gradient keeps its part along the weight"


def test_an_average_of_weights_is_normalised_outside_of_training() -> None:
    """Averages of points on a sphere lie inside of it: measured, exported and rebuilt ones act as normalised ones."""
    layer, twin, x = MPConv(6, 5), MPConv(6, 5), torch.randn(2, 6, 4, 4)
    normalise_after_updates_only(layer)
    layer.weight.data.lerp_(torch.randn_like(layer.weight), 0.5)
    twin.load_state_dict(layer.state_dict())
    assert layer(x).norm() < 0.9 * twin(x).norm(), "in training it is taken as it is"
    assert torch.equal(layer.eval()(x), twin(x))
    layer.train()
    bake(layer, torch.float32)
    assert torch.equal(layer(x), twin(x))


def test_baked_weights_give_the_same_output() -> None:
    block = Block(4, 8, "encoder", embedding=16)
    x, embedding = torch.randn(1, 4, 8, 8), torch.randn(1, 16)
    before = block(x, embedding)
    bake(block, torch.float32)
    bake(block, torch.float32)  # a second time changes nothing
    assert torch.allclose(block(x, embedding), before, atol=1e-5)


def test_fourier_features_have_unit_variance_and_fade_with_distance() -> None:
    features = FourierFeatures(256)
    values = features(torch.linspace(-1.5, 1.2, 400))
    assert values.square().mean().item() == pytest.approx(1, abs=0.05)
    assert torch.allclose(values[:, 0], torch.full((400,), math.sqrt(2)))
    u = torch.arange(256, dtype=torch.float64) / 255 * (1 - 1e-3)
    assert torch.allclose(features.frequencies, (math.pi * torch.erfinv(u)).float())
    code = features(torch.tensor([0.0, 0.05, 0.3]))
    near, far = (code[0] * code[1]).mean().item(), (code[0] * code[2]).mean().item()
    assert 1 > near > far


@pytest.mark.parametrize(
    ("kind", "resample"), [("encoder", "keep"), ("encoder", "down"), ("decoder", "keep"), ("decoder", "up")]
)
def test_blocks_keep_unit_magnitude_at_initialisation(kind: str, resample: str) -> None:
    torch.manual_seed(0)
    block = Block(24, 32, kind, resample=resample, embedding=16, attention=[Attention(32, 16)])  # type: ignore[arg-type]
    x = torch.randn(4, 24, 16, 16)
    y = block(x, torch.randn(4, 16))
    assert y.square().mean().sqrt().item() == pytest.approx(1, abs=0.1)


def test_dropout_keeps_the_magnitude_and_acts_in_training_only() -> None:
    torch.manual_seed(0)
    block = Block(32, 32, "encoder", dropout=0.5)
    x = torch.randn(8, 32, 16, 16)
    trained = block(x)
    assert not torch.equal(trained, block(x))
    assert trained.square().mean().sqrt().item() == pytest.approx(1, abs=0.05)
    block.eval()
    assert torch.equal(block(x), block(x))


def test_attention_along_rows_sees_its_row_only() -> None:
    torch.manual_seed(0)
    for along, (row, column), alone in (("row", (1, 0), (0, 0)), ("column", (0, 1), (0, 0))):
        attend = Attention(8, 4, along)  # type: ignore[arg-type]
        x = torch.randn(1, 8, 3, 5)
        changed = x.clone()
        changed[:, :, row, column] += 1  # another row, or another column, than `alone`
        assert torch.allclose(attend(x)[:, :, alone[0], alone[1]], attend(changed)[:, :, alone[0], alone[1]], atol=1e-6)
        changed = x.clone()
        changed[:, :, 1 - row, 1 - column] += 1  # the same row, or the same column
        assert not torch.allclose(attend(x)[:, :, 0, 0], attend(changed)[:, :, 0, 0], atol=1e-4)


def test_attention_of_the_plane_follows_its_formula() -> None:
    torch.manual_seed(0)
    attend = Attention(8, 8)
    x = torch.randn(1, 8, 2, 3)
    flat = attend.qkv(x).flatten(2)[0]  # (3C, FN)
    q, k, v = (unit(part, 0) for part in flat.split(8))
    weights = torch.softmax(q.T @ k / math.sqrt(8), dim=1)
    expected = mp_sum(x, attend.out((v @ weights.T).view(1, 8, 2, 3)), 0.3)
    assert torch.allclose(attend(x), expected, atol=1e-5)


def test_position_channels_are_octaves_and_ones() -> None:
    channels = position_channels(torch.tensor([100.0, 200.0, 400.0]))
    assert channels.shape == (1, 2, 3, 1)
    assert torch.allclose(channels[0, 0, :, 0], torch.tensor([-1.2247, 0.0, 1.2247]), atol=1e-4)
    assert torch.equal(channels[0, 1], torch.ones(3, 1))


def test_a_block_is_its_formula() -> None:
    torch.manual_seed(0)
    block = Block(4, 8, "encoder", embedding=16)
    block.gain.data.fill_(0.5)  # type: ignore[union-attr]
    x, embedding = torch.randn(2, 4, 8, 8), torch.randn(2, 16)
    trunk = unit(block.skip(x))  # type: ignore[misc]
    scale = 1 + 0.5 * block.modulation(embedding)[:, :, None, None]  # type: ignore[misc]
    branch = block.conv2(mp_silu(block.conv1(mp_silu(trunk)) * scale))
    assert torch.allclose(block(x, embedding), mp_sum(trunk, branch, 0.3), atol=1e-5)


@pytest.mark.parametrize(("kind", "resample"), [("encoder", "down"), ("decoder", "up")])
@pytest.mark.parametrize("rows", [True, False])
def test_a_block_that_resamples_is_the_plain_block_of_means_or_of_repeats(kind: str, resample: str, rows: bool) -> None:
    torch.manual_seed(0)
    block = Block(4, 6, kind, resample=resample, rows=rows)  # type: ignore[arg-type]
    plain = Block(4, 6, kind, rows=rows)  # type: ignore[arg-type]
    plain.load_state_dict(block.state_dict())
    x = torch.randn(2, 4, 8, 6)
    if resample == "down":
        pairs = x.unflatten(3, (3, 2)).mean(4)
        made = pairs.unflatten(2, (4, 2)).mean(3) if rows else pairs
    else:
        made = x.repeat_interleave(2, 3)
        made = made.repeat_interleave(2, 2) if rows else made
    assert torch.allclose(block(x), plain(made), atol=1e-5)


def test_activations_are_clamped_where_bfloat16_would_lose_them() -> None:
    torch.manual_seed(0)
    block = Block(4, 4, "decoder")
    y = block(torch.randn(1, 4, 8, 8) * 1e5)
    assert (y.max().item(), y.min().item()) == (256.0, -256.0)
    assert block(torch.randn(1, 4, 8, 8)).abs().max() < 256


@pytest.mark.parametrize("along", ["plane", "row", "column"])
def test_attention_with_several_heads_follows_its_formula_position_by_position(along: str) -> None:
    torch.manual_seed(0)
    attend = Attention(8, 4, along)  # type: ignore[arg-type]
    assert attend.heads == 2
    x = torch.randn(2, 8, 3, 4)
    qkv = attend.qkv(x).view(2, 3, 2, 4, 3, 4)  # example, q or k or v, head, channel, row, column
    q, k, v = (unit(qkv[:, part], 2) for part in range(3))
    expected = torch.zeros(2, 2, 4, 3, 4)
    for row in range(3):
        for column in range(4):
            seen = {"plane": (slice(None), slice(None)), "row": (row, slice(None)), "column": (slice(None), column)}
            keys, values = (part[(..., *seen[along])].flatten(3) for part in (k, v))
            scores = torch.einsum("bhc,bhcp->bhp", q[..., row, column], keys) / math.sqrt(4)
            expected[..., row, column] = torch.einsum("bhp,bhcp->bhc", scores.softmax(-1), values)
    wanted = mp_sum(x, attend.out(expected.view(2, 8, 3, 4)), 0.3)
    assert torch.allclose(attend(x), wanted, atol=1e-5)
