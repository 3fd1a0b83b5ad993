"""How fast `dataset scan` is, against bare `soundfile.read` of the same files in the same run; rescans; memory.

    python benchmarks/scan.py > scan.md

Works in a temporary folder: copies of examples/music as they are (Ogg Vorbis) and as FLAC, which decodes faster and so
leaves the measuring less to hide behind; then a tree of many tiny files, and one long track.
"""

import datetime
import multiprocessing
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile

from dualdiff.data.manifest import DatasetConfig
from dualdiff.data.scan import Scan, scan

MUSIC = Path(__file__).resolve().parents[1] / "examples" / "music"
COPIES = {".ogg": 20, ".flac": 40}
"""Of each of the 16 minutes of music: a scan of a second or two would measure how fast processes start."""
ROUNDS = 3
TREE_FILES, TREE_GAMES = 21500, 1600
LONG_S = 7200
RATE = 32000


def seconds(work: Callable[[], object]) -> float:
    """How long some work takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def copies(folder: Path, suffix: str) -> list[Path]:
    """The music of the examples, several times, as Ogg or FLAC."""
    for path in sorted(MUSIC.rglob("*.ogg")):
        first = folder / path.parent.name / f"{path.stem} 0{suffix}"
        first.parent.mkdir(parents=True, exist_ok=True)
        if suffix == ".ogg":
            shutil.copy(path, first)
        else:
            audio, rate = soundfile.read(path)
            soundfile.write(first, audio.clip(-1, 1), rate)
        for number in range(1, COPIES[suffix]):
            shutil.copy(first, first.with_name(f"{path.stem} {number}{suffix}"))
    return sorted(folder.rglob(f"*{suffix}"))


def read(path: Path) -> int:
    """What scanning is compared with."""
    return len(soundfile.read(path)[0])


def fresh_scan(folder: Path, **options: object) -> Scan:
    """Scan a folder as a new project."""
    project = Path(tempfile.mkdtemp(dir=folder.parent))
    settings = {"folder": str(folder), "min_duration_s": 0.05, "min_loudness_lufs": -70.0, **options}
    return scan(project, DatasetConfig(**settings))  # type: ignore[arg-type]


def read_all(files: list[Path], processes: int) -> None:
    """Read files on all cores."""
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        pool.map(read, files, chunksize=4)
        pool.close()
        pool.join()


def throughput(folder: Path, suffix: str) -> str:
    """A row of the table: the medians of rounds that alternate."""
    files, cores = copies(folder, suffix), len(os.sched_getaffinity(0))
    loops, pools, scans = [], [], []
    for _ in range(ROUNDS):
        loops.append(seconds(lambda: [read(path) for path in files]))
        pools.append(seconds(lambda: read_all(files, cores)))
        scans.append(seconds(lambda: fresh_scan(folder)))
    loop, pool, ours = map(statistics.median, (loops, pools, scans))
    name = f"{'Ogg' if suffix == '.ogg' else 'FLAC'}, {len(files)} files, {len(files) / 60:.1f} h"
    cells = [name, f"{loop:.1f}", f"{pool:.1f}", f"{ours:.1f}", f"{loop / ours:.2f}", f"{pool / ours:.2f}"]
    return f"| {' | '.join(cells)} |"


def tiny_tree(folder: Path) -> None:
    """Many files of a tenth of a second, no two alike."""
    draw = np.random.default_rng(0)
    for number in range(TREE_FILES):
        path = folder / f"Game {number % TREE_GAMES:04d}" / f"{number:05d} track.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, draw.normal(0, 0.1, 800).clip(-1, 1), 8000)


def rescans(folder: Path) -> list[str]:
    """Rows for the first scan of a tree of tiny files, a rescan of it, and the command that does the same."""
    tiny_tree(folder)
    project = folder.parent / "tree project"
    project.mkdir()
    command = [sys.executable, "-m", "dualdiff", "-q"]
    subprocess.run([*command, "init", "--project", project], check=True, stdout=subprocess.DEVNULL)
    settings = [f"folder={folder.as_posix()!r}".replace("'", '"'), "min_duration_s=0.05", "min_loudness_lufs=-70.0"]
    overrides = [part for text in settings for part in ("--set", f"dataset.{text}")]
    config = DatasetConfig(folder=str(folder), min_duration_s=0.05, min_loudness_lufs=-70.0)
    first = seconds(lambda: scan(project, config))
    again = statistics.median(seconds(lambda: scan(project, config)) for _ in range(ROUNDS))
    scan_command = [*command, "dataset", "scan", "--project", project, *overrides]
    whole = seconds(lambda: subprocess.run(scan_command, check=True, stdout=subprocess.DEVNULL))
    names = f"{TREE_FILES} tiny files in {TREE_GAMES} games"
    works = {
        f"first scan of {names}": first,
        "rescan of them, unchanged": again,
        "`dualdiff dataset scan` of them, unchanged, from start to end": whole,
    }
    return [f"| {work} | {took:.1f} |" for work, took in works.items()]


def peak_mib(folder: Path) -> float:
    """The memory of a process of its own that scans a folder."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_scan_and_weigh, (folder,))


def _scan_and_weigh(folder: Path) -> float:
    fresh_scan(folder, max_duration_s=1e6)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def memory(home: Path) -> list[str]:
    """Rows for the memory that a short and a long track take."""
    short, long = home / "short" / "Game", home / "long" / "Game"
    short.mkdir(parents=True)
    long.mkdir(parents=True)
    draw = np.random.default_rng(1)
    for path, minutes in ((short / "a.flac", 1), (long / "a.flac", LONG_S // 60)):
        with soundfile.SoundFile(path, "w", RATE, 2) as file:
            for _ in range(minutes):
                file.write(draw.normal(0, 0.1, (60 * RATE, 2)).clip(-1, 1))
    return [
        f"| a track of 1 minute | {peak_mib(short.parent):.0f} MiB |",
        f"| a track of {LONG_S / 3600:g} hours | {peak_mib(long.parent):.0f} MiB |",
    ]


def flags() -> str:
    """What matters of the processor."""
    try:
        return ", AVX-512" if "avx512f" in Path("/proc/cpuinfo").read_text(encoding="utf-8") else ""
    except OSError:
        return ""


def main() -> None:
    """Print the tables."""
    cores = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        print("# Scanning a collection\n")
        print(f"{datetime.date.today()}, {cores} CPU cores{flags()}. `python benchmarks/scan.py`.\n")
        print(
            f"Seconds, medians of {ROUNDS} rounds in which the three take turns, starts of processes included; then the"
        )
        print("throughput of the scan as a share of that of bare reading: more is better.\n")
        names = ("files", "`soundfile.read`, loop", f"on {cores} cores", "scan", "of loop", f"of {cores} cores")
        print(f"| {' | '.join(names)} |")
        print(f"|{'---|' * len(names)}")
        for suffix in (".ogg", ".flac"):
            print(throughput(home / suffix[1:], suffix), flush=True)
        print("\n| what | seconds |\n|---|---|")
        print("\n".join(rescans(home / "tree")), flush=True)
        print("\n| peak memory of a scan | |\n|---|---|")
        print("\n".join(memory(home)), flush=True)


if __name__ == "__main__":
    main()
