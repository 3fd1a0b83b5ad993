"""`encode`: every track through the format and the VAE, once, into latents on disk.

A file is named by the hash of all that its content depends on. So a file that is there is the right one, an interrupted
run goes on where it was, and a new VAE's files grow beside the old ones until the index changes to them in one step.
"""

import json
import math
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from dualdiff import audio
from dualdiff.data.crops import at_loudness
from dualdiff.data.latents import INDEX_NAME, TENSOR, VERSION, EncodeConfig, LatentIndex, LatentTrack
from dualdiff.data.ledger import Row, games_of
from dualdiff.data.windows import windows
from dualdiff.errors import DataError
from dualdiff.files import hash_of, sha256_of, write_bytes_atomically
from dualdiff.formats import Format
from dualdiff.progress import Progress, silent
from dualdiff.types import Latents, Sample, Waveform

GRID = 64
"""Frames that pieces are multiples of, whatever the VAE's reduction (8)."""

FORMAT_CONTEXT_S = 0.5
"""What a piece of audio gets on both sides: more than half of any format's window."""

VAE_CONTEXT = 256
"""Frames that a piece of a sample gets on both sides if the VAE does not say how far it sees."""

LEAST_STD = 1e-4
"""Channels that vary less than this carry nothing."""

METADATA = "dualdiff"
"""The only key of a file's metadata: safetensors writes several in any order, and files are to repeat byte for byte."""

_OURS = re.compile(r"[0-9a-f]{32}\.safetensors")
_TEMPORARY = re.compile(r"\.([0-9a-f]{32}\.safetensors|index\.json)\..+")


class TrackEncoder(Protocol):
    """A format and a VAE that belong together. `context_frames`, how far a latent sees, may be there too."""

    @property
    def format(self) -> Format:
        """The format that makes samples."""

    @property
    def format_hash(self) -> str:
        """What names the format."""

    @property
    def vae_hash(self) -> str:
        """What names the VAE."""

    def encode(self, sample: Sample) -> Latents:
        """(1, 2, F, N) to the mode of its latents, (1, C, F/k, N/k); N is a multiple of k."""


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
) -> Encoded:
    """Make the latents of the used tracks `rows` that are not there yet, then the index of them all.

    Of several processes, each encodes every `world`-th track; when `wait_for_all` has let all pass, the first one
    writes the index and deletes latents that it no longer names. Progress counts seconds of audio.

    Raises:
        DataError: a track is missing, broken or too short; there is none to train on; the folder holds another kind of
            index; the VAE gives numbers that are not finite or do not vary.
        DualdiffError: the folder cannot be written to.
    """
    started_ns = time.time_ns()
    plan = _plan(vae, config)
    old = LatentIndex.open(out_folder) if (out_folder / INDEX_NAME).exists() else None
    share = sorted(rows, key=lambda row: row.path)[rank::world]
    missing = [row for row in share if _facts(out_folder / file_name(row, vae, config)) is None]
    total_s, done_s = sum(row.duration_s for row in missing), 0.0
    for row in missing:
        _require_length(row, plan)
        waveforms = _levelled(music_folder / row.path, row, vae.format)
        latents = _latents(waveforms, plan, partial(_tell, progress, done_s, total_s, row.path))
        _write(out_folder / file_name(row, vae, config), latents, row)
        done_s += row.duration_s
    wait_for_all()
    if rank == 0:
        index = _index(rows, out_folder, plan, old)
        index.write()
        _delete_leftovers(index, started_ns)
    wait_for_all()
    return Encoded(LatentIndex.open(out_folder), len(missing), len(share))


def _tell(progress: Progress, before_s: float, total_s: float, note: str, seconds: float) -> None:
    progress(before_s + seconds, total_s, note)


def file_name(row: Row, vae: TrackEncoder, config: EncodeConfig) -> str:
    """The name of a track's file: the hash of the audio, its gain, the format, the VAE and the variants."""
    key = {
        "version": VERSION,
        "audio": row.sha256,
        "loudness_lufs": row.loudness_lufs,
        "format": vae.format_hash,
        "vae": vae.vae_hash,
        "offsets": config.offsets,
        "mirror": config.mirror,
    }
    return f"{hash_of(key)[:32]}.safetensors"


@dataclass(frozen=True)
class _Plan:
    """How tracks are cut: frames per piece, frames of context, frames per column of latents."""

    vae: TrackEncoder
    config: EncodeConfig
    piece: int
    context: int
    reduction: int

    @property
    def frame_s(self) -> float:
        return self.vae.format.hop_length / self.vae.format.sample_rate


def _plan(vae: TrackEncoder, config: EncodeConfig) -> _Plan:
    made = vae.format
    reach: int = getattr(vae, "context_frames", VAE_CONTEXT)
    probe = vae.encode(torch.zeros(1, made.channels, made.bins, GRID))
    piece = config.chunk_s * made.sample_rate / made.hop_length
    return _Plan(vae, config, _on_grid(piece), _on_grid(reach), GRID // probe.shape[-1])


def _on_grid(frames: float) -> int:
    return max(1, math.ceil(frames / GRID)) * GRID


def _require_length(row: Row, plan: _Plan) -> None:
    frames = plan.vae.format.num_frames(int(row.duration_s * plan.vae.format.sample_rate))
    if frames < plan.reduction + plan.config.offsets - 1:
        raise DataError(f"{row.path} is too short to make latents of", "raise dataset.min_duration_s, then scan again")


def _levelled(path: Path, row: Row, made: Format) -> Iterator[Waveform]:
    """A track at the format's rate and loudness, in blocks of 10 s."""
    for block in audio.blocks(path, sample_rate=made.sample_rate, block_s=10.0):
        yield at_loudness(block, row, made.config.loudness_lufs)


def _samples(waveforms: Iterable[Waveform], plan: _Plan) -> Iterator[Sample]:
    """The sample of a track, (1, 2, F, frames), in pieces."""
    hop = plan.vae.format.hop_length
    for window in windows(waveforms, plan.piece * hop, _on_grid(FORMAT_CONTEXT_S / plan.frame_s) * hop):
        sample = plan.vae.format.encode(window.tensor[None])
        first = window.before // hop
        frames = window.length // hop + window.is_last  # frames are centred: one more than there are hops
        yield sample[..., first : first + frames]


def _latents(waveforms: Iterable[Waveform], plan: _Plan, done_s: Callable[[float], None]) -> Tensor:
    """The latents of a track as a file holds them, (V, N, C, F) in float16."""
    offsets = plan.config.offsets
    variants: list[list[Tensor]] = [[] for _ in range(offsets * (1 + plan.config.mirror))]
    frames = 0
    for window in windows(_samples(waveforms, plan), plan.piece, plan.context):
        first, last = window.before // plan.reduction, (window.before + window.length) // plan.reduction
        for number, columns in enumerate(variants):
            shifted = window.tensor[..., number % offsets :]
            shifted = shifted[..., : shifted.shape[-1] // plan.reduction * plan.reduction]
            latents = plan.vae.encode(shifted.flip(1) if number >= offsets else shifted)
            columns.append(latents[0, :, :, first:last].permute(2, 0, 1).half().cpu())
        frames += window.length
        done_s(frames * plan.frame_s)
    whole = [torch.cat(columns) for columns in variants]
    return torch.stack([columns[: whole[offsets - 1].shape[0]] for columns in whole])


def _write(path: Path, latents: Tensor, row: Row) -> None:
    """Write a track's latents with their sums per channel, of which the index makes means."""
    if not torch.isfinite(latents).all():
        raise DataError(
            f"the VAE makes numbers of {row.path} that are not finite", "train it again: dualdiff vae train"
        )
    values = latents.double()
    facts = {
        "columns": latents.shape[1],
        "count": latents.numel() // latents.shape[2],
        "sum": values.sum(dim=(0, 1, 3)).tolist(),
        "sum_of_squares": values.square().sum(dim=(0, 1, 3)).tolist(),
    }
    write_bytes_atomically(path, save({TENSOR: latents.contiguous()}, {METADATA: json.dumps(facts)}))


def _facts(path: Path) -> dict[str, Any] | None:
    """What a file of ours says of itself; None if it is missing, broken or not ours."""
    try:
        with safe_open(path, "pt") as file:
            facts: dict[str, Any] = json.loads(file.metadata()[METADATA])
            return facts
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return None


def _index(rows: Sequence[Row], out_folder: Path, plan: _Plan, old: LatentIndex | None) -> LatentIndex:
    """The index of the latents of all rows.

    Raises:
        DataError: some are missing, or there is none to train on.
    """
    ordered = sorted(rows, key=lambda row: row.path)
    files = [out_folder / file_name(row, plan.vae, plan.config) for row in ordered]
    facts = [_facts_or_refuse(path, row) for path, row in zip(files, ordered, strict=True)]
    hashes = _hashes(files, old)
    mean, std = _statistics([own for own, row in zip(facts, ordered, strict=True) if row.split == "train"])
    tracks = [
        LatentTrack(
            path=row.path,
            game=row.game,
            split=row.split,
            columns=own["columns"],
            file=path.name,
            sha256=hashes[path.name],
            audio_sha256=row.sha256,
        )
        for row, path, own in zip(ordered, files, facts, strict=True)
    ]
    return LatentIndex(
        folder=out_folder,
        vae=plan.config.vae,
        vae_hash=plan.vae.vae_hash,
        format_hash=plan.vae.format_hash,
        offsets=plan.config.offsets,
        mirror=plan.config.mirror,
        frame_s=plan.frame_s,
        frames_per_column=plan.reduction,
        mean=mean,
        std=std,
        games=tuple(games_of(rows)),
        tracks=tuple(tracks),
    )


def _facts_or_refuse(path: Path, row: Row) -> dict[str, Any]:
    facts = _facts(path)
    if facts is None:
        raise DataError(f"{path}, the latents of {row.path}, is missing", "run dualdiff encode again")
    return facts


def _hashes(files: Sequence[Path], old: LatentIndex | None) -> dict[str, str]:
    """The SHA-256 of each file by name: known from the index before, unless the file was written since."""
    known = {track.file: track.sha256 for track in old.tracks} if old else {}
    written_ns = (old.folder / INDEX_NAME).stat().st_mtime_ns if old else 0
    return {
        path.name: known[path.name] if path.name in known and path.stat().st_mtime_ns < written_ns else sha256_of(path)
        for path in files
    }


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


def _delete_leftovers(index: LatentIndex, started_ns: int) -> None:
    """Delete what the index does not name, if it is ours: other latents, and halves of files from killed runs."""
    named = {track.file for track in index.tracks}
    for path in index.folder.iterdir():
        is_old_latents = _OURS.fullmatch(path.name) and path.name not in named and _facts(path) is not None
        is_half = _TEMPORARY.fullmatch(path.name) and path.stat().st_mtime_ns < started_ns
        if is_old_latents or is_half:
            path.unlink()
