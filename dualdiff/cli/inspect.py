"""`dualdiff inspect`: what a path is."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dualdiff.cli import console
from dualdiff.cli.options import HERE, AsJson, Force

if TYPE_CHECKING:
    from dualdiff.inspection.report_data import Report, ReportTable

SHOWN_ROWS = 40
"""Rows of a table on the terminal; `--json` and `--html` have more."""


def inspect(
    path: Annotated[
        Path, typer.Argument(help="Project, ledger, latents, run, model, clip, folder of clips.", show_default="here")
    ] = HERE,
    row: Annotated[str, typer.Option(metavar="TRACK", help="Of a ledger, this track.", show_default=False)] = "",
    copies: Annotated[
        bool | None,
        typer.Option(help="Look for the nearest training passages; of clips, unless said.", show_default=False),
    ] = None,
    part: Annotated[
        str,
        typer.Option(metavar="START:END", help="Of an audio file, listen to these seconds only.", show_default=False),
    ] = "",
    model: Annotated[
        Path | None, typer.Option(metavar="DIR", help="A model that tells games apart.", show_default=False)
    ] = None,
    project: Annotated[
        Path | None,
        typer.Option("--project", metavar="DIR", help="The project to compare with.", show_default="above PATH"),
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option("--html", metavar="FILE", help="Write a page with plots, for a browser.", show_default=False),
    ] = None,
    ema: Annotated[
        str | None,
        typer.Option(metavar="WIDTH[@STEP]", help="Of a run: how this average of its weights is rebuilt."),
    ] = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Say what a path is and what is known of it."""
    from dualdiff.core.files import refuse_existing
    from dualdiff.inspection import dispatch
    from dualdiff.pages.report import write_report

    asked = dispatch.InspectOptions(project=project, model=model, row=row, copies=copies, part=part, ema=ema)
    if html:
        refuse_existing([html], force)
    with console.progress("inspect") as progress:
        found = dispatch.inspect(path, asked, progress)
    if html:
        write_report(html, found, force)
    if as_json:
        console.say_json(found.as_json())
    elif html:
        console.say(str(html))
    else:
        show_report(found)
    if found.next and not as_json:
        console.note(f"next: `{found.next}`")


def show_report(found: "Report") -> None:
    """Write a finding to stdout: facts, notes, tables."""
    console.say(f"{found.kind} {found.path.resolve()}")
    console.facts([(name, shown(value)) for name, value in found.facts.items()])
    for note in found.notes:
        console.say(f"\n{note}")
    for sheet in found.sheets:
        console.say("")
        _show_sheet(sheet)


def _show_sheet(sheet: "ReportTable") -> None:
    is_list = len(sheet.columns) == 2  # of settings or recipes: exact, and all to the left
    rows = sheet.rows[:SHOWN_ROWS]
    cells = [[str(shown(cell)) if is_list else shown(cell) for cell in row] for row in rows]
    console.table(sheet.columns, cells, sheet.title)
    if len(sheet.rows) > len(rows):
        console.say(f"... and {len(sheet.rows) - len(rows)} more; --html FILE and --json have them")


def shown(value: Any) -> Any:
    """A value as a cell of a table: lists and tables in a line."""
    if isinstance(value, dict):
        return ", ".join(f"{key}: {shown(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(str(shown(item)) for item in value)
    return value
