"""What `vae train` and `unet train` have in common: options, and what they do instead of training."""

from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from dualdiff.cli import console
from dualdiff.cli.streams import outlive_reader

if TYPE_CHECKING:
    from dualdiff.project.settings import Project

Hours: TypeAlias = Annotated[
    float | None,
    typer.Option(
        "--hours",
        metavar="H",
        min=0.001,
        help="Train so many hours in all: as many steps as fit, replanned on the way.",
    ),
]
CheckResume: TypeAlias = Annotated[
    bool, typer.Option("--check-resume", help="Prove, in about a minute, that this training resumes exactly.")
]
Preview: TypeAlias = Annotated[
    int | None, typer.Option("--preview", metavar="STEP", min=1, help="Write the audio and pictures of a step again.")
]


def begin_training() -> None:
    """Set up a command that may run in several processes, and that goes on when nobody reads what it shows."""
    outlive_reader()
    console.share_work()


def beside_training(project: "Project", group: str, check_resume: bool, preview: int | None) -> bool:
    """Do what was asked for instead of training, and say whether anything was.

    Raises:
        DualdiffError: the training does not resume exactly.
    """
    from dualdiff.core.errors import DualdiffError
    from dualdiff.tasks.registry import check_resume as prove
    from dualdiff.tasks.registry import preview_again

    if preview is not None:
        for path in preview_again(project, group, preview):
            console.say(path)
    if not check_resume:
        return preview is not None
    with console.progress("check") as progress:
        proof = prove(project, group, progress)
    if proof.differences:
        raise DualdiffError(
            f"{proof.steps} steps of {group} train differ from {proof.stopped_after} + a resume + "
            f"{proof.steps - proof.stopped_after}: {'; '.join(proof.differences[:4])}",
            "on a GPU some kernels add up in varying order; on a CPU this is a bug: report it with dualdiff doctor",
        )
    console.say(
        f"{proof.steps} steps straight equal {proof.stopped_after} + a resume + {proof.steps - proof.stopped_after}, "
        f"byte for byte: {', '.join(proof.compared)}"
    )
    return True
