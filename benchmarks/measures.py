"""Each measure of music on real music, and on the same music made worse: bars shuffled, transposed, cut up; noise.

    python benchmarks/measures.py PROJECT [--excerpts 12] [--length 18] > benchmarks/measures.md

PROJECT is a folder with a manifest and its music: excerpts are of its held-out tracks, games taking turns. Intervals
are of 90 %, over excerpts. A measure is valid if it tells real music from the change that destroys what it measures.
"""

import argparse
import datetime
import os
import sys
from pathlib import Path

from dualdiff.data.manifest import read_ledger, used
from dualdiff.evaluation.distances import Estimate
from dualdiff.evaluation.excerpts import read_excerpts
from dualdiff.evaluation.music import MEASURES, MusicExcerpt, measured, music_row
from dualdiff.evaluation.shuffling import noise_like, scrambled, with_shuffled_bars, with_transposed_bars
from dualdiff.project.settings import open_project

RATE = 32000
CHANGES = {
    "real music": lambda own, seed: own,
    "bars shuffled": lambda own, seed: with_shuffled_bars(own, RATE, seed),
    "bars transposed": lambda own, seed: with_transposed_bars(own, RATE, seed),
    "both": lambda own, seed: with_transposed_bars(with_shuffled_bars(own, RATE, seed), RATE, seed),
    "cut up at random": lambda own, seed: scrambled(own, RATE, seed),
    "white noise": lambda own, seed: noise_like(own, seed),
}


def shown(value: Estimate | None, places: int) -> str:
    """A value with its interval; empty without one."""
    return "" if value is None else f"{value.value:.{places}f} ({value.low:.{places}f} to {value.high:.{places}f})"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("project", type=Path)
    parser.add_argument("--excerpts", type=int, default=12)
    parser.add_argument("--length", type=float, default=18.0, help="of an excerpt, seconds")
    options = parser.parse_args()
    project = open_project(options.project)
    rows = used(read_ledger(project.ledger), "validation")
    folder = project.path(project.settings.dataset.folder)
    sets = {name: [] for name in CHANGES}
    excerpts = read_excerpts(rows, folder, sample_rate=RATE, length_s=options.length, count=options.excerpts)
    for seed, excerpt in enumerate(excerpts):
        for name, change in CHANGES.items():
            changed = MusicExcerpt(change(excerpt.waveform, seed), RATE, excerpt.track, excerpt.game)
            sets[name].append(measured(changed))
        print(excerpt.track, file=sys.stderr, flush=True)
    found = {name: music_row(name, own, sets["real music"]) for name, own in sets.items()}
    print("# Measures of music on real music, and on the same music made worse\n")
    count = len(sets["real music"])
    print(f"{datetime.date.today().isoformat()}, {os.cpu_count()} cores. {count} excerpts of {options.length:g} s of")
    print("held-out tracks; the mean, and its 90 % interval over excerpts. Distances are to the same music.\n")
    print(f"| measure | {' | '.join(CHANGES)} |\n|---{'|---' * len(CHANGES)}|")
    for key, measure in MEASURES.items():
        cells = [shown(found[name].values.get(key), measure.decimals) for name in CHANGES]
        print(f"| {measure.title} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
