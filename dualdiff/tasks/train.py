"""The stages that learn, with a project's settings: what `vae train`, `encode` and `unet train` call."""

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dualdiff import __version__, audio
from dualdiff.core.config import plain, write
from dualdiff.core.device import compile_in_place, name_of_precision, select_device
from dualdiff.core.errors import DataError, DualdiffError
from dualdiff.core.files import hash_of
from dualdiff.core.progress import Progress, silent
from dualdiff.core.rng import Stream
from dualdiff.data import beats
from dualdiff.data.encode import Encoded, encode_tracks, held
from dualdiff.data.latent_dataset import LatentCrops, LatentIndex
from dualdiff.data.loader import Batch, BatchSource
from dualdiff.data.manifest import Row, read_ledger, used
from dualdiff.data.waveform_dataset import TrackCrops
from dualdiff.evaluation.game_classifier import fit_mix, mix_part
from dualdiff.evaluation.spectrogram_image import Row as PictureRow
from dualdiff.evaluation.spectrogram_image import write_spectrograms
from dualdiff.evaluation.vae_reconstruction import fidelity, require_fidelity
from dualdiff.formats.base import FORMATS
from dualdiff.model_store.components import EXPORTS, require_own
from dualdiff.model_store.latent_space import SIGMA_DATA, LatentSpace
from dualdiff.model_store.model import VAEModel, format_hash, load_vae, save_unet, save_vae
from dualdiff.models.unet import UNet
from dualdiff.models.vae import VAE
from dualdiff.project.settings import Project
from dualdiff.project.validation import crop_frames, require_blocks, require_enough, require_halving, require_rate
from dualdiff.training.distributed import all_or_none
from dualdiff.training.latent_statistics import STATISTICS_NAME, run_statistics
from dualdiff.training.memory import require_room
from dualdiff.training.precision import precision_of_run
from dualdiff.training.preflight import (
    require_design,
    require_hashes,
    require_same_music,
    require_scale,
    require_sound,
)
from dualdiff.training.run_folder import Run
from dualdiff.training.session import Job, make_accelerator, part, train
from dualdiff.training.unet import UNetObjective, held_out_losses
from dualdiff.training.vae import VAEObjective

log = logging.getLogger(__name__)

HELD_OUT, HELD_OUT_GAMES = 8, 32
"""Held-out crops that a training measures itself on, at least one of each game, and of how many games at most."""

CHECKED = 8
"""Examples that are looked at before the first step."""

FIDELITY_COLUMNS = 16
"""Length of the excerpts by which a VAE is compared with its format, in columns of its latents: about a second."""


SIGMA_MIN = 0.002
"""The lowest noise level where latents have no known noise of their own (EDM, table 1)."""


@dataclass(frozen=True)
class TrainResult:
    """What a training leaves: its run folder, its model folder, and how many steps it took in all."""

    run: Path
    model: Path
    steps: int


@dataclass(frozen=True)
class Prepared:
    """A training of a project, ready to start, and the model folder that it exports."""

    job: Job
    model: Path


def prepare_vae(project: Project, run_folder: Path | None = None) -> Prepared:
    """The training of a project's VAE, with its run in `run_folder` (that of the settings, unless said).

    Raises:
        DataError: no ledger, or no usable tracks.
        ConfigError: settings that do not fit each other or the data.
    """
    settings, config = project.settings, project.settings.vae_train
    accelerator = make_accelerator(select_device(settings.project.device))
    device = accelerator.device
    rows, held_out_rows = training_rows(project)
    made = FORMATS[settings.format.name](settings.format, device)
    levels = len(settings.vae.channel_mults)
    require_halving(project, "vae.channel_mults", made.bins, levels)
    require_rate(project, "vae.train", config)
    frames = crop_frames(project, "vae.train", config, made, 2 ** (levels - 1))
    crop_s = made.num_samples(frames) / made.sample_rate
    require_enough(project, "vae.train", config, crop_s, [row.duration_s for row in rows])
    require_blocks(project, made, frames)
    seed = Stream(settings.project.seed).seed_for("vae")
    folder = project.music(rows)
    source = TrackCrops(rows, folder, made, frames, seed, config.game_temperature)

    def build(on: str | torch.device) -> VAE:
        return VAE(settings.vae, channels=made.channels, frequencies=made.frequencies().to(on)).to(on)

    require_room(project.source.where("vae"), "vae", config, device, build)
    torch.manual_seed(seed)
    vae = build(device)
    folder_of_run = run_folder or project.root / "runs" / config.run
    vae.compute_dtype = precision_of_run(folder_of_run, settings.project.precision, accelerator)
    if settings.project.compile:
        compile_in_place(vae.encoder, device)
        compile_in_place(vae.decoder, device)
    long_enough = [row for row in held_out_rows if row.duration_s >= crop_s]
    held_out, games = held_out_crops(
        {game: [row for row in long_enough if row.game == game] for game in sorted({row.game for row in long_enough})},
        lambda own: TrackCrops(own, folder, made, frames, 0),
    )
    losses = (settings.vae_loss, settings.vae_spectral, settings.vae_spectral_1d)
    objective = VAEObjective(vae, made, *losses, held_out, games)
    identity = {"network": "vae", "config": plain(settings.vae), "format": format_hash(made)}
    tracks = {row.sha256: row.game for row in rows}
    run = run_of(project, identity, folder_of_run, precision=name_of_precision(vae.compute_dtype), tracks=tracks)
    model = project.root / "models" / config.run

    def export(weights: Mapping[str, Tensor], steps: int) -> None:
        facts = {"project": settings.project.name, "run": config.run, "steps": steps, "dualdiff": __version__}
        card = model_card(f"{settings.project.name}: VAE", facts, [(row.game, row.duration_s) for row in rows])
        save_vae(model, made, vae, part(weights, "vae."), facts, card)

    def check() -> None:
        require_same_music(rows, folder)
        require_sound(source.examples(0, min(CHECKED, config.batch_size)))

    job = Job(
        "vae.train", objective, source, config, run, accelerator, seed, export, check, picture, command="vae train"
    )
    return Prepared(job, model)


def prepare_unet(project: Project, run_folder: Path | None = None, force: bool = False) -> Prepared:
    """The training of a project's UNet, with its run in `run_folder` (that of the settings, unless said).

    With `force`, latents of a VAE that reconstructs no music are trained on all the same.

    Raises:
        DataError: no latents, or latents of another VAE or format.
        ConfigError: settings that do not fit each other or the data.
    """
    settings, config = project.settings, project.settings.unet_train
    accelerator = make_accelerator(select_device(settings.project.device))
    device = accelerator.device
    folder_of_run = run_folder or project.root / "runs" / config.run
    dtype = precision_of_run(folder_of_run, settings.project.precision, accelerator)
    vae_model = load_vae(project.model(settings.encode.vae), device, dtype)
    index = LatentIndex.open(project.path(settings.encode.folder))
    index.require(vae_hash=vae_model.vae_hash, format_hash=vae_model.format_hash)
    index = run_statistics(project.root / "runs" / config.run, index)
    require_rate(project, "unet.train", config)
    columns = _crop_columns(project, vae_model, index)
    seed = Stream(settings.project.seed).seed_for("unet")
    source = LatentCrops(index, "train", columns, seed, config.game_temperature)
    held_out, _ = held_out_crops(
        _validation_indices(index, columns), lambda own: LatentCrops(own, "validation", columns, 0)
    )
    rows, channels, games = vae_model.vae.latent_frequencies, vae_model.vae.config.latent_channels, len(index.games)

    def build(on: str | torch.device) -> UNet:
        return UNet(settings.unet, channels=channels, games=games, frequencies=rows.to(on)).to(on)

    require_room(project.source.where("unet"), "unet", config, device, build)
    torch.manual_seed(seed)
    unet = build(device)
    unet.compute_dtype = dtype
    if settings.project.compile:
        compile_in_place(unet, device)
    space = latent_space(index, vae_model)
    objective = UNetObjective(unet, vae_model, space, index.games, settings.unet_loss, settings.unet_noise, held_out)
    identity = {
        "network": "unet",
        "config": plain(settings.unet),
        "vae": vae_model.vae_hash,
        "games": list(index.games),
        "latent statistics": hash_of([index.mean, index.std]),
    }
    statistics = {STATISTICS_NAME: {"mean": list(index.mean), "std": list(index.std)}}
    tracks = {track.audio_sha256: track.game for track in index.tracks_of("train")}
    run = run_of(project, identity, folder_of_run, statistics, name_of_precision(dtype), tracks)
    model = project.root / "models" / config.run

    def export(weights: Mapping[str, Tensor], steps: int) -> None:
        facts = {"project": settings.project.name, "run": config.run, "steps": steps, "dualdiff": __version__}
        tracks = [(track.game, _seconds(index, track.columns)) for track in index.tracks_of("train")]
        per_game = _per_game(source, tracks, held_out_losses(run.folder))
        card = model_card(settings.project.name, facts, tracks)
        needed = _needed_to_generate(index, space, columns)
        facts = {**facts, **needed, "per_game": per_game}
        mix = mix_part(fit_mix(index))
        save_unet(model, vae_model, unet, weights, facts, card, extra=[mix], keep_in=run.folder / EXPORTS)

    def check() -> None:
        require_hashes(index)
        require_design(index, vae_model.vae)
        require_scale(source.examples(0, min(CHECKED, config.batch_size)), index)
        _require_faithful(project, vae_model, force)

    job = Job(
        "unet.train", objective, source, config, run, accelerator, seed, export, check, picture, command="unet train"
    )
    return Prepared(job, model)


def train_vae(project: Project, progress: Progress = silent, hours: float | None = None) -> TrainResult:
    """Train the VAE of a project, or go on where its run stopped; then export the model folder.

    Raises:
        DataError: no ledger, no usable tracks, or a run folder of another model.
        ConfigError: settings that do not fit each other or the data.
        Interrupted: stopped by the user, with the state saved.
    """
    return trained(prepare_vae(project), progress, hours)


def train_unet(
    project: Project, progress: Progress = silent, hours: float | None = None, force: bool = False
) -> TrainResult:
    """Train the UNet of a project on its latents, or go on where its run stopped; then export the model folder.

    `force` as for `prepare_unet`.

    Raises:
        DataError: no latents, latents of another VAE or format, or a run folder of another model.
        ConfigError: settings that do not fit each other or the data.
        Interrupted: stopped by the user, with the state saved.
    """
    return trained(prepare_unet(project, force=force), progress, hours)


def trained(prepared: Prepared, progress: Progress, hours: float | None) -> TrainResult:
    """Train what is prepared; what it leaves.

    Raises:
        DataError: the model's folder holds something else.
    """
    require_own(prepared.model)
    return TrainResult(prepared.job.run.folder, prepared.model, train(prepared.job, progress, hours))


def encode(project: Project, progress: Progress = silent, damaged: Collection[str] = ()) -> Encoded:
    """Turn the tracks of a project into latents with its VAE; only what is not there yet, or `damaged` by file name.

    Raises:
        DataError: no ledger, no VAE, or a track that is missing, broken or too short.
    """
    settings = project.settings
    device = select_device(settings.project.device)
    accelerator = make_accelerator(device)
    # in float32 whatever the project's precision: latents are made once, and are the same on every machine to rounding
    vae_model = load_vae(project.model(settings.encode.vae), accelerator.device)
    rows = used(read_ledger(project.ledger))
    folder, is_main = project.path(settings.encode.folder), accelerator.is_main_process
    with ExitStack() as stack:
        all_or_none(accelerator, lambda: stack.enter_context(held(folder)) if is_main else None)
        return _encode(project, rows, folder, vae_model, accelerator, progress, damaged)


def _encode(
    project: Project,
    rows: list[Row],
    folder: Path,
    vae_model: VAEModel,
    accelerator: Any,
    progress: Progress,
    damaged: Collection[str],
) -> Encoded:
    """Encode into a folder that no other command encodes into; see `encode`."""
    try:
        return encode_tracks(
            rows,
            project.music(rows),
            folder,
            vae_model,
            project.settings.encode,
            progress,
            accelerator.process_index,
            accelerator.num_processes,
            accelerator.wait_for_everyone,
            damaged,
            beats.read(project.root, rows),
        )
    except DualdiffError as error:
        error.is_everyones = accelerator.num_processes == 1  # each process has tracks of its own
        raise


def held_out_crops(by_game: Mapping[str, Any], crops: Callable[[Any], BatchSource]) -> tuple[Batch | None, list[str]]:
    """Crops to measure a training on, the same number of each game, and the game of each."""
    each = max(1, HELD_OUT // max(1, len(by_game)))
    batches = {game: crops(own).examples(0, each) for game, own in list(by_game.items())[:HELD_OUT_GAMES]}
    if not batches:
        return None, []
    first = next(iter(batches.values()))
    tensors = {name: torch.cat([batch.tensors[name] for batch in batches.values()]) for name in first.tensors}
    names = [name for batch in batches.values() for name in batch.names]
    return Batch(tensors, names), [game for game in batches for _ in range(each)]


def _validation_indices(index: LatentIndex, columns: int) -> dict[str, LatentIndex]:
    """For each game that has a long enough track to validate on: the index of its tracks alone."""
    alone = {
        game: replace(index, tracks=tuple(track for track in index.tracks if track.game == game))
        for game in index.games
    }
    return {game: own for game, own in alone.items() if own.has("validation", columns)}


def _per_game(
    source: LatentCrops, tracks: Sequence[tuple[str, float]], losses: Mapping[str, float]
) -> dict[str, dict[str, Any]]:
    """What the model learned of each game: tracks, hours, its share of the examples, and its error on held-out ones."""
    shares = source.shares()
    return {
        game: {
            "tracks": sum(name == game for name, _ in tracks),
            "hours": round(sum(seconds for name, seconds in tracks if name == game) / 3600, 4),
            "share": round(shares.get(game, 0.0), 6),
            "held_out_loss": losses.get(game),
        }
        for game in source.index.games
    }


def _require_faithful(project: Project, vae_model: VAEModel, force: bool) -> None:
    """Compare the VAE with its format's own round trip, as far as the music is still there.

    Raises:
        DataError: it reconstructs no music, and `force` is off.
    """
    try:
        rows = used(read_ledger(project.ledger))
        frames = FIDELITY_COLUMNS * vae_model.vae.reduction
        folder = project.music(rows)
        crops = TrackCrops(rows, folder, vae_model.format, frames, 0, cache_bytes=0)
        waveform = crops.examples(0, CHECKED // 2).tensors["waveform"]
    except DataError as error:
        log.info("the VAE is not compared with its format: %s", error.message)
        return
    found = fidelity(vae_model, waveform.to(vae_model.vae.positions.device))
    require_fidelity(found, vae_model.folder, force)


def picture(path: Path) -> Path:
    """The spectrogram of an audio file, beside it."""
    info = audio.probe(path)
    picture = path.with_suffix(".png")
    waveform = audio.read(path, sample_rate=info.sample_rate)
    write_spectrograms(picture, [PictureRow(path.stem, waveform)], info.sample_rate)
    return picture


def _crop_columns(project: Project, vae_model: VAEModel, index: LatentIndex) -> int:
    """The columns of a crop of latents, after the checks of what depends on it."""
    config, levels = project.settings.unet_train, len(project.settings.unet.channel_mults)
    require_halving(project, "unet.channel_mults", len(vae_model.vae.latent_frequencies), levels)
    multiple = vae_model.vae.reduction * 2 ** (levels - 1)
    columns = crop_frames(project, "unet.train", config, vae_model.format, multiple) // vae_model.vae.reduction
    durations_s = [_seconds(index, track.columns) for track in index.tracks_of("train")]
    if not durations_s:
        raise DataError(f"the latents in {index.folder} have no track to train on", "`dualdiff encode` makes them")
    require_enough(project, "unet.train", config, _seconds(index, columns), durations_s)
    return columns


def _seconds(index: LatentIndex, columns: int) -> float:
    """How long so many columns of latents last."""
    return columns * index.frames_per_column * index.frame_s


def latent_space(index: LatentIndex, vae_model: VAEModel) -> LatentSpace:
    """How latents are normalised, and sigma_min: the VAE's own noise in normalised units.

    For modes of the intended RMS r/sqrt(r^2 + 1) that is sigma_data/r; here it is taken from the RMS that they have.
    Where the VAE learns a variance of its own for each latent there is no such level.
    """
    if vae_model.vae.config.latent_variance == "learned":
        return LatentSpace(mean=index.mean, std=index.std, sigma_min=SIGMA_MIN)
    rms = torch.tensor(index.std).square().mean().sqrt().item()
    return LatentSpace(mean=index.mean, std=index.std, sigma_min=SIGMA_DATA * vae_model.vae.noise_std / rms)


def _needed_to_generate(index: LatentIndex, space: LatentSpace, columns: int) -> dict[str, Any]:
    return {
        "games": list(index.games),
        "latent_mean": list(space.mean),
        "latent_std": list(space.std),
        "sigma_min": space.sigma_min,
        "crop_columns": columns,
        "tempos_bpm": _tempos(index),
    }


def _tempos(index: LatentIndex) -> dict[str, list[float]]:
    """The tempos of each game's tracks to train on whose beats are known."""
    tracks = [(track.game, track.grid) for track in index.tracks_of("train")]
    return {game: sorted(round(grid.bpm, 2) for own, grid in tracks if grid and own == game) for game in index.games}


def training_rows(project: Project) -> tuple[list[Row], list[Row]]:
    """The tracks to train on, and those kept out to measure on."""
    rows = read_ledger(project.ledger)
    training = used(rows, "train")
    if not training:
        hint = "`dualdiff dataset scan` says what became of each file"
        raise DataError(f"{project.ledger} holds no track to train on", hint)
    return training, used(rows, "validation")


def run_of(
    project: Project,
    identity: Mapping[str, object],
    folder: Path,
    notes: Mapping[str, Any] | None = None,
    precision: str = "",
    tracks: Mapping[str, str] | None = None,
) -> Run:
    """The run of a training in its folder; `tracks` are the games of the tracks, by the hash of their audio."""
    return Run(folder, identity, write(project.settings), notes or {}, precision, tracks or {})


def model_card(title: str, facts: Mapping[str, object], tracks: list[tuple[str, float]]) -> str:
    """A model card in Markdown: what was trained, on what (game and seconds of each track), and how."""
    lines = [f"# {title}", "", "Made with dualdiff.", "", "| fact | value |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in facts.items()]
    lines += ["", "## Trained on", "", "| game | tracks | minutes |", "|---|---|---|"]
    for game in sorted({game for game, _ in tracks}):
        durations_s = [seconds for name, seconds in tracks if name == game]
        cell = game.replace("|", "\\|")
        lines.append(f"| {cell} | {len(durations_s)} | {sum(durations_s) / 60:.1f} |")
    lines += ["", "The licences of this music decide what may be done with the model: keep their notices with it.", ""]
    return "\n".join(lines)
