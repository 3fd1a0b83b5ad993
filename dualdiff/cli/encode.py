"""`dualdiff encode`: tracks to latents."""

from typing import TYPE_CHECKING, Annotated

import typer

from dualdiff.cli import console
from dualdiff.cli.options import HERE, Overrides, ProjectDir
from dualdiff.cli.training import begin_training

if TYPE_CHECKING:
    from dualdiff.data.latent_dataset import Damage, LatentIndex
    from dualdiff.project.settings import Project


def encode(
    check: Annotated[
        bool,
        typer.Option("--check", help="Encode nothing: compare all latents with their hashes, VAE, format and tracks."),
    ] = False,
    repair: Annotated[
        bool, typer.Option("--repair", help="Read all latents, and encode again what is damaged, missing or stale.")
    ] = False,
    project: ProjectDir = HERE,
    overrides: Overrides = None,
) -> None:
    """Turn the tracks into latents with the VAE; latents that are there already and still fit are kept."""
    from dualdiff.data.latent_dataset import INDEX_NAME
    from dualdiff.project.settings import open_project

    opened = open_project(project, overrides or ())
    if check and not repair:
        _check(opened)
        return
    from dualdiff.tasks.encode import encode as encode_project

    begin_training()
    is_indexed = (opened.path(opened.settings.encode.folder) / INDEX_NAME).exists()
    damaged = _damaged(opened)[1] if repair and is_indexed else []
    with console.progress("encode") as progress:
        result = encode_project(opened, progress, [own.path.name for own in damaged])
    kept = result.share - result.encoded
    console.note(f"encoded {result.encoded} of {result.share} tracks" + (f"; {kept} were there" if kept else ""))
    if damaged:
        console.note(f"{len(damaged)} damaged or missing files were made again or are no longer needed")
    console.say(str(result.index.folder))
    console.note("next: `dualdiff unet train`")


def _damaged(project: "Project") -> "tuple[LatentIndex, list[Damage]]":
    """Return the index of a project's latents, and the files that are not the ones it names."""
    from dualdiff.data.latent_dataset import LatentIndex, damage_of

    index = LatentIndex.open(project.path(project.settings.encode.folder))
    with console.progress("check") as progress:
        return index, damage_of(index, progress)


def _check(project: "Project") -> None:
    """Compare the latents of a project with their hashes, and with the VAE, format, settings and tracks of today."""
    from dualdiff.core.errors import DataError
    from dualdiff.data.latent_dataset import REPAIR, require_whole
    from dualdiff.data.manifest import read_ledger, used
    from dualdiff.model_store.components import read_model_json

    index, damage = _damaged(project)
    require_whole(damage)
    config = project.settings.encode
    parts = read_model_json(project.model(config.vae))["parts"]
    index.require(vae_hash=parts.get("vae", ""), format_hash=parts["format"])
    if (index.offsets, list(index.variants)) != (config.offsets, config.variants):
        raise DataError(f"the latents in {index.folder} were made with other settings than those of [encode]", REPAIR)
    console.say(f"all {len(index.tracks) * len(index.variants)} files, of {len(index.tracks)} tracks, are as written")
    encoded = {(track.path, track.audio_sha256) for track in index.tracks}
    rows = used(read_ledger(project.ledger))
    if waiting := sum((row.path, row.sha256) not in encoded for row in rows):
        console.note(f"{waiting} of the {len(rows)} tracks of the manifest are not encoded yet: `dualdiff encode`")
