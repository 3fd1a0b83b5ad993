"""`dualdiff unet`: the UNet, which makes latents out of noise."""

from pathlib import Path
from typing import Annotated

import typer

from dualdiff.cli import console
from dualdiff.cli.inspect import show_report
from dualdiff.cli.options import HERE, AsJson, Force, Overrides, ProjectDir
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


@app.command("test", short_help="Measure a model's music between real music and noise.")
def measure(
    model: Annotated[
        Path | None, typer.Argument(help="A model folder, or nano.", show_default="generate.model of the project")
    ] = None,
    clips: Annotated[
        int, typer.Option("-n", "--clips", metavar="N", min=0, help="Clips to write; 0: the denoising ladder alone.")
    ] = 24,
    length: Annotated[float, typer.Option(metavar="S", min=1.0, help="Length of clips and excerpts, seconds.")] = 18.0,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write a page with charts and players.")
    ] = None,
    force: Force = False,
    project: ProjectDir = HERE,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Measure the music that a model writes, between real music (the floor) and shuffled music and noise (the ceiling).

    Clips of each game and of pairs are compared with held-out tracks of the project: distances (FAD, KAD), beat, form,
    melody, key, label adherence, mixes, memorization; and the denoising ladder shows at which noise level the beat is
    lost. With 24 clips it takes some minutes on a CPU; narrow intervals need 100 or more.
    """
    from dualdiff.core.files import refuse_existing
    from dualdiff.inspection.music_report import as_json as plain
    from dualdiff.inspection.music_report import model_report
    from dualdiff.model_store.location import named_model
    from dualdiff.project.settings import open_project
    from dualdiff.tasks.unet_test import measure_unet

    opened = open_project(project, overrides or ())
    if html:
        refuse_existing([html], force)
    folder = named_model(model) if model else opened.model(opened.settings.generate.model)
    with console.progress("unet test") as progress:
        found = measure_unet(opened, folder, clips=clips, length_s=length, progress=progress)
    report = model_report(folder, found.facts, found.notes, found.measures)
    if html:
        from dualdiff.pages.report import write_report

        write_report(html, report, force)
    if as_json:
        console.say_json({"path": folder, "facts": report.facts, "notes": report.notes, **plain(found.measures)})
    elif html:
        console.say(str(html))
    else:
        show_report(report)
