"""`dualdiff dataset`: the music, and what became of each file."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dualdiff.cli import console
from dualdiff.cli.options import HERE, Overrides, ProjectDir
from dualdiff.cli.streams import outlive_reader

if TYPE_CHECKING:
    from dualdiff.data.scan import Scan
    from dualdiff.project.settings import Project

app = typer.Typer(help="The music to learn from.")

SHOWN_FAILURES = 5
"""Broken files named one by one; the ledger names all."""


@app.callback()
def dataset() -> None:
    """The music to learn from."""


@app.command()
def scan(
    folder: Annotated[
        Path | None,
        typer.Argument(metavar="FOLDER", help="The folder of music, noted in dualdiff.toml; else the one noted there."),
    ] = None,
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Measure all anew and draw the splits again.")] = False,
    project: ProjectDir = HERE,
    overrides: Overrides = None,
) -> None:
    """Find, label and measure the music. The ledger says what became of each file."""
    from dualdiff.data import scan as scanning
    from dualdiff.project.settings import open_project

    outlive_reader()
    chosen = [f"dataset.folder={json.dumps(folder.resolve().as_posix())}"] if folder else []
    opened = open_project(project, [*(overrides or []), *chosen])
    with console.progress("scan") as progress:
        found = scanning.scan(opened.root, opened.settings.dataset, rebuild=rebuild, progress=progress)
    if folder:
        _remember(opened, folder)
    _show(found)
    console.say(str(opened.ledger))
    console.note("next: `dualdiff vae train`")


def _remember(project: "Project", folder: Path) -> None:
    """Write the folder into dualdiff.toml, for the commands that come next; relative where it lies in the project."""
    from dualdiff.core.files import write_text_atomically
    from dualdiff.core.tomledit import with_text
    from dualdiff.project.settings import FILE_NAME

    root, place = project.root.resolve(), folder.resolve()
    value = (place.relative_to(root) if place.is_relative_to(root) else place).as_posix()
    path = project.root / FILE_NAME
    before = path.read_text(encoding="utf-8-sig")
    after = with_text(before, "dataset.folder", value, FILE_NAME)
    if after != before:
        write_text_atomically(path, after)
        console.note(f"{FILE_NAME}: dataset.folder is now {value}")


def _show(found: "Scan") -> None:
    from dualdiff.data.manifest import summary
    from dualdiff.data.selection import REMEDIES

    counts = summary(found.rows)
    rows = [
        (line.game, line.tracks, line.validation, console.duration(line.hours * 3600), line.skipped, line.failed)
        for line in counts.games
    ]
    total = ("all", counts.tracks, counts.validation, console.duration(counts.hours * 3600))
    console.table(
        ("game", "tracks", "to validate", "music", "skipped", "failed"),
        [*rows, (*total, counts.skipped, counts.failed)],
    )
    for kind, count in counts.reasons.items():
        console.say(f"{count} not used: {kind} ({REMEDIES[kind]})")
    broken = [row for row in found.rows if row.state == "failed"]
    for row in broken[:SHOWN_FAILURES]:
        console.say(f"  {row.path}: {row.reason}")
    if found.unmatched:
        shown = ", ".join(found.unmatched[:SHOWN_FAILURES])
        console.say(f"{len(found.unmatched)} paths in the table of labels are not in the music folder: {shown}")
    for remark in found.remarks:
        console.note(remark)
    if found.ignored:
        others = ", ".join(f"{count} {suffix or 'without suffix'}" for suffix, count in found.ignored.items())
        console.detail(f"not audio: {others}")
    console.detail(f"measured now: {found.measured} of {len(found.rows)}")
