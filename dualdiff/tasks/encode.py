"""The encoding of a project's tracks as a task: what `dualdiff encode` calls."""

from collections.abc import Collection
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from dualdiff.core.device import select_device
from dualdiff.core.errors import DualdiffError
from dualdiff.core.progress import Progress, silent
from dualdiff.data import beats
from dualdiff.data.encode import Encoded, encode_tracks, held
from dualdiff.data.manifest import Row, read_ledger, used
from dualdiff.model_store.model import VAEModel, load_vae
from dualdiff.project.settings import Project
from dualdiff.training.distributed import all_or_none
from dualdiff.training.session import make_accelerator


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
