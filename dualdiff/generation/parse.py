"""What a user orders, by flags of the command or by rows of a list, as the requests of the clips.

An order is a table of flags by their names without dashes; what is not said is not in it. Flags and rows are checked
by the same code, and an error names the flag, or the file and line of the row.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dualdiff.core.config import Source, build, plain, setting
from dualdiff.core.errors import ConfigError, UsageError
from dualdiff.core.files import is_file_name
from dualdiff.generation.config import (
    MAX_BPM,
    MAX_INTRO_S,
    MAX_LENGTH_S,
    MIN_BPM,
    SPAN_HINT,
    GenerateConfig,
    span_of,
)
from dualdiff.generation.label_weights import parse_games
from dualdiff.generation.output import LONGEST_STEM, VARIATION_STRENGTH, Job, again, given, named, shortened, slug
from dualdiff.generation.request import Request, Rewrite

if TYPE_CHECKING:
    from dualdiff.generation.pipeline import Pipeline

Order = Mapping[str, Any]
"""Flags by name: {"game": ["A:0.7", "B:0.3"], "length": 45.0}."""

SETTINGS = {
    "length": "length_s",
    "steps": "steps",
    "sampler": "sampler",
    "cfg": "cfg_scale",
    "quality": "quality",
    "loudness": "loudness_lufs",
    "format": "file_format",
}
"""The flags that go over one setting each."""

MAX_OF_A_SOURCE_S = 600.0
"""A variation lasts as long as its source unless told otherwise, but no longer than this, seconds."""

MAX_STEM = 120
"""Letters of the name of a varied recipe."""


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """The numbers of an order that are no settings."""

    seed: int = setting(0, "the seed of the first clip", minimum=0)
    count: int = setting(1, "how many clips, with seeds that count up", minimum=1, maximum=100_000)
    steps_between: int = setting(5, "clips of a sweep, from one game to the other", minimum=2, maximum=1000)
    strength: float = setting(VARIATION_STRENGTH, "how far a variation strays", above=0, maximum=1)
    intro: float = setting(0.0, "length of a lead-in before the loop, seconds", above=0, maximum=MAX_INTRO_S)
    bpm: float = setting(0.0, "the tempo, beats a minute", minimum=MIN_BPM, maximum=MAX_BPM)
    bars: int = setting(0, "the length in bars", minimum=1, maximum=1024)


def settings_of(order: Order) -> dict[str, Any]:
    """The settings that an order changes, each checked by itself.

    Raises:
        UsageError: a value that cannot be; it is named by its flag.
    """
    changed = {SETTINGS[flag]: value for flag, value in order.items() if flag in SETTINGS}
    for key, value in changed.items():
        flag = next(name for name, owner in SETTINGS.items() if owner == key)
        _built(GenerateConfig, {key: value}, flag)
    return {**changed, **(interval(order["cfg-interval"]) if "cfg-interval" in order else {})}


def interval(text: str) -> dict[str, float]:
    """The settings of `LO:HI`, the noise levels between which guidance acts; either may be left out.

    Raises:
        UsageError: the text is not two numbers that rise.
    """
    low, colon, high = str(text).partition(":")
    keys = {"cfg_sigma_min": low, "cfg_sigma_max": high}
    try:
        levels = {key: float(word) for key, word in keys.items() if word.strip()}
    except ValueError:
        levels = {}
    if not colon or not levels:
        raise UsageError(
            f'--cfg-interval: "{text}" is not LO:HI', "two noise levels, such as 0.3:5; one may be left out"
        )
    _built(GenerateConfig, levels, "cfg-interval")
    return levels


def parse_average(text: str) -> tuple[float, int | None]:
    """`0.07`, or `0.07@5000` for that of an earlier step, as (width, step).

    Raises:
        UsageError: it is neither, or the step is below 1.
    """
    width, at, number = text.partition("@")
    try:
        step = int(number) if at else None
        if step is not None and step < 1:
            raise ValueError(f"there is no average of step {step}")
        return float(width), step
    except ValueError as error:
        raise UsageError(f"--ema {text} is no width", "for example --ema 0.07, or --ema 0.07@5000") from error


def _built(kind: Any, table: Mapping[str, Any], flag: str) -> Any:
    try:
        return build(kind, table, Source(f"--{flag}"))
    except ConfigError as error:
        message = error.message.replace(": [] ", ": ")  # of values that do not fit each other
        raise UsageError(message, error.hint or "`dualdiff generate --help` explains each") from error


def jobs_of(order: Order, pipeline: "Pipeline", config: GenerateConfig, changed: Mapping[str, Any]) -> list[Job]:
    """The clips of one order.

    Args:
        order: what the flags or a row say.
        pipeline: the model that will play.
        config: the settings of the project, the flags not yet among them.
        changed: settings that were changed for this run only: they hold for a recipe that is rendered again, too.

    Raises:
        UsageError, DataError: what it asks for cannot be.
    """
    settings = {**changed, **settings_of(order)}
    numbers = _numbers(order)
    _refuse_together(order)
    if "from" in order:
        return _varied_recipe(order, settings, numbers, pipeline)
    mixes = _mixes(order, numbers, pipeline.games)  # what needs no audio is refused before any is read
    request = Request(config=_over(config, settings), length_s=settings.get("length_s", config.length_s))
    starts = [order["init"]] if "init" in order else list(order.get("morph", ()))
    if starts:
        from dualdiff import audio

        lasts_s = min(audio.probe(path).duration_s for path in starts)
        length_s = settings.get("length_s") or min(lasts_s, MAX_OF_A_SOURCE_S)
        if "morph" in order and length_s > lasts_s:
            raise UsageError(
                f"--length: {length_s:g} s is longer than the shorter of both clips, {lasts_s:.2f} s", "leave it out"
            )
        request = replace(request, length_s=length_s)
    request = _with_source(request, order, numbers, pipeline)
    seeds = range(numbers.seed, numbers.seed + numbers.count)
    return named([replace(request, seed=seed, games=games) for seed in seeds for games in mixes], order.get("name", ""))


def _numbers(order: Order) -> Numbers:
    said: dict[str, Any] = {}
    for flag in ("seed", "count", "steps-between", "strength", "intro", "bpm", "bars"):
        if flag in order:
            key = flag.replace("-", "_")
            _built(Numbers, {key: order[flag]}, flag)
            said[key] = order[flag]
    return Numbers(**said)


MADE_FROM = ("init", "morph", "extend", "inpaint")
"""Flags that name a clip to work on."""

APART = (
    ("sweep", "game"),
    *(("from", flag) for flag in ("sweep", *MADE_FROM)),
    *((one, other) for place, one in enumerate(MADE_FROM) for other in MADE_FROM[place + 1 :]),
    *(("loop", flag) for flag in ("morph", "extend", "inpaint")),
    *((flag, of_all) for flag in ("extend", "inpaint") for of_all in ("length", "loudness")),
    *((flag, tempo) for flag in MADE_FROM for tempo in ("bpm", "bars")),
    ("length", "bars"),
)
"""Flags that make no sense together."""


def _refuse_together(order: Order) -> None:
    if "strength" in order and not {"from", *MADE_FROM} & order.keys():
        raise UsageError("a strength needs a clip to vary", "name one with --init")
    if "steps-between" in order and "sweep" not in order:
        raise UsageError("--steps-between needs a sweep", 'name two games, as in --sweep "A..B"')
    if "intro" in order and not order.get("loop") and "from" not in order:
        raise UsageError("--intro leads into a loop", "say --loop too")
    for one, other in APART:
        if order.get(one) not in (None, False) and order.get(other) not in (None, False):
            hint = "leave one of them out"
            if one == "from" and other in MADE_FROM:
                hint = f"--from renders what its recipe says, of the clip that this names; to work on a clip: --{other}"
            raise UsageError(f"--{one} and --{other} cannot stand together", hint)
    if "name" in order and not is_file_name(str(order["name"])):
        raise UsageError(
            f'--name: "{order["name"]}" is not a file name',
            "a clip goes into the folder of --out: no / and no .. in it",
        )
    if len(str(order.get("name", "")).encode()) > LONGEST_STEM:
        raise UsageError(f"--name is longer than {LONGEST_STEM} bytes", "give the clip a shorter name")


def _over(config: GenerateConfig, settings: Mapping[str, Any]) -> GenerateConfig:
    """A config with checked settings over it; the two ends of the guidance interval may still not fit together."""
    config_over: GenerateConfig = _built(GenerateConfig, {**plain(config), **settings}, "cfg-interval")
    return config_over


def _with_source(request: Request, order: Order, numbers: Numbers, pipeline: "Pipeline") -> Request:
    request = replace(
        request, loop=bool(order.get("loop")), intro_s=numbers.intro, bpm=numbers.bpm or None, bars=numbers.bars
    )
    if "extend" in order or "inpaint" in order:
        rewrite = _rewrite(order, pipeline)
        length_s = max(rewrite.end_s, rewrite.clip.original.shape[-1] / rewrite.clip.original_rate)
        strength = numbers.strength if "strength" in order else 1.0
        return replace(request, rewrite=rewrite, length_s=length_s, strength=strength)
    if "morph" in order:
        one, other = (given(path, pipeline, request.length_s) for path in order["morph"])
        return replace(request, init=one, morph=other, strength=numbers.strength)
    if "init" not in order:
        return request
    return replace(request, init=given(order["init"], pipeline, request.length_s), strength=numbers.strength)


def _rewrite(order: Order, pipeline: "Pipeline") -> Rewrite:
    """What --extend or --inpaint asks for; the numbers are checked before the clip is read."""
    if "extend" in order:
        path, more_s = order["extend"]
        if not 0 < more_s <= MAX_LENGTH_S:
            raise UsageError(f"--extend: {more_s:g} seconds cannot be", f"above 0, at most {MAX_LENGTH_S:g}")
        clip = given(path, pipeline, keep=True)
        lasts_s = clip.original.shape[-1] / clip.original_rate
        return Rewrite(clip=clip, start_s=lasts_s, end_s=lasts_s + more_s)
    from dualdiff import audio

    path, text = order["inpaint"]
    lasts_s = audio.probe(path).duration_s
    part = span_of(str(text), lasts_s)
    if part is None:
        problem = f'--inpaint: "{text}" is no range START:END within {path}, which lasts {lasts_s:.2f} s'
        raise UsageError(problem, SPAN_HINT)
    return Rewrite(clip=given(path, pipeline, keep=True), start_s=part[0], end_s=part[1])


def _mixes(order: Order, numbers: Numbers, known: Sequence[str]) -> list[dict[str, float]]:
    """The mixes of an order, of games that the model knows: one, or those of a sweep."""
    if "sweep" in order:
        return sweep(str(order["sweep"]), numbers.steps_between, known)
    return [parse_games(order.get("game", ()), known)]


def sweep(text: str, count: int, known: Sequence[str]) -> list[dict[str, float]]:
    """The mixes from all of A to all of B, of a text `A..B`: `count` of them, evenly.

    Raises:
        UsageError: it does not name two games of the model.
    """
    problem = UsageError(f'--sweep: "{text}" does not name two games', 'write it as "A..B"')
    cuts = [place for place in range(len(text) - 1) if text[place : place + 2] == ".."]
    for place in cuts:
        try:
            ends = [parse_games([part], known) for part in (text[:place], text[place + 2 :])]
        except UsageError as error:
            problem = UsageError(error.message.replace("--game", "--sweep"), error.hint)
            continue
        names = [next(iter(end)) for end in ends if len(end) == 1]
        if len(set(names)) == 2:
            shares = [index / (count - 1) for index in range(count)]
            return [{names[0]: 1 - share, names[1]: share} for share in shares]
    raise problem


def _varied_recipe(order: Order, settings: Mapping[str, Any], numbers: Numbers, pipeline: "Pipeline") -> list[Job]:
    """A clip rendered again, or a variation of its recipe: whatever else is said goes over it."""
    path = Path(order["from"])
    job = again(path, pipeline, settings.get("file_format"))
    request = job.request
    told = {flag: value for flag, value in order.items() if flag not in ("from", "format", "name")}
    musical = {key: value for key, value in settings.items() if key != "file_format"}
    if not told and not musical:
        return [replace(job, stem=str(order["name"]))] if "name" in order else [job]
    if "strength" in order and request.init is None:
        raise UsageError(f"--strength: {path} is not a variation of a clip", "name one with --init instead of --from")
    loop = bool(order.get("loop", request.loop))
    request = replace(
        request,
        games=parse_games(order["game"], pipeline.games) if "game" in order else request.games,
        length_s=settings.get("length_s", request.length_s),
        seed=numbers.seed if "seed" in order else request.seed,
        config=_over(request.config, musical),
        strength=numbers.strength if "strength" in order else request.strength,
        loop=loop,
        intro_s=numbers.intro if "intro" in order else request.intro_s if loop else 0.0,
        bpm=numbers.bpm if "bpm" in order else request.bpm,
        beats_per_bar=None if "bpm" in order else request.beats_per_bar,
        bars=numbers.bars,
    )
    requests = [replace(request, seed=request.seed + index) for index in range(numbers.count)]
    changes = "-".join(slug(f"{flag}{_short(value)}") for flag, value in (told or musical).items() if flag != "count")
    return named(requests, str(order.get("name", shortened(f"{path.stem}-{changes}"[:MAX_STEM]))))


def _short(value: Any) -> str:
    """A value of a flag, as it may stand in a file name."""
    if isinstance(value, bool):
        return "" if value else "-no"
    return f"{value:g}" if isinstance(value, float) else "+".join(value) if isinstance(value, list) else str(value)
