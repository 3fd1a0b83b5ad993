"""The options and the body that `vae train` and `unet train` share, and what they do instead of training."""

from pathlib import Path
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


def run_training(
    kind: str,
    project: Path,
    overrides: list[str] | None,
    hours: float | None,
    check_resume: bool,
    preview: int | None,
    *,
    follow_up: str,
    force: bool = False,
) -> None:
    """Train the network of a kind, or do what was asked for instead; `follow_up` is the next command.

    Raises:
        DualdiffError: as for `tasks.train.train`.
    """
    from dualdiff.project.settings import open_project
    from dualdiff.tasks.train import train

    begin_training()
    opened = open_project(project, overrides or ())
    if instead_of_training(opened, kind, check_resume, preview):
        return
    with console.progress(kind) as progress:
        result = train(opened, kind, progress, hours, force=force)
    console.say(str(result.model))
    console.note(f"next: `dualdiff {follow_up}`")


def instead_of_training(project: "Project", kind: str, check_resume: bool, preview: int | None) -> bool:
    """Do what was asked for instead of training; return whether anything was.

    Raises:
        DualdiffError: the training does not resume exactly.
    """
    from dualdiff.core.errors import DualdiffError
    from dualdiff.tasks.train import check_resume as compare_resumed
    from dualdiff.tasks.train import preview_again

    if preview is not None:
        for path in preview_again(project, kind, preview):
            console.say(path)
    if not check_resume:
        return preview is not None
    with console.progress("check") as progress:
        proof = compare_resumed(project, kind, progress)
    if proof.differences:
        raise DualdiffError(
            f"{proof.steps} steps of {kind} train differ from {proof.stopped_after} + a resume + "
            f"{proof.steps - proof.stopped_after}: {'; '.join(proof.differences[:4])}",
            "on a GPU some kernels add up in varying order; on a CPU this is a bug: report it with dualdiff doctor",
        )
    console.say(
        f"{proof.steps} steps straight equal {proof.stopped_after} + a resume + {proof.steps - proof.stopped_after}, "
        f"byte for byte: {', '.join(proof.compared)}"
    )
    return True
