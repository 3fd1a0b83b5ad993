"""What a run takes on the disk, at most and at its end, next to its weights: python benchmarks/disk.py [PRESET ...].

Writes the checkpoints, snapshots and models of each preset's UNet at the steps of its training, with random weights in
place of learned ones, and adds up the files after each write; files with several names count once.
"""

import argparse
import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from dualdiff.core.tensors import save_tensors, tensors_of
from dualdiff.formats.base import FORMATS
from dualdiff.models.unet import UNet
from dualdiff.models.vae import VAE
from dualdiff.project.settings import preset
from dualdiff.training.ema import snapshots
from dualdiff.training.preflight import disk_needed
from dualdiff.training.run_folder import Checkpoint, Run

MIB = 2**20


def size_of(folder: Path) -> int:
    """The bytes of all weights below a folder."""
    files = {path.stat().st_ino: path.stat().st_size for path in folder.rglob("*.safetensors")}
    return sum(files.values())


def fresh(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies, since safetensors refuses tensors that share their memory."""
    return {name: tensor.clone() for name, tensor in tensors.items()}


def measure(name: str) -> tuple[int, int, int, int]:
    """The bytes of a preset's weights, of its run at most and at its end, and what is said before the first step."""
    settings = preset(name)
    fmt, config = FORMATS[settings.format.name](settings.format), settings.unet_train
    vae = VAE(settings.vae, channels=fmt.channels, frequencies=fmt.frequencies())
    unet = UNet(settings.unet, channels=vae.config.latent_channels, games=4, frequencies=vae.latent_frequencies)
    weights = tensors_of(unet)
    parameters = {key: value.detach() for key, value in unet.named_parameters()}
    moments = {f"exp_avg{kind}.{key}": value for kind in ("", "_sq") for key, value in fresh(parameters).items()}
    averages = {f"{width:.3f}/{key}": value for width in config.ema_widths for key, value in fresh(parameters).items()}
    kept = snapshots.stored_widths(config.ema_widths, config.export_ema_width)
    with tempfile.TemporaryDirectory(prefix="dualdiff-disk-") as temporary:
        run, most = Run(Path(temporary) / "runs", {}, ""), 0
        run.open()
        steps = sorted({*range(config.save_every, config.steps + 1, config.save_every), config.steps})[-6:]
        due = [step for step in range(steps[0] // 12, config.steps + 1) if snapshots.is_due(step)]
        for step in sorted({*steps, *due}):
            if step in due:
                run.save_snapshots(step, dict.fromkeys(kept, parameters), config.keep_ema_snapshots)
            if step in steps:
                groups = {"model": weights, "optimizer": moments, "ema": averages}
                run.save(Checkpoint(step, groups, {}), config.keep_checkpoints)
            most = max(most, size_of(Path(temporary)))
        for place in ("models/unet", "runs/exports/0123456789ab"):
            save_tensors(Path(temporary) / place / "unet.safetensors", weights)
        most = max(most, size_of(Path(temporary)))
        (Path(temporary) / "runs/exports/0123456789ab/unet.safetensors").unlink()
        count = sum(value.numel() for value in parameters.values())
        return 4 * count, most, size_of(Path(temporary)), disk_needed(count, config)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("presets", nargs="*", default=["nano"])
    torch.manual_seed(0)
    print("| preset | weights, MiB | at the end | at most | reckoned before the first step |")
    print("|---|---|---|---|---|")
    for name in parser.parse_args().presets:
        weights, most, end, needed = measure(name)
        shown = (f"{value / MIB:.0f} ({value / weights:.1f} x)" for value in (end, most, needed))
        print(f"| {name} | {weights / MIB:.1f} | {' | '.join(shown)} |")


if __name__ == "__main__":
    main()
