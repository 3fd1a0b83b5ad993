"""The tempo and the beats of a clip: what was asked for, what its games have, or what a given clip plays.

Letters: R channels of rhythm, N columns of latents.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from dualdiff.audio import beat_tracking
from dualdiff.audio.beat_grid import BeatGrid, no_rhythm
from dualdiff.core.errors import UsageError
from dualdiff.core.rng import Stream
from dualdiff.core.types import Rhythm
from dualdiff.generation.request import Given, Request

BEATS_PER_BAR = 4
"""Of a clip whose games do not say."""

Tempos = Mapping[str, Sequence[Sequence[float]]]
"""The tempos of each game's tracks, each with its beats per bar, 0 where bars are not known."""


def settled(request: Request, knows_rhythm: bool, tempos: Tempos) -> Request:
    """The request with its tempo, its beats per bar and, where bars were asked for or a loop needs them, its length.

    Without a tempo, the seed draws one from those of the request's games (by weight), or of all. What continues,
    varies or rewrites a given clip has that clip's own beats. A loop is a whole number of bars.

    Raises:
        UsageError: a tempo or bars are asked of a model trained without beats, or bars where no tempo is known.
    """
    if not knows_rhythm:
        if request.bpm or request.bars:
            hint = "leave out --bpm and --bars, or train a model with unet.rhythm = true"
            raise UsageError("this model was trained without beats: it cannot be given a tempo", hint)
        return request
    if request.init is not None or request.rewrite is not None:
        return request
    if request.bpm is None:
        drawn = _drawn(request, tempos)
        if drawn is None:
            if request.bars:
                raise UsageError("this model knows no tempo of its games: bars have no length", "say --bpm too")
            return request
        request = replace(request, bpm=drawn[0], beats_per_bar=int(drawn[1]))
    elif request.beats_per_bar is None:
        known = any(bar for _, bar in _of_games(request, tempos))
        request = replace(request, beats_per_bar=BEATS_PER_BAR if known else 0)
    bar_s = bar_seconds(request)
    bars = request.bars or (max(1, round(request.length_s / bar_s)) if request.loop else 0)
    return replace(request, length_s=bars * bar_s) if bars else request


def bar_seconds(request: Request) -> float:
    """How long a bar of a settled request lasts, seconds."""
    assert request.bpm is not None
    return (request.beats_per_bar or BEATS_PER_BAR) * 60 / request.bpm


def _of_games(request: Request, tempos: Tempos) -> list[Sequence[float]]:
    games = [game for game, weight in request.games.items() if weight > 0] or list(tempos)
    return [tempo for game in games for tempo in tempos.get(game, ())]


def _drawn(request: Request, tempos: Tempos) -> Sequence[float] | None:
    weights = {game: weight for game, weight in request.games.items() if weight > 0 and tempos.get(game)}
    weights = weights or {game: float(len(own)) for game, own in tempos.items() if own}
    if not weights:
        return None
    numbers = Stream(request.seed).numpy("tempo")
    shares = np.array(list(weights.values())) / sum(weights.values())
    own = tempos[list(weights)[int(numbers.choice(len(shares), p=shares))]]
    return own[int(numbers.integers(len(own)))]


def grid_of(request: Request, column_s: float, columns: int) -> BeatGrid | None:
    """The beats of a settled request; None where it has no tempo. Of a loop, its columns are a whole number of bars."""
    if request.bpm is None:
        return None
    bpm, per_bar = request.bpm, request.beats_per_bar or 0
    if request.loop:
        bars = max(1, round(request.length_s / bar_seconds(request)))
        bpm = bars * (per_bar or BEATS_PER_BAR) * 60 / (columns * column_s)
    return BeatGrid.steady(bpm, per_bar).at_level()


def grid_of_clip(clip: Given, sample_rate: int) -> BeatGrid | None:
    """The beats of a given clip (2, T) at the format's rate, tracked; None where they are doubtful."""
    return beat_tracking.grid_of(clip.waveform, sample_rate)


def of_requests(requests: Sequence[Request], column_s: float, columns: int, sample_rate: int) -> Rhythm | None:
    """The rhythm (B, R, N) of settled requests, zeros for one without beats; None where none has any.

    `sample_rate` is that of the clips that requests vary.
    """
    grids = [
        grid_of(request, column_s, columns) if request.init is None else grid_of_clip(request.init, sample_rate)
        for request in requests
    ]
    if not any(grids):
        return None
    rows = (no_rhythm(columns) if grid is None else channels(grid, column_s, columns) for grid in grids)
    return torch.stack(list(rows))


def channels(grid: BeatGrid, column_s: float, columns: int, start: float = 0.0) -> Rhythm:
    """The rhythm (R, N) of columns, each at its centre; the grid's time 0 is where column `start` begins."""
    return grid.channels((np.arange(columns, dtype=np.float64) + 0.5 - start) * column_s)


def tempos_of(facts: Mapping[str, Any]) -> Tempos:
    """The tempos that a model's file holds; none in those of earlier versions."""
    found: Tempos = facts.get("tempos", {})
    return found
