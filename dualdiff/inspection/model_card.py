"""A model's card as `inspect` shows it: its sentences as notes, its tables as tables."""

import re
from collections.abc import Iterator
from pathlib import Path

from dualdiff.inspection.report_data import ReportTable


def read_card(path: Path) -> tuple[list[str], list[ReportTable]]:
    """The paragraphs of a card in Markdown, and its tables, each named by the heading above it.

    What stands above the first heading of the second level, title and facts, is left out: the model's files tell it,
    and cannot be edited apart from the model. A missing card is an empty one.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return [], []
    notes, sheets, heading = [], [], ""
    for block in _blocks(text):
        if block[0].startswith("## "):
            heading = block[0].removeprefix("## ")
            block = block[1:]
        if not heading or not block:
            continue
        if block[0].startswith("|"):
            columns, *rows = [_cells(line) for line in block if not re.fullmatch(r"[|\s:-]+", line)]
            whole = [row for row in rows if len(row) == len(columns)]
            sheets.append(ReportTable(title=heading.lower(), columns=columns, rows=whole))
        else:
            notes.append(" ".join(line.strip() for line in block))
    return notes, sheets


def _blocks(text: str) -> Iterator[list[str]]:
    """Runs of lines between empty ones."""
    for block in re.split(r"\n\s*\n", text):
        lines = [line for line in block.splitlines() if line.strip()]
        if lines:
            yield lines


def _cells(line: str) -> list[str]:
    """The cells of a row; a bar that belongs to a cell has a backslash before it."""
    return [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
