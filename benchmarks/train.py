"""How fast a training is: samples and FLOP a second, against bare operations measured in the same run.

    python benchmarks/train.py [--preset nano ...] [--steps N] > benchmarks/train.md

For each preset the UNet is trained on random latents of the shape that the settings ask for, by the real loop. FLOP are
counted by torch, forward and backward, and set beside a convolution (the largest of the network, alone, forward and
backward) and a matrix product of 2048 x 2048, in the same number type.
"""

import argparse
import datetime
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from dualdiff.data.loader import Batch
from dualdiff.device import compile_in_place, select_device, select_precision
from dualdiff.models import UNet
from dualdiff.models.layers import MPConv, renormalise
from dualdiff.seeding import Stream
from dualdiff.settings import preset
from dualdiff.store import LatentSpace
from dualdiff.training.ema import EMA
from dualdiff.training.job import make_accelerator
from dualdiff.training.loop import Loop, Trial
from dualdiff.training.memory import memory_bytes
from dualdiff.training.optimizer import make_optimizer
from dualdiff.training.proof import Unheard
from dualdiff.training.run import Run
from dualdiff.training.unet import UNetObjective

GAMES, ROWS, COLUMN_S = 4, 32, 0.064
REPEATS = 5


@dataclass
class Noise:
    """Random latents of the shape of real ones."""

    columns: int

    def examples(self, first: int, count: int) -> Batch:
        """See `BatchSource`."""
        generator = Stream(0).torch(f"{first}")
        latents = 0.5 * torch.randn(count, 4, ROWS, self.columns, generator=generator)
        return Batch({"latents": latents, "labels": torch.eye(GAMES)[torch.arange(count) % GAMES]}, ["noise"] * count)


@dataclass
class Largest:
    """The convolution of the most work in a forward pass: its module and the shape of its input."""

    work: int = 0
    layer: MPConv | None = None
    shape: tuple[int, ...] = field(default=())

    def watch(self, layer: nn.Module, inputs: tuple[Tensor, ...], _output: Tensor) -> None:
        """A forward hook."""
        assert isinstance(layer, MPConv)
        x = inputs[0]
        work = x.shape[0] * x[0, 0].numel() * layer.weight.numel() if x.ndim == 4 else 0
        if work > self.work:
            self.work, self.layer, self.shape = work, layer, tuple(x.shape)


def timed(work: Callable[[], object], device: torch.device) -> float:
    """Seconds, the median of a few after two to warm up."""
    found = []
    for index in range(REPEATS + 2):
        started_s = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        if index >= 2:
            found.append(time.perf_counter() - started_s)
    return statistics.median(found)


def matrix_rate(dtype: torch.dtype, device: torch.device, size: int = 2048) -> float:
    """FLOP a second of a plain matrix product."""
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    return 2 * size**3 / timed(lambda: a @ b, device)


def convolution_rate(largest: Largest, dtype: torch.dtype, device: torch.device) -> float:
    """FLOP a second of a network's largest convolution alone, forward and backward."""
    assert largest.layer is not None
    weight = largest.layer.weight.detach().to(dtype).requires_grad_()
    x = torch.randn(largest.shape, device=device, dtype=dtype).contiguous(memory_format=torch.channels_last)
    x.requires_grad_()
    slope = torch.ones_like(nn.functional.conv2d(x, weight, padding=largest.layer.padding))

    def work() -> None:
        torch.autograd.grad(nn.functional.conv2d(x, weight, padding=largest.layer.padding), (x, weight), slope)  # type: ignore[union-attr]

    return 6 * largest.work / timed(work, device)


def measured(name: str, steps: int) -> dict[str, object]:
    """The figures of one preset."""
    settings, device = preset(name), select_device()
    config, dtype = settings.unet_train, select_precision("auto", device)
    columns = int(config.crop_s / COLUMN_S) // 8 * 8
    torch.manual_seed(0)
    unet = UNet(settings.unet, channels=4, games=GAMES, frequencies=torch.logspace(1.5, 4, ROWS)).to(device)
    unet.compute_dtype = dtype
    accelerator = make_accelerator(device)
    games = tuple(f"G{number}" for number in range(GAMES))
    space = LatentSpace(mean=(0.0,) * 4, std=(1.0,) * 4, sigma_min=0.03)
    objective = UNetObjective(unet, None, space, games, settings.unet_loss, settings.unet_noise)  # type: ignore[arg-type]
    source, micro = Noise(columns), config.batch_size // config.grad_accum_steps
    trial, largest = Trial(objective, source, device), Largest()
    hooks = [layer.register_forward_hook(largest.watch) for layer in unet.modules() if isinstance(layer, MPConv)]
    with FlopCounterMode(display=False) as counter:
        trial.run(micro)
    for hook in hooks:
        hook.remove()
    flop = counter.get_total_flops() * config.grad_accum_steps
    if settings.project.compile:
        compile_in_place(unet, device)
    pass_s = timed(lambda: trial.run(micro), device) * config.grad_accum_steps
    optimizer, ema = make_optimizer(unet), EMA(dict(unet.named_parameters()), config.ema_widths)
    for parameter in unet.parameters():
        parameter.grad = torch.zeros_like(parameter)

    def update() -> None:
        optimizer.step()
        renormalise(unet)
        ema.update(dict(unet.named_parameters()), 10)

    update_s = timed(update, device)
    with tempfile.TemporaryDirectory() as folder:
        run = Run(Path(folder) / "run", {"network": "unet"}, "")
        run.open()
        quiet = replace(config, steps=steps, save_every=10**6, validate_every=10**6, preview_every=10**6)
        moments: list[float] = []
        loop = Loop(Unheard(objective), source, quiet, run, accelerator, 0)
        loop.progress = lambda done, total, note="": moments.append(time.perf_counter())
        loop.fit()
    step_s = statistics.median(b - a for a, b in pairwise(moments[1:]))
    convolution, product = convolution_rate(largest, dtype, device), matrix_rate(dtype, device)
    return {
        "preset": name,
        "samples/s": f"{config.batch_size / step_s:.2f}",
        "step, s": f"{step_s:.2f}",
        "GFLOP/s": f"{flop / step_s / 1e9:.0f}",
        "of its largest convolution alone": f"{flop / step_s / convolution:.0%} of {convolution / 1e9:.0f}",
        "of a matrix product": f"{flop / step_s / product:.0%} of {product / 1e9:.0f}",
        "outside forward and backward": f"{max(0.0, 1 - pass_s / step_s):.1%}",
        "renormalise + EMA + optimizer": f"{update_s / step_s:.1%}",
        "peak memory, MiB": f"{memory_bytes(device) / 2**20:.0f}",
        "numbers": str(dtype).removeprefix("torch."),
    }


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", action="append")
    parser.add_argument("--steps", type=int, default=24)
    arguments = parser.parse_args()
    device = select_device()
    what = torch.cuda.get_device_name() if device.type == "cuda" else f"{torch.get_num_threads()} threads"
    print(f"# The speed of training\n\n{datetime.date.today().isoformat()}, device {device} ({what}), ", end="")
    print(f"{os.cpu_count()} CPU cores, torch {torch.__version__}. `python {' '.join(sys.argv)}`: medians; the UNet.\n")
    rows = [measured(name, arguments.steps) for name in arguments.preset or ["nano"]]
    print(f"| {' | '.join(rows[0])} |\n|{'---|' * len(rows[0])}")
    for row in rows:
        print(f"| {' | '.join(map(str, row.values()))} |")


if __name__ == "__main__":
    main()
