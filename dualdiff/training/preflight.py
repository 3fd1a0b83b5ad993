"""Before the first step: what would make a training end in noise, in a full disk or out of memory is said at once."""

import logging
import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from dualdiff.core.errors import DataError, DualdiffError
from dualdiff.core.files import sha256_of
from dualdiff.data.latent_dataset import ENCODE, INDEX_NAME, LatentFile, LatentIndex
from dualdiff.data.loader import Batch
from dualdiff.data.manifest import Row
from dualdiff.model_store.latent_space import SIGMA_DATA
from dualdiff.models.vae import VAE
from dualdiff.training.config import TrainConfig
from dualdiff.training.ema.snapshots import stored_widths
from dualdiff.training.loop import Trial
from dualdiff.training.memory import divisors, free_bytes, memory_bytes, out_of_memory, saved_bytes

log = logging.getLogger(__name__)

SILENT_DB = -80.0
"""A crop below this has no sound in it."""

FACTOR_WARNED, FACTOR_REFUSED = 1.5, 4.0
"""How far the size of latents may be from the design, either way."""


def require_sound(batch: Batch) -> None:
    """Refuse waveforms of which not one has sound in it.

    Raises:
        DataError: so it is.
    """
    waveform = batch.tensors["waveform"]
    rms = float(waveform.square().mean((1, 2)).sqrt().max())
    level_db = 20 * math.log10(max(rms, 1e-10))
    if level_db < SILENT_DB:
        raise DataError(
            f"the first {len(batch)} crops are silent: the loudest has {level_db:.0f} dB (from {batch.names[0]} on)",
            "listen to these tracks; `dualdiff dataset scan` leaves out what it finds silent",
        )


def require_same_music(rows: Sequence[Row], folder: Path) -> None:
    """Compare all tracks below the music `folder` with the manifest: sizes and times, and hashes where these differ.

    Raises:
        DataError: some are missing or hold other audio; names the first, and says how many there are.
    """
    wrong = [(folder / row.file, problem) for row in rows if (problem := _problem_of(row, folder))]
    if wrong:
        path, problem = wrong[0]
        others = f" (and {len(wrong) - 1} more of {len(rows)} tracks)" if len(wrong) > 1 else ""
        raise DataError(f"{path} {problem}{others}", "`dualdiff dataset scan` brings the manifest up to date")


def _problem_of(row: Row, folder: Path) -> str:
    """What is wrong with the audio of a row; empty if nothing is. The hash of a tune is not that of its file."""
    path = folder / row.file
    try:
        status = path.stat()
    except OSError:
        return "is missing"
    if row.rendered and not Path(row.rendered).is_file():
        return "has lost its copy in the cache"
    is_known = (status.st_size, status.st_mtime_ns) == (row.bytes, row.mtime_ns)
    if is_known or (path.is_file() and sha256_of(path) == row.sha256):
        return ""
    return "has changed since it was scanned"


def require_design(index: LatentIndex, vae: VAE) -> None:
    """Compare the size of all latents with what the VAE was designed for: modes of RMS r/sqrt(r^2 + 1), mean 0.

    Raises:
        DataError: they are far from it.
    """
    mean, std = torch.tensor(index.mean), torch.tensor(index.std)
    found = float((mean.square() + std.square()).mean().sqrt())
    wanted = math.sqrt(1 - vae.noise_std**2)
    words = f"the latents in {index.folder} have RMS {found:.3g}, their VAE is designed for {wanted:.3g}"
    factor = max(found / wanted, wanted / max(found, 1e-12))
    if factor > FACTOR_REFUSED or not math.isfinite(found):
        raise DataError(words, "train the VAE for longer, or with a larger vae.loss.kl_weight, then encode anew")
    if factor > FACTOR_WARNED or float(mean.abs().max()) > 1:
        log.warning("%s (means per channel up to %.2g): the VAE may be undertrained", words, float(mean.abs().max()))


def require_scale(batch: Batch, index: LatentIndex) -> None:
    """Refuse normalised latents (B, C, F, N) of another size than the index's statistics make of its own files.

    Raises:
        DataError: they are silent (they do not change over time), or their scale is another.
    """
    latents = batch.tensors["latents"]
    moving = float(latents.std(dim=3).mean()) if latents.shape[3] > 1 else math.inf
    if moving < 0.01 * SIGMA_DATA:
        raise DataError(
            f"the first {len(batch)} crops of latents are silent: they do not change over time "
            f"(from {batch.names[0]} on)",
            "listen to these tracks; take silent ones out of the music folder, scan and encode again",
        )
    found = float(latents.square().mean().sqrt())
    if not SIGMA_DATA / 3 < found < SIGMA_DATA * 3:
        raise DataError(
            f"wrong scale: the latents in {index.folder} come out with RMS {found:.3g} where {SIGMA_DATA:g} is meant",
            f"the mean and std in {index.folder / 'index.json'} are not those of its files: delete it, then {ENCODE}",
        )


def require_hashes(index: LatentIndex) -> None:
    """Compare all files of latents with the index: their sizes and times, and where these differ their hashes.

    Raises:
        DataError: one is missing or differs.
    """
    written_ns = (index.folder / INDEX_NAME).stat().st_mtime_ns
    for track in index.tracks:
        for file in track.files:
            place = index.folder / file.name
            is_there = place.is_file()
            if is_there and is_as_indexed(place, file, written_ns):
                continue
            problem = "is not what was written" if is_there else "is missing"
            hint = "`dualdiff encode --repair` makes again what is missing or changed"
            raise DataError(f"{place}, the latents of {track.path}, {problem}", hint)


def is_as_indexed(path: Path, file: LatentFile, written_ns: int) -> bool:
    """Return whether a file is the one of the index: unchanged since `written_ns`, the time of the index, or equal."""
    status = path.stat()
    is_known = status.st_mtime_ns < written_ns and status.st_size == file.bytes
    return is_known or sha256_of(path) == file.sha256


@dataclass(frozen=True)
class Costs:
    """What a training will take."""

    step_s: float
    memory_bytes: int
    disk_bytes: int
    free_disk_bytes: int

    def words(self, config: TrainConfig, steps: int) -> str:
        """One line for the user."""
        return (
            f"{steps:,} steps of about {self.step_s:.3g} s take about {span(steps * self.step_s)}; a step computes "
            f"{config.batch_size} examples{_in_parts(config.grad_accum_steps)}; memory: {size(self.memory_bytes)}; "
            f"disk: {size(self.disk_bytes)} at most, {size(self.free_disk_bytes)} are free"
        )


def _in_parts(count: int) -> str:
    return f", in {count} micro-batches one after the other" if count > 1 else ""


def size(count: float) -> str:
    """A number of bytes in words, with two or three figures."""
    units = iter(("bytes", "kB", "MB", "GB"))
    unit = next(units)
    while count >= 999.5 and unit != "GB":
        count, unit = count / 1000, next(units)
    return f"{count:,.0f} {unit}" if count >= 99.5 or unit == "bytes" else f"{count:.3g} {unit}"


def span(seconds: float) -> str:
    """A length of time in words."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def disk_needed(parameters: int, config: TrainConfig) -> int:
    """The most bytes that a run and its model take on the disk, with what is being written (float32)."""
    widths = len(config.ema_widths)
    checkpoint = 1 + 2 + widths  # weights, Adam's two moments, averages
    checkpoints = checkpoint * max(config.keep_checkpoints, 2)  # the oldest goes before the next is written
    stored = len(stored_widths(config.ema_widths, config.export_ema_width))
    snapshots = stored * (config.keep_ema_snapshots + 1)
    models = 2  # the exported one, and the one that it replaces, which is kept
    return 4 * parameters * (checkpoints + snapshots + models)


def require_disk(folder: Path, model: nn.Module, config: TrainConfig) -> tuple[int, int]:
    """Compare what the run will write with what is free; returns both in bytes.

    Raises:
        DualdiffError: the disk is too small.
    """
    needed = disk_needed(sum(parameter.numel() for parameter in model.parameters()), config)
    stored = [path for place in ("checkpoints", "ema") for path in (folder / place).rglob("*.safetensors")]
    there = sum(path.stat().st_size for path in stored)
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if needed - there > free:
        raise DualdiffError(
            f"the disk of {folder} has {size(free)} free, and this training needs "
            f"{size(needed - there)} more for its checkpoints and weight averages",
            "free some space, or lower keep_checkpoints, keep_ema_snapshots or the number of ema_widths",
        )
    return needed, free


def require_memory(section: str, trial: Trial, config: TrainConfig, micro: int) -> None:
    """On a CPU, where the system kills what takes too much: reckon the memory of a step before it is taken.

    Raises:
        DualdiffError: a micro-batch does not fit; it says which one would.
    """
    free = free_bytes()
    if trial.device.type != "cpu" or free is None:
        return
    gradients = sum(parameter.nbytes for parameter in trial.objective.model.parameters())
    kept = gradients + trial.to_come_bytes  # the weights are there already
    each = saved_bytes(trial.run)
    if kept + each * micro > free:
        fitting = [size for size in divisors(micro) if kept + each * size <= free]
        raise out_of_memory(section, config, micro, fitting[0] if fitting else None)


def measure(section: str, trial: Trial, folder: Path, config: TrainConfig, processes: int) -> Costs:
    """One real step's time and memory, and the disk for all checkpoints; nothing is changed.

    Raises:
        DualdiffError: memory or disk do not suffice.
    """
    micro = config.batch_size // (processes * config.grad_accum_steps)
    needed, free = require_disk(folder, trial.objective.model, config)
    require_memory(section, trial, config, micro)
    step_s = trial.seconds(micro) * config.grad_accum_steps
    to_come_bytes = 0 if trial.device.type == "cuda" else trial.to_come_bytes  # there the trial has held it
    return Costs(step_s, memory_bytes(trial.device) + to_come_bytes, needed, free)
