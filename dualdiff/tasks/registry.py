"""The trainings of a project by the group of the command that starts each, and what is done instead of training."""

from collections.abc import Callable, Mapping

from dualdiff.core.progress import Progress, silent
from dualdiff.project.settings import Project
from dualdiff.tasks.train import Prepared, prepare_unet, prepare_vae
from dualdiff.training.resume_check import Proof, prove
from dualdiff.training.session import show_again

PREPARE: Mapping[str, Callable[..., Prepared]] = {"vae": prepare_vae, "unet": prepare_unet}


def check_resume(project: Project, group: str, progress: Progress = silent) -> Proof:
    """Prove on a project's own settings that a training resumes exactly; its own run is not touched.

    Raises:
        DataError, ConfigError: as for the training.
    """
    return prove(lambda folder: PREPARE[group](project, folder).job, progress)


def preview_again(project: Project, group: str, step: int) -> list[str]:
    """Write the audio and pictures of a step again, from the run's weight averages; returns their paths.

    Raises:
        DataError: there is no such run, or it has no averages of that step; or as for the training.
    """
    return show_again(PREPARE[group](project).job, step)
