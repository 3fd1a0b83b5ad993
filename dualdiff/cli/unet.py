"""`dualdiff unet`: the UNet, which makes latents out of noise."""

from typing import Annotated

import typer

from dualdiff.cli import console
from dualdiff.cli.options import HERE, Overrides, ProjectDir
from dualdiff.cli.training import CheckResume, Hours, Preview, begin_training, beside_training

app = typer.Typer(help="The diffusion UNet, which writes latents for a mix of games.")


@app.command()
def train(
    hours: Hours = None,
    check_resume: CheckResume = False,
    preview: Preview = None,
    force: Annotated[
        bool, typer.Option("--force", help="Train even on latents of a VAE that reconstructs no music.")
    ] = False,
    project: ProjectDir = HERE,
    overrides: Overrides = None,
) -> None:
    """Train the UNet on the encoded tracks, or go on where an interrupted training stopped.

    Ctrl-C saves after the step at hand; the same command then goes on. How long, how large and how often to save is
    in [unet.train] of dualdiff.toml.
    """
    from dualdiff.project.settings import open_project
    from dualdiff.tasks.train import train_unet

    begin_training()
    opened = open_project(project, overrides or ())
    if beside_training(opened, "unet", check_resume, preview):
        return
    with console.progress("unet") as progress:
        result = train_unet(opened, progress, hours, force)
    console.say(str(result.model))
    console.note("next: `dualdiff generate`")
