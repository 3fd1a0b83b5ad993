"""What each choice of the UNet and its training is worth: nano size, the same steps for each, several seeds.

    python benchmarks/ablations.py [--seeds 3] [--scale 1.0] [--vaes FOLDER] [--work FOLDER] > benchmarks/ablations.md

For each seed a VAE is trained (or, with `--vaes`, taken from the work folder of vae.py) and the music encoded once;
every variant of the UNet learns the same latents, but for the studies of the latents themselves. Measured is the
weighted denoising error of held-out latents at fixed noise levels and noise, in the mean over levels: 1 is what a
denoiser reaches that knows mean and variance only. Results go into benchmarks/ablations.jsonl, one line a training:
started again, the script goes on where it was. What choices of the VAE and its losses are worth is measured by vae.py.
"""

import argparse
import datetime
import json
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

from trials import Results, Trial, project_at

from dualdiff.core.errors import DataError
from dualdiff.project.settings import Project
from dualdiff.tasks.encode import encode
from dualdiff.tasks.train import train

BASE = "preset"
LATENTS: dict[str, tuple[str, ...]] = {
    "": (),
    "r = 2": ("vae.target_snr=2.0",),
    "r = 32": ("vae.target_snr=32.0",),
    "learned variance": ('vae.latent_variance="learned"',),
    "one time offset": ("encode.offsets=1",),
    "four time offsets": ("encode.offsets=4",),
}
"""Settings of VAE and encoding whose latents differ from those of the preset nano."""
TRAINED = {"r = 2": "r = 2", "r = 32": "r = 32", "learned variance": "learned for each latent"}
"""What vae.py calls these VAEs; all others are its `r = 8`."""
STUDIES: dict[str, dict[str, tuple[str, ...]]] = {
    "Attention and frequency position": {
        BASE: (),
        "separable attention": ('unet.attention="separable"',),
        "no attention": ("unet.attention_levels=0",),
        "no frequency position": ("unet.frequency_position=false",),
        "neither": ("unet.attention_levels=0", "unet.frequency_position=false"),
    },
    "Two dimensions": {BASE: (), "along time alone": ('unet.axes="time"', "unet.base_channels=56")},
    "Noise law": {
        BASE: (),
        "log-normal": ('unet.noise.law="log-normal"',),
        "log-sech": ('unet.noise.law="log-sech"',),
        "log-linear": ('unet.noise.law="log-linear"',),
        "learned early": ("unet.noise.learned_warmup_steps=30",),
    },
    "Stratified noise levels": {BASE: (), "independent": ("unet.noise.stratified=false",)},
    "Weight normalisation": {BASE: (), "after updates only": ("unet.normalise_in_forward=false",)},
    "Latents": {BASE: (), **{name: () for name in LATENTS if name}},
}
"""By study, its variants with the settings of the UNet that differ from the preset nano.

The preset's learned noise law begins as log-linear and is fully its own after 200 steps only.
"""


def settings_of(network: str, steps: int) -> tuple[str, ...]:
    """A training of so many steps, its schedule in proportion."""
    shape = {"warmup_steps": steps // 8, "decay_after_steps": 3 * steps // 5, "save_every": max(steps // 4, 1)}
    shape |= {"preview_every": 10**6, "validate_every": steps, "steps": steps}
    return tuple(f"{network}.train.{name}={value}" for name, value in shape.items())


def latents_of(kind: str, seed: int, scale: float, work: Path, vaes: Path | None) -> Project:
    """The project whose VAE and latents some variants share; made if it is not there."""
    overrides = (*LATENTS[kind], *settings_of("vae", round(150 * scale)), f"project.seed={seed}")
    project = project_at(work / f"latents {kind} {seed}".replace(" ", "-"), overrides)
    if vaes is None:
        train(project, "vae")
    else:
        name = Trial(TRAINED.get(kind, "r = 8"), seed).name
        shutil.copytree(vaes / name / "models" / "vae", project.root / "models" / "vae", dirs_exist_ok=True)
    encode(project)
    return project


def measured(run: Path) -> dict[str, float]:
    """The last denoising errors on held-out latents, by noise level, and their mean."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    key = "validation/denoising/sigma_"
    last = [line for line in lines if any(name.startswith(key) for name in line)][-1]
    errors = {name.removeprefix(key): value for name, value in last.items() if name.startswith(key)}
    errors = {f"sigma {level}": value for level, value in errors.items() if level.replace(".", "").isdigit()}
    return {**errors, "mean": sum(errors.values()) / len(errors)}


def trials(seeds: int) -> list[Trial]:
    """Each variant once, with each seed."""
    variants = {name: settings for study in STUDIES.values() for name, settings in study.items()}
    return [Trial(name, seed, settings) for seed in range(seeds) for name, settings in variants.items()]


def beside_preset(results: Results, variant: str) -> str:
    """The mean error minus that of the preset with the same seed, and so the same latents: median (range)."""
    of = {(row["variant"], row["seed"]): row["measured"].get("mean") for row in results.rows}
    pairs = [(error, of.get((BASE, seed))) for (name, seed), error in of.items() if name == variant]
    found = [error - base for error, base in pairs if error is not None and base is not None]
    if variant == BASE or not found:
        return ""
    return f"{statistics.median(found):+.3f} ({min(found):+.3f} to {max(found):+.3f}; {len(found)})"


def table(results: Results) -> str:
    """A table a study: the difference from the preset, the mean, and each noise level; median over seeds (range)."""
    levels = {name for row in results.rows for name in row["measured"] if name != "mean"}
    levels = sorted(levels, key=lambda name: float(name.removeprefix("sigma ")))
    head = f"| variant | minus preset, same seed ↓ | mean ↓ | {' | '.join(levels)} |"
    lines = []
    for study, variants in STUDIES.items():
        lines += [f"\n## {study}\n", head, f"|---|---|---|{'---|' * len(levels)}"]
        for variant in variants:
            cells = " | ".join(results.cell(variant, level) for level in levels)
            lines.append(
                f"| {variant} | {beside_preset(results, variant)} | {results.cell(variant, 'mean')} | {cells} |"
            )
    return "\n".join(lines)


def main() -> None:
    """Do what is not done, then print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--scale", type=float, default=1.0, help="of the steps of the preset nano")
    parser.add_argument("--vaes", type=Path, help="where vae.py trained its VAEs")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "dualdiff-ablations")
    options = parser.parse_args()
    results = Results(Path(__file__).with_suffix(".jsonl"))

    def measure(trial: Trial) -> dict[str, float]:
        kind = trial.variant if trial.variant in LATENTS else ""
        shared = latents_of(kind, trial.seed, options.scale, options.work, options.vaes)
        own = (
            *trial.settings,
            *settings_of("unet", round(350 * options.scale)),
            f"project.seed={trial.seed}",
            f'encode.vae="{(shared.root / "models" / "vae").as_posix()}"',
            f'encode.folder="{(shared.root / "latents").as_posix()}"',
        )
        try:
            return measured(train(project_at(options.work / trial.name, own), "unet").run)
        except DataError as error:  # the check before the first step refuses latents of a VAE that has not learned yet
            print(f"{trial.name}: {error.message}", file=sys.stderr)
            return {}

    results.run(trials(options.seeds), measure)
    print("# What each choice of the UNet is worth\n")
    print(
        f"{datetime.date.today().isoformat()}, `python benchmarks/ablations.py`: nano size, {options.scale:g} times its"
    )
    print(f"steps, {options.seeds} seeds. Denoising error of held-out latents, median over seeds (range).")
    print("Beside the preset: minus its error with the same seed, whose latents are the same (range; number of seeds).")
    print("Empty: the check before training refused the latents.")
    print(table(results))


if __name__ == "__main__":
    main()
