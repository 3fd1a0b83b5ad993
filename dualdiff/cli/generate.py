"""`dualdiff generate`: new music."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dualdiff.cli import console
from dualdiff.cli.options import HERE, Force, Overrides, ProjectDir, QualityOption, open_or_defaults

if TYPE_CHECKING:
    from dualdiff.generation.output import Job
    from dualdiff.generation.pipeline import Clip, Pipeline
    from dualdiff.project.settings import Project

Games = Annotated[
    list[str] | None,
    typer.Option(
        "--game",
        metavar="NAME[:WEIGHT],...",
        help="Games and their weights, below 0 to lead away from a game; may be repeated. Without: any.",
    ),
]
Length = Annotated[float | None, typer.Option(metavar="SECONDS", help="Length of a clip; 0.1 to 3600.")]
Count = Annotated[int | None, typer.Option(metavar="N", min=1, help="How many clips, with seeds that count up.")]
Seed = Annotated[int | None, typer.Option(metavar="N", min=0, help="Seed of the first clip; 0 unless said.")]
Steps = Annotated[int | None, typer.Option(metavar="N", help="Steps of the sampler.")]
Sampler = Annotated[str | None, typer.Option(metavar="NAME", help="dpmpp_2m, heun or euler.")]
Scale = Annotated[float | None, typer.Option(metavar="SCALE", help="Guidance: 1 none; more follows the games.")]
Interval = Annotated[
    str | None, typer.Option("--cfg-interval", metavar="LO:HI", help="Guidance acts between these noise levels only.")
]
Guide = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Guide away from this smaller or earlier model, not from music of no game."),
]
Ema = Annotated[
    str | None,
    typer.Option(metavar="WIDTH[@STEP]", help="Play another average of the weights, 0.015 to 0.25; needs the run."),
]
Sweep = Annotated[
    str | None, typer.Option(metavar="A..B", help="Clips of one seed, from all of game A to all of game B.")
]
Between = Annotated[int | None, typer.Option("--steps-between", metavar="N", help="How many clips a sweep is; 5.")]
List = Annotated[
    Path | None,
    typer.Option("--list", metavar="FILE", help="A clip for each row of a CSV or [[clip]] of a TOML file of flags."),
]
Out = Annotated[Path | None, typer.Option(metavar="DIR", help="The folder that clips are written to.")]
Name = Annotated[str | None, typer.Option(metavar="NAME", help="File name of the clip, without suffix.")]
Kind = Annotated[str | None, typer.Option("--format", metavar="KIND", help="flac, wav, ogg or mp3.")]
ModelDir = Annotated[Path | None, typer.Option("--model", metavar="DIR", help="The model folder that plays.")]
From = Annotated[
    Path | None,
    typer.Option("--from", metavar="CLIP", help="Render a clip again from its tags; other flags change its recipe."),
]
Init = Annotated[Path | None, typer.Option(metavar="CLIP", help="Write a variation of this audio file.")]
Strength = Annotated[
    float | None, typer.Option(metavar="0..1", help="How far from what was there; a variation: 0.6 unless said.")
]
Extend = Annotated[
    tuple[Path, float] | None,
    typer.Option(
        metavar="CLIP SECONDS", help="Go on where this audio file ends, for so long; the file itself is kept."
    ),
]
Inpaint = Annotated[
    tuple[Path, str] | None,
    typer.Option(metavar="CLIP START:END", help="Write these seconds of this audio file anew; the rest is kept."),
]
Morph = Annotated[
    tuple[Path, Path] | None,
    typer.Option(metavar="A B", help="Begin as a variation of audio file A and end as one of B; see --strength."),
]
Loop = Annotated[
    bool | None,
    typer.Option("--loop/--no-loop", help="The end leads back to the beginning; loop points are in the tags."),
]
Intro = Annotated[float | None, typer.Option(metavar="SECONDS", help="Put a lead-in of this length before the loop.")]
Bpm = Annotated[
    float | None,
    typer.Option(metavar="TEMPO", help="Tempo, beats a minute; the seed draws one of the games' own unless said."),
]
Bars = Annotated[int | None, typer.Option(metavar="N", help="Length in bars, instead of --length.")]
Loudness = Annotated[float | None, typer.Option(metavar="LUFS", help="Loudness of a clip; -60 to 0.")]
Picture = Annotated[bool, typer.Option("--picture", help="Write a spectrogram beside each clip.")]
Sidecar = Annotated[bool, typer.Option("--sidecar", help="Write the recipe and levels beside each clip, as JSON.")]


def generate(
    game: Games = None,
    length: Length = None,
    count: Count = None,
    seed: Seed = None,
    steps: Steps = None,
    sampler: Sampler = None,
    cfg: Scale = None,
    cfg_interval: Interval = None,
    guide: Guide = None,
    ema: Ema = None,
    quality: QualityOption = None,
    sweep: Sweep = None,
    steps_between: Between = None,
    list_: List = None,
    out: Out = None,
    name: Name = None,
    format_: Kind = None,
    model: ModelDir = None,
    from_: From = None,
    init: Init = None,
    extend: Extend = None,
    inpaint: Inpaint = None,
    morph: Morph = None,
    strength: Strength = None,
    loop: Loop = None,
    intro: Intro = None,
    bpm: Bpm = None,
    bars: Bars = None,
    loudness: Loudness = None,
    picture: Picture = False,
    sidecar: Sidecar = False,
    force: Force = False,
    project: ProjectDir = HERE,
    overrides: Overrides = None,
) -> None:
    """Write new music for a weighted mix of games.

    What no option says is as in [generate] of dualdiff.toml.
    """
    said = {
        "game": game,
        "length": length,
        "count": count,
        "seed": seed,
        "steps": steps,
        "sampler": sampler,
        "cfg": cfg,
        "cfg-interval": cfg_interval,
        "quality": quality,
        "sweep": sweep,
        "steps-between": steps_between,
        "name": name,
        "format": format_,
        "from": from_,
        "init": init,
        "extend": extend,
        "inpaint": inpaint,
        "morph": morph,
        "strength": strength,
        "loop": loop,
        "intro": intro,
        "bpm": bpm,
        "bars": bars,
        "loudness": loudness,
    }
    order = {flag: value for flag, value in said.items() if value is not None}
    from dualdiff.generation import batch_file, output, parse
    from dualdiff.generation.lazy import lazily
    from dualdiff.generation.recipe import SIDECAR, differences

    parse.settings_of(order)  # refuses what cannot be before anything is loaded
    average = parse.parse_average(ema) if ema is not None else None
    rows = batch_file.read_list(list_) if list_ else None
    opened, changed = _open(project, {"out": out, "model": model, "guide": guide}, overrides or [])
    config = opened.settings.generate
    plays, worse = _model_at(opened, config.model), _model_at(opened, config.guide) if config.guide else None
    again = None if model else from_
    pipeline = lazily(plays, lambda: _loaded(opened, _model_of(again, plays, opened.root), worse, from_, average))
    if rows is None:
        jobs = parse.jobs_of(order, pipeline, config, changed)
    else:
        jobs = batch_file.jobs_of_list(rows, order, pipeline, config, changed)
    folder = opened.path(config.out)
    beside = ([PICTURE] if picture else []) + ([SIDECAR] if sidecar else [])
    files = [folder / f"{job.stem}{end}" for job in jobs for end in (f".{job.kind}", *beside)]
    output.require_free(files, force)
    batches = pipeline.batches([job.request for job in jobs])  # loads the model, or refuses it
    output.make_folders(files)
    done = 0
    for batch in batches:
        with console.progress(_label(done, len(batch), len(jobs))) as progress:
            for clip in pipeline.render(batch, progress):
                job = jobs[done]
                _write(folder / job.name, clip, picture, sidecar)
                for line in [*differences(job.recipe, clip.recipe), *output.loop_lost(job.request, clip)]:
                    console.note(line)
                console.say(str(folder / job.name))
                done += 1
    if any("sweep" in row.order for row in rows or []) or sweep:
        _show_sweep(jobs, folder, plays)


PICTURE = ".png"


def _model_at(project: "Project", name: str) -> Path:
    """The folder that a setting names a model by: from the project's, or that of one that travels with dualdiff.

    Raises:
        DataError: there is none.
    """
    from dualdiff.core.errors import DataError
    from dualdiff.model_store.location import named_model, shipped_model

    place = named_model(project.path(name))
    found = place if place.exists() else shipped_model(name)
    if found is None:
        small = "; --model nano plays the small one that travels with dualdiff" if shipped_model() else ""
        raise DataError(f"there is no folder {place}", f"`dualdiff vae train`, then `dualdiff unet train`{small}")
    return found


def _model_of(clip: Path | None, model: Path, root: Path) -> Path:
    """The model that a clip was made with, if the run that trained it has gone on and the project keeps it."""
    if clip is None:
        return model
    from dualdiff.generation.recipe import read_recipe
    from dualdiff.model_store.components import model_with, read_model_json, split_average

    digest = str(read_recipe(clip)["model"])
    if read_model_json(model)["parts"].get("unet") == split_average(digest)[0]:
        return model
    kept = model_with(root, "unet", digest)
    if kept:
        console.note(f"{clip.name} was made with an earlier model, which is kept: --model {kept}")
    return kept or model


def _loaded(
    opened: "Project", plays: Path, guide: Path | None, again: Path | None, average: tuple[float, int | None] | None
) -> "Pipeline":
    """The pipeline of a model and its guide, in the precision of the clip to render again, if there is one."""
    from dualdiff.generation.output import precision_of
    from dualdiff.generation.pipeline import Pipeline

    machine = opened.settings.project
    precision = precision_of(again, machine.device) if again and machine.precision == "auto" else machine.precision
    pipeline = Pipeline.load(plays, machine.device, precision, machine.compile, guide)
    if average is not None:
        from dualdiff.training.ema.posthoc import run_of, with_average

        run = run_of(pipeline.model, opened.root)
        pipeline.model, how = with_average(pipeline.model, run, *average)
        console.note(f"weights averaged over a relative width of {how.width:g} at step {how.step}")
    return pipeline


def _write(path: Path, clip: "Clip", picture: bool, sidecar: bool) -> None:
    from dualdiff.generation.output import write_clip

    write_clip(path, clip, sidecar)
    if picture:
        from dualdiff.evaluation.spectrogram_image import SpectrogramRow, write_spectrograms

        write_spectrograms(path.with_suffix(PICTURE), [SpectrogramRow(path.stem, clip.waveform)], clip.sample_rate)


def _show_sweep(jobs: "list[Job]", folder: Path, model: Path) -> None:
    """What was asked of each clip of a sweep, and which games it sounds like."""
    from dualdiff.inspection.audio import shares_in_words
    from dualdiff.inspection.clip_analysis import ClipAnalyser
    from dualdiff.inspection.project_context import ProjectContext

    ear = ClipAnalyser(ProjectContext(model=model), copies=False)
    for job in jobs:
        heard = ear.hear(folder / job.name)[0]
        found = f"measured {shares_in_words(heard.shares)}" if heard.shares else heard.notes[0]
        console.note(f"{job.name}: asked for {shares_in_words(job.request.games)}; {found}")


def _label(done: int, batch: int, total: int) -> str:
    last = f" to {done + batch}" if batch > 1 else ""
    return f"clip {done + 1}{last} of {total}"


def _open(project: Path, places: dict[str, Path | None], overrides: list[str]) -> "tuple[Project, dict[str, Any]]":
    """The project with the folders of the flags laid over it, and the settings of [generate] that --set changes.

    Without a project, the defaults, if a model is named or one travels with dualdiff.
    """
    from dualdiff.core.config import parse_override
    from dualdiff.model_store.location import named_model
    from dualdiff.project.settings import open_project

    guide = places["guide"] and named_model(places["guide"])
    places = {**places, "guide": guide, "model": _meant(project, places["model"], overrides)}
    pairs = [parse_override(override) for override in overrides]
    changed = {key.removeprefix("generate."): value for key, value in pairs if key.startswith("generate.")}
    changed = {key: value for key, value in changed.items() if key not in places}
    opener = open_or_defaults if places["model"] else open_project
    flags = [f"generate.{key}={json.dumps(str(path.resolve()))}" for key, path in places.items() if path]
    return opener(project, [*overrides, *flags]), changed


def _meant(project: Path, model: Path | None, overrides: list[str]) -> Path | None:
    """The model folder that the flags mean: what is named, or where there is no project what travels with dualdiff."""
    from dualdiff.model_store.location import named_model, shipped_model
    from dualdiff.project.settings import FILE_NAME

    if model:
        return named_model(model)
    is_project = project != HERE or (HERE / FILE_NAME).exists()
    shipped = None if is_project or any("generate.model" in override for override in overrides) else shipped_model()
    if shipped:
        console.note(f"no {FILE_NAME} here: the small model that travels with dualdiff plays (`dualdiff inspect nano`)")
    return shipped
