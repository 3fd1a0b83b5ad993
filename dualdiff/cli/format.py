"""`dualdiff format`: what the way to samples and back keeps of music."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dualdiff.cli import console
from dualdiff.cli.options import HERE, AsJson, Force, Overrides, ProjectDir, QualityOption, open_or_defaults

if TYPE_CHECKING:
    from dualdiff.core.quality import Quality
    from dualdiff.data.manifest import Row
    from dualdiff.formats.base import Format
    from dualdiff.pages.comparison_page import ComparisonPage
    from dualdiff.project.settings import Project

app = typer.Typer(help="The format: waveforms to samples and back.")

Files = Annotated[list[Path], typer.Argument(help="Audio files.", metavar="FILE")]
Seed = Annotated[int, typer.Option(metavar="N", min=0, help="Seed of what the way back draws.")]
Out = Annotated[Path | None, typer.Option(metavar="DIR", help="Write audio, pictures and a page to listen to there.")]
Baseline = Annotated[
    list[str] | None, typer.Option(metavar="NAME", help="fgla-N, griffin-lim-N, mp3-K or opus-K; may be repeated.")
]
EXCERPT_S = 10.0
"""What is compared with baselines, unless said otherwise."""


@app.command(short_help="Send files there and back.")
def roundtrip(
    files: Files,
    out: Out = None,
    seconds: Annotated[
        float | None, typer.Option(metavar="S", min=0.1, help="Only so much of each file (else at most 20 min).")
    ] = None,
    baselines: Annotated[bool, typer.Option(help="Compare with other ways and codecs, on 10 s of each file.")] = True,
    baseline: Baseline = None,
    quality: QualityOption = None,
    seed: Seed = 0,
    force: Force = False,
    project: ProjectDir = HERE,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Send files through the format and back; show what is lost, how long it takes, and what other ways lose.

    Baselines go through the middle 10 s of each file.
    """
    from dualdiff.evaluation import roundtrip as evaluation

    evaluation.require_possible(files, out, baseline or (), force)
    made, wanted = _format(open_or_defaults(project, overrides)), _quality(quality)
    listening = _listening(out, made, force)
    found = []
    for file in files:
        with console.progress(file.name) as progress:
            result = evaluation.roundtrip(
                file, made, out=out, duration_s=seconds, seed=seed, quality=wanted, force=force, progress=progress
            )
        found.append({**vars(result), "real_time_factor": result.real_time_factor})
        if not as_json:
            _show(found[-1])
    ways: list[dict[str, Any]] = []
    if baselines or listening:
        names, length_s = baseline if baselines else [], min(seconds or EXCERPT_S, EXCERPT_S)
        ways = _compared(files, made, names, length_s, seed, wanted, listening)
    if as_json:
        console.say_json({"files": found, "ways": ways, "page": listening and listening.page if ways else None})
    elif ways:
        _show_ways(ways, listening)


@app.command("test", short_help="Compare with other ways and codecs.")
def compare(
    count: Annotated[int, typer.Option("-n", "--count", metavar="N", min=1, help="How many tracks.")] = 8,
    seconds: Annotated[
        float, typer.Option(metavar="S", min=0.5, help="The middle of each track, so long.")
    ] = EXCERPT_S,
    out: Out = None,
    baseline: Baseline = None,
    quality: QualityOption = None,
    seed: Seed = 0,
    force: Force = False,
    project: ProjectDir = HERE,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Compare the format with other ways back and with codecs, on the same excerpts of tracks of the data set."""
    from dualdiff.data.manifest import read_ledger, used
    from dualdiff.project.settings import open_project

    opened = open_project(project, overrides or ())
    made, wanted = _format(opened), _quality(quality)
    listening = _listening(out, made, force)
    rows = spread(used(read_ledger(opened.ledger)), count)
    folder = opened.music(rows)
    paths = [folder / row.source for row in rows]
    found = _compared(paths, made, baseline, seconds, seed, wanted, listening)
    if as_json:
        console.say_json(found)
        return
    _show_ways(found, listening)


def _compared(
    paths: Sequence[Path],
    made: "Format",
    baselines: list[str] | None,
    seconds: float,
    seed: int,
    quality: "Quality",
    listening: "ComparisonPage | None",
) -> list[dict[str, Any]]:
    """What `evaluation.roundtrip.compare` says, as plain values; with the page of what it lets hear."""
    from dualdiff.evaluation.roundtrip import compare

    with console.progress("comparison") as progress:
        ways = compare(
            paths,
            made,
            baselines,
            duration_s=seconds,
            seed=seed,
            quality=quality,
            listener=listening,
            progress=progress,
        )
    if listening:
        listening.finish(f"the {made.config.name} format beside other ways", ways)
    return [{**vars(way), "real_time_factor": way.real_time_factor} for way in ways]


def _listening(out: Path | None, made: "Format", force: bool) -> "ComparisonPage | None":
    from dualdiff.pages.comparison_page import ComparisonPage

    return ComparisonPage(out, made.sample_rate, force) if out else None


def _quality(name: str | None) -> "Quality":
    from dualdiff.core.errors import UsageError, did_you_mean
    from dualdiff.core.quality import QUALITIES

    for quality in QUALITIES:
        if name in (quality, None):
            return quality if name else "default"
    raise UsageError(f'there is no quality "{name}"', did_you_mean(str(name), QUALITIES) or "draft, default or high")


def _show_ways(ways: Sequence[dict[str, Any]], listening: "ComparisonPage | None") -> None:
    from dualdiff.evaluation.metrics import METRICS

    console.say(f"{counted(ways[0]['files'], 'excerpt')}, {ways[0]['audio_s']:.0f} s in all")
    console.table(("measure", "best", *(way["name"] for way in ways)), list(measured(ways)))
    console.say(f"log-mel distance: {METRICS['log_mel_distance'].definition}")
    if listening:
        console.say(str(listening.page))


def counted(count: int, what: str) -> str:
    """So many of something, in words."""
    return f"{count} {what}{'' if count == 1 else 's'}"


def spread(rows: "Sequence[Row]", count: int) -> "list[Row]":
    """The first `count` tracks when the games take turns, each in the order of its tracks."""
    turns: dict[str, int] = {}
    turn_of = {}
    for row in rows:
        turn_of[row.path] = turns.get(row.game, 0)
        turns[row.game] = turn_of[row.path] + 1
    return sorted(rows, key=lambda row: (turn_of[row.path], row.game))[:count]


def _format(project: "Project") -> "Format":
    from dualdiff.core.device import select_device
    from dualdiff.formats.base import FORMATS

    config = project.settings.format
    made: Format = FORMATS[config.name](config, device=select_device(project.settings.project.device))
    return made


def measured(found: Sequence[dict[str, Any]]) -> Iterable[list[Any]]:
    """A line for each measure: what it is, which end is good, and its value for each of the ways or files."""
    from dualdiff.evaluation.metrics import METRICS

    for name, metric in METRICS.items():
        unit = f", {metric.unit}" if metric.unit else ""
        values = [way["metrics"].get(name) for way in found]
        yield [f"{metric.title}{unit}", metric.best, *([metric.missing] * len(found) if None in values else values)]
    if any(way.get("bitrate_kbps") for way in found):
        yield ["actual rate, kbit/s", "", *(way["bitrate_kbps"] for way in found)]
    yield ["computing per second of audio, s", "low", *(way["real_time_factor"] for way in found)]


def _show(result: dict[str, Any]) -> None:
    console.say(f"{result['path']}, {result['duration_s']:.1f} s")
    console.table(("measure", "best", "round trip"), list(measured([result])))
    for written in (result["audio"], result["picture"]):
        if written:
            console.say(str(written))
