"""`dualdiff encode`: tracks to latents."""

from typing import TYPE_CHECKING, Annotated

import typer

from dualdiff.cli import console
from dualdiff.cli.options import HERE, Overrides, ProjectDir
from dualdiff.cli.training import begin_training

if TYPE_CHECKING:
    from dualdiff.project.settings import Project


def encode(
    check: Annotated[
        bool, typer.Option("--check", help="Encode nothing: compare every file of latents with its stored hash.")
    ] = False,
    project: ProjectDir = HERE,
    overrides: Overrides = None,
) -> None:
    """Turn the tracks into latents with the VAE; latents that are there already and still fit are kept."""
    from dualdiff.project.settings import open_project

    opened = open_project(project, overrides or ())
    if check:
        _check(opened)
        return
    from dualdiff.tasks import train

    begin_training()
    with console.progress("encode") as progress:
        result = train.encode(opened, progress)
    kept = result.share - result.encoded
    console.note(f"encoded {result.encoded} of {result.share} tracks" + (f"; {kept} were there" if kept else ""))
    console.say(str(result.index.folder))
    console.note("next: `dualdiff unet train`")


def _check(project: "Project") -> None:
    """Compare the latents of a project with their hashes, and with the tracks of the ledger."""
    from dualdiff.data.latent_dataset import check
    from dualdiff.data.manifest import read_ledger, used

    with console.progress("check") as progress:
        index = check(project.path(project.settings.encode.folder), progress)
    files = len(index.tracks) * len(index.variants)
    console.say(f"all {files} files, of {len(index.tracks)} tracks, are as they were written")
    encoded = {(track.path, track.audio_sha256) for track in index.tracks}
    rows = used(read_ledger(project.ledger))
    if waiting := sum((row.path, row.sha256) not in encoded for row in rows):
        console.note(f"{waiting} of the {len(rows)} tracks of the ledger are not encoded yet: `dualdiff encode`")
