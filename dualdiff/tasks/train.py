"""The trainings of a project as tasks: what `vae train` and `unet train` call."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from dualdiff import __version__, audio
from dualdiff.core.config import write
from dualdiff.core.device import compile_in_place, name_of_precision, select_device
from dualdiff.core.progress import Progress, silent
from dualdiff.core.rng import Stream
from dualdiff.evaluation.spectrogram_image import SpectrogramRow, write_spectrograms
from dualdiff.model_store.components import require_own
from dualdiff.project.settings import Project
from dualdiff.project.validation import require_rate
from dualdiff.tasks.registry import TRAININGS
from dualdiff.training.memory import require_room
from dualdiff.training.precision import precision_of_run
from dualdiff.training.resume_check import ResumeCheck, compare_resumed
from dualdiff.training.run_folder import Run
from dualdiff.training.session import TrainedWeights, TrainingSession, make_accelerator, show_again
from dualdiff.training.session import train as run_job

CHECKED = 8
"""Examples that are checked before the first step."""


@dataclass(frozen=True)
class TrainResult:
    """What a training leaves: its run folder, its model folder, and how many steps it took in all."""

    run: Path
    model: Path
    steps: int


@dataclass(frozen=True)
class Prepared:
    """A training of a project, ready to start, and the model folder that it exports."""

    job: TrainingSession
    model: Path


def prepare(project: Project, kind: str, run_folder: Path | None = None, *, force: bool = False) -> Prepared:
    """Prepare the training of a network of a project.

    Args:
        project: the project.
        kind: the network, "vae" or "unet".
        run_folder: the folder of its run; None for that of the settings.
        force: train on latents of a VAE that reconstructs no music all the same.

    Raises:
        DataError: no data to train on, or data of another VAE or format.
        ConfigError: settings that do not fit each other or the data.
    """
    settings, section = project.settings, f"{kind}.train"
    config = {"vae": settings.vae_train, "unet": settings.unet_train}[kind]
    require_rate(project, section, config)
    accelerator = make_accelerator(select_device(settings.project.device))
    folder, model = run_folder or project.root / "runs" / config.run, project.root / "models" / config.run
    dtype = precision_of_run(folder, settings.project.precision, accelerator)
    seed = Stream(settings.project.seed).seed_for(kind)
    own = TRAININGS[kind](project, accelerator.device, dtype, seed)
    require_room(project.source.where(kind), kind, config, accelerator.device, own.network)
    torch.manual_seed(seed)
    network = own.network(accelerator.device)
    for module in own.compiled(network) if settings.project.compile else ():
        compile_in_place(module, accelerator.device)
    identity = {"network": kind, **own.identity}
    run = Run(folder, identity, write(settings), own.notes, name_of_precision(dtype), own.tracks)

    def export(trained: TrainedWeights) -> None:
        facts = {"project": settings.project.name, "run": config.run, "steps": trained.steps, "dualdiff": __version__}
        own.save(network, trained, model, folder, facts, model_card(own.title, facts, own.durations_s))

    job = TrainingSession(
        section=section,
        objective=own.objective(network),
        source=own.source,
        config=config,
        run=run,
        accelerator=accelerator,
        seed=seed,
        export=export,
        check=lambda: own.check(min(CHECKED, config.batch_size), force),
        picture=picture,
        command=f"{kind} train",
    )
    return Prepared(job, model)


def train(
    project: Project, kind: str, progress: Progress = silent, hours: float | None = None, *, force: bool = False
) -> TrainResult:
    """Train a network of a project, or go on where its run stopped; then export the model folder.

    Args:
        project: the project.
        kind: the network, "vae" or "unet".
        progress: told the step, of how many.
        hours: train so long in all; None for the steps of the settings.
        force: as for `prepare`.

    Raises:
        DataError: as for `prepare`, or a run or model folder that holds something else.
        ConfigError: settings that do not fit each other or the data.
        Interrupted: stopped by the user, with the state saved.
    """
    prepared = prepare(project, kind, force=force)
    require_own(prepared.model)
    return TrainResult(prepared.job.run.folder, prepared.model, run_job(prepared.job, progress, hours))


def check_resume(project: Project, kind: str, progress: Progress = silent) -> ResumeCheck:
    """Prove on a project's own settings that a training resumes exactly; its own run is not touched.

    Raises:
        DataError, ConfigError: as for `prepare`.
    """
    return compare_resumed(lambda folder: prepare(project, kind, folder).job, progress)


def preview_again(project: Project, kind: str, step: int) -> list[str]:
    """Write the audio and pictures of a step again, from the run's weight averages; returns their paths.

    Raises:
        DataError: there is no such run, or it has no averages of that step; or as for `prepare`.
    """
    return show_again(prepare(project, kind).job, step)


def picture(path: Path) -> Path:
    """Draw the spectrogram of an audio file next to it; returns the path."""
    info = audio.probe(path)
    picture = path.with_suffix(".png")
    waveform = audio.read(path, sample_rate=info.sample_rate)
    write_spectrograms(picture, [SpectrogramRow(path.stem, waveform)], info.sample_rate)
    return picture


def model_card(title: str, facts: Mapping[str, object], tracks: Sequence[tuple[str, float]]) -> str:
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
