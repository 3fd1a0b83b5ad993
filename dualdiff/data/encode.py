"""`encode`: every track through the format and the VAE, once, into latents on disk.

A file is named by the hash of all that its content depends on. So a file that is there is the right one, an interrupted
run goes on where it was, and a new VAE's files grow beside the old ones until the index changes to them in one step.
"""

import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from dualdiff import audio
from dualdiff.audio.beat_grid import BeatGrid
from dualdiff.core.errors import DataError
from dualdiff.core.files import TEMPORARY, discard, has_key, hash_of, own_folder, sha256_of
from dualdiff.core.lock import locked
from dualdiff.core.progress import Progress, silent
from dualdiff.core.types import Waveform
from dualdiff.data.config import EncodeConfig, Variant
from dualdiff.data.latent_dataset import INDEX_NAME, VERSION, LatentFile, LatentIndex, LatentTrack
from dualdiff.data.latent_file import facts_of, write_latents
from dualdiff.data.manifest import Row, games_of
from dualdiff.data.waveform_dataset import at_loudness
from dualdiff.formats.base import Format, Transposable
from dualdiff.model_store.autoencoder import TrackEncoder, encoded_chunks

LEAST_STD = 1e-4
"""Channels that vary less than this carry nothing."""

KIND = "latents"
"""What the marker of a folder of latents says."""

_OURS = re.compile(r"[0-9a-f]{32}\.safetensors")


@dataclass(frozen=True)
class Encoded:
    """What `encode_tracks` leaves: the index, and how many tracks this process encoded, of how many in its share."""

    index: LatentIndex
    encoded: int
    share: int


def encode_tracks(
    rows: Sequence[Row],
    music_folder: Path,
    out_folder: Path,
    vae: TrackEncoder,
    config: EncodeConfig,
    progress: Progress = silent,
    rank: int = 0,
    world: int = 1,
    wait_for_all: Callable[[], None] = lambda: None,
    damaged: Collection[str] = (),
    grids: Mapping[str, BeatGrid] | None = None,
) -> Encoded:
    """Make the latents of the used tracks `rows` that are not there yet, then the index of them all.

    Files whose names are in `damaged` count as missing.

    Of several processes, each encodes every `world`-th track; when `wait_for_all` has let all pass, the first one
    writes the index and deletes latents that it no longer names. Progress counts seconds of audio. The folder should be
    `held`. `grids` are the beats of tracks, by path: the index carries them.

    Raises:
        DataError: a track is missing, broken or too short; there is none to train on; the folder holds another kind of
            index; the format has no pitch variants; the VAE gives numbers that are not finite or do not vary.
        DualdiffError: the folder cannot be written to.
    """
    plan = _plan(vae, config)
    if rank == 0:
        _claim(out_folder)
    old = LatentIndex.open(out_folder) if (out_folder / INDEX_NAME).exists() else None
    share = sorted(rows, key=lambda row: row.path)[rank::world]
    jobs = [job for row in share for job in _jobs(row, out_folder, plan, damaged)]
    total_s, done_s = sum(job.row.duration_s for job in jobs), 0.0
    for job in jobs:
        _require_length(job.row, plan)
        _encode(job, music_folder, plan, partial(_tell, progress, done_s, total_s, job.row.path))
        done_s += job.row.duration_s
    wait_for_all()
    if rank == 0:
        index = _index(rows, out_folder, plan, old, grids or {})
        index.write()
        named = {file.name for track in index.tracks for file in track.files}
        others = {path.name for path in out_folder.glob("*.safetensors") if path.name not in named}
        discard(out_folder, _OURS, keep=named | {name for name in others if facts_of(out_folder / name) is None})
        discard(out_folder, TEMPORARY)
    wait_for_all()
    return Encoded(LatentIndex.open(out_folder), len({job.row.path for job in jobs}), len(share))


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Make and mark a folder of latents, and keep other encodings out of it while the block runs.

    Raises:
        DualdiffError: it cannot be written to, or another process encodes there.
    """
    _claim(folder)
    with locked(folder / "encode.lock", f"{folder} is written"):
        yield


def _claim(folder: Path) -> None:
    own_folder(folder, KIND, lambda place: has_key(place / INDEX_NAME, "dualdiff_latents"))


def _tell(progress: Progress, before_s: float, total_s: float, note: str, seconds: float) -> None:
    progress(before_s + seconds, total_s, note)


def file_name(row: Row, vae: TrackEncoder, config: EncodeConfig, variant: Variant) -> str:
    """The name of a file: the hash of the audio, its gain, the format, the VAE, the time shifts and the variant."""
    key = {
        "version": VERSION,
        "audio": row.sha256,
        "loudness_lufs": row.loudness_lufs,
        "format": vae.format_hash,
        "vae": vae.vae_hash,
        "offsets": config.offsets,
        **variant._asdict(),
    }
    return f"{hash_of(key)[:32]}.safetensors"


@dataclass(frozen=True)
class _Plan:
    """What tracks are encoded with, and the format of each pitch."""

    vae: TrackEncoder
    config: EncodeConfig
    formats: Mapping[int, Format]

    @property
    def frame_s(self) -> float:
        return self.vae.format.hop_length / self.vae.format.sample_rate


def _plan(vae: TrackEncoder, config: EncodeConfig) -> _Plan:
    return _Plan(vae, config, {pitch: _at_pitch(vae.format, pitch) for pitch in config.pitch_semitones})


def _at_pitch(made: Format, semitones: int) -> Format:
    if not semitones:
        return made
    if not isinstance(made, Transposable):
        raise DataError(f"the format {made.config.name} has no pitch variants", "set encode.pitch_semitones = [0]")
    return made.transposed(semitones)


@dataclass(frozen=True)
class _Job:
    """What is made in one pass over a track: the files missing of one pitch, by whether they are mirrored."""

    row: Row
    pitch_semitones: int
    paths: Mapping[bool, Path]


def _jobs(row: Row, out_folder: Path, plan: _Plan, damaged: Collection[str]) -> Iterator[_Job]:
    """The passes that a track still needs."""
    paths = {variant: out_folder / file_name(row, plan.vae, plan.config, variant) for variant in plan.config.variants}
    missing = {variant: path for variant, path in paths.items() if path.name in damaged or facts_of(path) is None}
    for pitch in plan.config.pitch_semitones:
        own = {variant.mirrored: path for variant, path in missing.items() if variant.pitch_semitones == pitch}
        if own:
            yield _Job(row, pitch, own)


def _require_length(row: Row, plan: _Plan) -> None:
    frames = plan.vae.format.num_frames(int(row.duration_s * plan.vae.format.sample_rate))
    if frames < plan.vae.reduction + plan.config.offsets - 1:
        raise DataError(f"{row.path} is too short to make latents of", "raise dataset.min_duration_s, then scan again")


def _levelled(path: Path, row: Row, made: Format) -> Iterator[Waveform]:
    """A track at the format's rate and loudness, in blocks of 10 s."""
    for block in audio.blocks_own(path, sample_rate=made.sample_rate, block_s=10.0):
        yield at_loudness(block, row, made.config.loudness_lufs)


def _encode(job: _Job, music_folder: Path, plan: _Plan, done_s: Callable[[float], None]) -> None:
    """Make the files of one pass."""
    fmt = plan.formats[job.pitch_semitones]
    shifts: dict[bool, list[list[Tensor]]] = {
        mirrored: [[] for _ in range(plan.config.offsets)] for mirrored in job.paths
    }
    for chunk in encoded_chunks(
        plan.vae,
        _levelled(music_folder / job.row.source, job.row, fmt),
        format=fmt,
        chunk_s=plan.config.chunk_s,
        offsets=plan.config.offsets,
        mirrored=tuple(job.paths),
    ):
        for (mirrored, offset), latents in chunk.latents.items():
            shifts[mirrored][offset].append(latents.permute(2, 0, 1).half().cpu())
        done_s(chunk.frames * plan.frame_s)
    for mirrored, path in job.paths.items():
        if not write_latents(path, shifts[mirrored]):
            problem = f"the VAE makes numbers of {job.row.path} that are not finite"
            raise DataError(problem, "train it again: dualdiff vae train")


def _index(
    rows: Sequence[Row], out_folder: Path, plan: _Plan, old: LatentIndex | None, grids: Mapping[str, BeatGrid]
) -> LatentIndex:
    """The index of the latents of all rows.

    Raises:
        DataError: some are missing, or there is none to train on.
    """
    tracks, training, hashes = [], [], _Hashes(out_folder, old)
    for row in sorted(rows, key=lambda row: row.path):
        names = [file_name(row, plan.vae, plan.config, variant) for variant in plan.config.variants]
        facts = [_facts_or_refuse(out_folder / name, row) for name in names]
        training += facts if row.split == "train" else []
        files = tuple(hashes.of(name) for name in names)
        columns = min(own["columns"] for own in facts)
        tracks.append(
            LatentTrack(
                path=row.path,
                game=row.game,
                split=row.split,
                columns=columns,
                weight_s=row.weight_s or row.duration_s,
                audio_sha256=row.sha256,
                files=files,
                grid=grids.get(row.path),
            )
        )
    mean, std = _statistics(training)
    return LatentIndex(
        folder=out_folder,
        vae=plan.config.vae,
        vae_hash=plan.vae.vae_hash,
        format_hash=plan.vae.format_hash,
        offsets=plan.config.offsets,
        variants=tuple(plan.config.variants),
        frame_s=plan.frame_s,
        frames_per_column=plan.vae.reduction,
        mean=mean,
        std=std,
        games=tuple(games_of(rows)),
        tracks=tuple(tracks),
    )


def _facts_or_refuse(path: Path, row: Row) -> dict[str, Any]:
    facts = facts_of(path)
    if facts is None:
        raise DataError(f"{path}, the latents of {row.path}, is missing", "run dualdiff encode again")
    return facts


class _Hashes:
    """The hashes and sizes of files of a folder: known from the index before, unless the file was written since."""

    def __init__(self, folder: Path, old: LatentIndex | None) -> None:
        self._folder = folder
        self._known = {file.name: file.sha256 for track in old.tracks for file in track.files} if old else {}
        self._written_ns = (folder / INDEX_NAME).stat().st_mtime_ns if old else 0

    def of(self, name: str) -> LatentFile:
        path = self._folder / name
        status = path.stat()
        is_known = name in self._known and status.st_mtime_ns < self._written_ns
        return LatentFile(name, self._known[name] if is_known else sha256_of(path), status.st_size)


def _statistics(facts: Sequence[dict[str, Any]]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel from the tracks' sums; exact sums, so that no order matters."""
    if not facts:
        raise DataError(
            "no track is for training: there is nothing to normalise latents by", "run dualdiff dataset scan"
        )
    count = sum(own["count"] for own in facts)

    def mean_of(key: str) -> list[float]:
        return [math.fsum(values) / count for values in zip(*(own[key] for own in facts), strict=True)]

    mean, square = mean_of("sum"), mean_of("sum_of_squares")
    std = [math.sqrt(max(0.0, s - m * m)) for m, s in zip(mean, square, strict=True)]
    if min(std) < LEAST_STD:
        raise DataError(
            f"channel {std.index(min(std))} of the latents does not vary: the VAE makes nothing of it",
            "train the VAE longer: dualdiff vae train",
        )
    return tuple(mean), tuple(std)
