"""`dualdiff encode`: tracks to latents."""

from dualdiff.cli import console
from dualdiff.cli.options import HERE, Overrides, ProjectDir


def encode(project: ProjectDir = HERE, overrides: Overrides = None) -> None:
    """Turn the tracks into latents with the VAE; latents that are there already and still fit are kept."""
    from dualdiff.data.encode import encode_tracks
    from dualdiff.data.ledger import read_ledger, used
    from dualdiff.device import select_device, select_precision
    from dualdiff.settings import open_project
    from dualdiff.store import load_vae

    opened = open_project(project, overrides or ())
    settings, machine = opened.settings, opened.settings.project
    device = select_device(machine.device)
    music, latents = opened.path(settings.dataset.folder), opened.path(settings.encode.folder)
    rows = used(read_ledger(opened.ledger))
    vae = load_vae(opened.path(settings.encode.vae), device, select_precision(machine.precision, device))
    with console.progress("encode") as progress:
        result = encode_tracks(rows, music, latents, vae, settings.encode, progress)
    console.note(f"encoded {result.encoded} of {result.share} tracks; the others were there")
    console.say(str(latents))
    console.note("next: `dualdiff unet train`")
