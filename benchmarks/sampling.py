"""How far each sampler is from the converged solution, by evaluations of the network: the default is the knee.

    python benchmarks/sampling.py MODEL_FOLDER > benchmarks/sampling.md

The same seeds, games and guidance throughout; only sampler and steps vary. A distance is the RMS of the difference of
latents over the RMS of the converged ones, which Heun reaches in `CONVERGED` steps: 0 is the same, 1.41 is unrelated.
A default belongs at the knee of the curve: beyond it, steps buy less than what the numbers inside the network round
away. MODEL_FOLDER is one that was trained, such as demo/models/unet after `make demo`.
"""

import dataclasses
import datetime
import statistics
import sys

import torch

from dualdiff.core.types import Latents
from dualdiff.generation.config import GenerateConfig
from dualdiff.generation.pipeline import Pipeline
from dualdiff.generation.request import Request

LENGTH_S = 4.0
SEEDS = range(4)
CONVERGED = 128
"""Steps of Heun, two evaluations each, that count as converged; half of them say how nearly."""
EVALUATIONS = (8, 12, 16, 20, 24, 32, 64)
EACH_STEP = {"dpmpp_2m": 1, "heun": 2, "euler": 1}
"""Evaluations of a step."""
EDM_RHO = 7.0
"""The spacing of steps that EDM recommends, for Heun."""


def requests(pipeline: Pipeline, config: GenerateConfig) -> list[Request]:
    """One request a seed, each for a mix of two games that follow each other."""
    games = pipeline.games
    mixes = [{games[seed % len(games)]: 0.7, games[(seed + 1) % len(games)]: 0.3} for seed in SEEDS]
    return [
        Request(games=mix, length_s=LENGTH_S, seed=seed, config=config) for seed, mix in zip(SEEDS, mixes, strict=True)
    ]


def sampled(pipeline: Pipeline, config: GenerateConfig) -> list[Latents]:
    """The latents of each seed, each sampled alone."""
    return [pipeline.sample([request]).float() for request in requests(pipeline, config)]


def distance(some: list[Latents], others: list[Latents]) -> float:
    """The median over seeds of the relative RMS distance."""
    return statistics.median(
        float((one - other).norm() / other.norm()) for one, other in zip(some, others, strict=True)
    )


def main() -> None:
    """Measure and print the table as Markdown."""
    folder = sys.argv[1]
    exact = Pipeline.load(folder, device="cpu", precision="float32")
    rounded = Pipeline.load(folder, device="cpu", precision="bfloat16")
    base = GenerateConfig()
    columns = [
        ("dpmpp_2m", base.rho),
        ("dpmpp_2m", EDM_RHO),
        ("heun", base.rho),
        ("heun", EDM_RHO),
        ("euler", base.rho),
    ]
    print("# Samplers, by distance to the converged solution\n")
    print(f"{datetime.date.today()}, `python benchmarks/sampling.py {folder}`, torch {torch.__version__}.\n")
    told = f"{len(SEEDS)} seeds, clips of {LENGTH_S:g} s, guidance {base.cfg_scale:g}, medians"
    print(f"{told}.")
    print(f"Converged: heun with {2 * CONVERGED} evaluations, rho {EDM_RHO:g}, float32.\n")
    heading = " | ".join(f"{sampler}, rho {rho:g}" for sampler, rho in columns)
    print(f"| evaluations | {heading} | the first in bfloat16, to itself in float32 |")
    print("|---" * (len(columns) + 2) + "|")
    reference = dataclasses.replace(base, sampler="heun", rho=EDM_RHO)
    converged = sampled(exact, dataclasses.replace(reference, steps=CONVERGED))
    found: dict[tuple[str, float, int], float] = {}
    for evaluations in EVALUATIONS:
        for sampler, rho in columns:
            steps = evaluations // EACH_STEP[sampler]
            config = dataclasses.replace(base, sampler=sampler, rho=rho, steps=steps)
            found[sampler, rho, evaluations] = distance(sampled(exact, config), converged)
        config = dataclasses.replace(base, sampler="dpmpp_2m", steps=evaluations)
        rounding = distance(sampled(rounded, config), sampled(exact, config))
        row = [f"{found[sampler, rho, evaluations]:.4f}" for sampler, rho in columns]
        print(f"| {evaluations} | {' | '.join(row)} | {rounding:.4f} |", flush=True)
    half = sampled(exact, dataclasses.replace(reference, steps=CONVERGED // 2))
    best_heun = min(found["heun", rho, 64] for rho in (base.rho, EDM_RHO))
    ratio = found["dpmpp_2m", base.rho, 16] / best_heun
    print(f"\nHeun with {CONVERGED} evaluations is {distance(half, converged):.4f} from that with twice as many.")
    print(f"dpmpp_2m with 16 evaluations is {ratio:.2f} times as far away as the nearer heun with 64.")
    print(f"The default is dpmpp_2m with {base.steps} steps, rho {base.rho:g}.")


if __name__ == "__main__":
    main()
