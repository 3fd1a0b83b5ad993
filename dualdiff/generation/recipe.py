"""The recipe of a clip: all that it depends on, as JSON values that go into the tags of its file.

A recipe ends with a check sum of itself, so that one that was changed by hand is told from one that was not.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from dualdiff.core.config import Source, build, setting
from dualdiff.core.errors import ConfigError, DataError
from dualdiff.core.files import hash_of, parse_json, read_json
from dualdiff.generation.config import (
    MAX_BPM,
    MAX_INTRO_S,
    MAX_LENGTH_S,
    MIN_BPM,
    NOT_OF_THE_MUSIC,
    SHORTEST_S,
    GenerateConfig,
)

CHECK = "check"
"""The key of the check sum."""

VERSION = 2
"""The version of recipes. One of version 1 names none; it is read, and renders otherwise where `CHANGES` says so."""

CHANGES = {
    "games": "guidance leads away from games of weights below 0, which were labels below 0 before",
    "sources": "a clip that is varied or added to is encoded as the tracks of training are, up to its end",
}
"""What a recipe of version 1 renders otherwise."""

CHANGED = "its tags were changed: only a clip whose tags are whole can be rendered again"

SIDECAR = ".json"
"""The suffix of the file beside a clip that says what its tags say, for programs."""

LONGEST = 1 << 20
"""Letters of a recipe: what is longer never was one."""

REQUIRED = {"dualdiff", "model", "games", "seed", "length_s", CHECK}
"""What every recipe holds."""

NOT_COMPARED = {"games", "init", "morph", "rewrite", "waveform", "version", CHECK}
"""Keys that are not named as a difference between two renderings: asked for, or what the difference is about."""

SOURCES = {"init": ("strength",), "morph": (), "rewrite": ("strength", "start_s", "end_s")}
"""What a clip may be made from, and what a recipe says beside each."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a recipe must hold besides the games and the settings, and what it may be: tags can be edited by anyone."""

    seed: int = setting(0, "the seed", minimum=0)
    length_s: float = setting(1.0, "length of the clip, seconds", minimum=SHORTEST_S, maximum=MAX_LENGTH_S)
    strength: float = setting(1.0, "how far a variation strays", above=0, maximum=1)
    loop: bool = setting(False, "whether the clip is a loop")
    intro_s: float = setting(0.0, "length of the lead-in before it, seconds", minimum=0, maximum=MAX_INTRO_S)
    bpm: float = setting(0.0, "the tempo, beats a minute", minimum=MIN_BPM, maximum=MAX_BPM)
    beats_per_bar: int = setting(0, "beats of a bar, 0 where bars are not known", minimum=0, maximum=32)
    start_s: float = setting(0.0, "where a clip is written anew, seconds", minimum=0, maximum=MAX_LENGTH_S)
    end_s: float = setting(0.0, "up to where, seconds", minimum=0, maximum=MAX_LENGTH_S)


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What a recipe asks for, checked; the clip that it varies, if it does, is still to be found."""

    games: dict[str, float]
    facts: Facts
    config: GenerateConfig
    sources: dict[str, tuple[str, str]]
    """Names and hashes of the files it is made from, by what they are to it: init, morph or rewrite."""


def sealed(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe with its check sum."""
    open_recipe = {key: value for key, value in recipe.items() if key != CHECK}
    return {**open_recipe, CHECK: hash_of(open_recipe)[:16]}


def read_recipe(path: Path) -> dict[str, Any]:
    """The recipe in a clip's tags, or in the JSON file beside one.

    Raises:
        DataError: the file is not audio or JSON, holds no recipe, or one that was changed.
    """
    if path.suffix.lower() == SIDECAR:
        table = read_json(path)
        recipe, place = (table.get("recipe") if isinstance(table, dict) else None), ""
    else:
        recipe, place = _in_tags(path), " in its comment tag"
    if not isinstance(recipe, dict) or not recipe.keys() >= REQUIRED:
        raise DataError(
            f"{path} holds no recipe of dualdiff{place}",
            "only a clip that `dualdiff generate` wrote can be rendered again, and only while its tags are whole",
        )
    if recipe != sealed(recipe):
        raise DataError(f"the recipe in {path} was changed: its check sum is not that of what it says", CHANGED)
    return recipe


def _in_tags(path: Path) -> Any:
    from dualdiff import audio

    comment = audio.probe(path).tags.get("comment", "")
    if len(comment) > LONGEST:
        return None
    try:
        return parse_json(comment)
    except ValueError:
        return None


def wanted(recipe: Mapping[str, Any], where: str, file_format: str) -> Wanted:
    """What a recipe asks for, as a file of that kind; `where` names it in errors.

    Raises:
        DataError: it asks for what cannot be.
    """
    known = {field.name for field in fields(GenerateConfig)} - set(NOT_OF_THE_MUSIC)
    made_from = {key: recipe[key] for key in SOURCES if recipe.get(key) is not None}
    plain_facts = ("seed", "length_s", "loop", "intro_s", "bpm", "beats_per_bar")
    table = {key: recipe[key] for key in plain_facts if key in recipe}
    for key, source in made_from.items():
        said = source if isinstance(source, dict) else {}
        table |= {fact: said.get(fact) for fact in SOURCES[key]}
    settings = {name: value for name, value in recipe.items() if name in known}
    try:
        facts = build(Facts, table, Source(where))
        config = build(GenerateConfig, {**settings, "file_format": file_format}, Source(where))
    except ConfigError as error:
        raise DataError(f"the recipe in its tags cannot be: {error.message}", CHANGED) from error
    sources = {key: (str(source.get("file")), str(source.get("sha256"))) for key, source in made_from.items()}
    games = _games_of(recipe["games"], where)
    return Wanted(games=games, facts=facts, config=config, sources=sources)


def _games_of(games: Any, where: str) -> dict[str, float]:
    weights: dict[str, float] = games if isinstance(games, dict) else {"": math.nan}
    for name, weight in weights.items():
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not math.isfinite(weight):
            raise DataError(f'{where}: the recipe in its tags gives the game "{name}" the weight {weight}', CHANGED)
    return weights


def differences(recipe: Mapping[str, Any], again: Mapping[str, Any]) -> list[str]:
    """What a second rendering does not share with its recipe, as lines: whether the audio is the same, and if not, why.

    An empty recipe, of new music, differs from nothing.
    """
    if not recipe:
        return []
    if recipe.get("waveform") == again["waveform"]:
        return ["the audio is the same, to the last bit"]
    changed = [key for key in recipe if key not in NOT_COMPARED and again.get(key) != recipe[key]]
    lines = [f"the audio is not the same: {change}" for change in _changes_since(recipe)]
    lines += [f"the audio is not the same: {key} was {recipe[key]}, is {again.get(key)}" for key in changed]
    return lines or ["the audio is not the same, though nothing that the recipe names has changed"]


def _changes_since(recipe: Mapping[str, Any]) -> list[str]:
    """What of `CHANGES` concerns a recipe of version 1, in words."""
    if recipe.get("version", 1) != 1:
        return []
    concerns = {
        "games": any(weight < 0 for weight in recipe["games"].values()),
        "sources": any(recipe.get(source) is not None for source in SOURCES),
    }
    return [f"since its recipe was written, {CHANGES[name]}" for name, is_so in concerns.items() if is_so]
