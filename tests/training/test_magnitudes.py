"""Over a training, activations keep the size that they are designed for, and gradients are right."""

import json
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from dualdiff.core.rng import Stream
from dualdiff.data.loader import Batch
from dualdiff.diffusion.noise_distribution import NoiseConfig
from dualdiff.losses.spectral import SpectralLossConfig
from dualdiff.losses.spectral_1d import SpectralLoss1dConfig
from dualdiff.model_store.latent_space import LatentSpace
from dualdiff.models.layers import Block, MPConv, mp_silu, renormalise, unit
from dualdiff.models.unet import Skipped
from dualdiff.training.config import TrainConfig
from dualdiff.training.loop import Loop
from dualdiff.training.objective import Objective
from dualdiff.training.resume_check import WithoutPreviews
from dualdiff.training.run_folder import Run
from dualdiff.training.session import make_accelerator
from dualdiff.training.unet import UNetObjective, UNetObjectiveConfig
from dualdiff.training.vae import VAEObjective, VAEObjectiveConfig
from tests.models.test_unet import inputs, tiny
from tests.models.test_vae import tiny as tiny_vae

STEPS = 200


def textures(numbers: range, rows: int = 16, columns: int = 8) -> Tensor:
    """Examples (B, 4, F, N) with structure: a wave along time in each channel, alike in all rows, of deviation 0.5."""
    time = torch.arange(columns) / columns
    phases = torch.stack([torch.rand(4, 1, 1, generator=Stream(0).torch(f"{number}")) for number in numbers])
    return (0.5 * math.sqrt(2) * torch.cos(2 * math.pi * (time + phases))).repeat(1, 1, rows, 1)


class Textures:
    """Textures as what the two objectives train on: latents with labels, and "waveforms" that are samples already."""

    def examples(self, first: int, count: int) -> Batch:
        numbers = range(first, first + count)
        labels = torch.eye(3)[torch.tensor([number % 3 for number in numbers])]
        waveform = 2 * textures(numbers, rows=32, columns=16)[:, :2]
        tensors = {"latents": textures(numbers), "labels": labels, "waveform": waveform}
        return Batch(tensors, [f"example {number}" for number in numbers])


class AsItIs:
    """A format whose samples are what it is given."""

    sample_rate = 32000

    def encode(self, waveform: Tensor) -> Tensor:
        return waveform


def sizes_over_a_training(objective: Objective, blocks: list[nn.Module], folder: Path, batch: int) -> list[list[float]]:
    """The RMS of what each block gives at each step, as the loop trains an objective."""
    sizes: list[list[float]] = []

    def watch(_module: nn.Module, _inputs: object, y: Tensor) -> None:
        sizes[-1].append(y.detach().float().square().mean().sqrt().item())

    for block in blocks:
        block.register_forward_hook(watch)
    blocks[0].register_forward_pre_hook(lambda *_: sizes.append([]))
    config = TrainConfig(
        run="sizes", steps=STEPS, batch_size=batch, warmup_steps=20, decay_after_steps=100, save_every=STEPS
    )
    run = Run(folder, {}, "")
    run.open()
    Loop(WithoutPreviews(objective), Textures(), config, run, make_accelerator(torch.device("cpu")), seed=0).fit()
    return [own for own in sizes if own]


def losses(folder: Path, name: str) -> list[float]:
    """A term of the loss by the record: its means over 20 steps each."""
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)[name] for line in lines if name in json.loads(line)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_activations_of_every_block_keep_unit_size_over_a_training(tmp_path: Path, dtype: torch.dtype) -> None:
    unet = tiny(base_channels=16, dropout=0.1)
    unet.compute_dtype = dtype
    space = LatentSpace(mean=(0.0,) * 4, std=(1.0,) * 4, sigma_min=0.05)
    noise = NoiseConfig(law="log-normal")
    objective = UNetObjective(unet, None, space, ("A", "B", "C"), UNetObjectiveConfig(), noise)  # type: ignore[arg-type]
    blocks = [*unet.encoder, *unet.decoder]
    sizes = sizes_over_a_training(objective, blocks, tmp_path, 8)
    errors = losses(tmp_path, "denoising")
    assert errors[-1] < 0.8 * errors[0]  # it did train
    assert len(sizes) == STEPS
    assert {len(own) for own in sizes} == {len(blocks)}
    assert min(map(min, sizes)) > 0.5
    assert max(map(max, sizes)) < 2.2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_so_do_those_of_the_vae(tmp_path: Path, dtype: torch.dtype) -> None:
    vae = tiny_vae(base_channels=16, channel_mults=(1, 2))
    vae.compute_dtype = dtype
    blocks = [layer for layer in vae.modules() if isinstance(layer, Block)]
    loss = SpectralLossConfig(block_sizes=(8,), overlap=2)
    objective = VAEObjective(vae, AsItIs(), VAEObjectiveConfig(), loss, SpectralLoss1dConfig())  # type: ignore[arg-type]
    sizes = sizes_over_a_training(objective, blocks, tmp_path, 4)
    errors = losses(tmp_path, "reconstruction")
    assert errors[-1] < 0.6 * errors[0]  # it did train
    assert len(sizes) == STEPS
    assert {len(own) for own in sizes} == {len(blocks)}
    assert min(map(min, sizes)) > 0.5
    assert max(map(max, sizes)) < 2.2


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
