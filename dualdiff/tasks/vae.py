"""The VAE's part of its training: crops of tracks, the network over their samples, the checks and the export."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from dualdiff.core.config import plain
from dualdiff.core.errors import DataError
from dualdiff.data.manifest import Row, read_ledger, used
from dualdiff.data.sampling import held_out_crops
from dualdiff.data.waveform_dataset import TrackCrops
from dualdiff.formats.base import FORMATS
from dualdiff.model_store.model import format_hash, save_vae
from dualdiff.models.vae import VAE
from dualdiff.project.settings import Project
from dualdiff.project.validation import crop_frames, require_blocks, require_enough, require_halving
from dualdiff.training.preflight import require_same_music, require_sound
from dualdiff.training.session import TrainedWeights, part
from dualdiff.training.vae import VAEObjective


class VAETraining:
    """The VAE's part of its training; see `registry.Training`."""

    def __init__(self, project: Project, device: torch.device, dtype: torch.dtype, seed: int) -> None:
        """Read the manifest, and compare the settings with it and with each other.

        Raises:
            DataError: no manifest, or no track to train on.
            ConfigError: settings that do not fit each other or the data.
        """
        settings, config = project.settings, project.settings.vae_train
        self.settings, self.dtype = settings, dtype
        self.rows, self.held_out_rows = training_rows(project)
        self.format = FORMATS[settings.format.name](settings.format, device)
        levels = len(settings.vae.channel_mults)
        require_halving(project, "vae.channel_mults", self.format.bins, levels)
        self.frames = crop_frames(project, "vae.train", config, self.format, 2 ** (levels - 1))
        self.crop_s = self.format.num_samples(self.frames) / self.format.sample_rate
        require_enough(project, "vae.train", config, self.crop_s, [row.duration_s for row in self.rows])
        require_blocks(project, self.format, self.frames)
        self.folder = project.music(self.rows)
        self.source = TrackCrops(self.rows, self.folder, self.format, self.frames, seed, config.game_temperature)
        self.title = f"{settings.project.name}: VAE"
        self.identity = {"config": plain(settings.vae), "format": format_hash(self.format)}
        self.notes: Mapping[str, Any] = {}
        self.tracks = {row.sha256: row.game for row in self.rows}
        self.durations_s = [(row.game, row.duration_s) for row in self.rows]

    def network(self, device: str | torch.device) -> VAE:
        """Make the VAE on a device, with new weights."""
        frequencies = self.format.frequencies().to(device)
        vae = VAE(self.settings.vae, channels=self.format.channels, frequencies=frequencies).to(device)
        vae.compute_dtype = self.dtype
        return vae

    def compiled(self, vae: VAE) -> list[torch.nn.Module]:
        """Return the encoder and the decoder."""
        return [vae.encoder, vae.decoder]

    def objective(self, vae: VAE) -> VAEObjective:
        """Return the objective, validated on crops of the tracks that are long enough."""
        by_game: dict[str, list[Row]] = {}
        for row in sorted(self.held_out_rows, key=lambda row: row.game):
            if row.duration_s >= self.crop_s:
                by_game.setdefault(row.game, []).append(row)
        held_out, games = held_out_crops(
            by_game, lambda rows: TrackCrops(rows, self.folder, self.format, self.frames, seed=0)
        )
        losses = (self.settings.vae_loss, self.settings.vae_spectral, self.settings.vae_spectral_1d)
        return VAEObjective(vae, self.format, *losses, held_out, games)

    def check(self, count: int, force: bool) -> None:
        """Compare the music with the manifest, and look for sound in the first `count` crops; `force` skips nothing.

        Raises:
            DataError: a track is missing or has changed, or the crops are silent.
        """
        require_same_music(self.rows, self.folder)
        require_sound(self.source.examples(0, count))

    def save(
        self, vae: VAE, trained: TrainedWeights, model: Path, run: Path, facts: Mapping[str, Any], card: str
    ) -> None:
        """Write the model folder."""
        save_vae(model, self.format, vae, part(trained.weights, "vae."), facts, card)


def training_rows(project: Project) -> tuple[list[Row], list[Row]]:
    """Return the tracks to train on, and those held out to validate on.

    Raises:
        DataError: no manifest, or no track to train on.
    """
    rows = read_ledger(project.ledger)
    training = used(rows, "train")
    if not training:
        hint = "`dualdiff dataset scan` says what became of each file"
        raise DataError(f"{project.ledger} holds no track to train on", hint)
    return training, used(rows, "validation")
