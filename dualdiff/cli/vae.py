"""`dualdiff vae`: the VAE, which makes samples small."""

from typing import Annotated

import typer

from dualdiff.cli import console
from dualdiff.cli.format import counted, measured, spread
from dualdiff.cli.options import HERE, AsJson, Overrides, ProjectDir
from dualdiff.cli.training import CheckResume, Hours, Preview, run_training

app = typer.Typer(help="The VAE, which turns samples into latents and back.")


@app.command()
def train(
    hours: Hours = None,
    check_resume: CheckResume = False,
    preview: Preview = None,
    project: ProjectDir = HERE,
    overrides: Overrides = None,
) -> None:
    """Train the VAE, or go on where an interrupted training stopped.

    Ctrl-C saves after the step at hand; the same command then goes on. How long, how large and how often to save is
    in [vae.train] of dualdiff.toml.
    """
    run_training("vae", project, overrides, hours, check_resume, preview, follow_up="encode")


@app.command("test", short_help="Measure what the VAE loses beyond the format.")
def judge(
    count: Annotated[int, typer.Option("-n", "--count", metavar="N", min=1, help="How many tracks.")] = 8,
    seconds: Annotated[float, typer.Option(metavar="S", min=1.0, help="The middle of each track, so long.")] = 10.0,
    project: ProjectDir = HERE,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Measure what the VAE loses beyond the format: the same excerpts through the format, without and with it.

    The tracks are those that the scan kept out of training. The VAE is the one that `encode` uses.
    """
    from dualdiff.core.device import select_device
    from dualdiff.data.manifest import read_ledger, used
    from dualdiff.evaluation.vae_reconstruction import reconstruction
    from dualdiff.model_store.model import load_vae
    from dualdiff.project.settings import open_project

    opened = open_project(project, overrides or ())
    settings = opened.settings
    vae_model = load_vae(opened.model(settings.encode.vae), select_device(settings.project.device))
    rows = read_ledger(opened.ledger)
    held_out = used(rows, "validation")
    if not held_out:
        console.note("no track was kept out of training (dataset.validation_share): these are tracks it was trained on")
    chosen = spread(held_out or used(rows), count)
    folder = opened.music(rows)
    paths = [folder / row.source for row in chosen]
    with console.progress("vae test") as progress:
        ways = reconstruction(paths, vae_model, duration_s=seconds, seed=settings.project.seed, progress=progress)
    found = [{**vars(way), "real_time_factor": way.real_time_factor} for way in ways]
    if as_json:
        console.say_json(found)
        return
    excerpts = counted(len(paths), f"{'held-out ' if held_out else ''}excerpt")
    console.say(f"{excerpts}, {found[0]['audio_s']:.0f} s in all")
    console.table(("measure", "best", *(way["name"] for way in found)), list(measured(found)))
