"""Everything that a GPU should be measured on, in one command of at most eight minutes; and a training to take away.

    python benchmarks/gpu.py measure [--out DIR] [--preset nano --preset small] [--device cuda] [--seconds 480]
    python benchmarks/gpu.py train LATENTS --vae MODEL [--minutes 8] [--out DIR] [--preset small]

`measure` runs the tests that need a GPU (`pytest -m gpu`), then writes gpu.json and gpu.md: of each preset the
training, compiled and not (samples a second, FLOP against a matrix product in the same run, memory), and the seconds
that 45 s of music take with an untrained model: sampling, the VAE and phase retrieval. What no longer fits into the
time is left out and named. `train` trains a preset on latents that `dualdiff encode` has written and leaves the
averaged weights in half precision, in files of less than 60 MB. Both need dualdiff's dependencies; `tests/test_gpu.py`
rehearses both on a CPU. No figures of a GPU are published yet: none was at hand.
"""

# ruff: noqa: E402 - a process is set up before it imports torch
import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from dualdiff.core.process import settle

settle()

import torch
import train
from safetensors.torch import save_file
from torch import Tensor

from dualdiff.core.device import machine_name, select_device, select_precision
from dualdiff.core.tensors import load_tensors
from dualdiff.formats.base import FORMATS, Format
from dualdiff.generation.pipeline import Pipeline
from dualdiff.generation.request import Request
from dualdiff.model_store.latent_space import LatentSpace
from dualdiff.model_store.model import Model, VAEModel, format_hash, ready
from dualdiff.models.unet import UNet
from dualdiff.models.vae import VAE
from dualdiff.project.settings import Settings, open_project, preset, project_toml
from dualdiff.tasks.train import train as train_network

ROOT = Path(__file__).parents[1]
CLIP_S = 45.0
MOST_BYTES = 58 * 10**6
"""Of a file of weights."""


def untrained(settings: Settings, device: torch.device) -> Pipeline:
    """A pipeline of networks of the settings' size whose weights are random."""
    torch.manual_seed(0)
    dtype = select_precision("auto", device)
    made: Format = FORMATS[settings.format.name](settings.format, device=device)
    vae = VAE(settings.vae, channels=made.channels, frequencies=made.frequencies())
    names = tuple(f"G{number}" for number in range(train.GAMES))
    channels = settings.vae.latent_channels
    unet = UNet(settings.unet, channels=channels, games=len(names), frequencies=vae.latent_frequencies)
    vae_model = VAEModel(ROOT, made, ready(vae, device, dtype), format_hash(made), "")
    space = LatentSpace(mean=(0.0,) * channels, std=(1.0,) * channels, sigma_min=0.03)
    return Pipeline(Model(vae_model, ready(unet, device, dtype), space, names, "", {}), device)


def clip_times(settings: Settings, device: torch.device, length_s: float) -> dict[str, float]:
    """Seconds of each part of one clip, after a first one that is not counted."""
    pipeline = untrained(settings, device)
    codec, request = pipeline.codec, Request(games={"G0": 1.0}, length_s=length_s)
    times: dict[str, float] = {}

    def timed(name: str, work: Callable[[], Any]) -> Any:
        made: list[Any] = []
        times[name] = round(train.seconds(lambda: made.append(work()), device), 4)
        return made[0]

    with torch.inference_mode():
        for _ in range(2):
            latents = timed("sampling", lambda: pipeline.sample([request]))
            restored = codec.space.restore(latents.to(device))
            sample = timed("VAE", lambda restored=restored: codec.vae_model.vae.decode(restored))
            timed("phase retrieval", lambda sample=sample: codec.format.decode(sample))
    return times


def measurements(
    presets: Mapping[str, Settings], device: torch.device, length_s: float, steps: int | None, samples: int | None
) -> Iterator[tuple[str, Callable[[], Mapping[str, object]]]]:
    """What is measured, by name: small networks first."""
    for name, settings in presets.items():
        yield f"{name}: {length_s:g} s of music", lambda s=settings: clip_times(s, device, length_s)
        for compiled in (False, True):
            if compiled and device.type != "cuda":
                continue
            own = replace(settings, project=replace(settings.project, compile=compiled))
            count = steps or train.STEPS[name]
            title = f"{name}: training, {'compiled' if compiled else 'eager'}"
            yield title, lambda s=own, n=name, c=count: train.measured(n, c, samples, s, device.type)


def gpu_tests() -> dict[str, object]:
    """The outcome of the tests that need a GPU."""
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", "tests"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    return {"passed": done.returncode == 0, "last lines": done.stdout.strip().splitlines()[-15:]}


def measure(options: argparse.Namespace) -> int:
    """Measure all that fits into the time, and write it down as it comes."""
    device, started_s = select_device(options.device), time.monotonic()
    presets = {
        name: tiny(preset(name)) if options.tiny else preset(name) for name in options.preset or ["nano", "small"]
    }
    found: dict[str, Any] = {"machine": machine_name(device), "torch": torch.__version__, "left out": []}
    if device.type == "cuda":
        found["tests"] = gpu_tests()
    length_s, steps, samples = (1.0, 4, 2) if options.tiny else (CLIP_S, None, None)
    for name, work in measurements(presets, device, length_s, steps, samples):
        if time.monotonic() - started_s > options.seconds * 0.8:
            found["left out"].append(name)
            continue
        try:
            found[name] = dict(work())
        except (RuntimeError, torch.OutOfMemoryError) as error:
            found[name] = {"failed": str(error).splitlines()[0]}
        write(options.out, found)
    write(options.out, found)
    print(options.out / "gpu.md")
    return 0 if found.get("tests", {"passed": True})["passed"] else 1


def write(folder: Path, found: Mapping[str, Any]) -> None:
    """Write gpu.json and gpu.md."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "gpu.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    lines = ["# On a GPU", "", f"{time.strftime('%Y-%m-%d')}, {found['machine']}, torch {found['torch']}."]
    for name, values in found.items():
        if isinstance(values, dict):
            lines += [
                "",
                f"## {name}",
                "",
                "| | |",
                "|---|---|",
                *(f"| {key} | {own} |" for key, own in values.items()),
            ]
    lines += ["", f"Left out: {', '.join(found['left out']) or 'nothing'}.", ""]
    (folder / "gpu.md").write_text("\n".join(lines), encoding="utf-8")


def tiny(settings: Settings) -> Settings:
    """The settings with the smallest networks, for a rehearsal."""
    vae = replace(settings.vae, base_channels=4, channel_mults=(1, 1, 1, 1), encoder_blocks=1, decoder_blocks=1)
    unet = replace(settings.unet, base_channels=8, channel_mults=(1, 1), blocks=1, embedding_channels=16)
    generate = replace(settings.generate, steps=2)
    return replace(settings, vae=vae, unet=unet, generate=generate, unet_train=replace(settings.unet_train, crop_s=1.1))


def train_for(options: argparse.Namespace) -> int:
    """Train a preset on latents for some minutes, and leave the averaged weights."""
    project = options.out / "project"
    project.mkdir(parents=True, exist_ok=True)
    (project / "dualdiff.toml").write_text(project_toml((options.preset or ["small"])[0], "gpu"), encoding="utf-8")
    places = {"encode.folder": options.latents.resolve(), "encode.vae": options.vae.resolve()}
    overrides = [*(f"{key}={json.dumps(str(path))}" for key, path in places.items()), *options.set]
    opened = open_project(project, [f'project.device="{options.device}"', *overrides])
    result = train_network(opened, "unet", hours=options.minutes / 60)
    for path in parts_of(load_tensors(result.model / "unet.safetensors"), options.out / "weights"):
        print(path)
    for name in ("unet.json", "labels.json", "model.json"):
        shutil.copy(result.model / name, options.out / "weights" / name)
    shutil.copy(result.run / "metrics.jsonl", options.out / "weights" / "metrics.jsonl")
    print(f"{result.steps} steps")
    return 0


def parts_of(tensors: Mapping[str, Tensor], folder: Path, most_bytes: int = MOST_BYTES) -> list[Path]:
    """Write tensors in half precision to as many files as keep each below so many bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    groups: list[dict[str, Tensor]] = [{}]
    for name, tensor in tensors.items():
        half = tensor.half().contiguous()
        if groups[-1] and sum(own.nbytes for own in groups[-1].values()) + half.nbytes > most_bytes:
            groups.append({})
        groups[-1][name] = half
    paths = [folder / f"unet-{number}-of-{len(groups)}.safetensors" for number in range(1, len(groups) + 1)]
    for path, group in zip(paths, groups, strict=True):
        save_file(group, path)
    return paths


def main() -> int:
    """Measure, or train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    one, two = commands.add_parser("measure"), commands.add_parser("train")
    for command in (one, two):
        command.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", "gpu")))
        command.add_argument("--device", default="auto")
        command.add_argument("--preset", action="append", choices=list(train.STEPS))
    one.add_argument("--seconds", type=float, default=480.0)
    one.add_argument("--tiny", action="store_true", help="a rehearsal: the smallest networks, one second of music")
    one.set_defaults(work=measure)
    two.add_argument("latents", type=Path)
    two.add_argument("--vae", type=Path, required=True)
    two.add_argument("--minutes", type=float, default=8.0)
    two.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE")
    two.set_defaults(work=train_for)
    options = parser.parse_args()
    return int(options.work(options))


if __name__ == "__main__":
    sys.exit(main())
