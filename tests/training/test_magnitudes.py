"""Over a training, activations keep the size that they are designed for, and gradients are right."""

import math

import pytest
import torch
from torch import Tensor, nn

from dualdiff.diffusion.preconditioning import Denoiser, Preconditioning, loss_weight
from dualdiff.models.layers import Block, MPConv, mp_silu, renormalise, unit
from dualdiff.models.unet import Skipped
from dualdiff.training.config import TrainConfig
from dualdiff.training.optimizer import learning_rate, make_optimizer
from dualdiff.training.vae import kl_to_unit
from tests.models.test_unet import inputs, tiny
from tests.models.test_vae import tiny as tiny_vae

STEPS = 300


def textures(count: int, generator: torch.Generator) -> Tensor:
    """Latents with structure: a wave along time in each channel, the same in all rows, of standard deviation 0.5."""
    time = torch.arange(8) / 8
    phases = torch.rand(count, 4, 1, 1, generator=generator)
    return (0.5 * math.sqrt(2) * torch.cos(2 * math.pi * (time + phases))).expand(count, 4, 16, 8).contiguous()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_activations_of_every_block_keep_unit_size_over_a_training(dtype: torch.dtype) -> None:
    unet = tiny(base_channels=16, dropout=0.1)
    unet.compute_dtype = dtype
    denoise, scales = Denoiser(unet, 0.5), Preconditioning(0.5)
    optimizer, generator = make_optimizer(unet), torch.Generator().manual_seed(0)
    config = TrainConfig(steps=STEPS, learning_rate=0.01, warmup_steps=20, decay_after_steps=100)
    sizes: list[list[float]] = []

    def watch(_module: nn.Module, _inputs: object, y: Tensor) -> None:
        sizes[-1].append(y.detach().float().square().mean().sqrt().item())

    for block in [*unet.encoder, *unet.decoder]:
        block.register_forward_hook(watch)
    losses = []
    for step in range(1, STEPS + 1):
        sizes.append([])
        latents, games = textures(8, generator), torch.eye(3)[torch.randint(3, (8,), generator=generator)]
        sigma = (torch.randn(8, generator=generator) - 0.4).exp()
        noise = torch.randn(latents.shape, generator=generator)
        denoised = denoise(latents + sigma.view(-1, 1, 1, 1) * noise, sigma, games)
        error = (denoised - latents).square().flatten(1).mean(1) * loss_weight(sigma, 0.5)
        u = unet.uncertainty(scales.c_noise(sigma))
        optimizer.zero_grad()
        torch.autograd.backward((error / u.exp() + u).mean())
        optimizer.param_groups[0]["lr"] = learning_rate(step, config)
        optimizer.step()
        renormalise(unet)
        losses.append(error.mean().item())
    assert sum(losses[-20:]) < 0.8 * sum(losses[:20])  # it did train
    assert len(sizes[0]) == len(unet.encoder) + len(unet.decoder)
    assert min(map(min, sizes)) > 0.5
    assert max(map(max, sizes)) < 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_so_do_those_of_the_vae(dtype: torch.dtype) -> None:
    vae = tiny_vae(base_channels=16, channel_mults=(1, 2))
    vae.compute_dtype = dtype
    optimizer, generator = make_optimizer(vae), torch.Generator().manual_seed(0)
    config = TrainConfig(steps=STEPS, learning_rate=0.01, warmup_steps=20, decay_after_steps=100)
    blocks = [layer for layer in vae.modules() if isinstance(layer, Block)]
    sizes: list[list[float]] = []

    def watch(_module: nn.Module, _inputs: object, y: Tensor) -> None:
        sizes[-1].append(y.detach().float().square().mean().sqrt().item())

    for block in blocks:
        block.register_forward_hook(watch)
    losses = []
    for step in range(1, STEPS + 1):
        sizes.append([])
        sample = 2 * textures(4, generator)[:, :2].repeat(1, 1, 2, 1)
        mode, std = vae.posterior(sample)
        drawn = vae.draw(mode, std, torch.randn(mode.shape, generator=generator))
        error = (vae.decode(drawn) - sample).square().mean()
        optimizer.zero_grad()
        torch.autograd.backward(error + 0.1 * kl_to_unit(drawn))
        optimizer.param_groups[0]["lr"] = learning_rate(step, config)
        optimizer.step()
        renormalise(vae)
        losses.append(error.item())
    assert sum(losses[-20:]) < 0.5 * sum(losses[:20])  # it did train
    assert len(sizes[0]) == len(blocks) > 5
    assert min(map(min, sizes)) > 0.5
    assert max(map(max, sizes)) < 2


def test_renormalising_all_weights_at_once_equals_one_by_one() -> None:
    network = nn.Sequential(MPConv(4, 6), MPConv(6, 3, kernel=1), MPConv(5, 2, kernel=0)).double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(3).add_(torch.randn_like(parameter))
    expected = [unit(layer.weight, tuple(range(1, layer.weight.ndim))) for layer in network]  # type: ignore[arg-type]
    renormalise(network)
    for layer, wanted in zip(network, expected, strict=True):
        assert torch.allclose(layer.weight, wanted, atol=1e-6)  # type: ignore[arg-type]
        assert layer.weight.is_contiguous(memory_format=torch.channels_last) or layer.weight.ndim == 2  # type: ignore[union-attr, operator]


def test_a_decoder_block_is_its_formula() -> None:
    torch.manual_seed(0)
    block = Block(4, 8, "decoder", resample="up", embedding=16)
    block.gain.data.fill_(0.5)  # type: ignore[union-attr]
    x, skip, embedding = torch.randn(2, 3, 4, 4), torch.randn(2, 1, 4, 4), torch.randn(2, 16)
    joined = Skipped(Block(4, 8, "decoder", embedding=16))
    k = math.sqrt(4 / (0.5**2 + 0.5**2)) * 0.5
    expected = joined.block(torch.cat([x * k / math.sqrt(3), skip * k], 1), embedding)
    assert torch.allclose(joined(x, skip, embedding), expected, atol=1e-5)
    x = torch.randn(2, 4, 4, 4)
    large = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
    scale = 1 + 0.5 * block.modulation(embedding)[:, :, None, None]  # type: ignore[misc]
    branch = block.conv2(mp_silu(block.conv1(mp_silu(large)) * scale))
    wanted = (0.7 * block.skip(large) + 0.3 * branch) / math.sqrt(0.7**2 + 0.3**2)  # type: ignore[misc]
    assert torch.allclose(block(x, embedding), wanted, atol=1e-5)


def test_label_dropout_keeps_the_size_of_the_embedding() -> None:
    unet = tiny(embedding_channels=512)
    games = torch.eye(3)[torch.arange(60) % 3]
    dropped = games * (torch.arange(60) % 2)[:, None]
    for labels in (games, dropped):
        sizes = unet.embed(torch.linspace(-1, 1, 60), labels).square().mean(1).sqrt()
        assert sizes.min() > 0.75
        assert sizes.max() < 1.3


def test_gradients_of_the_vae_agree_with_float64() -> None:
    gradients = []
    for dtype in (torch.float32, torch.float64):
        vae = tiny_vae().to(dtype)
        vae.compute_dtype = dtype
        sample = torch.randn(2, 2, 32, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)
        torch.autograd.backward((vae.decode(vae.encode(sample)).to(dtype) - sample).square().mean())
        gradients.append(torch.cat([p.grad.flatten().double() for p in vae.parameters() if p.grad is not None]))
    assert (gradients[0] - gradients[1]).norm() / gradients[1].norm() < 1e-3


def test_the_vae_is_one_graph_with_the_gradients_of_the_plain_one() -> None:
    gradients = []
    for compiled in (False, True):
        vae = tiny_vae()
        torch.compiler.reset()
        if compiled:
            for part in (vae.encoder, vae.decoder):
                part.forward = torch.compile(part.forward, fullgraph=True, backend="aot_eager")  # type: ignore[method-assign]
        sample = torch.randn(2, 2, 32, 16, generator=torch.Generator().manual_seed(0))
        torch.autograd.backward((vae.decode(vae.encode(sample)) - sample).square().mean())
        gradients.append(torch.cat([p.grad.flatten() for p in vae.parameters() if p.grad is not None]))
    assert torch.allclose(gradients[0], gradients[1], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("dropout", [0.1, 0.5])
def test_dropout_in_the_whole_network_keeps_the_size_of_its_output(dropout: float) -> None:
    unet = tiny(base_channels=64, dropout=dropout)
    unet.output_gain.data.fill_(1)
    trained = unet(*inputs()).square().mean().sqrt().item()
    plain = unet.eval()(*inputs()).square().mean().sqrt().item()
    assert trained == pytest.approx(plain, rel=0.15)
