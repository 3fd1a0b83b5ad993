"""Kill trainings at random moments (SIGKILL), start them again, and compare them with undisturbed ones, byte for byte.

    python benchmarks/resume.py [--kills N] > benchmarks/resume.md

Both trainings, without and with two loader workers, in two micro-batches a step, on a few of the tracks of
examples/music with tiny networks. Each start is a fork of one process that has imported everything; it is killed after
a time drawn at random from 0 to the length of the undisturbed training.
"""

import argparse
import contextlib
import datetime
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch

from dualdiff import cli
from dualdiff.project.settings import open_project, project_toml
from dualdiff.tasks.train import prepare
from dualdiff.training.resume_check import WithoutPreviews
from dualdiff.training.session import with_micro_batch

MUSIC = Path(__file__).resolve().parents[1] / "examples" / "music"
SETTINGS = (
    "vae.base_channels=4",
    "vae.channel_mults=[1,1,1,1]",
    "vae.encoder_blocks=1",
    "vae.decoder_blocks=1",
    "vae.spectral.block_sizes=[8,16]",
    "vae.train.crop_s=0.3",
    "unet.base_channels=8",
    "unet.channel_mults=[1,1]",
    "unet.blocks=1",
    "unet.head_channels=8",
    "unet.embedding_channels=16",
    "unet.train.crop_s=1",
    "encode.offsets=2",
    "dataset.min_duration_s=1",
    *(
        f"{network}.train.{key}"
        for network in ("vae", "unet")
        for key in (
            "steps=24",
            "batch_size=4",
            "grad_accum_steps=2",
            "save_every=3",
            "validate_every=6",
            "report_every=2",
            "warmup_steps=4",
        )
    ),
)


def make_project(folder: Path) -> None:
    """A scanned and encoded project over one track of each game."""
    for game in sorted(path for path in MUSIC.iterdir() if path.is_dir() and any(path.glob("*.ogg"))):
        for track in sorted(game.glob("*.ogg"))[:2]:
            target = folder / "music" / game.name / track.name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(track, target)
    (folder / "dualdiff.toml").write_text(project_toml("nano", "resume"), encoding="utf-8")
    sets = [part for setting in SETTINGS for part in ("--set", setting)]
    for command in (["dataset", "scan"], ["vae", "train"], ["encode"]):
        with contextlib.redirect_stdout(sys.stderr):
            code = cli.run([*command, "--project", str(folder), "-q", *sets])
        if code:
            sys.exit(f"{' '.join(command)} failed")


def trainer(project: Path, network: str, workers: int) -> Callable[[Path], None]:
    """What trains a network from where the run in a folder stands to its end."""

    def train(folder: Path) -> None:
        opened = open_project(project, [*SETTINGS, f"{network}.train.num_workers={workers}"])
        job = prepare(opened, network, folder).job
        job.run.open()
        loop = job.loop(with_micro_batch(job))
        loop.objective = WithoutPreviews(loop.objective)
        loop.fit()

    return train


def kill_after(seconds: float, train: Callable[[Path], None], folder: Path) -> bool:
    """Train in a child process and kill it after so many seconds; tell whether it was still training."""
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 2)
        try:
            train(folder)
        finally:
            os._exit(0)
    timer = threading.Timer(seconds, lambda: os.kill(child, signal.SIGKILL))
    timer.start()
    status = os.waitpid(child, 0)[1]
    timer.cancel()
    timer.join()
    return os.WIFSIGNALED(status)


def state(folder: Path) -> dict[str, bytes]:
    """All that must be equal: the newest checkpoint, the record, the snapshots."""
    newest = max((folder / "checkpoints").iterdir())
    paths = [*newest.iterdir(), folder / "metrics.jsonl", *(folder / "ema").iterdir()]
    return {path.name: path.read_bytes() for path in paths}


def reached(folder: Path) -> int:
    """The step of the newest checkpoint."""
    found = [int(path.name) for path in folder.glob("checkpoints/[0-9]*")]
    return max(found, default=0)


def disturbed(train: Callable[[Path], None], folder: Path, kills: int, length_s: float, seed: str) -> Counter[str]:
    """Trainings killed again and again until so many kills are through; each that ends is compared with `straight`."""
    found: Counter[str] = Counter()
    moments = random.Random(seed)
    while found["kills"] < kills:
        run = folder / "killed"
        while found["kills"] < kills and reached(run) < 24:
            before = reached(run)
            if kill_after(moments.uniform(0, length_s), train, run):
                found["kills"] += 1
                found["kills before the first checkpoint"] += reached(run) == 0
                found["kills that cost no step"] += before > 0 and reached(run) > before
        train(run)
        found["trainings"] += 1
        mine, wanted = state(run), state(folder / "straight")
        found["equal"] += mine == wanted
        for name in sorted(mine.keys() | wanted.keys()):
            if mine.get(name) != wanted.get(name):
                print(f"differs: {name} of {folder.name}", file=sys.stderr)
        shutil.rmtree(run)
    return found


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    kills = parser.parse_args().kills
    torch.set_num_threads(1)
    print(f"# Resuming after kill -9\n\n{datetime.date.today().isoformat()}, torch {torch.__version__}, CPU. ", end="")
    print("`python benchmarks/resume.py`: each training is killed at random moments and started again to its end; then")
    print("weights, optimizer, weight averages, snapshots and metrics are compared with an undisturbed training.\n")
    print("| training | workers | kills | before the first checkpoint | trainings ended | equal, byte for byte |")
    print("|---|---|---|---|---|---|")
    total: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as temporary:
        project = Path(temporary) / "project"
        project.mkdir()
        make_project(project)
        for network in ("vae", "unet"):
            for workers in (0, 2):
                folder = Path(temporary) / f"{network}-{workers}"
                train = trainer(project, network, workers)
                started_s = time.perf_counter()
                train(folder / "straight")
                length_s = time.perf_counter() - started_s
                found = disturbed(train, folder, kills // 4, length_s, f"{network} {workers}")
                total += found
                cells = (found[name] for name in ("kills", "kills before the first checkpoint", "trainings", "equal"))
                print(f"| {network} | {workers} | {' | '.join(map(str, cells))} |", flush=True)
    print(f"\n{total['kills']} kills, {total['trainings']} trainings, {total['equal']} of them equal.")
    sys.exit(0 if total["equal"] == total["trainings"] else 1)


if __name__ == "__main__":
    main()
