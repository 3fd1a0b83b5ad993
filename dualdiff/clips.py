"""Generated clips as files: what they are called, and the recipe in their tags that renders them again."""

import dataclasses
import json
import math
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dualdiff import audio
from dualdiff.config import Source, build, setting
from dualdiff.errors import ConfigError, DataError, DualdiffError, UsageError
from dualdiff.files import sha256_of
from dualdiff.pipeline import MAX_LENGTH_S, Clip, GenerateConfig, Pipeline
from dualdiff.progress import Progress, silent

LONGEST_NAME = 80
"""The games' share of a file name, in letters."""

VARIATION_STRENGTH = 0.6
"""How far a variation strays unless said otherwise: most of the form stays, most of the notes change."""


CHANGED = "its tags were changed: only a clip whose tags are whole can be rendered again"

NOT_FROM_RECIPES = {"model", "out", "length_s", "file_format"}
"""Settings that a clip does not depend on, or that stand elsewhere in its recipe."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """Everything that a clip depends on, besides the model."""

    games: Mapping[str, float]
    length_s: float
    seed: int
    config: GenerateConfig
    init: Path | None = None
    """The audio file that the clip is a variation of."""
    strength: float = 1.0

    def __post_init__(self) -> None:
        if self.init is None and self.strength != 1.0:
            raise UsageError("a strength needs a clip to vary", "name one with --init")


@dataclass(frozen=True, kw_only=True)
class RecipeFacts:
    """What a recipe must hold besides the games and the settings, and what it may be: tags can be edited by anyone."""

    seed: int = setting(0, "the seed", minimum=0)
    length_s: float = setting(1.0, "length of the clip, seconds", above=0, maximum=MAX_LENGTH_S)
    strength: float = setting(1.0, "how far a variation strays", above=0, maximum=1)


@dataclass(frozen=True)
class Job:
    """A request, the name of the file it goes to, and the recipe it was read from (empty for new music)."""

    name: str
    request: Request
    recipe: Mapping[str, Any]


def render(pipeline: Pipeline, request: Request, progress: Progress = silent) -> Clip:
    """Write the music of a request.

    Raises:
        DataError: the clip to vary cannot be read.
        UsageError: a game, length or strength that cannot be.
    """
    waveform = None
    if request.init is not None:
        rate = pipeline.format.sample_rate
        waveform = audio.read(request.init, sample_rate=rate, duration_s=request.length_s)
    clip = pipeline.generate(
        request.games,
        length_s=request.length_s,
        seed=request.seed,
        config=request.config,
        init=waveform,
        strength=request.strength,
        progress=progress,
    )
    if request.init is None:
        return clip
    varied = {"file": str(request.init.resolve()), "sha256": sha256_of(request.init), "strength": request.strength}
    return dataclasses.replace(clip, recipe={**clip.recipe, "init": varied})


def length_of(path: Path) -> float:
    """The length of an audio file, seconds: what a variation of it lasts unless the user says otherwise.

    Raises:
        DataError: the file is not audio.
    """
    return audio.probe(path).duration_s


def differences(recipe: Mapping[str, Any], again: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """What two recipes do not share, by key: between a clip and its second rendering, why they may not be equal."""
    keys = [key for key in recipe if key not in ("games", "init") and again.get(key) != recipe[key]]
    return {key: (recipe[key], again.get(key)) for key in keys}


def series(request: Request, count: int) -> list[Job]:
    """The jobs of `count` clips whose seeds count up; named by games, seed and index: `noiz2sa-seed7-02.flac`."""
    slugs = [re.sub(r"\W+", "-", game.casefold()).strip("-") for game, weight in request.games.items() if weight > 0]
    games = "+".join(slugs)[:LONGEST_NAME].rstrip("-+") or "any"
    seeds = range(request.seed, request.seed + count)
    return [
        Job(
            f"{games}-seed{seed}-{index:02d}.{request.config.file_format}",
            dataclasses.replace(request, seed=seed),
            recipe={},
        )
        for index, seed in enumerate(seeds)
    ]


def write_clip(path: Path, clip: Clip) -> None:
    """Write a clip with its recipe in its tags, atomically.

    Raises:
        DualdiffError: the folder cannot be written to.
    """
    title = " + ".join(clip.recipe["games"]) or "any game"
    comment = json.dumps(clip.recipe, ensure_ascii=False)
    audio.write(path, clip.waveform, clip.sample_rate, title=title, artist="dualdiff", comment=comment)


def require_free(paths: list[Path], force: bool) -> None:
    """Refuse, before any work is done, files that exist already and folders that cannot be written to.

    Raises:
        UsageError: a file exists and `force` is not set.
        DualdiffError: the folder cannot be made or written to.
    """
    taken = [path for path in paths if path.exists()]
    if taken and not force:
        raise UsageError(f"{taken[0]} exists already", "choose another --seed or --out, or let --force replace it")
    for folder in {path.parent for path in paths}:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise DualdiffError(f"{folder} cannot be written to: {error.strerror}", "name another folder") from error


def read_recipe(path: Path) -> dict[str, Any]:
    """The recipe in a clip's tags.

    Raises:
        DataError: the file is not audio, or holds no recipe.
    """
    comment = audio.probe(path).tags.get("comment", "")
    try:
        recipe = json.loads(comment)
    except ValueError:
        recipe = None
    if not isinstance(recipe, dict) or not {"dualdiff", "model", "games", "seed", "length_s"} <= recipe.keys():
        raise DataError(
            f"{path} holds no recipe of dualdiff in its comment tag",
            "only a clip that `dualdiff generate` wrote can be rendered again, and only while its tags are whole",
        )
    return recipe


def again(path: Path, model_hash: str, file_format: str | None = None) -> Job:
    """The job that renders the clip `path` once more, with the model called `model_hash`, as the same kind of file.

    Raises:
        DataError: the clip holds no recipe, or one that cannot be; was made with another model; or varies a file that
            is no longer there.
    """
    recipe = read_recipe(path)
    if recipe["model"] != model_hash:
        raise DataError(
            f"{path} was made with the model {str(recipe['model'])[:12]}, this one is {model_hash[:12]}",
            "name the folder of that model with --model",
        )
    known = {field.name for field in dataclasses.fields(GenerateConfig)} - NOT_FROM_RECIPES
    suffix = file_format or path.suffix[1:].lower()
    varied = recipe.get("init")
    facts = {"seed": recipe["seed"], "length_s": recipe["length_s"]}
    if varied is not None:
        facts["strength"] = varied.get("strength") if isinstance(varied, dict) else None
    settings = {name: value for name, value in recipe.items() if name in known}
    try:
        fixed = build(RecipeFacts, facts, Source(str(path)))
        config = build(GenerateConfig, {**settings, "file_format": suffix}, Source(str(path)))
    except ConfigError as error:
        raise DataError(f"the recipe in its tags cannot be: {error.message}", CHANGED) from error
    request = Request(
        games=_games_of(path, recipe["games"]),
        length_s=fixed.length_s,
        seed=fixed.seed,
        config=config,
        init=None if varied is None else _init_of(path, varied),
        strength=fixed.strength,
    )
    return Job(f"{path.stem}-again.{suffix}", request, recipe)


def _games_of(path: Path, games: Any) -> dict[str, float]:
    weights: dict[str, float] = games if isinstance(games, dict) else {"": math.nan}
    for name, weight in weights.items():
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight < math.inf:
            raise DataError(f'{path}: the recipe in its tags gives the game "{name}" the weight {weight}', CHANGED)
    return weights


def _init_of(path: Path, varied: Mapping[str, Any]) -> Path:
    init = Path(str(varied.get("file")))
    if not init.is_file() or sha256_of(init) != varied.get("sha256"):
        raise DataError(f"{path} is a variation of {init}, which is gone or has changed", "put that file back")
    return init
