"""`dualdiff generate`: new music."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dualdiff.cli import console
from dualdiff.cli.options import HERE, Force, Overrides, ProjectDir, QualityOption, open_or_defaults

if TYPE_CHECKING:
    from dualdiff.settings import Project

Games = Annotated[
    list[str] | None,
    typer.Option("--game", metavar="NAME[:WEIGHT],...", help="Games and their weights; may be repeated. Without: any."),
]
Length = Annotated[float | None, typer.Option(metavar="SECONDS", help="Length of a clip; 0.1 to 3600.")]
Count = Annotated[int, typer.Option(metavar="N", min=1, help="How many clips, with seeds that count up.")]
Seed = Annotated[int | None, typer.Option(metavar="N", min=0, help="Seed of the first clip; 0 unless said.")]
Steps = Annotated[int | None, typer.Option(metavar="N", help="Steps of the sampler.")]
Sampler = Annotated[str | None, typer.Option(metavar="NAME", help="dpmpp_2m, heun or euler.")]
Scale = Annotated[float | None, typer.Option(metavar="SCALE", help="Guidance: 1 none; more follows the games.")]
Out = Annotated[Path | None, typer.Option(metavar="DIR", help="The folder that clips are written to.")]
Kind = Annotated[str | None, typer.Option("--format", metavar="KIND", help="flac, wav, ogg or mp3.")]
ModelDir = Annotated[Path | None, typer.Option("--model", metavar="DIR", help="The model folder that plays.")]
From = Annotated[Path | None, typer.Option("--from", metavar="CLIP", help="Render a clip again from its tags.")]
Init = Annotated[Path | None, typer.Option(metavar="CLIP", help="Write a variation of this audio file.")]
Strength = Annotated[float | None, typer.Option(metavar="0..1", help="How far a variation may stray; 0.6 unless said.")]
Loudness = Annotated[float | None, typer.Option(metavar="LUFS", help="Loudness of a clip; -60 to 0.")]
Picture = Annotated[bool, typer.Option("--picture", help="Write a spectrogram beside each clip.")]

SHORTEST_S = 0.1
"""The shortest clip, seconds."""

FLAGS = {"length_s": "length", "cfg_scale": "cfg", "loudness_lufs": "loudness", "file_format": "format"}
"""The flags of settings that are called otherwise."""


def generate(
    game: Games = None,
    length: Length = None,
    count: Count = 1,
    seed: Seed = None,
    steps: Steps = None,
    sampler: Sampler = None,
    cfg: Scale = None,
    quality: QualityOption = None,
    out: Out = None,
    kind: Kind = None,
    model: ModelDir = None,
    from_: From = None,
    init: Init = None,
    strength: Strength = None,
    loudness: Loudness = None,
    picture: Picture = False,
    force: Force = False,
    project: ProjectDir = HERE,
    overrides: Overrides = None,
) -> None:
    """Write new music for a weighted mix of games.

    What no option says is as in [generate] of dualdiff.toml.
    """
    from dualdiff import clips
    from dualdiff.evaluation.plots import Row, write_spectrograms
    from dualdiff.games import parse_games
    from dualdiff.pipeline import Pipeline
    from dualdiff.recipe import differences
    from dualdiff.request import Request

    recipe = {"length_s": length, "steps": steps, "sampler": sampler, "cfg_scale": cfg, "loudness_lufs": loudness}
    recipe |= {"quality": quality}
    if from_:
        _refuse_beside_from(
            {"game": game, "init": init, "seed": seed, "count": count if count > 1 else None, "strength": strength}
            | recipe,
            overrides or [],
        )
    places = {"out": out and str(out.resolve()), "model": model and str(model.resolve())}
    opened = _open(project, {**recipe, **places, "file_format": kind}, overrides or [])
    config, machine = opened.settings.generate, opened.settings.project
    pipeline = Pipeline.load(opened.path(config.model), machine.device, machine.precision, machine.compile)
    if from_:
        jobs = [clips.again(from_, pipeline, kind)]
    else:
        games = parse_games(game or [], pipeline.games)
        length_s = clips.length_of(init) if init and not length else config.length_s
        if strength is None:
            strength = clips.VARIATION_STRENGTH if init else 1.0
        source = clips.given(init, pipeline, length_s) if init else None
        request = Request(games=games, length_s=length_s, seed=seed or 0, config=config, init=source, strength=strength)
        jobs = clips.series(request, count)
    paths = [opened.path(config.out) / job.name for job in jobs]
    clips.require_free(paths, force)
    done = 0
    for batch in pipeline.batches([job.request for job in jobs]):
        with console.progress(_label(done, len(batch), len(jobs))) as progress:
            for clip in pipeline.render(batch, progress):
                path = paths[done]
                clips.write_clip(path, clip)
                if picture:
                    write_spectrograms(path.with_suffix(".png"), [Row(path.stem, clip.waveform)], clip.sample_rate)
                for line in differences(jobs[done].recipe, clip.recipe):
                    console.note(line)
                console.say(str(path))
                done += 1


def _label(done: int, batch: int, total: int) -> str:
    last = f" to {done + batch}" if batch > 1 else ""
    return f"clip {done + 1}{last} of {total}"


def _open(project: Path, flags: dict[str, Any], overrides: list[str]) -> "Project":
    """The project with the flags laid over its settings; without a project, the defaults, if a model is named."""
    from dualdiff.settings import open_project

    given = {key: value for key, value in flags.items() if value is not None}
    _refuse_impossible(given)
    opener = open_or_defaults if flags["model"] else open_project
    return opener(project, [*overrides, *(f"generate.{key}={json.dumps(value)}" for key, value in given.items())])


def _refuse_impossible(flags: dict[str, Any]) -> None:
    """Refuse a value that its setting cannot have, by the name of the flag that the user gave."""
    from dualdiff.config import Source, build
    from dualdiff.errors import ConfigError, UsageError
    from dualdiff.request import GenerateConfig

    for key, value in flags.items():
        try:
            build(GenerateConfig, {key: value}, Source(f"--{FLAGS.get(key, key)}"))
        except ConfigError as error:
            raise UsageError(error.message, error.hint) from error
    if flags.get("length_s", SHORTEST_S) < SHORTEST_S:
        raise UsageError(f"--length: a clip of {flags['length_s']:g} s cannot be", f"the shortest is {SHORTEST_S:g} s")


def _refuse_beside_from(flags: dict[str, Any], overrides: list[str]) -> None:
    from dualdiff.errors import UsageError

    given = [f"--{FLAGS.get(key, key)}" for key, value in flags.items() if value not in (None, [])]
    given += [f"--set {word}" for word in overrides if word.startswith("generate.") and not _is_place(word)]
    if given:
        raise UsageError(
            f"--from renders a clip as its recipe says: {given[0]} cannot change it", f"leave {given[0]} out"
        )


def _is_place(override: str) -> bool:
    return override.partition("=")[0].strip() in ("generate.model", "generate.out", "generate.file_format")
