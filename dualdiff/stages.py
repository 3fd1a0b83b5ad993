"""The stages that learn, run with a project's settings: what the commands `vae train`, `encode` and `unet train` call.

Here, and nowhere else, settings meet data: what does not fit is refused before anything runs.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from dualdiff import __version__
from dualdiff.config import plain, write
from dualdiff.data.crops import TrackCrops
from dualdiff.data.encode import Encoded, encode_tracks
from dualdiff.data.latents import LatentCrops, LatentIndex
from dualdiff.data.ledger import Row, games_of, read_ledger, used
from dualdiff.data.loader import Batch
from dualdiff.device import compile_in_place, select_device, select_precision
from dualdiff.errors import DataError
from dualdiff.formats import FORMATS, Format
from dualdiff.models import VAE, UNet
from dualdiff.progress import Progress, silent
from dualdiff.seeding import Stream
from dualdiff.settings import Project
from dualdiff.store import LatentSpace, format_hash, load_vae, save_unet, save_vae
from dualdiff.training.config import TrainConfig
from dualdiff.training.job import part, train
from dualdiff.training.loop import make_accelerator
from dualdiff.training.run import Run
from dualdiff.training.unet import UNetObjective
from dualdiff.training.vae import VAEObjective

HELD_OUT = 8
"""Held-out crops that a training measures itself on."""


@dataclass(frozen=True)
class TrainResult:
    """What a training leaves: its run folder, its model folder, and how many steps it took in all."""

    run: Path
    model: Path
    steps: int


def train_vae(project: Project, progress: Progress = silent) -> TrainResult:
    """Train the VAE of a project, or go on where its run stopped; then export the model folder.

    Raises:
        DataError: no ledger, no usable tracks, or a run folder of another model.
        ConfigError: settings that do not fit each other or the data.
        Interrupted: stopped by the user, with the state saved.
    """
    settings, config = project.settings, project.settings.vae_train
    device = select_device(settings.project.device)
    rows, held_out_rows = _rows(project)
    made: Format = FORMATS[settings.format.name](settings.format, device=device)
    _require_halving(project, "vae.channel_mults", made.bins, len(settings.vae.channel_mults))
    frames = _crop_frames(project, "vae.train", config, made, 2 ** (len(settings.vae.channel_mults) - 1))
    _require_enough(project, "vae.train", config, made.num_samples(frames) / made.sample_rate, rows)
    _require_blocks(project, made.bins, frames)
    seed = Stream(settings.project.seed).seed_for("vae")
    folder = project.path(settings.dataset.folder)
    source = TrackCrops(rows, folder, made, frames, seed, config.game_temperature)
    torch.manual_seed(seed)
    vae = VAE(settings.vae, channels=made.channels, frequencies=made.frequencies()).to(device)
    vae.compute_dtype = select_precision(settings.project.precision, device)
    if settings.project.compile:
        compile_in_place(vae.encoder, device)
        compile_in_place(vae.decoder, device)
    objective = VAEObjective(
        vae, made, settings.vae_loss, settings.vae_spectral, _held_out_audio(held_out_rows, folder, made, frames)
    )
    identity = {"network": "vae", "config": plain(settings.vae), "format": format_hash(made)}
    run, model = _run(project, config, identity), project.root / "models" / config.run

    def export(weights: Mapping[str, Tensor], steps: int) -> None:
        facts = {"project": settings.project.name, "steps": steps, "dualdiff": __version__}
        save_vae(model, made, vae, part(weights, "vae."), facts, _card(f"{settings.project.name}: VAE", facts, rows))

    steps = train(objective, source, config, run, device=device, seed=seed, export=export, progress=progress)
    return TrainResult(run.folder, model, steps)


def _held_out_audio(rows: list[Row], folder: Path, made: Format, frames: int) -> Batch | None:
    long_enough = [row for row in rows if row.duration_s >= made.num_samples(frames) / made.sample_rate]
    return TrackCrops(long_enough, folder, made, frames, 0, 1.0).examples(0, HELD_OUT) if long_enough else None


def encode(project: Project, progress: Progress = silent) -> Encoded:
    """Turn the tracks of a project into latents with its VAE; only what is not there yet.

    Raises:
        DataError: no ledger, no VAE, or a track that is missing, broken or too short.
    """
    settings = project.settings
    device = select_device(settings.project.device)
    accelerator = make_accelerator(device)
    # in float32 whatever the project's precision: latents are made once, and are the same on every machine to rounding
    vae_model = load_vae(project.path(settings.encode.vae), accelerator.device)
    return encode_tracks(
        used(read_ledger(project.ledger)),
        project.path(settings.dataset.folder),
        project.path(settings.encode.folder),
        vae_model,
        settings.encode,
        progress,
        accelerator.process_index,
        accelerator.num_processes,
        accelerator.wait_for_everyone,
    )


def train_unet(project: Project, progress: Progress = silent) -> TrainResult:
    """Train the UNet of a project on its latents, or go on where its run stopped; then export the model folder.

    Raises:
        DataError: no latents, latents of another VAE or format, or a run folder of another model.
        ConfigError: settings that do not fit each other or the data.
        Interrupted: stopped by the user, with the state saved.
    """
    settings, config = project.settings, project.settings.unet_train
    device = select_device(settings.project.device)
    dtype = select_precision(settings.project.precision, device)
    vae_model = load_vae(project.path(settings.encode.vae), device, dtype)
    index = LatentIndex.open(project.path(settings.encode.folder))
    index.require(vae_hash=vae_model.vae_hash, format_hash=vae_model.format_hash)
    rows, _ = _rows(project)
    _require_halving(
        project, "unet.channel_mults", len(vae_model.vae.latent_frequencies), len(settings.unet.channel_mults)
    )
    multiple = vae_model.vae.reduction * 2 ** (len(settings.unet.channel_mults) - 1)
    frames = _crop_frames(project, "unet.train", config, vae_model.format, multiple)
    _require_enough(
        project, "unet.train", config, vae_model.format.num_samples(frames) / vae_model.format.sample_rate, rows
    )
    seed = Stream(settings.project.seed).seed_for("unet")
    columns = frames // vae_model.vae.reduction
    source = LatentCrops(index, "train", columns, seed, config.game_temperature)
    games = tuple(index.games)
    r = vae_model.vae.config.target_snr
    space = LatentSpace(mean=tuple(index.mean), std=tuple(index.std), sigma_min=0.5 / r)
    torch.manual_seed(seed)
    unet = UNet(
        settings.unet,
        channels=vae_model.vae.config.latent_channels,
        games=len(games),
        frequencies=vae_model.vae.latent_frequencies,
    ).to(device)
    unet.compute_dtype = dtype
    if settings.project.compile:
        compile_in_place(unet, device)
    held_out = (
        LatentCrops(index, "validation", columns, 0, 1.0).examples(0, HELD_OUT)
        if index.has("validation", columns)
        else None
    )
    objective = UNetObjective(unet, vae_model, space, games, settings.unet_loss, settings.unet_noise, held_out)
    identity = {"network": "unet", "config": plain(settings.unet), "vae": vae_model.vae_hash, "games": list(games)}
    run, model = _run(project, config, identity), project.root / "models" / config.run

    def export(weights: Mapping[str, Tensor], steps: int) -> None:
        facts = {"project": settings.project.name, "steps": steps, "dualdiff": __version__}
        needed = {
            "games": list(games),
            "latent_mean": list(space.mean),
            "latent_std": list(space.std),
            "sigma_min": space.sigma_min,
        }
        save_unet(model, vae_model, unet, weights, {**facts, **needed}, _card(settings.project.name, facts, rows))

    steps = train(objective, source, config, run, device=device, seed=seed, export=export, progress=progress)
    return TrainResult(run.folder, model, steps)


def _rows(project: Project) -> tuple[list[Row], list[Row]]:
    rows = read_ledger(project.ledger)
    training = used(rows, "train")
    if not training:
        raise DataError(
            f"{project.ledger} holds no track to train on", "`dualdiff dataset scan` says what became of each file"
        )
    return training, used(rows, "validation")


def _run(project: Project, config: TrainConfig, identity: Mapping[str, object]) -> Run:
    return Run(project.root / "runs" / config.run, identity, write(project.settings))


def _crop_frames(project: Project, section: str, config: TrainConfig, made: Format, multiple: int) -> int:
    """The frames of a crop: `crop_s` rounded down to a multiple of what the networks halve."""
    frames = int(config.crop_s * made.sample_rate / made.hop_length) // multiple * multiple
    if frames == 0:
        least = multiple * made.hop_length / made.sample_rate
        raise project.error(
            f"{section}.crop_s", f"= {config.crop_s:g} is too short", f"it must be at least {least:.3f} seconds"
        )
    return frames


def _require_enough(project: Project, section: str, config: TrainConfig, crop_s: float, rows: list[Row]) -> None:
    """Refuse a crop longer than every track, and a batch larger than all distinct crops of the data set."""
    durations = [row.duration_s for row in rows]
    longest = max(durations)
    if crop_s > longest:
        problem = f"= {config.crop_s:g} is longer than every track: the longest lasts {longest:.1f} s"
        raise project.error(f"{section}.crop_s", problem, "use shorter crops, or longer tracks")
    crops = sum(int(duration // crop_s) for duration in durations)
    if config.batch_size > crops:
        problem = f"= {config.batch_size} is larger than the data set: it holds {crops} crops of {crop_s:.1f} s"
        raise project.error(f"{section}.batch_size", problem, "use a smaller batch, shorter crops or more music")


def _require_halving(project: Project, key: str, rows: int, levels: int) -> None:
    """Refuse a network with more levels than its rows can be halved."""
    if rows % 2 ** (levels - 1):
        problem = f"has {levels} levels, but {rows} rows cannot be halved {levels - 1} times"
        raise project.error(key, problem, "use fewer levels")


def _require_blocks(project: Project, bins: int, frames: int) -> None:
    """Refuse blocks of the spectral loss that a crop is too small for."""
    loss = project.settings.vae_loss.reconstruction
    largest = max(project.settings.vae_spectral.block_sizes)
    if loss == "spectral" and min(bins, frames) <= largest // 2:
        problem = f"holds {largest}, too large for crops of {bins} bins and {frames} frames"
        raise project.error(
            "vae.spectral.block_sizes", problem, "use smaller blocks, or longer crops (vae.train.crop_s)"
        )


def _card(title: str, facts: Mapping[str, object], rows: list[Row]) -> str:
    """A model card in Markdown: what was trained, on what, and how."""
    lines = [f"# {title}", "", "Made with dualdiff.", "", "| fact | value |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in facts.items()]
    lines += ["", "## Trained on", "", "| game | tracks | minutes |", "|---|---|---|"]
    for game in games_of(rows):
        tracks = [row.duration_s for row in rows if row.game == game]
        lines.append(f"| {game} | {len(tracks)} | {sum(tracks) / 60:.1f} |")
    lines += ["", "The licences of this music decide what may be done with the model: keep their notices with it.", ""]
    return "\n".join(lines)
