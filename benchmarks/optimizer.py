"""Adam as EDM2 has it, and as it was before: loss curves of the UNet's first steps, nano size, on the same latents.

    python benchmarks/optimizer.py [--seeds 3] [--steps 60] [--work FOLDER] > benchmarks/optimizer.md

Before: an epsilon of 1e-8 beside a loss that is a mean over elements, a learning rate one step ahead, weights not
normalised before the first step. The music of examples/ is encoded once, by the VAE of the model that ships. A third
row leaves the normalisation of weights to the updates (`unet.normalise_in_forward = false`).
"""

import argparse
import contextlib
import datetime
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

from trials import project_at

from dualdiff.model_store.location import ASSETS
from dualdiff.tasks.encode import encode
from dualdiff.tasks.train import train
from dualdiff.training import loop, optimizer

VAE = f'encode.vae="{(ASSETS / "nano").as_posix()}"'
SMALLER = ("unet.train.batch_size=8", "unet.train.crop_s=2.048", "unet.train.preview_every=100000")
VARIANTS = {"before": (), "as EDM2": (), "as EDM2, after updates only": ("unet.normalise_in_forward=false",)}
EVERY = 5


@contextlib.contextmanager
def as_before() -> Iterator[None]:
    """The optimizer as it was."""
    rate, renormalise, called = loop.learning_rate, loop.renormalise, []

    def not_at_first(model: Any) -> None:
        if called:
            renormalise(model)
        called.append(True)

    with (
        mock.patch.object(optimizer, "EPSILON", 1e-8),
        mock.patch.object(loop, "learning_rate", lambda done, *others: rate(done + 1, *others)),
        mock.patch.object(loop, "renormalise", not_at_first),
    ):
        yield


def settings(seed: int, run: str, steps: int) -> tuple[str, ...]:
    """A training of so many steps, its schedule in proportion."""
    shape = {"warmup_steps": steps // 6, "decay_after_steps": 3 * steps // 5, "save_every": steps, "steps": steps}
    shape |= {"validate_every": steps, "report_every": EVERY, "run": f'"{run}"'}
    return (f"project.seed={seed}", *(f"unet.train.{name}={value}" for name, value in shape.items()))


def trained(work: Path, variant: str, seed: int, steps: int) -> tuple[list[float], float]:
    """The denoising error of each few steps, and that of held-out latents at the end."""
    run = f"{variant}-{seed}".replace(" ", "-").replace(",", "")
    project = project_at(work, (VAE, *SMALLER, *VARIANTS[variant], *settings(seed, run, steps)))
    record = project.root / "runs" / run / "metrics.jsonl"
    with as_before() if variant == "before" else contextlib.nullcontext():
        train(project, "unet")
    lines = [json.loads(line) for line in record.read_text(encoding="utf-8").splitlines()]
    key = "validation/denoising/sigma_"
    (last,) = [line for line in lines if any(name.startswith(key) for name in line)][-1:]
    held_out = [value for name, value in last.items() if name.startswith(key)]
    return [line["denoising"] for line in lines if "denoising" in line], sum(held_out) / len(held_out)


def main() -> None:
    """Train each variant with each seed, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "dualdiff-optimizer")
    options = parser.parse_args()
    encode(project_at(options.work, (VAE, "encode.offsets=1")))
    found = {}
    for seed in range(options.seeds):
        for variant in VARIANTS:
            found[variant, seed] = trained(options.work, variant, seed, options.steps)
            print(f"{variant}, seed {seed}: {found[variant, seed][1]:.4f}", file=sys.stderr, flush=True)
    print(
        f"# Adam as EDM2 has it\n\n{datetime.date.today()}, `python benchmarks/optimizer.py --steps {options.steps}`:"
    )
    print("nano size, batches of 8 crops of 2 s. Denoising error of training (mean of 5 steps), median of")
    print(
        f"{options.seeds} seeds; held out: averaged weights, mean over noise levels; minus before: same seed (range).\n"
    )
    shown = range(1, options.steps // EVERY, 2)
    columns = [f"step {EVERY * (index + 1)}" for index in shown]
    print(f"| variant | {' | '.join(columns)} | held out | minus before |\n{'|---' * (len(columns) + 3)}|")
    for variant in VARIANTS:
        own = [found[variant, seed] for seed in range(options.seeds)]
        curve = [f"{median(errors[index] for errors, _ in own):.3f}" for index in shown]
        change = [own[seed][1] - found["before", seed][1] for seed in range(options.seeds)]
        cells = [*curve, f"{median(error for _, error in own):.4f}"]
        print(f"| {variant} | {' | '.join(cells)} | {median(change):+.4f} ({min(change):+.4f} to {max(change):+.4f}) |")


if __name__ == "__main__":
    main()
