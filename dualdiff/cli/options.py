"""Options that several commands share, so that they are spelled and explained once."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

if TYPE_CHECKING:
    from dualdiff.project.settings import Project

ProjectDir: TypeAlias = Annotated[
    Path, typer.Option("--project", metavar="DIR", help="The folder that holds dualdiff.toml.", show_default="here")
]
Overrides: TypeAlias = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Change one setting for this run; may be repeated."),
]
AsJson: TypeAlias = Annotated[bool, typer.Option("--json", help="Write the result as JSON, for programs.")]
Force: TypeAlias = Annotated[bool, typer.Option("--force", help="Overwrite files that exist already.")]
QualityOption: TypeAlias = Annotated[
    str | None, typer.Option("--quality", metavar="QUALITY", help="Work on the way back: draft, default or high.")
]

HERE = Path()


def open_or_defaults(project: Path, overrides: list[str] | None) -> "Project":
    """The project in a folder; the default settings where none was named and none is here.

    Raises:
        ConfigError: a folder was named that holds no project, or the settings cannot be.
    """
    from dualdiff.core.config import read
    from dualdiff.project.settings import FILE_NAME, Project, Settings, open_project

    if project == HERE and not (project / FILE_NAME).exists():
        settings, source = read(Settings, "", "the defaults", overrides or ())
        return Project(project, settings, source)
    return open_project(project, overrides or ())
