"""`dualdiff init`: start a project."""

from typing import Annotated

import typer

from dualdiff.cli import console
from dualdiff.cli.options import HERE, Force, ProjectDir


def init(
    preset: Annotated[str, typer.Option(metavar="nano|small|seed", help="The size of the models.")] = "small",
    name: Annotated[
        str, typer.Option(metavar="NAME", help="Name of the project.", show_default="the folder's name")
    ] = "",
    project: ProjectDir = HERE,
    force: Force = False,
) -> None:
    """Write dualdiff.toml here, from a preset, and say what comes next."""
    from dualdiff.core.files import refuse_existing, write_text_atomically
    from dualdiff.project.presets import PRESETS
    from dualdiff.project.settings import FILE_NAME, project_toml

    text = project_toml(preset, name or project.resolve().name)
    path = project / FILE_NAME
    refuse_existing([path], force, "edit it, or let --force replace it by the preset")
    write_text_atomically(path, text)
    console.say(f"wrote {path} (preset {preset}: {PRESETS[preset][1]})")
    console.note("next: put music into music/<game>/<track>, then `dualdiff dataset scan`")
