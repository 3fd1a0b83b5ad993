"""`dualdiff unet`: the UNet, which makes latents out of noise."""

from typing import Annotated

import typer

from dualdiff.cli.options import HERE, Overrides, ProjectDir
from dualdiff.cli.training import CheckResume, Hours, Preview, run_training

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
    run_training("unet", project, overrides, hours, check_resume, preview, follow_up="generate", force=force)
