"""`dualdiff inspect`: what a path is."""

from pathlib import Path
from typing import Annotated, Any

import typer

from dualdiff.cli import console
from dualdiff.cli.options import HERE, AsJson


def inspect(
    path: Annotated[
        Path, typer.Argument(metavar="PATH", help="Project, ledger, latents, run, model or audio.", show_default="here")
    ] = HERE,
    as_json: AsJson = False,
) -> None:
    """Say what a path is and what is known of it."""
    from dualdiff.evaluation import inspection

    found = inspection.inspect(path)
    if as_json:
        tables = {
            sheet.title: [dict(zip(sheet.columns, row, strict=True)) for row in sheet.rows] for sheet in found.sheets
        }
        console.say_json({"kind": found.kind, "path": found.path, "facts": found.facts, **tables, "next": found.next})
        return
    console.say(f"{found.kind} {found.path.resolve()}")
    console.facts([(name, shown(value)) for name, value in found.facts.items()])
    for sheet in found.sheets:
        console.say("")
        is_list = len(sheet.columns) == 2  # of settings or recipes: exact, and all to the left
        cells = [[str(shown(cell)) if is_list else shown(cell) for cell in row] for row in sheet.rows]
        console.table(sheet.columns, cells, sheet.title)
    console.note(f"next: `{found.next}`")


def shown(value: Any) -> Any:
    """A value as a cell of a table: lists and tables in a line."""
    if isinstance(value, dict):
        return ", ".join(f"{key}: {shown(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(str(shown(item)) for item in value)
    return value
