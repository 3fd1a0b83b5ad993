"""Before the first step: what would make a training end in noise, in a full disk or out of memory is said at once."""

import logging
import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from dualdiff.core.errors import DataError, DualdiffError
from dualdiff.core.files import sha256_of
from dualdiff.core.types import Waveform
from dualdiff.data.latent_dataset import ENCODE, LatentIndex
from dualdiff.data.loader import Batch
from dualdiff.data.manifest import Row
from dualdiff.model_store.model import SIGMA_DATA, VAEModel
from dualdiff.models.vae import VAE
from dualdiff.training.config import TrainConfig
from dualdiff.training.ema.snapshots import stored_widths
from dualdiff.training.loop import Trial
from dualdiff.training.memory import divisors, free_bytes, memory_bytes, out_of_memory, saved_bytes

log = logging.getLogger(__name__)

Item = TypeVar("Item")

SILENT_DB = -80.0
"""A crop below this has no sound in it."""

HASHED = 3
"""Files of music or latents that are compared with their hashes; `dualdiff encode --check` compares all latents."""

FACTOR_WARNED, FACTOR_REFUSED = 1.5, 4.0
"""How far the size of latents may be from the design, either way."""

GIB = 2**30


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
    """Compare a few tracks below the music `folder` with the hashes that the ledger has of them.

    Raises:
        DataError: one is missing or differs.
    """
    for row in _spread(rows):
        path = folder / row.source
        if not path.is_file() or sha256_of(path) != row.sha256:
            problem = "has changed since it was scanned" if path.is_file() else "is missing"
            raise DataError(f"{path} {problem}", "`dualdiff dataset scan` brings the ledger up to date")


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
    """Compare a few files of latents with the hashes that the index has of them.

    Raises:
        DataError: one is missing or differs.
    """
    for path, file in _spread([(track.path, file) for track in index.tracks for file in track.files]):
        place = index.folder / file.name
        found = sha256_of(place) if place.is_file() else ""
        if found != file.sha256:
            problem = "is not what was written" if found else "is missing"
            raise DataError(f"{place}, the latents of {path}, {problem}", "`dualdiff encode --check` looks at all")


def _spread(whole: Sequence[Item]) -> Sequence[Item]:
    """A few of many, from first to last."""
    return whole[:: max(1, len(whole) // HASHED)][:HASHED]


@torch.no_grad()
def warn_of_untrained(vae_model: VAEModel, waveform: Waveform) -> tuple[float, float]:
    """The mean absolute error of a VAE's reconstructions (B, 2, T), and that of the same VAE untrained.

    Says so where the trained one is no better.
    """
    vae = vae_model.vae
    sample = vae_model.format.encode(waveform)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        fresh = VAE(vae.config, channels=vae_model.format.channels, frequencies=vae_model.format.frequencies())
    fresh = fresh.to(sample.device).eval()
    trained, untrained = (
        float((network.decode(network.encode(sample)) - sample).abs().mean()) for network in (vae, fresh)
    )
    if not trained < untrained:
        log.warning(
            "the VAE in %s reconstructs no better than an untrained one (mean error %.3g against %.3g): "
            "what is trained on its latents will be noise; train it for longer",
            vae_model.folder,
            trained,
            untrained,
        )
    return trained, untrained


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
            f"before the first step: {config.grad_accum_steps} x micro-batch a step, about {self.step_s:.3g} s; "
            f"memory {self.memory_bytes / GIB:.2f} GiB; checkpoints {self.disk_bytes / GIB:.2f} GiB "
            f"of {self.free_disk_bytes / GIB:.0f} free; {steps} steps take about {span(steps * self.step_s)}"
        )


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
            f"the disk of {folder} has {free / GIB:.2f} GiB free, and this training needs "
            f"{(needed - there) / GIB:.2f} GiB for its checkpoints and weight averages",
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
