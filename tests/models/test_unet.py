"""The UNet: sizes, magnitudes, labels, gradients."""

import math

import pytest
import torch

from dualdiff.core.types import RHYTHM_CHANNELS
from dualdiff.models.config import UNetConfig
from dualdiff.models.layers import MPConv
from dualdiff.models.unet import UNet

FREQUENCIES = torch.logspace(1.5, 4, 16)


def tiny(games: int = 3, **changes: object) -> UNet:
    torch.manual_seed(0)
    sizes = {"base_channels": 16, "channel_mults": (1, 2), "blocks": 1, "attention_levels": 1, "head_channels": 16}
    config = UNetConfig(**{**sizes, "embedding_channels": 32, **changes})  # type: ignore[arg-type]
    return UNet(config, channels=4, games=games, frequencies=FREQUENCIES)


def inputs(batch: int = 2) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return (
        torch.randn(batch, 4, 16, 8, generator=generator),
        torch.randn(batch, generator=generator),
        torch.eye(3)[:batch],
    )


def test_the_seed_size_has_the_parameters_of_the_design() -> None:
    with torch.device("meta"):
        config = UNetConfig(base_channels=192, channel_mults=(1, 2, 3, 4), blocks=3, embedding_channels=768)
        unet = UNet(config, channels=4, games=1600, frequencies=torch.logspace(1, 4, 32))
    assert sum(p.numel() for p in unet.parameters()) / 1e6 == pytest.approx(281, abs=1.5)


def test_the_output_starts_at_zero_and_opens_at_unit_magnitude() -> None:
    unet = tiny(base_channels=64)
    assert torch.equal(unet(*inputs()), torch.zeros(2, 4, 16, 8))
    unet.output_gain.data.fill_(1)
    assert unet(*inputs()).square().mean().sqrt().item() == pytest.approx(1, abs=0.25)


@pytest.mark.parametrize("axes", ["plane", "time"])
def test_every_block_keeps_unit_magnitude_at_initialisation(axes: str) -> None:
    unet = tiny(base_channels=64, axes=axes)
    seen: list[float] = []
    for block in [*unet.encoder, *unet.decoder]:
        block.register_forward_hook(lambda _m, _i, y: seen.append(y.square().mean().sqrt().item()))
    unet(*inputs())
    assert len(seen) == len(unet.encoder) + len(unet.decoder)
    assert all(0.8 < rms < 1.25 for rms in seen)


def test_the_embedding_has_unit_magnitude_with_and_without_a_game() -> None:
    unet = tiny(embedding_channels=512)
    c_noise = torch.linspace(-1, 1, 64)
    games = torch.eye(3)[torch.arange(64) % 3]
    for weights in (games, torch.zeros(64, 3), games * 0.1 + 0.2):
        assert unet.embed(c_noise, weights).square().mean().sqrt().item() == pytest.approx(1, abs=0.1)


def test_the_embedding_is_its_formula() -> None:
    unet = tiny()
    c_noise, games = torch.tensor([-0.5, 0.3, 1.1]), torch.tensor([[0.7, 0.3, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, 0.0]])

    def rows(layer: MPConv) -> torch.Tensor:
        return layer.weight / layer.weight.norm(dim=1, keepdim=True)

    noise = unet.noise_features(c_noise) @ rows(unet.noise_embedding).T
    rms = games.square().mean(1, keepdim=True).sqrt()
    label = (games / rms.clamp_min(1e-9)) @ rows(unet.label_embedding).T
    label[2] = rows(unet.null_embedding)[0] * math.sqrt(32)
    mixed = (noise + label) / math.sqrt(2)
    expected = mixed * mixed.sigmoid() / 0.596
    assert torch.allclose(unet.embed(c_noise, games), expected, atol=2e-3)  # the 1e-4 beside each norm


def test_the_body_sees_the_input_the_octave_and_ones() -> None:
    unet, seen = tiny(), []
    unet.encoder[0].register_forward_pre_hook(lambda _module, given: seen.append(given[0]))
    x, c_noise, games = inputs()
    unet(x, c_noise, games)
    assert seen[0].shape == (2, 6, 16, 8)
    assert torch.equal(seen[0][:, :4], x)
    assert torch.equal(seen[0][:, 5], torch.ones(2, 16, 8))
    assert torch.allclose(seen[0][0, 4, :, 0], torch.linspace(-1, 1, 16) * 1.627, atol=1e-3)
    assert seen[0].is_contiguous(memory_format=torch.channels_last)
    without = tiny(frequency_position=False)
    without.encoder[0].register_forward_pre_hook(lambda _module, given: seen.append(given[0]))
    without(x, c_noise, games)
    assert not seen[1][:, 4].any()


def test_along_time_alone_rows_are_channels_and_columns_see_their_neighbours_only() -> None:
    unet = tiny(axes="time", attention_levels=0)
    unet.output_gain.data.fill_(1)
    x, c_noise, games = inputs()
    x = torch.cat([x] * 16, dim=-1)
    changed = x.clone()
    changed[:, :, 3, 64] += 10.0
    difference = (unet(x, c_noise, games) - unet(changed, c_noise, games)).abs()
    assert difference.shape == (2, 4, 16, 128)
    assert difference[..., 64].amin((0, 1)).min() > 0, "one row reaches all"
    assert difference[..., :32].max() < 1e-5
    kernels = {tuple(own.shape[2:]) for own in unet.parameters() if own.ndim == 4}
    assert kernels == {(1, 3), (1, 1)}


def test_games_mix_and_only_their_ratio_counts() -> None:
    unet = tiny()
    c_noise = torch.zeros(1)
    mix = torch.tensor([[0.7, 0.3, 0.0]])
    assert torch.allclose(unet.embed(c_noise, mix), unet.embed(c_noise, 10 * mix), atol=1e-6)
    assert not torch.allclose(unet.embed(c_noise, mix), unet.embed(c_noise, mix.flip(1)), atol=1e-2)


def test_no_game_is_the_null_embedding_which_learns() -> None:
    unet = tiny()
    unet.output_gain.data.fill_(1)
    for block in unet.encoder:
        if hasattr(block, "gain"):
            block.gain.data.fill_(1)
    x, c_noise, games = inputs()
    games = games.clone()
    games[1] = 0
    unet(x, c_noise, games).square().mean().backward()
    assert unet.null_embedding.weight.grad is not None
    assert unet.null_embedding.weight.grad.abs().max() > 0


@pytest.mark.parametrize("attention", ["full", "separable"])
def test_gradients_agree_with_float64(attention: str) -> None:
    gradients = []
    for dtype in (torch.float32, torch.float64):
        unet = tiny(attention=attention).to(dtype)
        unet.compute_dtype = dtype
        unet.output_gain.data.fill_(1)
        x, c_noise, games = inputs()
        unet(x.to(dtype), c_noise.to(dtype), games.to(dtype)).square().mean().backward()
        gradients.append(torch.cat([p.grad.flatten().double() for p in unet.parameters() if p.grad is not None]))
    assert (gradients[0] - gradients[1]).norm() / gradients[1].norm() < 1e-3


def test_bfloat16_body_stays_close_and_gives_float32() -> None:
    unet = tiny()
    unet.output_gain.data.fill_(1)
    expected = unet(*inputs())
    unet.compute_dtype = torch.bfloat16
    found = unet(*inputs())
    assert found.dtype == torch.float32
    assert (found - expected).norm() / expected.norm() < 0.05


def test_uncertainty_starts_at_zero() -> None:
    unet = tiny()
    assert torch.equal(unet.uncertainty(torch.linspace(-1, 1, 9)), torch.zeros(9))
    unet.uncertainty.gain.data.fill_(1)
    assert unet.uncertainty(torch.linspace(-1, 1, 9)).std() > 0.1


@pytest.mark.parametrize("attention", ["full", "separable"])
def test_the_forward_is_one_graph_with_the_gradients_of_the_plain_one(attention: str) -> None:
    gradients = []
    for compiled in (False, True):
        unet = tiny(attention=attention)
        unet.output_gain.data.fill_(1)
        torch.compiler.reset()
        run = torch.compile(unet, fullgraph=True, backend="aot_eager") if compiled else unet
        run(*inputs()).square().mean().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in unet.parameters() if p.grad is not None]))
    assert torch.allclose(gradients[0], gradients[1], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("axes", ["plane", "time"])
def test_rhythm_counts_for_nothing_until_its_gain_opens(axes: str) -> None:
    unet = tiny(axes=axes)
    unet.output_gain.data.fill_(1)
    rhythm = torch.randn(2, RHYTHM_CHANNELS, 8, generator=torch.Generator().manual_seed(2))
    without = unet(*inputs())
    assert torch.equal(unet(*inputs(), rhythm), without)
    unet.rhythm_gain.data.fill_(0.5)
    assert torch.equal(unet(*inputs(), 0 * rhythm), without), "zeros are no rhythm"
    told = unet(*inputs(), rhythm)
    assert (told - without).abs().max() > 0.01
    other = rhythm.clone()
    other[1] = 0
    assert torch.equal(unet(*inputs(), other)[0], told[0]), "each example has its own"
    assert torch.equal(tiny(axes=axes, rhythm=False)(*inputs(), rhythm), torch.zeros(2, 4, 16, 8))


def test_rhythm_adds_to_the_weights_of_a_network_without_it() -> None:
    with_rhythm, without = tiny().state_dict(), tiny(rhythm=False).state_dict()
    assert with_rhythm.keys() - without.keys() == {"rhythm_input.weight", "rhythm_gain"}
    assert not without.keys() - with_rhythm.keys()
