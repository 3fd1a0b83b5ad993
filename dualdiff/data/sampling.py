"""How an example of training picks its track: a game by its share of the music, then a track by its length."""

from collections.abc import Sequence

import numpy as np


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
