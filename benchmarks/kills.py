"""Kill, hang up and cut off every command that writes, at random moments; then look at the files and run it again.

    python benchmarks/kills.py [--kills 40] [--endings 10] > benchmarks/kills.md

Commands: scan, encode, the trainings of VAE and UNet, a training that exports over an existing model, and generate; on
a few tracks of examples/music with tiny networks. Each start is a fork of one process that has imported everything.

* SIGKILL after a random time: the files that were whole before must be whole after it, the user's own files unchanged,
  and the next run must complete.
* SIGHUP after a random time: the same, and a training must have saved: the next run begins at or after its step.
* A reader of stdout and stderr that goes away after a random time: the command must complete.
"""

import argparse
import datetime
import hashlib
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
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import torch

from dualdiff import audio, cli
from dualdiff.data.latent_dataset import LatentIndex
from dualdiff.data.manifest import read_ledger
from dualdiff.generation.recipe import read_recipe
from dualdiff.model_store.model import load_model, load_vae
from dualdiff.project.settings import project_toml

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
    "generate.steps=2",
    *(f"{network}.train.{key}" for network in ("vae", "unet") for key in ("batch_size=2", "grad_accum_steps=1")),
    *(f"{network}.train.{key}" for network in ("vae", "unet") for key in ("save_every=2", "validate_every=3")),
    *(f"{network}.train.{key}" for network in ("vae", "unet") for key in ("report_every=1", "preview_every=100")),
)
STEPS = 6
OWN_FILES = ("rendered/mine.flac", "runs/unet/.git/HEAD", "runs/unet/.notes", "clips/mine.txt", "models/unet/notes.txt")
"""Files of the user's in folders where the program writes."""


@dataclass(frozen=True)
class Stage:
    """A command, the commands that come before it, and the arguments that it is run with."""

    name: str
    before: tuple[tuple[str, ...], ...]
    command: tuple[str, ...]


SCAN, VAE, ENCODE, UNET = ("dataset", "scan"), ("vae", "train"), ("encode",), ("unet", "train")
LONGER = (*UNET, "--set", f"unet.train.steps={STEPS + 2}")
GENERATE = ("generate", "--length", "0.6", "--count", "3", "--seed", "1")
STAGES = (
    Stage("scan", (SCAN,), (*SCAN, "--rebuild")),
    Stage("vae train", (SCAN,), VAE),
    Stage("encode", (SCAN, VAE), ENCODE),
    Stage("unet train", (SCAN, VAE, ENCODE), UNET),
    Stage("export over a model", (SCAN, VAE, ENCODE, UNET), LONGER),
    Stage("generate", (SCAN, VAE, ENCODE, UNET), GENERATE),
)


def command(project: Path, words: tuple[str, ...]) -> list[str]:
    """The arguments of a command in a project, with the settings of this script."""
    sets = [part for setting in SETTINGS for part in ("--set", setting)]
    steps = [part for kind in ("vae", "unet") for part in ("--set", f"{kind}.train.steps={STEPS}")]
    return [*words[:2], "--project", str(project), *sets, *steps, *words[2:]]


def run(project: Path, words: tuple[str, ...]) -> int:
    """Run a command here, in silence."""
    with open(os.devnull, "w", encoding="utf-8") as null, redirect_stdout(null):
        return cli.run([*command(project, words), "-q"])


def new_project(folder: Path) -> Path:
    """A project over one track of each game, with files of the user's in it."""
    for game in sorted(path for path in MUSIC.iterdir() if path.is_dir() and any(path.glob("*.ogg"))):
        track = sorted(game.glob("*.ogg"))[0]
        waveform = audio.read(track, sample_rate=32000, start_s=8.0, duration_s=4.0)
        (folder / "music" / game.name).mkdir(parents=True)
        audio.write(folder / "music" / game.name / f"{track.stem}.flac", 0.5 * waveform, 32000)
    for name in OWN_FILES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"the user's own")
    (folder / "dualdiff.toml").write_text(project_toml("nano", "kills"), encoding="utf-8")
    return folder


def own_files(project: Path) -> dict[str, str]:
    """The hashes of the files that are the user's."""
    paths = [*(project / "music").rglob("*.flac"), project / "dualdiff.toml", *(project / name for name in OWN_FILES)]
    return {
        path.relative_to(project).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in paths
        if path.exists()
    }


CHECKS: dict[str, Callable[[Path], object]] = {
    "dataset.jsonl": lambda project: read_ledger(project / "dataset.jsonl"),
    "models/vae": lambda project: load_vae(project / "models" / "vae"),
    "latents/index.json": lambda project: LatentIndex.open(project / "latents"),
    "models/unet/model.json": lambda project: load_model(project / "models" / "unet"),
    "clips": lambda project: [read_recipe(path) for path in (project / "clips").glob("*.flac")],
}
"""Readers of the results of each stage, by a path that is there when the result is."""


def broken(project: Path, results: set[str]) -> list[str]:
    """The results, of those that were whole before, that cannot be read."""
    found = []
    for name in sorted(results | ({"clips"} if (project / "clips").exists() else set())):
        try:
            CHECKS[name](project)
        except Exception as error:  # noqa: BLE001 - whatever it is, the result is broken
            found.append(f"{name}: {error}")
    return found


def results_of(project: Path) -> set[str]:
    """The results that are there."""
    return {name for name in CHECKS if name != "clips" and (project / name).exists()}


def start(project: Path, words: tuple[str, ...], outlet: int) -> int:
    """Run a command in a child whose stdout and stderr go to the file descriptor `outlet`; returns its process."""
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        os.dup2(outlet, 1)
        os.dup2(outlet, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
        code = 99
        try:
            code = cli.run(command(project, words))
        finally:
            os._exit(code)
    return child


def ended(child: int, moment_s: float, act: Callable[[int], None], limit_s: float = 300.0) -> int:
    """Do something to a child after a time, and wait for its end; returns its wait status, or -1 where it hangs."""
    timers = [threading.Timer(moment_s, act, [child]), threading.Timer(limit_s, os.killpg, [child, signal.SIGKILL])]
    started_s = time.monotonic()
    for timer in timers:
        timer.start()
    status = os.waitpid(child, 0)[1]
    for timer in timers:
        timer.cancel()
        timer.join()
    return -1 if time.monotonic() - started_s >= limit_s else status


def killed(child: int) -> None:
    """Kill a child and the processes that it has started."""
    os.killpg(child, signal.SIGKILL)


def hung_up(child: int) -> None:
    """Tell a child that its terminal is gone."""
    os.kill(child, signal.SIGHUP)


def trial(stage: Stage, template: Path, folder: Path, how: str, moment_s: float) -> list[str]:
    """Disturb one run of a stage; returns what is wrong after it."""
    shutil.copytree(template, folder)
    own, results = own_files(folder), results_of(folder)
    reader, writer = os.pipe()
    outlet = writer if how == "closed pipe" else os.open(os.devnull, os.O_WRONLY)
    child = start(folder, stage.command, outlet)
    os.close(outlet)
    acts: dict[str, Callable[[int], None]] = {
        "SIGKILL": killed,
        "SIGHUP": hung_up,
        "closed pipe": lambda child: os.close(reader),
    }
    if how != "closed pipe":
        os.close(reader)
        os.close(writer)
    status = ended(child, moment_s, acts[how])
    wrong = [f"{name} changed or is gone" for name, sha in own.items() if own_files(folder).get(name) != sha]
    wrong += broken(folder, results)
    code = os.waitstatus_to_exitcode(status) if status >= 0 else None
    if code is None:
        wrong.append("hangs")
    elif how != "SIGKILL" and code not in ((0,) if how == "closed pipe" else (0, 130, -signal.SIGHUP)):
        wrong.append(f"exit code {code}")
    again = run(folder, stage.command)
    if again:
        wrong.append(f"the next run fails with exit code {again}")
    wrong += broken(folder, results | results_of(folder))
    shutil.rmtree(folder)
    return wrong


def templates(folder: Path) -> dict[str, Path]:
    """A project as it stands before each stage."""
    found = {}
    for stage in STAGES:
        project = new_project(folder / stage.name)
        for words in stage.before:
            if code := run(project, words):
                sys.exit(f"{' '.join(words)} fails with exit code {code}")
        found[stage.name] = project
    return found


def main() -> int:
    """Disturb all stages and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=40, help="kills of each command")
    parser.add_argument("--endings", type=int, default=10, help="SIGHUPs and closed pipes of each command")
    options = parser.parse_args()
    torch.set_num_threads(1)
    counts = {"SIGKILL": options.kills, "SIGHUP": options.endings, "closed pipe": options.endings}
    print(f"# Kills, closed terminals and closed pipes ({datetime.date.today().isoformat()})\n")
    print(f"`python benchmarks/kills.py --kills {options.kills} --endings {options.endings}`, CPU. Whole: the user's")
    print("files unchanged, results that were whole still whole, and the next run completes.\n")
    print("| command | " + " | ".join(f"{how}: whole" for how in counts) + " |\n|---|---|---|---|")
    failures: list[str] = []
    with tempfile.TemporaryDirectory() as temporary:
        ready = templates(Path(temporary) / "ready")
        for stage in STAGES:
            scratch = Path(temporary) / "scratch"
            shutil.copytree(ready[stage.name], scratch)
            started_s = time.monotonic()
            run(scratch, stage.command)
            length_s = time.monotonic() - started_s
            shutil.rmtree(scratch)
            whole: Counter[str] = Counter()
            for how, count in counts.items():
                draw = random.Random(f"{stage.name} {how}")
                for number in range(count):
                    wrong = trial(stage, ready[stage.name], Path(temporary) / "trial", how, draw.uniform(0, length_s))
                    whole[how] += not wrong
                    failures += [f"{stage.name}, {how} {number}: {problem}" for problem in wrong]
                    for problem in wrong:
                        print(failures[-1] if problem else "", file=sys.stderr, flush=True)
            cells = " | ".join(f"{whole[how]} of {count}" for how, count in counts.items())
            print(f"| {stage.name} | {cells} |", flush=True)
    print("\n" + ("Nothing failed." if not failures else "## Failures\n\n" + "\n".join(f"* {x}" for x in failures)))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
