"""The stage that learns the way back from samples to sound: what `format train` calls."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from dualdiff import __version__
from dualdiff.core.config import plain
from dualdiff.core.device import select_device
from dualdiff.core.progress import Progress, silent
from dualdiff.core.rng import Stream
from dualdiff.data.waveform_dataset import TrackCrops
from dualdiff.formats.mel import MelConfig, MelFormat
from dualdiff.model_store.model import PRECISION_OF_PHASE, format_hash, save_phase
from dualdiff.models import PhaseNet
from dualdiff.project.settings import Project
from dualdiff.project.validation import crop_frames, require_enough
from dualdiff.tasks.train import (
    CHECKED,
    HELD_OUT,
    Prepared,
    TrainResult,
    model_card,
    picture,
    run_of,
    trained,
    training_rows,
)
from dualdiff.training.phase import PhaseObjective
from dualdiff.training.preflight import require_same_music, require_sound
from dualdiff.training.session import Job, make_accelerator


def train_phase(project: Project, progress: Progress = silent, hours: float | None = None) -> TrainResult:
    """Train the learned way back of a project's format, or go on where its run stopped; then export the model folder.

    With `hours` it takes so long in all.

    Raises:
        DataError: no ledger, no usable tracks, or a run folder of another model.
        ConfigError: a format that has no way back to learn, or settings that do not fit each other or the data.
        Interrupted: stopped by the user, with the state saved.
    """
    return trained(prepare_phase(project), progress, hours)


def prepare_phase(project: Project, run_folder: Path | None = None) -> Prepared:
    """The training of the learned way back, with its run in `run_folder` (that of the settings, unless said).

    Raises:
        DataError, ConfigError: see `train_phase`.
    """
    settings, config = project.settings, project.settings.phase_train
    if not isinstance(settings.format, MelConfig):
        problem = f'= "{settings.format.name}" has no way back to learn'
        raise project.error("format.name", problem, 'set format.name = "mel": only that format has one')
    accelerator = make_accelerator(select_device(settings.project.device))
    device = accelerator.device
    rows, held_out_rows = training_rows(project)
    made = MelFormat(replace(settings.format, phase="pghi"), device)
    frames = crop_frames(project, "phase.train", config, made, 1)
    crop_s = made.num_samples(frames) / made.sample_rate
    require_enough(project, "phase.train", config, crop_s, [row.duration_s for row in rows])
    seed = Stream(settings.project.seed).seed_for("phase")
    folder = project.path(settings.dataset.folder)
    source = TrackCrops(rows, folder, made, frames, seed, config.game_temperature)
    torch.manual_seed(seed)
    network = PhaseNet(settings.phase).to(device)
    network.compute_dtype = PRECISION_OF_PHASE
    long_enough = [row for row in held_out_rows if row.duration_s >= crop_s]
    held_out = TrackCrops(long_enough, folder, made, frames, 0).examples(0, HELD_OUT) if long_enough else None
    objective = PhaseObjective(network, made, held_out)
    identity = {"network": "phase", "config": plain(settings.phase), "format": format_hash(made)}
    folder_of_run = run_folder or project.root / "runs" / config.run
    run, model = run_of(project, identity, folder_of_run), project.root / "models" / config.run

    def export(weights: Mapping[str, Tensor], steps: int) -> None:
        facts = {"project": settings.project.name, "run": config.run, "steps": steps, "dualdiff": __version__}
        title = f"{settings.project.name}: the phase, for the way back from samples to sound"
        card = model_card(title, facts, [(row.game, row.duration_s) for row in rows])
        save_phase(model, made, network, weights, facts, card)

    def check() -> None:
        require_same_music(rows, folder)
        require_sound(source.examples(0, min(CHECKED, config.batch_size)))

    job = Job(
        "phase.train", objective, source, config, run, accelerator, seed, export, check, picture, command="format train"
    )
    return Prepared(job, model)
