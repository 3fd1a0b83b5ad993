"""What each choice of the VAE is worth, on held-out tracks: nano size, the same time for each, several seeds.

    python benchmarks/vae.py [--seconds 90] [--seeds 3] [--work FOLDER] > benchmarks/vae.md
    python benchmarks/vae.py --seconds 360 --seeds 1 --only "r = 8" "point-wise" --results benchmarks/vae-long.jsonl

Each variant is trained for as many steps as fit into the same seconds of one core, by the pace of its first steps.
Seconds are of processor time on one thread, so that what else the machine does changes little. Results go into
benchmarks/vae.jsonl, one line a training: started again, the script goes on where it was. A longer training of fewer
variants has a file of results of its own.
"""

import argparse
import datetime
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from trials import MUSIC, Results, Trial, project_at

from dualdiff.data.manifest import read_ledger, used
from dualdiff.evaluation.metrics import METRICS
from dualdiff.evaluation.vae_reconstruction import reconstruction
from dualdiff.model_store.model import load_vae
from dualdiff.project.settings import Project
from dualdiff.tasks.train import train

EXCERPT_S = 8.0
PACE_STEPS = 8
"""Steps by which the pace is measured; the first half warms up."""
NO_PHASE = "vae.spectral.phase_weight=0.0"
PRIMES = "vae.spectral.block_sizes=[11,13,17,19,23,29,31]"
STUDIES: dict[str, dict[str, tuple[str, ...]]] = {
    "Precision of the latents (r)": {
        f"r = {r}": (f"vae.target_snr={r}.0",) if r != 8 else () for r in (2, 4, 8, 16, 32)
    },
    "Reconstruction loss": {
        "r = 8": (),
        "point-wise": ('vae.loss.reconstruction="point"',),
        "prime-width blocks": (PRIMES,),
        "blocks on a fixed grid": ("vae.spectral.random_offset=false",),
    },
    "Phase term": {"r = 8": (), "without the phase term": (NO_PHASE,)},
    "Variance of the latents": {"r = 8": (), "learned for each latent": ('vae.latent_variance="learned"',)},
    "Frequency position": {"r = 8": (), "without frequency position": ("vae.frequency_position=false",)},
}
"""By study, its variants with the settings that differ from the preset nano, which is `r = 8`."""
SHOWN = ("multi_resolution_stft", "log_mel_distance", "chroma_cosine", "onset_correlation", "coherence_error")


def settings_of(steps: int) -> tuple[str, ...]:
    """A training of so many steps, its schedule in proportion, without what is not measured here."""
    shape = {"warmup_steps": steps // 8, "decay_after_steps": 2 * steps // 3, "save_every": max(steps // 4, 1)}
    shape |= {"preview_every": 10**6, "validate_every": 10**6, "steps": steps}
    return tuple(f"vae.train.{name}={value}" for name, value in shape.items())


def steps_within(seconds: float, trial: Trial, work: Path) -> int:
    """How many steps of a trial fit into some seconds of processor time."""
    times: list[float] = []
    folder = work / "pace" / trial.name
    train(
        project_at(folder, (*trial.settings, *settings_of(PACE_STEPS))),
        "vae",
        lambda done, total, note="": times.append(time.process_time()),
    )
    paces = [
        after - before for before, after in zip(times[PACE_STEPS // 2 :], times[PACE_STEPS // 2 + 1 :], strict=False)
    ]
    return max(PACE_STEPS, int(seconds / statistics.median(paces)))


def measured(project: Project) -> dict[str, float]:
    """The measures of held-out excerpts through the trained VAE, and of the format alone with `format ` before."""
    rows = used(read_ledger(project.ledger), "validation")
    paths = [MUSIC / row.path for row in rows]
    alone, through = reconstruction(paths, load_vae(project.root / "models" / "vae"), duration_s=EXCERPT_S)
    return {**{f"format {name}": value for name, value in alone.metrics.items()}, **through.metrics}


def trials(seeds: int, only: Sequence[str] = ()) -> list[Trial]:
    """Each variant once, with each seed; of some variants, in the order they are named."""
    variants = {name: settings for study in STUDIES.values() for name, settings in study.items()}
    return [Trial(name, seed, variants[name]) for seed in range(seeds) for name in only or variants]


def table(results: Results) -> str:
    """A table a study: the median over seeds, and the range."""
    titles = " | ".join(f"{METRICS[name].title} {'↑' if METRICS[name].higher_is_better else '↓'}" for name in SHOWN)
    lines = []
    for study, variants in STUDIES.items():
        lines += [f"\n## {study}\n", f"| variant | steps | {titles} |", f"|---|---|{'---|' * len(SHOWN)}"]
        alone = " | ".join(f"{results.values('r = 8', f'format {name}')[0]:.3f}" for name in SHOWN)
        lines.append(f"| the format alone | | {alone} |")
        for variant in variants:
            if not results.values(variant, "steps"):
                continue
            cells = " | ".join(results.cell(variant, name) for name in SHOWN)
            lines.append(
                f"| {variant}{' (preset)' if variant == 'r = 8' else ''} | ",
            )
            lines[-1] += f"{results.cell(variant, 'steps', 0)} | {cells} |"
    return "\n".join(lines)


def main() -> None:
    """Do what is not done, then print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=90.0, help="of one core, to train each variant")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="+", default=[], metavar="VARIANT", help="these, not all; r = 8 among them")
    parser.add_argument("--results", type=Path, default=Path(__file__).with_suffix(".jsonl"))
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "dualdiff-vae-study")
    options = parser.parse_args()
    torch.set_num_threads(1)
    results = Results(options.results)

    def measure(trial: Trial) -> dict[str, float]:
        steps = steps_within(options.seconds, trial, options.work)
        project = project_at(
            options.work / trial.name, (*trial.settings, *settings_of(steps), f"project.seed={trial.seed}")
        )
        train(project, "vae")
        return {"steps": steps, "seconds": options.seconds, **measured(project)}

    results.run(trials(options.seeds, options.only), measure)
    print("# What each choice of the VAE is worth\n")
    today = datetime.date.today().isoformat()
    print(f"{today}, `python benchmarks/vae.py`: nano size, {options.seconds:g} s of one core to")
    print(f"train each variant, {options.seeds} seeds; measured on {EXCERPT_S:g} s of each held-out track.")
    print("Median over seeds (range).")
    print(table(results))
    sys.stdout.flush()


if __name__ == "__main__":
    main()
