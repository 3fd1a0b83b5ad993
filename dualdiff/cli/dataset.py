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

SHOWN_SUFFIXES = 8

SHOWN_FAILURES = 5
"""Broken files named one by one; the ledger names all."""


@app.callback()
def dataset() -> None:
    """The music to learn from."""


@app.command()
def scan(
    folder: Annotated[
        Path | None,
        typer.Argument(
            metavar="FOLDER", help="The folder of music; else dataset.folder of dualdiff.toml.", show_default=False
        ),
    ] = None,
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Measure all anew and draw the splits again.")] = False,
    project: ProjectDir = HERE,
    overrides: Overrides = None,
) -> None:
    """Find, label and measure the music. The ledger says what became of each file.

    A FOLDER that is named is remembered in the ledger, for the commands that come next; dualdiff.toml stays as it is.
    """
    from dualdiff.data import scan as scanning
    from dualdiff.project.settings import open_project

    outlive_reader()
    opened = open_project(project, overrides or ())
    with console.progress("scan") as progress:
        found = scanning.scan(opened.root, opened.settings.dataset, folder, rebuild=rebuild, progress=progress)
    _show(found, opened.ledger)
    _tell_folder(opened, found)
    console.say(str(opened.ledger))
    console.note("next: `dualdiff vae train`")


def _tell_folder(project: "Project", found: "Scan") -> None:
    """Say where the music is if the settings name another folder, and the line that would change that."""
    remembered = next((row.folder for row in found.rows if row.folder), "")
    if remembered:
        line = f"[dataset] folder = {json.dumps(remembered, ensure_ascii=False)}"
        place = project.source.where("dataset.folder")
        console.note(f"the music is in {remembered}, as the ledger now says; to note it in {place}: {line}")


def _show(found: "Scan", ledger: Path) -> None:
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
    if len(broken) > SHOWN_FAILURES:
        more = len(broken) - SHOWN_FAILURES
        console.say(f'  and {more} more: all are in {ledger}, with "state": "failed" and the reason')
    if noted := sum(bool(row.note) for row in found.rows):
        console.detail(f"{noted} files are odd, though they are read: their notes are in {ledger}")
    if found.unmatched:
        shown = ", ".join(found.unmatched[:SHOWN_FAILURES])
        console.say(f"{len(found.unmatched)} paths in the table of labels are not in the music folder: {shown}")
    if found.left_out:
        shown = ", ".join(found.left_out[:SHOWN_FAILURES]) + (", ..." if len(found.left_out) > SHOWN_FAILURES else "")
        console.say(f"left out, since dualdiff wrote them: {shown}")
    for remark in found.remarks:
        console.note(remark)
    if others := not_read(found.ignored):
        console.say(others)
    console.detail(f"measured now: {found.measured} of {len(found.rows)}")


NEVER_AUDIO = (
    *(".bmp", ".cfg", ".cue", ".csv", ".db", ".gif", ".html", ".ini", ".jpeg", ".jpg", ".json", ".jsonl", ".log"),
    *(".lrc", ".m3u", ".m3u8", ".md", ".nfo", ".pdf", ".pls", ".png", ".py", ".sfv", ".toml", ".torrent", ".txt"),
    *(".url", ".webp", ".xml", ".yaml", ".yml"),
)
"""Suffixes of files that lie next to music and hold none."""


def not_read(ignored: dict[str, int]) -> str:
    """A line about files whose suffix is not that of audio which can be read, by suffix; empty where there are none."""
    others = {suffix: count for suffix, count in ignored.items() if suffix not in NEVER_AUDIO}
    if not others:
        return ""
    shown = list(others.items())[:SHOWN_SUFFIXES]
    named = ", ".join(f"{count} {suffix or 'without a suffix'}" for suffix, count in shown)
    more = f" and {len(others) - len(shown)} more suffixes" if len(others) > len(shown) else ""
    return f"not read, by suffix: {named}{more}; if it is music, convert it to FLAC"
