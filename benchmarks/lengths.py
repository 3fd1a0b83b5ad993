"""What long clips cost: time and peak memory of the whole command at several lengths, as ratios to the shortest.

    python benchmarks/lengths.py MODEL_FOLDER > benchmarks/lengths.md

Each clip is a process of its own, from the shell prompt, on all cores; its peak memory is the most that was resident,
as the kernel counts it. A model with short crops (`unet.train.crop_s`) shows the windows at work. Few steps and draft
quality, so that it stays short: more steps change the time of a clip, not how it grows.
"""

import datetime
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LENGTHS_S, REPEATS = (60, 300, 1200), (3, 3, 1)
FLAGS = ("--steps", "4", "--quality", "draft")


def generated(model: Path, length_s: int, folder: Path, number: int) -> tuple[float, float]:
    """Seconds and peak memory, MiB, of one clip."""
    flags = ["--model", str(model), "--length", str(length_s), *FLAGS, "--name", f"{length_s}-{number}"]
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "dualdiff", "-q", "generate", *flags],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    )
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"a clip of {length_s} s failed")
    return time.perf_counter() - start, usage.ru_maxrss / 1024


def main() -> None:
    """Measure, and print the table."""
    model = Path(sys.argv[1]).resolve()
    found: dict[int, list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as name:
        for length_s, repeats in zip(LENGTHS_S, REPEATS, strict=True):
            found[length_s] = [generated(model, length_s, Path(name), number) for number in range(repeats)]
            print(length_s, found[length_s], file=sys.stderr, flush=True)
    import torch

    from dualdiff.generation.pipeline import Pipeline

    crop = Pipeline.load(model, "cpu").longest
    print("# What long clips cost\n")
    print(f"{datetime.date.today()}, {os.cpu_count()} CPU cores, {torch.backends.cpu.get_cpu_capability()},", end=" ")
    print(f"torch {torch.__version__}; not measured on a GPU. `python benchmarks/lengths.py MODEL_FOLDER`.\n")
    print(
        f"The preset nano, trained on crops of {crop} columns, so that longer clips go through it in windows;", end=" "
    )
    print(f"{FLAGS[1]} steps, draft quality, FLAC, everything from the shell prompt included.\n")
    print("| length | runs | seconds, median | ratio | seconds a minute | peak memory, MiB | more, a minute |")
    print("|---|---|---|---|---|---|---|")
    first_s, first_mib = (statistics.median(own) for own in zip(*found[LENGTHS_S[0]], strict=True))
    for length_s, runs in found.items():
        seconds, mib = (statistics.median(own) for own in zip(*runs, strict=True))
        more = f"{(mib - first_mib) / (length_s - LENGTHS_S[0]) * 60:.0f}" if length_s > LENGTHS_S[0] else ""
        times, pace = f"{seconds / first_s:.2f}", f"{seconds / length_s * 60:.1f}"
        print(f"| {length_s // 60} min | {len(runs)} | {seconds:.1f} | {times} | {pace} | {mib:.0f} | {more} |")


if __name__ == "__main__":
    main()
