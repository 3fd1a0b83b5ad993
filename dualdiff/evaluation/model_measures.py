"""Measures of a model: its clips measured as music, between the music it learned from and what is no music.

Everything is measured over equally long excerpts, and every distance over equally many rows of features, to held-out
music, which no row of the table but the floor is made of.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from dualdiff.core.progress import Progress, silent
from dualdiff.core.types import Waveform
from dualdiff.evaluation.baselines import Method, through
from dualdiff.evaluation.denoising_ladder import Rung, denoising_ladder
from dualdiff.evaluation.memorization import Memorization
from dualdiff.evaluation.mixes import Adherence, MixedClip, adherence
from dualdiff.evaluation.music import ExcerptMeasures, MusicExcerpt, MusicRow, by_game, halves, measured, music_row
from dualdiff.evaluation.shuffling import noise_like, scrambled, with_shuffled_bars, with_transposed_bars
from dualdiff.evaluation.vae_reconstruction import ThroughVAE
from dualdiff.generation.config import GenerateConfig
from dualdiff.generation.pipeline import Clip, Pipeline

HELD_OUT, TRAINING, CLIPS = "held-out music", "training music", "clips of the model"
FORMAT, VAE = "through the format", "through format and VAE"
SHUFFLED, SCRAMBLED, NOISE = "bars shuffled and transposed", "cut up at random", "white noise"
PLAYED = 3
"""Excerpts of a row that a page plays."""

Change = Callable[[MusicExcerpt, int], Waveform]
"""What is done to an excerpt, with a seed: (C, T) at its rate."""


@dataclass(frozen=True)
class GameMeasures:
    """How near a game's clips are to its own music: the floor (halves of it), the clips, and the other games' music."""

    game: str
    floor: MusicRow
    clips: MusicRow
    others: MusicRow


@dataclass(frozen=True)
class ModelMeasures:
    """What was measured of a model. What was not is empty or None."""

    rows: Sequence[MusicRow]
    games: Sequence[GameMeasures]
    ladder: Sequence[Rung]
    adherence: Adherence | None
    memorization: Sequence[Memorization] | None
    examples: Mapping[str, Sequence[MusicExcerpt]]
    """A few excerpts of rows of the table, to listen to."""


def requests(games: Sequence[str], clips: int) -> Iterator[dict[str, float]]:
    """What each clip is of: three of four times one game, the games in turn; else two of them, half each."""
    pairs = itertools.cycle(itertools.combinations(games, 2)) if len(games) > 1 else None
    singles = itertools.cycle(games)
    for number in range(clips):
        yield dict.fromkeys(next(pairs), 0.5) if pairs and number % 4 == 3 else {next(singles): 1.0}


def measure_model(
    pipeline: Pipeline,
    held_out: Sequence[MusicExcerpt],
    training: Sequence[MusicExcerpt],
    *,
    clips: int,
    config: GenerateConfig,
    shares_of: Callable[[Clip], Mapping[str, float]] | None = None,
    find_copies: Callable[[Clip], Memorization] | None = None,
    progress: Progress = silent,
) -> ModelMeasures:
    """Measure a model with `clips` clips as long as the excerpts; with none, the denoising ladder alone.

    `shares_of` classifies a clip by game, `find_copies` compares it with training music; without one, that is left out.
    Seeds count up from 0. Excerpts are at the format's rate, of games that the model knows.
    """
    ladder = denoising_ladder(pipeline, held_out, config, progress=_part(progress, 0, "denoising ladder"))
    if not clips:
        return ModelMeasures((), (), ladder, None, None, {})
    made = _generate(pipeline, clips, config, _part(progress, 1, "generating"))
    sets = _changed(pipeline, training) | {CLIPS: [one.excerpt for one in made]}
    found = _measured({HELD_OUT: list(held_out), TRAINING: list(training), **sets}, _part(progress, 2, "measuring"))
    mixed = [MixedClip(one.asked, shares_of(one.clip)) for one in made] if shares_of else []
    return ModelMeasures(
        rows=table(found),
        games=games_table(pipeline.games, found),
        ladder=ladder,
        adherence=adherence(mixed, pipeline.games) if mixed else None,
        memorization=[find_copies(one.clip) for one in made] if find_copies else None,
        examples={name: excerpts[:PLAYED] for name, excerpts in sets.items()} | {HELD_OUT: list(held_out)[:PLAYED]},
    )


@dataclass(frozen=True)
class _Made:
    asked: Mapping[str, float]
    clip: Clip
    excerpt: MusicExcerpt


def _generate(pipeline: Pipeline, clips: int, config: GenerateConfig, progress: Progress) -> list[_Made]:
    made = []
    for seed, asked in enumerate(requests(pipeline.games, clips)):
        progress(seed, clips)
        clip = pipeline.generate(asked, length_s=config.length_s, seed=seed, config=config)
        name = " + ".join(asked) if len(asked) > 1 else next(iter(asked))
        excerpt = MusicExcerpt(clip.waveform, clip.sample_rate, f"{name}, seed {seed}", name if len(asked) == 1 else "")
        made.append(_Made(asked, clip, excerpt))
    return made


def _sound(excerpt: MusicExcerpt) -> tuple[Waveform, int]:
    return excerpt.waveform, excerpt.sample_rate


def _passed(way: Method, own: MusicExcerpt, seed: int) -> Waveform:
    """An excerpt there and back."""
    return way(own.waveform, own.sample_rate, silent).waveform


def _changed(pipeline: Pipeline, training: Sequence[MusicExcerpt]) -> dict[str, list[MusicExcerpt]]:
    """The training music through format and VAE, and made worse on purpose."""
    ways = {FORMAT: through(pipeline.format, 0), VAE: through(ThroughVAE(pipeline.model.vae_model), 0)}
    changes: dict[str, Change] = {
        **{name: partial(_passed, way) for name, way in ways.items()},
        SHUFFLED: lambda own, seed: with_transposed_bars(with_shuffled_bars(*_sound(own), seed), own.sample_rate, seed),
        SCRAMBLED: lambda own, seed: scrambled(*_sound(own), seed),
        NOISE: lambda own, seed: noise_like(own.waveform, seed),
    }
    return {
        name: [replace(own, waveform=change(own, seed)) for seed, own in enumerate(training)]
        for name, change in changes.items()
    }


def _measured(sets: Mapping[str, Sequence[MusicExcerpt]], progress: Progress) -> dict[str, list[ExcerptMeasures]]:
    total, done = sum(map(len, sets.values())), 0
    found: dict[str, list[ExcerptMeasures]] = {}
    for name, excerpts in sets.items():
        for excerpt in excerpts:
            progress(done, total, name)
            found.setdefault(name, []).append(measured(excerpt))
            done += 1
    return found


def table(found: Mapping[str, Sequence[ExcerptMeasures]]) -> list[MusicRow]:
    """The rows of the table, real music to noise; distances are to held-out music, its own between its halves."""
    reference = found[HELD_OUT]
    one, other = halves(reference)
    rows = min(sum(len(own.features) for own in side) for side in (reference, found[CLIPS]))
    split = music_row(HELD_OUT, one, other, rows)
    whole = music_row(HELD_OUT, reference)
    apart = {key: value for key, value in split.values.items() if key in ("fad", "kad", "interval_distance")}
    floor = replace(whole, values={**apart, **whole.values})
    order = (TRAINING, FORMAT, VAE, CLIPS, SHUFFLED, SCRAMBLED, NOISE)
    return [floor, *(music_row(name, found[name], reference, rows) for name in order)]


def games_table(games: Sequence[str], found: Mapping[str, Sequence[ExcerptMeasures]]) -> list[GameMeasures]:
    """Of each game the distances to its own music: of its halves, of its clips, of the other games."""
    music = [*found[HELD_OUT], *found[TRAINING]]
    tests = []
    for game in games:
        own, clips = by_game(music, game), by_game(found[CLIPS], game)
        if own and clips:
            floor = music_row("halves of its music", *halves(own))
            others = music_row("other games' music", by_game(music, game, others=True), own)
            tests.append(GameMeasures(game, floor, music_row(CLIPS, clips, own), others))
    return tests


def _part(progress: Progress, part: int, note: str, parts: int = 3) -> Progress:
    what = note

    def report(done: float, total: float, note: str = "") -> None:
        progress(part + done / max(total, 1), parts, note or what)

    return report
