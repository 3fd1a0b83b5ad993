"""`dualdiff vae`: the VAE, which makes samples small."""

import typer

from dualdiff.cli import console
from dualdiff.cli.options import HERE, Overrides, ProjectDir

app = typer.Typer(help="The VAE, which turns samples into latents and back.")


@app.command()
def train(project: ProjectDir = HERE, overrides: Overrides = None) -> None:
    """Train the VAE, or go on where an interrupted training stopped.

    Ctrl-C saves after the step at hand; the same command then goes on. How long, how large and how often to save is
    in [vae.train] of dualdiff.toml.
    """
    from dualdiff.settings import open_project
    from dualdiff.stages import train_vae

    opened = open_project(project, overrides or ())
    with console.progress("vae") as progress:
        result = train_vae(opened, progress)
    console.say(str(result.model))
    console.note("next: `dualdiff encode`")
