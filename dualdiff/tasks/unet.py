"""The UNet's part of its training: crops of latents, the network over them, the checks and the export."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from dualdiff.core.config import plain
from dualdiff.core.errors import DataError
from dualdiff.core.files import hash_of
from dualdiff.data.latent_dataset import LatentCrops, LatentIndex
from dualdiff.data.manifest import read_ledger, used
from dualdiff.data.sampling import held_out_crops
from dualdiff.data.waveform_dataset import TrackCrops
from dualdiff.evaluation.game_classifier import fit_game_classifier, game_classifier_part
from dualdiff.evaluation.vae_reconstruction import fidelity, require_fidelity
from dualdiff.model_store.components import EXPORTS
from dualdiff.model_store.latent_space import SIGMA_DATA, LatentSpace
from dualdiff.model_store.model import VAEModel, load_vae, save_unet
from dualdiff.models.unet import UNet
from dualdiff.project.settings import Project
from dualdiff.project.validation import crop_frames, require_enough, require_halving
from dualdiff.training.latent_statistics import STATISTICS_NAME, run_statistics
from dualdiff.training.preflight import require_design, require_hashes, require_scale
from dualdiff.training.session import TrainedWeights
from dualdiff.training.unet import HELD_OUT_LOSS, UNetObjective

log = logging.getLogger(__name__)

FIDELITY_COLUMNS, FIDELITY_EXCERPTS = 16, 4
"""Excerpts by which a VAE is compared with its format: their length in columns of latents, about a second, and number.
"""

SIGMA_MIN = 0.002
"""The lowest noise level where latents have no known noise of their own (EDM, table 1)."""


class UNetTraining:
    """The UNet's part of its training; see `registry.Training`."""

    def __init__(self, project: Project, device: torch.device, dtype: torch.dtype, seed: int) -> None:
        """Load the VAE and the index of its latents, and compare the settings with them and with each other.

        Raises:
            DataError: no VAE or latents, or latents of another VAE or format.
            ConfigError: settings that do not fit each other or the data.
        """
        settings, config = project.settings, project.settings.unet_train
        self.project, self.settings, self.dtype = project, settings, dtype
        self.vae_model = load_vae(project.model(settings.encode.vae), device, dtype)
        index = LatentIndex.open(project.path(settings.encode.folder))
        index.require(vae_hash=self.vae_model.vae_hash, format_hash=self.vae_model.format_hash)
        self.index = run_statistics(project.root / "runs" / config.run, index)
        self.columns = _crop_columns(project, self.vae_model, self.index)
        self.source = LatentCrops(self.index, "train", self.columns, seed, config.game_temperature)
        self.space = latent_space(self.index, self.vae_model)
        self.title = settings.project.name
        self.identity = {
            "config": plain(settings.unet),
            "vae": self.vae_model.vae_hash,
            "games": list(self.index.games),
            "latent statistics": hash_of([self.index.mean, self.index.std]),
        }
        self.notes = {STATISTICS_NAME: {"mean": list(self.index.mean), "std": list(self.index.std)}}
        tracks = self.index.tracks_of("train")
        self.tracks = {track.audio_sha256: track.game for track in tracks}
        self.durations_s = [(track.game, _seconds(self.index, track.columns)) for track in tracks]

    def network(self, device: str | torch.device) -> UNet:
        """Make the UNet on a device, with new weights."""
        vae = self.vae_model.vae
        channels, rows, labels = vae.config.latent_channels, vae.latent_frequencies.to(device), len(self.index.games)
        unet = UNet(self.settings.unet, channels=channels, games=labels, frequencies=rows).to(device)
        unet.compute_dtype = self.dtype
        return unet

    def compiled(self, unet: UNet) -> list[torch.nn.Module]:
        """Return the whole UNet."""
        return [unet]

    def objective(self, unet: UNet) -> UNetObjective:
        """Return the objective, validated on crops of the held-out tracks that are long enough."""
        held_out, _ = held_out_crops(
            _validation_indices(self.index, self.columns),
            lambda index: LatentCrops(index, "validation", self.columns, seed=0),
        )
        config, noise = self.settings.unet_loss, self.settings.unet_noise
        return UNetObjective(unet, self.vae_model, self.space, self.index.games, config, noise, held_out)

    def check(self, count: int, force: bool) -> None:
        """Check the files of latents, their size, the scale of the first `count` crops, and the VAE's reconstruction.

        With `force`, a VAE that reconstructs no music is no error.

        Raises:
            DataError: one of them fails.
        """
        require_hashes(self.index)
        require_design(self.index, self.vae_model.vae)
        require_scale(self.source.examples(0, count), self.index)
        _require_faithful(self.project, self.vae_model, force)

    def save(
        self, unet: UNet, trained: TrainedWeights, model: Path, run: Path, facts: Mapping[str, Any], card: str
    ) -> None:
        """Write the model folder, with what is known of each game and the classifier of its mixes."""
        losses = trained.validation.by_game.get(HELD_OUT_LOSS, {})
        per_game = _per_game(self.source, self.durations_s, losses)
        needed = _needed_to_generate(self.index, self.space, self.columns)
        facts = {**facts, **needed, "sigma_max": self.settings.unet_noise.sigma_max, "per_game": per_game}
        extra = [game_classifier_part(fit_game_classifier(self.index))]
        save_unet(model, self.vae_model, unet, trained.weights, facts, card, extra=extra, keep_in=run / EXPORTS)


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
        waveform = crops.examples(0, FIDELITY_EXCERPTS).tensors["waveform"]
    except DataError as error:
        log.info("the VAE is not compared with its format: %s", error.message)
        return
    found = fidelity(vae_model, waveform.to(vae_model.vae.positions.device))
    require_fidelity(found, vae_model.folder, force)


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
        "tempos": _tempos(index),
    }


def _tempos(index: LatentIndex) -> dict[str, list[tuple[float, int]]]:
    """Return tempo and beats per bar (0 if not known) of each game's tracks to train on whose beats are known."""
    found: dict[str, list[tuple[float, int]]] = {game: [] for game in index.games}
    for track in index.tracks_of("train"):
        if track.grid:
            found[track.game].append((round(track.grid.bpm, 2), track.grid.beats_per_bar))
    return {game: sorted(own) for game, own in found.items()}
