"""How fast a training is: samples and FLOP a second, against bare operations measured in the same run.

    python benchmarks/train.py [--preset nano ...] [--samples 1] > benchmarks/train.md

For each preset the UNet is trained by the real loop on crops of random latents, of the shape that the settings ask for.
Between its steps all that they are compared with is measured, so that what else the machine does changes both alike:
forward and backward alone; the update alone (optimizer, renormalisation, averages); the largest convolution of the
network, and all of them one after the other, forward and backward; a matrix product of 2048 x 2048. FLOP are counted by
torch. Where a device takes minutes for a preset's whole batch, `--samples` measures steps of fewer; the share of the
update is then larger than it would be, and that of a whole batch is told besides. What does not come with each step
(snapshots of the averages, checkpoints) is timed on its own, and told as a share of the preset's whole training.
"""

# ruff: noqa: E402 - a process is set up before it imports torch
import argparse
import datetime
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path

from dualdiff.core.process import settle

settle()  # as every command does

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from dualdiff.core.device import compile_in_place, select_device, select_precision
from dualdiff.core.rng import Stream
from dualdiff.data.loader import Batch
from dualdiff.model_store.latent_space import LatentSpace
from dualdiff.models.layers import MPConv, renormalise
from dualdiff.models.unet import UNet
from dualdiff.project.settings import Settings, preset
from dualdiff.training.config import TrainConfig
from dualdiff.training.ema.ema import EMA
from dualdiff.training.ema.snapshots import is_due
from dualdiff.training.loop import Loop, Trial
from dualdiff.training.memory import memory_bytes
from dualdiff.training.optimizer import make_optimizer
from dualdiff.training.resume_check import WithoutPreviews
from dualdiff.training.run_folder import Run
from dualdiff.training.session import make_accelerator
from dualdiff.training.unet import UNetObjective

GAMES, ROWS, COLUMN_S = 4, 32, 0.064
SIDE = 2048
WARM_UP, STEPS = 2, {"nano": 60, "small": 10, "seed": 5}
"""Steps that are not counted, and steps in all."""


class Noise:
    """Crops of random latents of the shape of real ones."""

    def __init__(self, columns: int) -> None:
        self._columns = columns
        self._track = 0.5 * torch.randn(4, ROWS, 4 * columns, generator=Stream(0).torch("track"))

    def examples(self, first: int, count: int) -> Batch:
        """See `BatchSource`."""
        starts = [7919 * number % (3 * self._columns) for number in range(first, first + count)]
        latents = torch.stack([self._track[:, :, start : start + self._columns] for start in starts])
        return Batch({"latents": latents, "labels": torch.eye(GAMES)[torch.arange(count) % GAMES]}, ["noise"] * count)


@dataclass
class Largest:
    """The convolution of the most work in a forward pass: its module and the shape of its input."""

    work: int = 0
    layer: MPConv | None = None
    shape: tuple[int, ...] = field(default=())
    all: list[tuple[MPConv, tuple[int, ...]]] = field(default_factory=list)
    """Every convolution in order, with the shape of its input."""

    def watch(self, layer: nn.Module, inputs: tuple[Tensor, ...], _output: Tensor) -> None:
        """A forward hook."""
        assert isinstance(layer, MPConv)
        x = inputs[0]
        work = x.shape[0] * x[0, 0].numel() * layer.weight.numel() if x.ndim == 4 else 0
        if x.ndim == 4:
            self.all.append((layer, tuple(x.shape)))
        if work > self.work:
            self.work, self.layer, self.shape = work, layer, tuple(x.shape)


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """How long it takes once."""
    started_s = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started_s


def product_of(dtype: torch.dtype, device: torch.device) -> Callable[[], object]:
    """A plain matrix product of `SIDE` x `SIDE`."""
    a, b = (torch.randn(SIDE, SIDE, device=device, dtype=dtype) for _ in range(2))
    return lambda: a @ b


def convolutions_of(largest: Largest, dtype: torch.dtype, device: torch.device) -> Callable[[], object]:
    """All convolutions of a network alone, forward and backward, one after the other."""
    works = [convolution_of(layer, shape, dtype, device) for layer, shape in largest.all]
    return lambda: [work() for work in works]


def convolution_of(
    layer: MPConv | None, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> Callable[[], object]:
    """A convolution alone, forward and backward."""
    assert layer is not None
    weight, padding = layer.weight.detach().to(dtype).requires_grad_(), layer.padding
    x = torch.randn(shape, device=device, dtype=dtype).contiguous(memory_format=torch.channels_last)
    x.requires_grad_()
    slopes = torch.ones_like(nn.functional.conv2d(x, weight, padding=padding))
    return lambda: torch.autograd.grad(nn.functional.conv2d(x, weight, padding=padding), (x, weight), slopes)


def update_of(unet: UNet, config: TrainConfig) -> Callable[[], object]:
    """What follows forward and backward in a step, on a copy of the network."""
    copy = deepcopy(unet)
    optimizer, ema = make_optimizer(copy), EMA(dict(copy.named_parameters()), config.ema_widths)
    for parameter in copy.parameters():
        parameter.grad = torch.zeros_like(parameter)

    def update() -> None:
        optimizer.step()
        renormalise(copy)
        ema.update(dict(copy.named_parameters()), 10)

    return update


def others_s() -> float:
    """Processor seconds that other processes have used so far (0 where the system does not tell)."""
    path = Path("/proc/stat")
    if not path.exists():
        return 0.0
    user, nice, system, _, _, irq, softirq, steal = map(int, path.read_text().split("\n")[0].split()[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK") - time.process_time()


class Between:
    """The loop's progress: at the end of each step's work, before its events, it measures everything else once."""

    def __init__(self, works: dict[str, Callable[[], object]], device: torch.device) -> None:
        self._works, self._device = works, device
        self.found: dict[str, list[float]] = {name: [] for name in (*works, "step")}
        self._resumed_s = 0.0

    def __call__(self, done: int, total: int, note: str = "") -> None:
        """See `Progress`. The first two steps warm up: allocations, kernels, the optimizer's state."""
        if self._device.type == "cuda":
            torch.cuda.synchronize()
        if done > WARM_UP:
            self.found["step"].append(time.perf_counter() - self._resumed_s)
        for name, work in self._works.items():
            took_s = seconds(work, self._device)
            if done > WARM_UP:
                self.found[name].append(took_s)
        self._resumed_s = time.perf_counter()


def measured(
    name: str, steps: int, samples: int | None = None, settings: Settings | None = None, device: str = "auto"
) -> dict[str, object]:
    """The figures of one preset, or of `settings` that are called `name`, of steps of its batch or of `samples`."""
    return figures(name, steps, samples, settings or preset(name), select_device(device))


def figures(name: str, steps: int, samples: int | None, settings: Settings, device: torch.device) -> dict[str, object]:
    """See `measured`."""
    whole, dtype = settings.unet_train, select_precision("auto", device)
    config = replace(whole, batch_size=samples, grad_accum_steps=1) if samples else whole
    columns = int(config.crop_s / COLUMN_S) // 8 * 8
    torch.manual_seed(0)
    unet = UNet(settings.unet, channels=4, games=GAMES, frequencies=torch.logspace(1.5, 4, ROWS)).to(device)
    unet.compute_dtype = dtype
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
    works = {
        "pass": lambda: trial.run(micro),
        "update": update_of(unet, config),
        "convolution": convolution_of(largest.layer, largest.shape, dtype, device),
        "convolutions": convolutions_of(largest, dtype, device),
        "product": product_of(dtype, device),
    }
    if settings.project.compile:
        compile_in_place(unet, device)
    between = Between(works, device)
    with tempfile.TemporaryDirectory() as folder:
        run = Run(Path(folder) / "run", {"network": "unet"}, "")
        run.open()
        never = dict.fromkeys(("report_every", "save_every", "validate_every", "preview_every"), 10**6)
        loop = Loop(
            WithoutPreviews(objective), source, replace(config, steps=steps, **never), run, make_accelerator(device), 0
        )  # type: ignore[arg-type]
        loop.progress = between
        before_s, started_s = others_s(), time.perf_counter()
        loop.fit()
        cores = (time.perf_counter() - started_s) * (os.cpu_count() or 1)
        others = max(0.0, others_s() - before_s) / cores
        saved = between.found["step"]
        save_s = statistics.median(seconds(lambda n=n: save_as(loop, n), device) for n in range(1, 4))  # type: ignore[misc]
        averages = {width: loop.ema.tensors(width) for width in config.ema_widths}
        snapshot_s = statistics.median(
            seconds(lambda n=n: run.save_snapshots(n, averages, 4), device) for n in (1, 2, 3)
        )  # type: ignore[misc]
    medians = {kind: statistics.median(values) for kind, values in between.found.items()}
    step_s, accum = medians["step"], config.grad_accum_steps
    convolution, product = 6 * largest.work / medians["convolution"], 2 * SIDE**3 / medians["product"]
    snapshots = sum(map(is_due, range(1, whole.steps + 1)))
    saving_s = snapshots * snapshot_s + whole.steps // whole.save_every * save_s
    passes, update = accum * medians["pass"] / step_s, medians["update"] / step_s
    batches = whole.batch_size / config.batch_size
    whole_s = batches * (step_s - medians["update"]) + medians["update"]
    return {
        "preset": name,
        "numbers": str(dtype).removeprefix("torch."),
        "parameters": f"{sum(parameter.numel() for parameter in unet.parameters()) / 1e6:.1f} M",
        "batch": f"{accum} x {micro} x 4x{ROWS}x{columns}",
        "step, s (quartiles)": f"{step_s:.3f} ({' to '.join(f'{value:.3f}' for value in quartiles(saved))})",
        "samples/s": f"{config.batch_size / step_s:.2f}",
        "GFLOP/s": f"{flop / step_s / 1e9:.0f}",
        "time of its convolutions alone, of the step's": f"{accum * medians['convolutions'] / step_s:.2f}",
        "of its largest convolution alone": f"{flop / step_s / convolution:.0%} of {convolution / 1e9:.0f}",
        "of a matrix product": f"{flop / step_s / product:.0%} of {product / 1e9:.0f}",
        "forward and backward": f"{passes:.1%}",
        "optimizer, renormalisation, averages": f"{update:.1%}",
        "the same, of a step of the whole batch": f"{medians['update'] / whole_s:.1%} of {whole_s:.3g} s",
        "all else": f"{max(0.0, 1 - passes - update):.1%}",
        "snapshots and checkpoints, of the whole training": f"{saving_s / (whole.steps * whole_s + saving_s):.1%} "
        f"({snapshots} of {snapshot_s:.2f} s, {whole.steps // whole.save_every} of {save_s:.2f} s)",
        "peak memory, MiB": f"{memory_bytes(device) / 2**20:.0f}",
        "cores used by others": f"{others:.0%}",
    }


def save_as(loop: Loop, step: int) -> None:
    """Write a checkpoint, as if after `step` steps."""
    loop.step = step
    loop._save()


def quartiles(values: list[float]) -> list[float]:
    """The first and the third."""
    found = statistics.quantiles(values, n=4) if len(values) > 1 else values * 3
    return [found[0], found[2]]


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", action="append", choices=list(STEPS))
    parser.add_argument("--samples", type=int, help="a step, instead of the preset's whole batch")
    arguments = parser.parse_args()
    device = select_device()
    what = torch.cuda.get_device_name() if device.type == "cuda" else f"{torch.get_num_threads()} threads"
    print(f"# The speed of training\n\n{datetime.date.today().isoformat()}, device {device} ({what}), ", end="")
    print(f"{os.cpu_count()} CPU cores ({torch.backends.cpu.get_cpu_capability()}), torch {torch.__version__}.")
    print(f"`python {' '.join(sys.argv)}`: the UNet, medians over steps.\n")
    columns = [measured(name, STEPS[name], arguments.samples) for name in arguments.preset or ["nano"]]
    for number, key in enumerate(columns[0]):
        print(f"| {key} | {' | '.join(str(column[key]) for column in columns)} |")
        if number == 0:
            print("|---|" + "---|" * len(columns))


if __name__ == "__main__":
    main()
