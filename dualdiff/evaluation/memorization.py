"""What a clip may have copied: its nearest training passages, and how often music that is no copy comes as near.

Every passage of some seconds is looked for in all training tracks, at any offset (`alike`), in each space (`spaces`).
A distance by itself says little: some music is alike. So the same is done with music that cannot have been copied:
held-out tracks, and, where those are few, training tracks against all others. From these,

* the scaled distance: the distance, over the usual one of theirs; the smallest of all passages and spaces is a clip's;
* the false-alarm rate: the share of their tracks whose closest passage comes at least as near, with the clip counted
  among them as one more track: a conformal p-value (Vovk et al. 2005).

Passages of one track are not independent: one track may be like its neighbour on the album throughout. So tracks are
what is counted, each by its closest passage alone. If the clip is music that is no copy, and as good as drawn with the
tracks to compare with, then whatever part of it is listened to, all its parts together included, the rate is at most
a level in at most that share of cases. With n tracks the smallest rate that can be stated is 1 / (n + 1): 5 % needs
19. (A training track is compared with one track less than a clip is, which matters where there are very few.)

A clip is flagged when its rate is at most `STATED_RATE`, or the smallest that can be stated if that is larger; and
none is where not even `LARGEST_RATE` can be stated.
"""

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cached_property
from statistics import median
from typing import Any

import torch
from torch import Tensor

from dualdiff.core.errors import DataError, DualdiffError
from dualdiff.core.files import hash_of, read_json, sha256_of, write_json_atomically
from dualdiff.core.progress import Progress, silent
from dualdiff.data.latent_dataset import INDEX_NAME, LatentIndex
from dualdiff.evaluation.feature_spaces import Space, numbers_of
from dualdiff.evaluation.nearest import Nearest, nearest, passages_of

PASSAGE_S = 4.0
"""Passages last so long, and start every half of it."""
STATED_RATE = 0.05
LARGEST_RATE = 0.1
FEW_TRACKS = 19
"""Fewer held-out tracks than this cannot state `STATED_RATE`: they are joined by training tracks."""
MOST_TRACKS = 40
"""That a clip is compared with."""
MOST_PASSAGES = 2048
"""Of all these tracks that are looked for, for each space: what bounds the time. Of long tracks the middle is taken."""
CALIBRATION_NAME = "copies.json"
VERSION = 3
_SHOWN = 8


@dataclass(frozen=True)
class Passages:
    """The passages of a piece of music in one space: where each starts, seconds, and how far the nearest other is."""

    starts_s: tuple[float, ...]
    distances: tuple[float, ...]


@dataclass(frozen=True)
class Reference:
    """A track that is no copy: what it is, how much of it is compared with, and its passages by space."""

    path: str
    held_out: bool
    length_s: float
    passages: Mapping[str, Passages]


@dataclass(frozen=True)
class Calibration:
    """How near music comes that is no copy."""

    references: tuple[Reference, ...]

    @cached_property
    def usual(self) -> dict[str, float]:
        """The distance of a passage in the middle of a track's in the middle of all tracks', by space."""
        spaces = self.references[0].passages if self.references else {}
        return {
            space: max(median(median(own.passages[space].distances or [1.0]) for own in self.references), 1e-6)
            for space in spaces
        }

    @cached_property
    def closest(self) -> list[float]:
        """The smallest scaled distance of each track."""
        return [
            min(min(own.passages[space].distances, default=math.inf) / usual for space, usual in self.usual.items())
            for own in self.references
        ]

    def rate(self, scaled: float) -> float:
        """The share of tracks with a passage at least as near, one more that is so near among them."""
        return (1 + sum(own <= scaled for own in self.closest)) / (1 + len(self.closest))

    @property
    def longest_s(self) -> float:
        """As much music as half of the tracks have."""
        return median([own.length_s for own in self.references]) if self.references else 0.0


@dataclass(frozen=True)
class Match:
    """A passage of a clip and the training passage nearest to it."""

    at_s: float
    space: str
    game: str
    track: str
    track_s: float
    distance: float
    scaled: float
    rate: float
    """The share of tracks that are no copy with a passage that comes at least as near."""


@dataclass(frozen=True)
class Memorization:
    """What a clip may have copied."""

    scaled: float
    """The smallest scaled distance of its passages."""
    rate: float
    """How often music that is no copy comes anywhere as near, at most."""
    smallest_rate: float
    """The smallest rate that can be stated, with as many tracks as there are to compare with."""
    flagged: bool
    matches: tuple[Match, ...]
    """The nearest passages, nearest first."""
    tracks: int
    """How many tracks that are no copy it was compared with."""
    parts: int = 1
    """How often a clip is as long as these tracks: so many times it has the chance to come near."""
    part_s: float = 0.0
    """How long they are."""

    @property
    def stated_rate(self) -> float:
        """How often music that is no copy is flagged, at most."""
        rate = max(STATED_RATE, self.smallest_rate)
        return rate if rate <= LARGEST_RATE else 0.0


class MemorizationTest:
    """The training tracks of some latents, ready to be compared with."""

    def __init__(
        self,
        index: LatentIndex,
        spaces: Sequence[Space],
        progress: Progress = silent,
        calibration: Calibration | None = None,
    ) -> None:
        """Take the calibration, or read the one that is stored with the latents if it is of the same, or make it.

        Raises:
            DataError: a file of latents is missing or broken.
        """
        self.index, self.spaces = index, {space.name: space for space in spaces}
        self.calibration = calibration or self._stored_calibration(progress)

    def find(self, series: Mapping[str, Tensor], length_s: float, start_s: float = 0.0) -> Memorization:
        """What a clip of a length may have copied, from its series (D, M) by space; those may start later in it.

        Raises:
            DataError: its features are shorter than a passage; those of audio lack 2.4 s at the ends.
        """
        found = {name: _search(self.spaces[name], own) for name, own in series.items()}
        if not any(len(starts) for starts, _ in found.values()):
            longest_s = max((own.shape[1] * self.spaces[name].step_s for name, own in series.items()), default=0.0)
            raise DataError(
                f"its features span {longest_s:.1f} s, and a passage to compare takes {PASSAGE_S:g} s",
                "clips of 8 s or more can be compared",
            )
        known = self.calibration
        matches = [match for name, own in found.items() for match in self._matches(name, start_s, *own)]
        matches.sort(key=lambda match: match.scaled)
        # Of a clip longer than the music to compare with, each part is tested: so many chances, so many times the rate.
        part_s = max(known.longest_s, PASSAGE_S)
        parts = max(1, math.ceil(length_s / part_s - 0.1))
        smallest = min(1.0, parts * known.rate(-math.inf))
        rate = min(1.0, parts * known.rate(matches[0].scaled))
        flagged = rate <= max(STATED_RATE, smallest) <= LARGEST_RATE
        shown, tracks = tuple(matches[:_SHOWN]), len(known.references)
        return Memorization(matches[0].scaled, rate, smallest, flagged, shown, tracks, parts, part_s)

    def _matches(self, name: str, start_s: float, starts_s: Sequence[float], near: Nearest) -> list[Match]:
        usual = self.calibration.usual.get(name, 1.0)
        matches = []
        for at_s, distance, number, step in zip(
            starts_s, near.distances.tolist(), near.series.tolist(), near.steps.tolist(), strict=True
        ):
            if number >= 0:
                track = self.index.tracks[number]
                place_s, scaled = step * self.spaces[name].step_s, distance / usual
                rate = self.calibration.rate(scaled)
                matches.append(Match(start_s + at_s, name, track.game, track.path, place_s, distance, scaled, rate))
        return matches

    def _stored_calibration(self, progress: Progress) -> Calibration:
        path = self.index.folder / CALIBRATION_NAME
        of = {"version": VERSION, "index": sha256_of(self.index.folder / INDEX_NAME), "spaces": sorted(self.spaces)}
        key = hash_of(of)
        try:
            stored = read_json(path)
            if stored["key"] == key:
                return calibration_from_json(stored)
        except (DataError, KeyError, TypeError):
            pass  # there is none, or of another dualdiff: it is made anew
        made = calibrate(self.index, list(self.spaces.values()), progress)
        with suppress(DualdiffError):  # latents that may only be read are compared with all the same, if less quickly
            write_json_atomically(path, {"key": key, **asdict(made)})
        return made


def calibration_from_json(stored: Mapping[str, Any]) -> Calibration:
    """Read a calibration that was stored as plain JSON values.

    Raises:
        KeyError, TypeError: it is not one.
    """
    references = []
    for own in stored["references"]:
        passages = {
            name: Passages(tuple(values["starts_s"]), tuple(values["distances"]))
            for name, values in own["passages"].items()
        }
        references.append(Reference(**{**own, "passages": passages}))
    return Calibration(tuple(references))


def _search(space: Space, series: Tensor, own: int = -1) -> tuple[list[float], Nearest]:
    """Where the passages of a series start, seconds, and their nearest places in all training tracks but `own`."""
    length = round(PASSAGE_S / space.step_s)
    passages, starts = passages_of(series, length, max(1, length // 2))
    not_in = torch.full((len(passages),), own) if own >= 0 else None
    return [start * space.step_s for start in starts.tolist()], nearest(passages, space.training(), not_in)


def calibrate(index: LatentIndex, spaces: Sequence[Space], progress: Progress = silent) -> Calibration:
    """Look for held-out music in all training tracks; each training track that joins it, in all others."""
    column_s = index.frame_s * index.frames_per_column

    def comparable(numbers: Sequence[int]) -> list[int]:
        """Those that hold a passage at all: a track without one would count as music that is never near."""
        return [number for number in numbers if index.tracks[number].columns * column_s > PASSAGE_S]

    held_out, training = numbers_of(index, "validation"), numbers_of(index, "train")
    chosen = _spread(comparable(held_out), MOST_TRACKS)
    if len(chosen) < FEW_TRACKS and len(training) > 1:
        chosen += _spread(comparable(training), MOST_TRACKS - len(chosen))
    longest_s = (MOST_PASSAGES // max(len(chosen), 1) + 1) * PASSAGE_S / 2
    found: dict[int, dict[str, Passages]] = {number: {} for number in chosen}
    for done, space in enumerate(spaces):
        progress(done, len(spaces), f"how near other music comes: {space.name}")
        for number, passages in _all_passages(space, chosen, set(training), longest_s).items():
            found[number][space.name] = passages
    progress(len(spaces), len(spaces), "how near other music comes")
    return Calibration(
        tuple(
            Reference(
                path=index.tracks[number].path,
                held_out=number in held_out,
                length_s=min(index.tracks[number].columns * column_s, longest_s),
                passages=found[number],
            )
            for number in chosen
        )
    )


def _spread(numbers: Sequence[int], most: int) -> list[int]:
    """So many of them at most, spread evenly."""
    count = min(len(numbers), most)
    return [numbers[place * len(numbers) // count] for place in range(count)]


def _middle(series: Tensor, steps: int) -> tuple[Tensor, int]:
    """The middle of a series (D, M), at most so many steps of it, and where it starts."""
    start = max(0, (series.shape[1] - steps) // 2)
    return series[:, start : start + steps], start


def _all_passages(space: Space, numbers: Sequence[int], training: set[int], longest_s: float) -> dict[int, Passages]:
    """The passages of the middle of some tracks, all looked for in one pass over the training tracks."""
    length = round(PASSAGE_S / space.step_s)
    parts = []
    for number in numbers:
        middle, start = _middle(space.track(number), round(longest_s / space.step_s))
        own, places = passages_of(middle, length, max(1, length // 2))
        parts.append((number, own, tuple((place + start) * space.step_s for place in places.tolist())))
    if not parts:
        return {}
    owners = torch.cat([torch.full((len(own),), number if number in training else -1) for number, own, _ in parts])
    near = nearest(torch.cat([own for _, own, _ in parts]), space.training(), owners)
    found, first = {}, 0
    for number, own, starts_s in parts:
        distances = near.distances[first : first + len(own)].tolist()
        found[number] = Passages(starts_s, tuple(distances))
        first += len(own)
    return found
