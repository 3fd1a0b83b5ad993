"""Does a weight below zero lead away from its game? Shares of games in clips with and without it.

    python benchmarks/negative.py [MODEL] [--steps 12] > benchmarks/negative.md

For each ordered pair of games of the model (the one that ships unless another is named) a clip of the first is written
as it is, and led away from the second by weights of -0.5 and -1; for each game a clip of no game, as it is and led away
from it. The classifier that travels with the model, which was fitted on training tracks, scores the latents of each.
"""

import argparse
import datetime
import itertools
import math
import sys
import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from statistics import mean, median

from dualdiff.evaluation.game_classifier import load_game_classifier
from dualdiff.generation.config import GenerateConfig
from dualdiff.generation.pipeline import Pipeline
from dualdiff.generation.request import Request
from dualdiff.model_store.location import named_model

WEIGHTS = (0.0, -0.5, -1.0)
SEEDS = (1, 2, 3)
LENGTH_S = 8.0
FLOOR = 1e-6

Pairs = list[tuple[float, float]]


def logit(share: float) -> float:
    """The log odds of a share: what a classifier can tell near 0 and 1, too."""
    share = min(max(share, FLOOR), 1 - FLOOR)
    return math.log(share / (1 - share))


def line(name: str, away: Mapping[float, list[float]], kept: Mapping[float, list[float]]) -> list[str]:
    """Rows of a table: a weight each, with the share of the game led away from and that of the game wanted."""
    rows = []
    for weight, shares in away.items():
        moved = [logit(after) - logit(before) for after, before in zip(shares, away[0.0], strict=True)]
        lower = sum(change < 0 for change in moved)
        wanted = f"{mean(kept[weight]):.3f}" if kept else ""
        change = f"{median(moved):+.2f} | {lower} of {len(moved)}" if weight else " | "
        rows.append(f"| {name} | {weight:g} | {mean(shares):.3f} | {median(shares):.3f} | {change} | {wanted} |")
    return rows


def main() -> None:
    """Write the clips, score them, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", type=Path, default=Path("nano"))
    parser.add_argument("--steps", type=int, default=12)
    options = parser.parse_args()
    folder = named_model(options.model)
    pipeline, meter = Pipeline.load(folder), load_game_classifier(folder)
    if meter is None:
        sys.exit("this model has no classifier of its games")
    config = GenerateConfig(steps=options.steps)
    start = time.perf_counter()

    @cache
    def shares(wanted: str, unwanted: str, weight: float, seed: int) -> Mapping[str, float]:
        games = {**({wanted: 1.0} if wanted else {}), **({unwanted: weight} if weight else {})}
        latents = pipeline.sample([Request(games=games, length_s=LENGTH_S, seed=seed, config=config)])
        return meter.shares(pipeline.model.space.restore(latents)[0])

    away: dict[str, dict[float, list[float]]] = {}
    kept: dict[str, dict[float, list[float]]] = {}
    pairs = [*itertools.permutations(pipeline.games, 2), *(("", game) for game in pipeline.games)]
    for wanted, unwanted in pairs:
        kind = "of a game" if wanted else "of no game"
        for seed, weight in itertools.product(SEEDS, WEIGHTS):
            found = shares(wanted, unwanted if weight else "", weight, seed)
            away.setdefault(kind, {}).setdefault(weight, []).append(found[unwanted])
            if wanted:
                kept.setdefault(kind, {}).setdefault(weight, []).append(found[wanted])
        print(f"{wanted}, {unwanted}: {time.perf_counter() - start:.0f} s", file=sys.stderr)
    print(f"# Weights below zero\n\n{datetime.date.today()}, `python benchmarks/negative.py`, on a CPU.")
    print(f"A model of {len(pipeline.games)} games; clips of {LENGTH_S:g} s, seeds {SEEDS}, {config.steps} steps,")
    print(f"guidance {config.cfg_scale:g}. Log odds: of the share of the game led away from, with the weight minus")
    print("without it, same seed and pair; median, and in how many pairs it falls.\n")
    head = (
        "clips",
        "weight",
        "share, mean",
        "share, median",
        "change of log odds",
        "falls in",
        "share of the wanted game",
    )
    print(f"| {' | '.join(head)} |\n{'|---' * len(head)}|")
    for kind, found in away.items():
        print("\n".join(line(kind, found, kept.get(kind, {}))))


if __name__ == "__main__":
    main()
