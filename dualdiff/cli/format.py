"""`dualdiff format`: what the way to samples and back keeps of music."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dualdiff.cli import console
from dualdiff.cli.options import HERE, AsJson, Force, Overrides, ProjectDir, open_or_defaults

if TYPE_CHECKING:
    from dualdiff.data.ledger import Row
    from dualdiff.formats import Format
    from dualdiff.settings import Project

app = typer.Typer(help="The format: waveforms to samples and back.")

Files = Annotated[list[Path], typer.Argument(help="Audio files.", metavar="FILE")]
Seed = Annotated[int, typer.Option(metavar="N", min=0, help="Seed of what the way back draws.")]


@app.command(short_help="Send files there and back.")
def roundtrip(
    files: Files,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Write audio and pictures there.")] = None,
    seconds: Annotated[float | None, typer.Option(metavar="S", min=0.1, help="Only so much of each file.")] = None,
    seed: Seed = 0,
    force: Force = False,
    project: ProjectDir = HERE,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Send files through the format and back; show what is lost, and how long it takes."""
    from dualdiff.evaluation import roundtrip as evaluation

    made = _format(open_or_defaults(project, overrides))
    found = []
    for file in files:
        with console.progress(file.name) as progress:
            result = evaluation.roundtrip(
                file, made, out=out, duration_s=seconds, seed=seed, force=force, progress=progress
            )
        found.append({**vars(result), "real_time_factor": result.real_time_factor})
        if not as_json:
            _show(found[-1])
    if as_json:
        console.say_json(found)


@app.command("test", short_help="Compare with other ways and codecs.")
def compare(
    count: Annotated[int, typer.Option("-n", "--count", metavar="N", min=1, help="How many tracks.")] = 8,
    seconds: Annotated[float, typer.Option(metavar="S", min=0.5, help="The middle of each track, so long.")] = 10.0,
    baseline: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="fgla-N, griffin-lim-N, mp3-K or opus-K; may be repeated.")
    ] = None,
    seed: Seed = 0,
    project: ProjectDir = HERE,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Compare the format with other ways back and with codecs, on tracks of the data set."""
    from dualdiff.data.ledger import read_ledger, used
    from dualdiff.evaluation import roundtrip as evaluation
    from dualdiff.settings import open_project

    opened = open_project(project, overrides or ())
    rows = spread(used(read_ledger(opened.ledger)), count)
    paths = [opened.path(opened.settings.dataset.folder) / row.source for row in rows]
    with console.progress("format test") as progress:
        ways = evaluation.compare(paths, _format(opened), baseline, duration_s=seconds, seed=seed, progress=progress)
    found = [{**vars(way), "real_time_factor": way.real_time_factor} for way in ways]
    if as_json:
        console.say_json(found)
        return
    console.say(f"{len(paths)} excerpts, {found[0]['audio_s']:.0f} s in all")
    console.table(("measure", "best", *(way["name"] for way in found)), list(measured(found)))


def spread(rows: "Sequence[Row]", count: int) -> "list[Row]":
    """The first `count` tracks when the games take turns, each in the order of its tracks."""
    turns: dict[str, int] = {}
    turn_of = {}
    for row in rows:
        turn_of[row.path] = turns.get(row.game, 0)
        turns[row.game] = turn_of[row.path] + 1
    return sorted(rows, key=lambda row: (turn_of[row.path], row.game))[:count]


def _format(project: "Project") -> "Format":
    from dualdiff.device import select_device
    from dualdiff.formats import FORMATS

    config = project.settings.format
    made: Format = FORMATS[config.name](config, device=select_device(project.settings.project.device))
    return made


def measured(found: Sequence[dict[str, Any]]) -> Iterable[list[Any]]:
    """A line for each measure: what it is, which end is good, and its value for each of the ways or files."""
    from dualdiff.evaluation.metrics import METRICS

    for name, metric in METRICS.items():
        unit = f", {metric.unit}" if metric.unit else ""
        best = "near 0" if name == "loudness_difference_lu" else "high" if metric.higher_is_better else "low"
        yield [f"{metric.title}{unit}", best, *(way["metrics"][name] for way in found)]
    yield ["computing per second of audio, s", "low", *(way["real_time_factor"] for way in found)]


def _show(result: dict[str, Any]) -> None:
    console.say(f"{result['path']}, {result['duration_s']:.1f} s")
    console.table(("measure", "best", "round trip"), list(measured([result])))
    for written in (result["audio"], result["picture"]):
        if written:
            console.say(str(written))
