"""How much memory a training takes on a GPU, counted without one.

    python benchmarks/memory.py [--preset small ...] > benchmarks/memory.md

One pass, forward and backward, of each network's real objective at the preset's micro-batch, in bfloat16, on tensors
that have shapes but no numbers (torch's FakeTensorMode); what lives at once is counted by torch's MemTracker. To that
are added Adam's moments and the averages of the weights. Networks are not compiled here, which takes less; a GPU's
context, its kernels' working space and gaps between allocations (a tenth and more) come on top. Before its first step
a training measures what it really takes.
"""

import argparse
import datetime
from dataclasses import replace

import torch
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.distributed._tools.mem_tracker import MemTracker

from dualdiff.core.rng import Stream
from dualdiff.data.loader import Batch
from dualdiff.formats.base import FORMATS
from dualdiff.model_store.latent_space import LatentSpace
from dualdiff.models.unet import UNet
from dualdiff.models.vae import VAE
from dualdiff.project.settings import Settings, preset
from dualdiff.training.config import TrainConfig
from dualdiff.training.memory import state_bytes
from dualdiff.training.objective import BatchPosition, Objective
from dualdiff.training.unet import UNetObjective
from dualdiff.training.vae import VAEObjective

GAMES = 4
CPU = torch.device("cpu")


def vae_objective(settings: Settings, micro: int) -> tuple[Objective, Batch]:
    """What the VAE is trained for, and a batch of waveforms; blocks lie on a grid, as no numbers can be drawn."""
    config = settings.vae_train
    with unset_fake_temporarily():  # filters are reckoned with numbers
        made = FORMATS[settings.format.name](settings.format, device=CPU)
    frames = made.num_frames(round(config.crop_s * made.sample_rate)) // 8 * 8
    vae = VAE(settings.vae, channels=made.channels, frequencies=made.frequencies())
    vae.compute_dtype = torch.bfloat16
    spectral = replace(settings.vae_spectral, random_offset=False)
    objective = VAEObjective(vae, made, settings.vae_loss, spectral, settings.vae_spectral_1d)
    waveform = torch.randn(micro, 2, made.num_samples(frames))
    return objective, Batch({"waveform": waveform}, ["noise"] * micro)


def unet_objective(settings: Settings, micro: int) -> tuple[Objective, Batch]:
    """What the UNet is trained for, and a batch of latents."""
    rows, columns = 32, int(settings.unet_train.crop_s / 0.064) // 8 * 8
    unet = UNet(settings.unet, channels=4, games=GAMES, frequencies=torch.logspace(1.5, 4, rows))
    unet.compute_dtype = torch.bfloat16
    space = LatentSpace(mean=(0.0,) * 4, std=(1.0,) * 4, sigma_min=0.03)
    games = tuple(f"G{number}" for number in range(GAMES))
    law = replace(settings.unet_noise, law="log-normal")  # which needs no numbers of the network
    objective = UNetObjective(unet, None, space, games, settings.unet_loss, law)  # type: ignore[arg-type]
    objective._sigmas = lambda _, count: torch.ones(count)  # type: ignore[method-assign]  # nor can they be drawn
    tensors = {"latents": torch.randn(micro, 4, rows, columns), "labels": torch.eye(GAMES)[:1].repeat(micro, 1)}
    return objective, Batch(tensors, ["noise"] * micro)


OBJECTIVES = {"vae": vae_objective, "unet": unet_objective}


def counted(network: str, settings: Settings, config: TrainConfig) -> tuple[int, float, float]:
    """The parameters; the bytes at the peak of a pass, weights and gradients included; those of the state besides."""
    micro = config.batch_size // config.grad_accum_steps
    with FakeTensorMode(allow_non_fake_inputs=True):
        objective, batch = OBJECTIVES[network](settings, micro)
        tracker = MemTracker()
        tracker.track_external(objective.model)
        with tracker:
            loss = objective.loss(batch, BatchPosition(0, 0, micro, Stream(0).at("step", 0)))
            torch.autograd.backward(loss.total)
    parameters = sum(parameter.numel() for parameter in objective.model.parameters())
    peak = sum(snapshot["Total"] for snapshot in tracker.get_tracker_snapshot("peak").values())
    return parameters, peak, state_bytes(parameters, config)


def main() -> None:
    """Count and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", action="append", choices=["nano", "small", "seed"])
    print(f"# The memory of training\n\n{datetime.date.today().isoformat()}, torch {torch.__version__}, ", end="")
    print("`python benchmarks/memory.py`: counted, not measured on a GPU.\n")
    columns = ["preset", "network", "parameters", "micro-batch", "a pass, weights included, GiB"]
    print(f"| {' | '.join([*columns, 'optimizer and averages, GiB', 'both'])} |")
    print("|---|---|---|---|---|---|---|")
    for name in parser.parse_args().preset or ["nano", "small", "seed"]:
        settings = preset(name)
        for network, config in (("vae", settings.vae_train), ("unet", settings.unet_train)):
            parameters, peak, state = counted(network, settings, config)
            micro = f"{config.batch_size // config.grad_accum_steps} x {config.crop_s:g} s"
            sizes = " | ".join(f"{size / 2**30:.1f}" for size in (peak, state, peak + state))
            print(f"| {name} | {network} | {parameters / 1e6:.1f} M | {micro} | {sizes} |", flush=True)


if __name__ == "__main__":
    main()
