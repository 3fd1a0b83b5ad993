"""Does the music follow the weights? Asked and measured shares of games, over pairs of games and seeds.

    python benchmarks/mix.py MODEL > mix.md

Each clip is written for two games of the model, whose weights go from all of one to all of the other, and scored by the
classifier that travels with the model, which was fitted on training tracks, not on clips.
"""

import datetime
import itertools
import sys
import time
from pathlib import Path
from statistics import median

import torch

from dualdiff.evaluation.game_classifier import load_game_classifier
from dualdiff.generation.config import GenerateConfig
from dualdiff.generation.pipeline import Pipeline
from dualdiff.model_store.autoencoder import latents_of

SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
SEEDS = (1, 2)
LENGTH_S = 8.0
CONFIG = GenerateConfig(quality="draft", loudness_lufs=-20.0)


def spearman(one: list[float], other: list[float]) -> float:
    """The rank correlation; ties share their mean rank."""
    ranks = [torch.tensor([mean_rank(values, value) for value in values]) for values in (one, other)]
    centred = [own - own.mean() for own in ranks]
    return float(torch.nn.functional.cosine_similarity(*centred, dim=0))


def mean_rank(values: list[float], value: float) -> float:
    """The rank of a value among others, from 0; the mean one of those that are equal."""
    return sum(own < value for own in values) + (sum(own == value for own in values) - 1) / 2


def main() -> None:
    """Write the clips, score them, and print the table."""
    pipeline, meter = Pipeline.load(sys.argv[1]), load_game_classifier(Path(sys.argv[1]))
    if meter is None:
        sys.exit("this model has no classifier of its games")
    found: dict[tuple[str, str], list[tuple[float, float, float]]] = {}
    start = time.perf_counter()
    for pair in itertools.combinations(pipeline.games, 2):
        for seed, share in itertools.product(SEEDS, SHARES):
            games = {name: own for name, own in zip(pair, (share, 1 - share), strict=True) if own}
            clip = pipeline.generate(games, length_s=LENGTH_S, seed=seed, config=CONFIG)
            shares = meter.shares(latents_of(pipeline.model.vae_model, [clip.waveform]))
            both = shares[pair[0]] + shares[pair[1]]
            found.setdefault(pair, []).append((share, shares[pair[0]] / both, both))
        print(f"{pair}: {time.perf_counter() - start:.0f} s", file=sys.stderr)
    print(f"# Asked and measured mixes\n\n{datetime.date.today()}, on a CPU (not measured on a GPU).", end=" ")
    print("`python benchmarks/mix.py MODEL`.\n")
    print(
        f"A model of {len(pipeline.games)} games; clips of {LENGTH_S:g} s, seeds {SEEDS}, {CONFIG.steps} steps,",
        end=" ",
    )
    print(f"guidance {CONFIG.cfg_scale:g}.")
    print("Of the classifier: " + "; ".join(f"{key} {value}" for key, value in meter.facts.items()) + ".\n")
    asked_columns = " | ".join(f"asked {share:.0%}" for share in SHARES)
    print(f"| games | {asked_columns} | rank correlation | share of both among all |")
    print("|---|" + "---|" * (len(SHARES) + 2))
    for pair, rows in found.items():
        means = [median(own for asked, own, _ in rows if asked == share) for share in SHARES]
        rank = spearman([asked for asked, _, _ in rows], [own for _, own, _ in rows])
        cells = " | ".join(f"{mean:.2f}" for mean in means)
        print(f"| {pair[0]}, {pair[1]} | {cells} | {rank:.2f} | {median(both for _, _, both in rows):.2f} |")
    every = [row for rows in found.values() for row in rows]
    rank = spearman([asked for asked, _, _ in every], [own for _, own, _ in every])
    print(f"\nRank correlation over all {len(every)} clips: {rank:.2f}.")
    print(
        "\nMeasured is the first game's share of what both have together, median over seeds; chance correlates with 0."
    )


if __name__ == "__main__":
    main()
