"""A network run in pieces gives what it gives at once; round a loop it gives what an endless loop would."""

import pytest
import torch

from dualdiff.formats.config import MelConfig
from dualdiff.formats.mel import MelFormat
from dualdiff.models.chunked import in_pieces
from dualdiff.models.config import VAEConfig
from dualdiff.models.vae import VAE


@pytest.fixture(scope="module")
def vae() -> VAE:
    torch.manual_seed(0)
    config = VAEConfig(base_channels=4, channel_mults=(1, 1, 2), encoder_blocks=1, decoder_blocks=2)
    return VAE(config, channels=2, frequencies=MelFormat(MelConfig(n_mels=16)).frequencies())


def decoded(vae: VAE, latents: torch.Tensor, piece: int, circular: bool = False) -> torch.Tensor:
    with torch.no_grad():
        return in_pieces(vae.decode, latents, piece=piece, context=vae.decoder_context, circular=circular)


@pytest.mark.parametrize("columns", [40, 61])
def test_pieces_equal_the_whole(vae, columns):
    latents = torch.randn(1, 4, 4, columns)
    whole = decoded(vae, latents, 1000)
    assert torch.equal(whole, vae.decode(latents))
    torch.testing.assert_close(decoded(vae, latents, 16), whole, rtol=1e-4, atol=1e-5)


def test_the_decoder_sees_no_farther_than_it_says_and_nearly_so_far(vae):
    latents = torch.randn(1, 4, 4, 41, requires_grad=True)
    gradient = torch.autograd.grad(vae.decode(latents)[..., 80:84].sum(), latents)[0].abs().sum((0, 1, 2))
    seen = gradient.nonzero().flatten()
    reach = max(20 - int(seen.min()), int(seen.max()) - 20)
    assert reach <= vae.decoder_context <= reach + 2


def test_the_encoder_in_pieces_equals_the_whole(vae):
    sample = torch.randn(1, 2, 16, 400)
    with torch.no_grad():
        split = in_pieces(vae.encode, sample, piece=64, context=vae.context_frames)
        torch.testing.assert_close(split, vae.encode(sample), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("columns", "piece"), [(40, 1000), (40, 16), (3, 16)])
def test_round_a_loop_each_place_is_as_in_an_endless_one(vae, columns, piece):
    latents = torch.randn(1, 4, 4, columns)
    around = decoded(vae, latents, piece, circular=True)
    turns = 3 + 2 * vae.decoder_context // columns
    endless = vae.decode(latents.repeat(1, 1, 1, 2 * turns + 1))[..., turns * columns * 4 :][..., : columns * 4]
    torch.testing.assert_close(around, endless, rtol=1e-4, atol=1e-5)
    turned = decoded(vae, latents.roll(1, -1), piece, circular=True)
    torch.testing.assert_close(turned, around.roll(4, -1), rtol=1e-4, atol=1e-5)
