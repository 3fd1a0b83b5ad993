"""The choice of examples: a track to train on, by its game's share of the music and its length; crops held out."""

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import numpy as np
import torch

from dualdiff.data.loader import Batch, BatchSource

Tracks = TypeVar("Tracks")

HELD_OUT, HELD_OUT_GAMES = 8, 32
"""Held-out crops that a training is validated on, at least one of each game, and of how many games at most."""


class TrackDraw:
    """Picks tracks with probability share(game)^temperature / Z * length / (length of all its game's tracks).

    Temperature 1 draws games by the music there is of them, 0 draws all alike. Lengths may be in any unit.
    """

    def __init__(self, games: Sequence[str], lengths: Sequence[float], temperature: float) -> None:
        length_of_game: dict[str, float] = {}
        for game, length in zip(games, lengths, strict=True):
            length_of_game[game] = length_of_game.get(game, 0.0) + length
        total = sum(length_of_game.values())
        weights = {game: (length / total) ** temperature for game, length in length_of_game.items()}
        norm = sum(weights.values())
        self.probabilities = np.array(
            [weights[game] / norm * length / length_of_game[game] for game, length in zip(games, lengths, strict=True)]
        )
        self._cumulative = np.cumsum(self.probabilities)

    def track(self, uniform: float) -> int:
        """The number of the track at a quantile in [0, 1)."""
        return min(int(np.searchsorted(self._cumulative, uniform, side="right")), len(self._cumulative) - 1)


def held_out_crops(
    by_game: Mapping[str, Tracks], crops: Callable[[Tracks], BatchSource]
) -> tuple[Batch | None, list[str]]:
    """Return crops to validate a training on, the same number of each game, and the game of each.

    Args:
        by_game: the held-out tracks of each game that has any.
        crops: makes the source of the crops of one game's tracks.
    """
    each = max(1, HELD_OUT // max(1, len(by_game)))
    batches = {game: crops(own).examples(0, each) for game, own in list(by_game.items())[:HELD_OUT_GAMES]}
    if not batches:
        return None, []
    first = next(iter(batches.values()))
    tensors = {name: torch.cat([batch.tensors[name] for batch in batches.values()]) for name in first.tensors}
    names = [name for batch in batches.values() for name in batch.names]
    return Batch(tensors, names), [game for game in batches for _ in range(each)]
