"""How good a model is: distances to held-out music between a floor and ceilings, by game; mixes; copies; cost.

    python benchmarks/nano.py MODEL PROJECT [--clips 200] [--length 12] > benchmarks/nano.md

MODEL is a model's folder, PROJECT the folder with the ledger and the latents that it was trained on. Distances are in
the features of a music tagger (`dualdiff.evaluation.embedding`), a row for each three seconds, everything at one
loudness, and over equally many rows in each line of a table. Intervals are of 90 %, over tracks and clips.
"""

import argparse
import datetime
import itertools
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from dualdiff import audio
from dualdiff.core.progress import silent
from dualdiff.core.types import Waveform
from dualdiff.data.fingerprint_store import prints_path, read_prints
from dualdiff.data.latent_dataset import LatentIndex
from dualdiff.data.manifest import Row, read_ledger, used
from dualdiff.evaluation.distances import Estimate, frechet, kernel, with_interval
from dualdiff.evaluation.embedding import embed
from dualdiff.evaluation.feature_spaces import audio_space, fingerprint, latent_space
from dualdiff.evaluation.game_classifier import load_game_classifier
from dualdiff.evaluation.memorization import MemorizationTest
from dualdiff.evaluation.metrics import METRICS, spectral_flatness
from dualdiff.evaluation.vae_reconstruction import reconstruction
from dualdiff.generation.pipeline import Clip, Pipeline
from dualdiff.project.settings import Project, open_project

LOUDNESS_LUFS = -16.0
MOST_OF_A_TRACK_S = 60.0
"""Of each track the middle so long: more of one track tells little."""
LEAST_ROWS = 16
"""Distances of fewer rows say nothing."""
ONE_CLIP_S = 45.0
RECONSTRUCTION = ("spectral_convergence", "log_mel_distance", "chroma_cosine", "onset_correlation")

Groups = list[Tensor]
"""The features of some music, (N, D) for each track or clip."""


@dataclass(frozen=True)
class Made:
    """A clip, what was asked for, and its features."""

    asked: Mapping[str, float]
    clip: Clip
    features: Tensor


def features_of(waveform: Waveform, sample_rate: int) -> Tensor:
    """The features (N, D) of music at the loudness that all is compared at."""
    return embed(audio.levelled(waveform, sample_rate, LOUDNESS_LUFS), sample_rate)


def features_of_tracks(rows: Iterable[Row], folder: Path, sample_rate: int) -> Groups:
    """The features of the middles of some tracks."""
    found = []
    for row in rows:
        start_s = max(row.duration_s - MOST_OF_A_TRACK_S, 0) / 2
        music = audio.read(folder / row.path, sample_rate=sample_rate, start_s=start_s, duration_s=MOST_OF_A_TRACK_S)
        found.append(features_of(music, sample_rate))
    return found


def thinned(groups: Groups, rows: int) -> Groups:
    """At most so many rows of some groups, evenly from all."""
    numbers = torch.cat([torch.full((len(group),), number) for number, group in enumerate(groups)])
    if len(numbers) <= rows:
        return groups
    kept = torch.linspace(0, len(numbers) - 1, rows).round().long()
    every, of = torch.cat(groups)[kept], numbers[kept]
    return [every[of == number] for number in of.unique()]


def compared(name: str, groups: Groups, reference: Groups, rows: int) -> str:
    """A line of a table of distances."""
    if rows < LEAST_ROWS:
        return f"| {name} | {rows} | too few rows | |"
    one, other = thinned(groups, rows), thinned(reference, rows)
    cells = [shown(with_interval(distance, one, other)) for distance in (frechet, kernel)]
    return f"| {name} | {sum(map(len, one))} | {cells[0]} | {cells[1]} |"


def shown(estimate: Estimate) -> str:
    """A distance with its interval."""
    return f"{estimate.value:.2f} ({estimate.low:.2f} to {estimate.high:.2f})"


def halves(rows: Sequence[Row]) -> tuple[list[int], list[int]]:
    """Every other track, and the rest, by number."""
    return list(range(0, len(rows), 2)), list(range(1, len(rows), 2))


def requests(games: Sequence[str], clips: int) -> Iterator[dict[str, float]]:
    """What is asked for, so many times: three of four times one game, else two of them, half each."""
    pairs = itertools.cycle(itertools.combinations(games, 2)) if len(games) > 1 else None
    singles = itertools.cycle(games)
    for number in range(clips):
        yield dict.fromkeys(next(pairs), 0.5) if pairs and number % 4 == 3 else {next(singles): 1.0}


def generate(pipeline: Pipeline, clips: int, length_s: float) -> list[Made]:
    """The clips that are judged: seeds count up from 0."""
    made = []
    for seed, asked in enumerate(requests(pipeline.games, clips)):
        clip = pipeline.generate(asked, length_s=length_s, seed=seed)
        made.append(Made(asked, clip, features_of(clip.waveform, clip.sample_rate)))
        print(f"clip {seed + 1} of {clips}", file=sys.stderr, flush=True)
    return made


def noise(clips: int, length_s: float, sample_rate: int) -> Groups:
    """Features of white noise, as many clips."""
    found = []
    for seed in range(clips):
        generator = torch.Generator().manual_seed(seed)
        found.append(features_of(torch.randn(2, round(length_s * sample_rate), generator=generator) * 0.1, sample_rate))
    return found


def latents_of(pipeline: Pipeline, clip: Clip) -> Tensor:
    """The latents (C, F, N) of a clip as the VAE makes them, at the loudness that it knows."""
    loudness = getattr(pipeline.format.config, "loudness_lufs", LOUDNESS_LUFS)
    waveform = audio.levelled(clip.waveform, clip.sample_rate, loudness)
    return pipeline.model.space.restore(pipeline.encode(waveform))[0].cpu().float()


def mix_table(pipeline: Pipeline, folder: Path, made: Sequence[Made]) -> list[str]:
    """What was asked for and what a classifier of latents hears, by request."""
    meter = load_game_classifier(folder)
    if meter is None:
        return ["The model has no classifier of mixes."]
    heard: dict[str, list[dict[str, float]]] = {}
    errors = []
    for one in made:
        shares = meter.shares(latents_of(pipeline, one.clip))
        heard.setdefault(" + ".join(f"{weight:.0%} {game}" for game, weight in one.asked.items()), []).append(shares)
        errors.append(sum(abs(shares.get(game, 0) - one.asked.get(game, 0)) for game in meter.games) / 2)
    lines = [f"| asked | clips | {' | '.join(meter.games)} |", "|---" * (len(meter.games) + 2) + "|"]
    for asked, found in heard.items():
        means = [statistics.mean(shares[game] for shares in found) for game in meter.games]
        lines.append(f"| {asked} | {len(found)} | {' | '.join(f'{mean:.0%}' for mean in means)} |")
    facts = ", ".join(f"{name}: {value}" for name, value in meter.facts.items() if "held-out" in name)
    chance = 1 - 1 / len(meter.games)
    told = f"On average {statistics.mean(errors):.0%} of a clip is heard as something else, {chance:.0%} by chance"
    return [*lines, "", f"{told}. The classifier: {facts}."]


def copies(project: Project, pipeline: Pipeline, made: Sequence[Made]) -> str:
    """How many of the clips are flagged as copies of training music."""
    index = LatentIndex.open(project.path(project.settings.encode.folder))
    space, into = latent_space(index)
    heard = audio_space(index, read_prints(prints_path(project.root)))
    finder = MemorizationTest(index, [space, heard] if heard else [space])
    found = []
    for one in made:
        series = {space.name: into(latents_of(pipeline, one.clip))}
        if heard:
            series[heard.name] = fingerprint(one.clip.waveform, one.clip.sample_rate)
        found.append(finder.find(series, one.clip.waveform.shape[-1] / one.clip.sample_rate))
    flagged, stated = sum(one.flagged for one in found), max(one.stated_rate for one in found)
    return (
        f"{flagged} of {len(found)} clips ({flagged / len(found):.1%}) are flagged as copies; of music that is no copy "
        f"{stated:.1%} would be, at most. Looked for in: {', '.join(finder.spaces)}."
    )


def reconstruction_table(pipeline: Pipeline, paths: Sequence[Path]) -> list[str]:
    """What the VAE loses beyond the format, on held-out music."""
    rows = reconstruction(paths, pipeline.model.vae_model, duration_s=10.0, progress=silent)
    arrows = [f"{METRICS[name].title} {'↑' if METRICS[name].higher_is_better else '↓'}" for name in RECONSTRUCTION]
    lines = [f"| way | {' | '.join(arrows)} |", "|---" * (len(arrows) + 1) + "|"]
    for row in rows:
        lines.append(f"| {row.name} | {' | '.join(f'{row.metrics[name]:.3f}' for name in RECONSTRUCTION)} |")
    return lines


def cost(folder: Path) -> str:
    """Seconds and memory to write one clip, as a process of its own, as a user would."""
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, "-m", "dualdiff", "generate", "--model", str(folder.resolve()), "--out", out]
        started_s = time.perf_counter()
        process = subprocess.Popen([*command, "--length", f"{ONE_CLIP_S:g}"], cwd=out, stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started_s
    if status:
        sys.exit("generate failed")
    return f"{ONE_CLIP_S:g} s of audio take {seconds:.1f} s, imports included, and {usage.ru_maxrss / 1024:.0f} MiB."


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("project", type=Path)
    parser.add_argument("--clips", type=int, default=200)
    parser.add_argument("--length", type=float, default=12.0, help="of a clip, seconds")
    options = parser.parse_args()
    project = open_project(options.project)
    pipeline = Pipeline.load(options.model)
    rate = pipeline.format.sample_rate
    rows = used(read_ledger(project.ledger))
    music = project.music(rows)
    features = dict(zip((row.path for row in rows), features_of_tracks(rows, music, rate), strict=True))
    made = generate(pipeline, options.clips, options.length)

    def of(chosen: Iterable[Row]) -> Groups:
        return [features[row.path] for row in chosen]

    held_out, training = used(rows, "validation"), used(rows, "train")
    count = min(sum(map(len, of(held_out))), sum(len(one.features) for one in made))
    threads = f"{torch.get_num_threads()} threads, device {pipeline.device}, torch {torch.__version__}"
    machine = f"{os.cpu_count()} cores, {threads}, Python {platform.python_version()}"
    flatness = [spectral_flatness(one.clip.waveform) for one in made]
    print(f"# {options.model.name}: how near it comes to the music it learned from\n")
    print(f"{datetime.date.today().isoformat()}, {machine}.")
    print(f"Model {pipeline.model.unet_hash[:12]}, {pipeline.model.facts.get('steps')} steps. {len(made)} clips of")
    print(f"{options.length:g} s; {len(held_out)} held-out tracks, {len(training)} tracks trained on.\n")
    print(f"Spectral flatness of the clips: median {statistics.median(flatness):.3f} (white noise: 1).\n")
    header = "| FAD ↓ | KAD ↓ |\n|---|---|---|---|"
    print(f"## Distance to held-out music\n\n| what | rows {header}")
    print(compared("floor: the music trained on", of(training), of(held_out), count))
    print(compared("clips of the model", [one.features for one in made], of(held_out), count))
    print(compared("ceiling: white noise", noise(16, 3.0 * 16, rate), of(held_out), count))
    print("\n## By game: distance to the music of the game\n")
    print(f"| what | rows {header}")
    for game in pipeline.games:
        own, others = ([row for row in rows if (row.game == game) is same] for same in (True, False))
        asked = [one.features for one in made if one.asked == {game: 1.0}]
        first, second = ([features[own[number].path] for number in numbers] for numbers in halves(own))
        count = min(sum(map(len, asked)), sum(map(len, first)), sum(map(len, second)))
        print(compared(f"{game}: floor, half of its tracks and the other half", first, second, count))
        print(compared(f"{game}: clips of the model", asked, of(own), count))
        print(compared(f"{game}: ceiling, music of the other games", of(others), of(own), count))
    print("\n## The mix: asked and heard\n")
    print("\n".join(mix_table(pipeline, options.model, made)))
    print(f"\n## Copies\n\n{copies(project, pipeline, made)}")
    print("\n## The VAE against the format alone, on held-out music\n")
    print("\n".join(reconstruction_table(pipeline, [music / row.path for row in held_out])))
    print(f"\n## Cost\n\n{cost(options.model)} Not measured on a GPU.")


if __name__ == "__main__":
    main()
