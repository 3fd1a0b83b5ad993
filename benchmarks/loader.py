"""How long a training step waits for its batch, of latents and of track crops, without workers and with two.

    python benchmarks/loader.py [--steps N] > loader.md

The step itself is a pause of a given length: a GPU computes, the CPU is free. Batches are as large as the preset
`small` has them. Batches with workers are compared with those without, bit for bit.
"""

import argparse
import datetime
import itertools
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from dualdiff import audio
from dualdiff.audio.cache import NEVER_SEEKABLE, Cache
from dualdiff.audio.ffmpeg import Rendering
from dualdiff.core.files import sha256_of
from dualdiff.data.config import Variant
from dualdiff.data.latent_dataset import LatentCrops, LatentFile, LatentIndex, LatentTrack
from dualdiff.data.latent_file import write_latents
from dualdiff.data.loader import BatchSource, load
from dualdiff.data.manifest import Row
from dualdiff.data.waveform_dataset import TrackCrops
from dualdiff.formats.mel import MelFormat
from dualdiff.project.settings import preset

MUSIC = Path(__file__).resolve().parents[1] / "examples" / "music"
WORKERS = (0, 2)
STEPS_S = (0.1, 0.25, 0.5)
TRACKS, TRACK_COLUMNS, OFFSETS = 48, 1875, 8
"""Two-minute tracks, each stored with eight time shifts."""
LIMIT = 0.02
"""Of its time, what a step may wait."""


def latents(folder: Path) -> tuple[BatchSource, int]:
    """Crops of random latents of the shape of real ones, and how many a batch has."""
    settings = preset("small")
    generator = torch.Generator().manual_seed(0)
    tracks = []
    for number in range(TRACKS):
        name = f"{number:032x}.safetensors"
        shifts = [[torch.randn(TRACK_COLUMNS, 4, 32, generator=generator).half()] for _ in range(OFFSETS)]
        write_latents(folder / name, shifts)
        tracks.append(
            LatentTrack(
                path=f"G/{number}.flac",
                game=f"G{number % 4}",
                split="train",
                columns=TRACK_COLUMNS,
                weight_s=120.0,
                audio_sha256="",
                files=(LatentFile(name, ""),),
            )
        )
    index = LatentIndex(
        folder=folder,
        vae="",
        vae_hash="",
        format_hash="",
        offsets=OFFSETS,
        variants=(Variant(),),
        frame_s=0.008,
        frames_per_column=8,
        mean=(0.0,) * 4,
        std=(1.0,) * 4,
        games=("G0", "G1", "G2", "G3"),
        tracks=tuple(tracks),
    )
    columns = int(settings.unet_train.crop_s / 0.064) // 8 * 8
    return LatentCrops(index, "train", columns, seed=0, temperature=0.5), settings.unet_train.batch_size


def as_flac(folder: Path) -> Path:
    """The example music as FLAC of 44.1 kHz, as most collections are."""
    for path in sorted(MUSIC.glob("*/*.ogg")):
        target = folder / "flac" / path.parent.name / f"{path.stem}.flac"
        target.parent.mkdir(parents=True, exist_ok=True)
        audio.write(target, 0.5 * audio.read(path, sample_rate=44100), 44100)
    return folder / "flac"


def track_crops(folder: Path, cache_bytes: int) -> tuple[BatchSource, int]:
    """Crops of the music of a folder, and how many a batch has."""
    settings, made = preset("small"), MelFormat()
    rows = []
    for path in sorted(path for path in folder.glob("*/*") if path.suffix in audio.AUDIO_SUFFIXES):
        info = audio.probe(path)
        copy = ""
        if path.suffix in NEVER_SEEKABLE:  # as a scan does
            cache, name = Cache(folder.parent / "audio-cache"), sha256_of(path)
            cache.store(name, path, Rendering(), 1)
            copy = str(cache.path(name).absolute())
        rows.append(
            Row(
                path=path.relative_to(folder).as_posix(),
                rendered=copy,
                game=path.parent.name,
                state="used",
                split="train",
                duration_s=info.duration_s,
                loudness_lufs=-14.0,
            )
        )
    frames = int(settings.vae_train.crop_s * made.sample_rate / made.hop_length)
    source = TrackCrops(rows, folder, made, frames, seed=0, temperature=0.5, cache_bytes=cache_bytes)
    return source, settings.vae_train.batch_size


def ranges(batch: int) -> Iterator[tuple[int, int]]:
    """A training's requests, without end."""
    return ((step * batch, batch) for step in itertools.count())


def waits(source: BatchSource, batch: int, workers: int, step_s: float, steps: int) -> list[float]:
    """Seconds that each step waits for its batch; the first ones, while workers start, are left out."""
    batches = load(source, ranges(batch), workers)
    found = []
    for step in range(steps + 3):
        start = time.perf_counter()
        next(batches)
        waited = time.perf_counter() - start
        if step >= 3:
            found.append(waited)
        time.sleep(step_s)
    batches.close()
    return found


def are_equal(source: BatchSource, batch: int) -> bool:
    """Whether the first batches are the same, bit for bit, with each number of workers."""
    made = [list(load(source, itertools.islice(ranges(batch), 6), workers)) for workers in WORKERS]
    return all(
        one.names == other.names and all(torch.equal(one.tensors[name], other.tensors[name]) for name in one.tensors)
        for others in made[1:]
        for one, other in zip(made[0], others, strict=True)
    )


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=12)
    steps = parser.parse_args().steps
    print(f"# Waiting for batches\n\n{datetime.date.today().isoformat()}, {os.cpu_count()} CPU cores. ", end="")
    print(f"`python benchmarks/loader.py`: waits of {steps} steps as a share of the step, median / 95 % / longest.\n")
    with tempfile.TemporaryDirectory() as temporary:
        sources = {
            "latents, 32 x 41 s": latents(Path(temporary)),
            "crops, 16 x 4 s, tracks kept decoded": track_crops(MUSIC, 2**30),
            "crops, 16 x 4 s, FLAC read each time": track_crops(as_flac(Path(temporary)), 0),
            "crops, 16 x 4 s, Ogg read each time": track_crops(MUSIC, 0),
        }
        lengths = " | ".join(f"step of {step_s:g} s" for step_s in STEPS_S)
        print(f"| batches | workers | one batch, s | {lengths} |\n|---|---|---|{'---|' * len(STEPS_S)}")
        equal = {name: are_equal(*source) for name, source in sources.items()}
        for (name, (source, batch)), workers in itertools.product(sources.items(), WORKERS):
            if workers == 0:
                source.examples(0, 8 * batch)  # what is kept in memory is there
            alone = statistics.median(waits(source, batch, 0, 0, 5)) if workers == 0 else None
            cells = []
            for step_s in STEPS_S:
                shares = sorted(waited / step_s for waited in waits(source, batch, workers, step_s, steps))
                three = (statistics.median(shares), shares[int(0.95 * (steps - 1))], shares[-1])
                words = " / ".join(f"{share:.1%}" for share in three)
                cells.append(f"**{words}**" if shares[-1] <= LIMIT else words)
            print(f"| {name} | {workers} | {f'{alone:.3f}' if alone else ''} | {' | '.join(cells)} |", flush=True)
    print(f"\nBold: no step waited longer than {LIMIT:.0%} of its time.")
    print(f"Batches with workers equal those without, bit for bit: {'yes' if all(equal.values()) else 'NO'}.")
    sys.exit(0 if all(equal.values()) else 1)


if __name__ == "__main__":
    main()
