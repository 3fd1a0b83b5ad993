"""How often is music flagged as a copy that is none? Tracks of a project shared out anew, other ones held out.

    python benchmarks/copies.py --held-out PROJECT

Each round draws the tracks that are learned from, those to calibrate with and those to test, and counts what of the
last are flagged: excerpts as long as a clip, and tracks with any such excerpt. Besides the product's own rule, which
counts tracks, the one that counts pieces as if they were independent.
"""

import dataclasses
import datetime
import random
import sys
from collections.abc import Sequence
from pathlib import Path

from dualdiff.data.fingerprint_store import prints_path, read_prints
from dualdiff.data.latent_dataset import LatentIndex
from dualdiff.data.manifest import Split
from dualdiff.evaluation.feature_spaces import audio_space, latent_space
from dualdiff.evaluation.memorization import PASSAGE_S, STATED_RATE, Calibration, Reference, calibrate

ROUNDS, LEARNED, CALIBRATE = 30, 0.4, 39
CLIP_S = 8.0
PIECE_RATE = 0.01


def shared_out(index: LatentIndex, learned: Sequence[int], held_out: Sequence[int]) -> LatentIndex:
    """The same latents, with these splits."""
    splits: dict[int, Split] = {**dict.fromkeys(learned, "train"), **dict.fromkeys(held_out, "validation")}
    tracks = [dataclasses.replace(index.tracks[number], split=split) for number, split in splits.items()]
    return dataclasses.replace(index, tracks=tuple(tracks))


def near(project: Path, index: LatentIndex) -> Calibration:
    """How near the held-out tracks come to those that are learned from."""
    latents, _ = latent_space(index)
    heard = audio_space(index, read_prints(prints_path(project)))
    return calibrate(index, [latents, *([heard] if heard else [])])


def pieces(track: Reference, usual: dict[str, float]) -> list[float]:
    """The smallest scaled distance of each piece of a track that is as long as a clip."""
    found = []
    first_s = min(own.starts_s[0] for own in track.passages.values() if own.starts_s)
    for part in range(int(track.length_s / CLIP_S)):
        begin_s = first_s + part * CLIP_S
        inside = [
            distance / usual[space]
            for space, own in track.passages.items()
            for start, distance in zip(own.starts_s, own.distances, strict=True)
            if begin_s - 0.2 <= start <= begin_s + CLIP_S - PASSAGE_S + 0.2
        ]
        found += [min(inside)] if inside else []
    return found


def measure(project: Path) -> None:
    """Draw, count, and print the table."""
    index = LatentIndex.open(project / "latents")
    numbers, draw = list(range(len(index.tracks))), random.Random(0)
    learned = round(LEARNED * len(numbers))
    shares: dict[str, list[tuple[float, bool]]] = {"tracks are counted": [], "pieces are counted": []}
    for turn in range(ROUNDS):
        draw.shuffle(numbers)
        parts = numbers[:learned], numbers[learned : learned + CALIBRATE], numbers[learned + CALIBRATE :]
        known = near(project, shared_out(index, parts[0], parts[1]))
        pooled = [own for track in known.references for own in pieces(track, known.usual)]
        for track in near(project, shared_out(index, parts[0], parts[2])).references:
            scaled = pieces(track, known.usual)
            rules = {
                "tracks are counted": [known.rate(own) <= STATED_RATE for own in scaled],
                "pieces are counted": [
                    (1 + sum(other <= own for other in pooled)) / (1 + len(pooled)) <= PIECE_RATE for own in scaled
                ],
            }
            for rule, flagged in rules.items():
                if flagged:
                    shares[rule].append((sum(flagged) / len(flagged), any(flagged)))
        print(turn, {rule: sum(hit for _, hit in own) for rule, own in shares.items()}, file=sys.stderr)
    print(f"## Music that is no copy\n\n{datetime.date.today()}, on a CPU.", end=" ")
    print("`python benchmarks/copies.py --held-out PROJECT`.\n")
    tested = len(numbers) - learned - CALIBRATE
    print(
        f"{len(numbers)} tracks, {ROUNDS} times shared out: {learned} learned from, {CALIBRATE} to calibrate", end=" "
    )
    print(f"with, {tested} tested. Excerpts of {CLIP_S:g} s; the shares are means over tracks.\n")
    print("| rule | stated rate | excerpts flagged | tracks with a flagged excerpt |\n|---|---|---|---|")
    for rule, stated in zip(shares, (STATED_RATE, PIECE_RATE), strict=True):
        own = shares[rule]
        excerpts, tracks = (sum(values) / len(own) for values in zip(*own, strict=True))
        print(f"| {rule} | {stated:.0%} | {excerpts:.1%} | {tracks:.1%} ({sum(hit for _, hit in own)} of {len(own)}) |")
