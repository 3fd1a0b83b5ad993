"""The VAE: shapes, the latents' variance, locality."""

import math

import pytest
import torch

from dualdiff.models.config import VAEConfig
from dualdiff.models.vae import VAE
from dualdiff.training.vae import kl_of_gaussians, kl_to_unit

FREQUENCIES = torch.logspace(1.5, 4, 32)


def tiny(**changes: object) -> VAE:
    torch.manual_seed(0)
    config = VAEConfig(
        **{"base_channels": 8, "channel_mults": (1, 2, 2, 2), "encoder_blocks": 1, "decoder_blocks": 1, **changes}
    )  # type: ignore[arg-type]
    return VAE(config, channels=2, frequencies=FREQUENCIES)


def test_latents_are_eight_times_smaller_each_way_and_decode_to_the_sample_shape() -> None:
    vae = tiny()
    latents = vae.encode(torch.randn(2, 2, 32, 48))
    assert latents.shape == (2, 4, 4, 6)
    assert vae.decode(latents).shape == (2, 2, 32, 48)


def test_the_full_design_makes_32_times_fewer_numbers_than_the_waveform() -> None:
    with torch.device("meta"):
        vae = VAE(
            VAEConfig(base_channels=8, encoder_blocks=1, decoder_blocks=1),
            channels=2,
            frequencies=torch.logspace(1, 4, 256),
        )
        latents = vae.encode(torch.empty(1, 2, 256, 5568))
    assert latents.shape == (1, 4, 32, 696)
    assert 2 * 5568 * 256 / latents.numel() == 32


@pytest.mark.parametrize("r", [2.0, 16.0])
def test_a_drawn_latent_has_the_fixed_variance_of_its_target_ratio(r: float) -> None:
    vae = tiny(target_snr=r)
    mode = torch.zeros(4, 4, 32, 64)
    drawn = vae.draw(
        mode, torch.tensor(vae.noise_std), torch.randn(mode.shape, generator=torch.Generator().manual_seed(0))
    )
    assert drawn.var().item() == pytest.approx(1 / (r**2 + 1), rel=0.02)
    mode = torch.randn(4, 4, 32, 64) * r / math.sqrt(r**2 + 1)
    assert vae.draw(
        mode, torch.tensor(vae.noise_std), torch.randn(mode.shape, generator=torch.Generator().manual_seed(0))
    ).var().item() == pytest.approx(1, abs=0.03)


def test_kl_is_zero_for_unit_latents_and_follows_its_formula() -> None:
    x = torch.randn(3, 4, 32, 64, generator=torch.Generator().manual_seed(0))
    x = (x - x.mean((1, 2, 3), keepdim=True)) / x.flatten(1).std(1, correction=0).view(-1, 1, 1, 1)
    assert kl_to_unit(x).item() == pytest.approx(0, abs=1e-5)
    m, q = 0.5, 4 + 0.25
    assert kl_to_unit(2 * x + 0.5).item() == pytest.approx(m**2 + q - 1 - math.log(q), rel=1e-4)


def test_unit_magnitude_at_initialisation() -> None:
    vae = tiny(base_channels=48)
    latents = vae.encode(torch.randn(2, 2, 32, 64))
    assert 0.7 < latents.std().item() < 1.4
    assert 0.5 < vae.decode(torch.randn(2, 4, 4, 8)).std().item() < 1.4


def test_a_latent_sees_no_further_than_the_context_says() -> None:
    vae = tiny()
    x = torch.randn(1, 2, 32, 8 * 64)
    changed = x.clone()
    changed[..., : 8 * 20] += 3
    difference = (vae.encode(x) - vae.encode(changed)).abs().amax((0, 1, 2))
    first_untouched = 20 + vae.context_frames // 8
    assert difference[first_untouched:].max() == 0
    assert difference[20] > 0


def test_a_learned_variance_starts_at_the_fixed_one_and_the_encoder_can_move_it() -> None:
    vae = tiny(latent_variance="learned", target_snr=4.0)
    sample = torch.randn(1, 2, 32, 64)
    mode, std = vae.posterior(sample)
    assert torch.equal(std, torch.full_like(mode, vae.noise_std))
    kl_of_gaussians(mode, std).backward()
    gain = vae.variance_gain.grad
    assert gain is not None
    assert gain.abs() > 0
    with torch.no_grad():
        vae.variance_gain.fill_(1.0)
    assert vae.posterior(sample)[1].std() > 0.1 * vae.noise_std
    assert torch.equal(vae.posterior(sample)[0], mode), "the mode is the same layer's"


def test_the_divergence_of_gaussians_agrees_with_torch() -> None:
    mode, std = torch.randn(2, 4, 3, 5), torch.rand(2, 4, 3, 5) + 0.1
    wanted = torch.distributions.kl_divergence(
        torch.distributions.Normal(mode, std), torch.distributions.Normal(0.0, 1.0)
    ).mean()
    torch.testing.assert_close(kl_of_gaussians(mode, std), wanted)


def test_without_frequency_position_rows_are_told_apart_by_borders_only() -> None:
    sample = torch.randn(1, 2, 1, 64).expand(1, 2, 32, 64)
    rows = slice(14, 18)  # of 32; the borders reach less far
    for told in (True, False):
        middle = tiny(channel_mults=(1,), frequency_position=told).encode(sample)[:, :, rows]
        assert torch.allclose(middle[:, :, :1].expand_as(middle), middle, atol=1e-5) is not told
