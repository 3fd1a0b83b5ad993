"""Label adherence and mixes: what clips were requested to be like, and what a classifier measures.

Letters: K games.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean

BOTH = 0.25
"""Both games of a half-and-half clip are there if each is measured at this share or more."""


@dataclass(frozen=True)
class MixedClip:
    """A clip: the weights requested, and the share of each game measured."""

    requested: Mapping[str, float]
    measured: Mapping[str, float]


@dataclass(frozen=True)
class MixRow:
    """All clips of one request: mean shares by game, and of a pair the share of clips that have both."""

    requested: Mapping[str, float]
    clips: int
    measured: Mapping[str, float]
    has_both: float | None


@dataclass(frozen=True)
class Adherence:
    """How well clips follow their labels."""

    right: float
    """The share of clips of one game that are most like it."""
    chance: float
    misplaced: float
    """The mean share of a clip that is measured as something not requested: half the sum of the differences."""
    rows: Sequence[MixRow]


def adherence(clips: Sequence[MixedClip], games: Sequence[str]) -> Adherence:
    """Compare requests with what was measured."""
    groups: dict[tuple[tuple[str, float], ...], list[MixedClip]] = {}
    for one in clips:
        groups.setdefault(tuple(sorted(one.requested.items())), []).append(one)
    singles = [one for one in clips if len(one.requested) == 1]
    right = [max(one.measured, key=lambda game: one.measured[game]) in one.requested for one in singles]
    return Adherence(
        right=mean(right) if right else 0.0,
        chance=1 / max(len(games), 1),
        misplaced=mean(misplaced(one) for one in clips),
        rows=[_row(own, games) for own in groups.values()],
    )


def misplaced(clips: MixedClip) -> float:
    """The total variation distance of requested and measured shares, 0 to 1."""
    total = sum(clips.requested.values())
    games = set(clips.requested) | set(clips.measured)
    return sum(abs(clips.measured.get(game, 0) - clips.requested.get(game, 0) / total) for game in games) / 2


def _row(clips: Sequence[MixedClip], games: Sequence[str]) -> MixRow:
    requested = clips[0].requested
    shares = {game: mean(one.measured.get(game, 0.0) for one in clips) for game in games}
    both = [all(one.measured.get(game, 0.0) >= BOTH for game in requested) for one in clips]
    return MixRow(requested, len(clips), shares, mean(both) if len(requested) == 2 else None)
