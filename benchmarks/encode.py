"""What `encode` costs: time by number of processes, time when nothing or one track changed, memory by track length.

    python benchmarks/encode.py > encode.md

Each figure is one command of its own process or processes, imports included, with the VAE of the preset `nano`,
untrained: training changes no figure. The music is examples/music, and one track put together from it for the memory.
"""

import datetime
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from dualdiff import audio
from dualdiff.core.tensors import tensors_of
from dualdiff.formats.mel import MelFormat
from dualdiff.model_store.model import save_vae
from dualdiff.models.vae import VAE
from dualdiff.project.settings import preset

MUSIC = Path(__file__).resolve().parents[1] / "examples" / "music"
COMMAND = (sys.executable, "-m", "dualdiff")
TWO = (sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "-m", "dualdiff")
MINUTES = (1, 10, 40)
"""Lengths of the tracks whose memory is measured."""


@dataclass(frozen=True)
class Cost:
    """What one command cost."""

    seconds: float
    peak_mib: float


def run(folder: Path, *arguments: str, command: tuple[str, ...] = COMMAND) -> Cost:
    """Run one command in a project, with one thread per process."""
    start = time.perf_counter()
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [*command, *arguments], cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    peak_mib = 0.0
    while process.poll() is None:  # its resource usage would count the memory of this process, which it was forked from
        peak_mib = max(peak_mib, peak_of(process.pid))
        time.sleep(0.05)
    if process.returncode:
        sys.exit(f"{' '.join(arguments)} failed")
    return Cost(time.perf_counter() - start, peak_mib)


def peak_of(pid: int) -> float:
    """The peak memory of a process so far, MiB."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:  # it has just ended
        return 0.0
    return max((int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmHWM")), default=0.0)


def make_project(folder: Path, music: Path) -> Path:
    """A scanned project with an untrained VAE."""
    folder.mkdir(parents=True)
    run(folder, "init", "--preset", "nano", "--name", "encode")
    run(folder, "dataset", "scan", str(music))
    settings, made = preset("nano"), MelFormat()
    torch.manual_seed(0)
    vae = VAE(settings.vae, channels=made.channels, frequencies=made.frequencies())
    save_vae(folder / "models" / "vae", made, vae, tensors_of(vae), {"steps": 0}, "# untrained\n")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    """All files of a folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def times(root: Path) -> None:
    """Print how long the examples take, by processes and by what has changed."""
    music = Path(shutil.copytree(MUSIC, root / "music"))
    project = make_project(root / "one", music)
    audio_s = sum(json.loads(line)["duration_s"] for line in (project / "dataset.jsonl").read_text().splitlines())
    one = run(project, "encode")
    first = contents(project / "latents")
    two = run(project, "encode", "--set", "encode.folder=two", command=TWO)
    equal = first == contents(project / "two")
    again = run(project, "encode")
    track = sorted(music.glob("*/*.ogg"))[0]
    audio.write(track, 0.5 * audio.read(track, sample_rate=32000).flip(-1), 32000)
    run(project, "dataset", "scan")
    changed = run(project, "encode")
    variant = run(project, "encode", "--set", "encode.mirror=true")
    checked = run(project, "encode", "--check", "--set", "encode.mirror=true")
    print(f"{audio_s / 60:.0f} minutes of music, 2 time shifts; all times relative to the first.\n")
    print("| what | time | seconds of music a second |\n|---|---|---|")
    for what, cost, music_s in (
        ("everything, one process", one, audio_s),
        ("everything, two processes", two, audio_s),
        ("nothing changed", again, None),
        ("one of 16 tracks changed", changed, None),
        ("mirrored variants added", variant, audio_s),
        ("all files checked", checked, None),
    ):
        rate = f"{music_s / cost.seconds:.0f}" if music_s else ""
        print(f"| {what} | {cost.seconds / one.seconds:.2f} | {rate} |", flush=True)
    verdict = "yes" if equal else "NO"
    print(f"\nThe first took {one.seconds:.0f} s. Two processes leave the same bytes as one: {verdict}.\n")


def memory(root: Path) -> None:
    """Print the peak memory by the length of the track."""
    print("| longest track, minutes | peak memory, MiB | of its latents alone, MiB |\n|---|---|---|")
    excerpt = audio.read(sorted(MUSIC.glob("*/*.ogg"))[0], sample_rate=32000)
    for minutes in MINUTES:
        music = root / f"music {minutes}"
        (music / "Game").mkdir(parents=True)
        whole = excerpt.repeat(1, minutes * 60 * 32000 // excerpt.shape[-1] + 1)[:, : minutes * 60 * 32000]
        for name in ("one", "two"):
            audio.write(music / "Game" / f"{name}.flac", whole if name == "one" else excerpt, 32000)
        project = make_project(root / f"memory {minutes}", music)
        cost = run(project, "encode", "--set", "encode.offsets=1")
        largest = max(path.stat().st_size for path in (project / "latents").glob("*.safetensors"))
        print(f"| {minutes} | {cost.peak_mib:.0f} | {largest / 2**20:.1f} |", flush=True)


def main() -> None:
    """Measure and print."""
    today = datetime.date.today().isoformat()
    print(f"# Encoding\n\n{today}, {os.cpu_count()} CPU cores. `python benchmarks/encode.py`.\n", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        times(Path(temporary))
        memory(Path(temporary))


if __name__ == "__main__":
    main()
