"""What a clip may have copied: its nearest training passages, and how often music that is no copy comes as near.

Every passage of some seconds is looked for in all training tracks, at any offset (`alike`), in each space (`spaces`).
A distance by itself says little: some music is alike. So the same is done with music that cannot have been copied:
held-out tracks, and, where those are few, training tracks against all others. From these,

* the scaled distance: the distance, over the median of theirs; the smallest of all passages and spaces is the clip's;
* the false-alarm rate: the share of pieces of theirs, as long as the clip, that come at least as near, with the clip
  counted among them: a conformal p-value, right whatever the distribution (Vovk et al. 2005). With m such pieces the
  smallest rate that can be stated is 1 / (m + 1).

A clip is flagged when its rate is at most `FLAGGED_RATE`, or the smallest that can be stated if that is larger; and
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

from dualdiff.data.latents import INDEX_NAME, LatentIndex
from dualdiff.errors import DataError, DualdiffError
from dualdiff.evaluation.alike import Nearest, nearest, passages_of
from dualdiff.evaluation.spaces import Space, numbers_of
from dualdiff.files import hash_of, read_json, sha256_of, write_json_atomically
from dualdiff.progress import Progress, silent

PASSAGE_S = 4.0
"""Passages last so long, and start every half of it."""
FLAGGED_RATE = 0.01
LARGEST_RATE = 0.1
FEW_TRACKS = 20
"""Fewer held-out tracks than this are joined by training tracks, each compared with all others."""
MOST_PASSAGES = 1024
"""Of held-out music that are looked for, for each space: what bounds the time."""
CALIBRATION_NAME = "copies.json"
VERSION = 1
_SHOWN = 8
_ROUNDING_S = 0.2  # passages are whole steps of their space


@dataclass(frozen=True)
class Passages:
    """The passages of a piece of music in one space: where each starts, seconds, and how far the nearest other is."""

    starts_s: tuple[float, ...]
    distances: tuple[float, ...]

    def least(self, first_s: float, last_s: float) -> float:
        """The smallest distance of the passages between two times; inf if there is none."""
        last_start_s = last_s - PASSAGE_S + _ROUNDING_S
        pairs = zip(self.starts_s, self.distances, strict=True)
        return min((own for start, own in pairs if first_s - _ROUNDING_S <= start <= last_start_s), default=math.inf)


@dataclass(frozen=True)
class Reference:
    """A piece of music that is no copy: what it is, how long, and its passages by space."""

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
        """The median distance of its passages, by space."""
        spaces = self.references[0].passages if self.references else {}
        return {
            space: max(median([d for own in self.references for d in own.passages[space].distances] or [1.0]), 1e-6)
            for space in spaces
        }

    def pieces(self, length_s: float) -> list[float]:
        """The smallest scaled distance of each piece of about a length, pieces following each other."""
        found = []
        for own in self.references:
            for part in range(int(own.length_s / length_s + 0.2)):
                first_s, last_s = part * length_s, (part + 1) * length_s
                scaled = [own.passages[space].least(first_s, last_s) / usual for space, usual in self.usual.items()]
                found += [min(scaled)] if math.isfinite(min(scaled)) else []
        return found

    @property
    def longest_s(self) -> float:
        """The longest piece that half of the music has."""
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
    """The share of passages of music that is no copy that come at least as near."""


@dataclass(frozen=True)
class Copies:
    """What a clip may have copied."""

    scaled: float
    """The smallest scaled distance of its passages."""
    rate: float
    """How often a piece of music of its length that is no copy comes as near."""
    smallest_rate: float
    """The smallest rate that can be stated, with as much music as there is to compare with."""
    flagged: bool
    matches: tuple[Match, ...]
    """The nearest passages, nearest first."""

    @property
    def stated_rate(self) -> float:
        """How often music that is no copy is flagged."""
        rate = max(FLAGGED_RATE, self.smallest_rate)
        return rate if rate <= LARGEST_RATE else 0.0


class CopyFinder:
    """The training tracks of some latents, ready to be compared with."""

    def __init__(self, index: LatentIndex, spaces: Sequence[Space], progress: Progress = silent) -> None:
        """Calibrate, or read the calibration that is stored with the latents if it is of the same.

        Raises:
            DataError: a file of latents is missing or broken.
        """
        self.index, self.spaces = index, {space.name: space for space in spaces}
        self.calibration = self._stored_calibration(progress)

    def find(self, series: Mapping[str, Tensor], length_s: float) -> Copies:
        """What a clip of a length may have copied, from its series (D, M) by space.

        Raises:
            DataError: it is shorter than a passage.
        """
        found = {name: _search(self.spaces[name], own) for name, own in series.items()}
        if not any(len(starts) for starts, _ in found.values()):
            raise DataError(f"it is shorter than {PASSAGE_S:g} s", "what a clip may have copied is told of longer ones")
        usual = self.calibration.usual
        matches = [match for name, own in found.items() for match in self._matches(name, *own, usual[name])]
        matches.sort(key=lambda match: match.scaled)
        # Of a clip longer than the music to compare with, each part is tested: so many chances, so many times the rate.
        parts = max(1, math.ceil(length_s / max(self.calibration.longest_s, PASSAGE_S) - 0.1))
        pieces = self.calibration.pieces(length_s / parts)
        smallest = min(1.0, parts / (len(pieces) + 1))
        as_near = sum(piece <= matches[0].scaled for piece in pieces)
        rate = min(1.0, parts * (as_near + 1) / (len(pieces) + 1))
        flagged = rate <= max(FLAGGED_RATE, smallest) <= LARGEST_RATE
        return Copies(matches[0].scaled, rate, smallest, flagged, tuple(matches[:_SHOWN]))

    def _matches(self, name: str, starts_s: Sequence[float], near: Nearest, usual: float) -> list[Match]:
        known = sorted(d for own in self.calibration.references for d in own.passages[name].distances)
        matches = []
        for at_s, distance, number, step in zip(
            starts_s, near.distances.tolist(), near.series.tolist(), near.steps.tolist(), strict=True
        ):
            if number >= 0:
                track = self.index.tracks[number]
                rate = (sum(own <= distance for own in known) + 1) / (len(known) + 1)
                place_s = step * self.spaces[name].step_s
                matches.append(Match(at_s, name, track.game, track.path, place_s, distance, distance / usual, rate))
        return matches

    def _stored_calibration(self, progress: Progress) -> Calibration:
        path = self.index.folder / CALIBRATION_NAME
        of = {"version": VERSION, "index": sha256_of(self.index.folder / INDEX_NAME), "spaces": sorted(self.spaces)}
        key = hash_of(of)
        try:
            stored = read_json(path)
            if stored["key"] == key:
                return _calibration_from_json(stored)
        except (DataError, KeyError, TypeError):
            pass  # there is none, or of another dualdiff: it is made anew
        made = calibrate(self.index, list(self.spaces.values()), progress)
        with suppress(DualdiffError):  # latents that may only be read are compared with all the same, if less quickly
            write_json_atomically(path, {"key": key, **asdict(made)})
        return made


def _calibration_from_json(stored: Mapping[str, Any]) -> Calibration:
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
    held_out, training = numbers_of(index, "validation"), numbers_of(index, "train")
    joining = training if len(held_out) < FEW_TRACKS and len(training) > 1 else []
    column_s = index.frame_s * index.frames_per_column
    lengths_s = {number: index.tracks[number].columns * column_s for number in (*held_out, *joining)}
    chosen = _thinned(held_out, joining, lengths_s)
    found: dict[int, dict[str, Passages]] = {number: {} for number in chosen}
    for done, space in enumerate(spaces):
        progress(done, len(spaces), f"how near other music comes: {space.name}")
        for number, passages in _all_passages(space, chosen, set(training)).items():
            found[number][space.name] = passages
    progress(len(spaces), len(spaces), "how near other music comes")
    references = [
        Reference(index.tracks[number].path, number in set(held_out), lengths_s[number], found[number])
        for number in chosen
    ]
    return Calibration(tuple(references))


def _thinned(held_out: Sequence[int], joining: Sequence[int], lengths_s: Mapping[int, float]) -> list[int]:
    """The held-out tracks, then those that join, as far as `MOST_PASSAGES` allow; spread evenly."""
    chosen: list[int] = []
    budget = float(MOST_PASSAGES)
    for numbers in (held_out, joining):
        cost = sum(lengths_s[number] for number in numbers) / (PASSAGE_S / 2)
        every = max(1, math.ceil(cost / max(budget, 1.0)))
        chosen += numbers[::every]
        budget -= cost / every
    return chosen


def _all_passages(space: Space, numbers: Sequence[int], training: set[int]) -> dict[int, Passages]:
    """The passages of some tracks, all looked for in one pass over the training tracks."""
    length = round(PASSAGE_S / space.step_s)
    parts = [(number, *passages_of(space.track(number), length, max(1, length // 2))) for number in numbers]
    if not parts:
        return {}
    owners = torch.cat([torch.full((len(own),), number if number in training else -1) for number, own, _ in parts])
    near = nearest(torch.cat([own for _, own, _ in parts]), space.training(), owners)
    found, first = {}, 0
    for number, own, starts in parts:
        distances = near.distances[first : first + len(own)].tolist()
        found[number] = Passages(tuple(start * space.step_s for start in starts.tolist()), tuple(distances))
        first += len(own)
    return found
