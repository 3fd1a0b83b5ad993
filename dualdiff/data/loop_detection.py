"""Loops inside a track: a game track that plays its loop five times holds that much music once.

From some moment on, such a track equals itself one period later. The likeliest periods are the deepest minima of the
mean squared difference between the track's bands and themselves, shifted; each is then followed through the track, two
seconds at a time. A riff that repeats for a while is no loop: the repeats of a loop go on to the track's end.

Letters: N frames.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dualdiff.data.fingerprint import FRAMES_PER_S, Bands

SHORTEST_PERIOD_S = 8.0
"""What repeats sooner is a riff, not a loop."""
LEAST_PLAYS = 1.5
"""A loop is heard at least so many times."""
LARGEST_INTRO = 0.5
"""The loop begins in this share of the track, or there is none."""

_STRETCH = 2 * FRAMES_PER_S  # frames over which differences are averaged
_EQUAL = 0.2  # of the difference between arbitrary moments, below which a stretch is the same music again
_ONSET = 4  # frames over which the exact start is sought
_LEAST_EQUAL = 0.9  # share of the stretches, from the loop's start to the track's end, that must be the same again
_DISTINCT = 0.5  # how far the difference must fall at the period, against that at periods a little beside it
_BESIDE = np.array([-24, -20, -12, -9, 9, 12, 20, 24])  # frames beside the period
_CANDIDATES = 48
_LEAST_VARIANCE = 1e-3  # of the bands; below it the track is one unchanging sound


@dataclass(frozen=True, kw_only=True)
class Loop:
    """A track that repeats from `start_s` on: an intro, then `plays` times the same `period_s`, seconds."""

    start_s: float
    period_s: float
    plays: float
    """With the part of the last repeat that is heard."""
    confidence: float
    """1 minus the difference of repeats, as a share of that between arbitrary moments: 1 for exact repeats."""

    @property
    def unique_duration_s(self) -> float:
        """The intro and one loop: all that the track has to tell."""
        return self.start_s + self.period_s


def unique_duration_s(duration_s: float, loop: Loop | None) -> float:
    """How much of a track is distinct, seconds."""
    return duration_s if loop is None else min(duration_s, loop.unique_duration_s)


def loop_of(bands: Bands) -> Loop | None:
    """The loop of a track: of the shortest period such that after an intro nothing but repeats comes; None without.

    A track that is one riff from start to end is a loop, too, of as many riffs as make `SHORTEST_PERIOD_S`. Silence and
    what is left of a fade below 60 dB do not count. Periods are found to 10 ms, starts to half a second, rather early
    than late: a frame tells of a quarter of a second, and the intro may lead over to the loop.
    """
    sounding = np.flatnonzero(bands.sounding())
    if not len(sounding):
        return None
    first, last = int(sounding[0]), int(sounding[-1]) + 1
    frames = bands.shape[first:last]
    unlikeness = 2 * float(frames.var(0).sum())  # the mean squared distance of two arbitrary frames
    if unlikeness < _LEAST_VARIANCE:
        return None
    for period in _likely_periods(frames):
        found = _follow(frames, period, unlikeness)
        if found is not None:
            start, exact, difference = found
            return Loop(
                start_s=(first + start) / FRAMES_PER_S,
                period_s=exact / FRAMES_PER_S,
                plays=(len(frames) - start) / exact,
                confidence=1 - difference,
            )
    return None


def _likely_periods(frames: NDArray[np.float32]) -> list[int]:
    """The periods at which the track differs least from itself, among those next to them; ascending."""
    shortest, longest = round(SHORTEST_PERIOD_S * FRAMES_PER_S), int(len(frames) / LEAST_PLAYS)
    differences = _differences(frames)[: longest + 1]
    deepest = np.lib.stride_tricks.sliding_window_view(np.pad(differences, 4, constant_values=np.inf), 9).min(1)
    minima = np.flatnonzero(differences == deepest)
    minima = minima[minima >= shortest]
    return sorted(minima[np.argsort(differences[minima], kind="stable")][:_CANDIDATES].tolist())


def _differences(frames: NDArray[np.float32]) -> NDArray[np.float64]:
    """(N,): the mean squared distance between the frames and those a number of frames later, by FFT."""
    count = len(frames)
    length = 1 << (2 * count - 1).bit_length()
    spectrum = sum(np.abs(np.fft.rfft(band, length)) ** 2 for band in (frames - frames.mean(0)).T)
    products = np.fft.irfft(spectrum, length)[:count]
    power = np.concatenate([[0.0], np.cumsum(np.square(frames - frames.mean(0), dtype=np.float64).sum(1))])
    kept = np.arange(count, 0, -1)  # frames that have one so much later
    differences: NDArray[np.float64] = (power[kept] + power[-1] - power[count - kept] - 2 * products) / kept
    return differences


def _follow(frames: NDArray[np.float32], near: int, unlikeness: float) -> tuple[int, float, float] | None:
    """Of the loop with about a given period, if there is one: the first frame, the period, the mean difference."""
    period = _refined(frames, near, _EQUAL * unlikeness)
    distances = _distances(frames, period) / unlikeness
    start = _start(distances)
    if start is None or start > LARGEST_INTRO * len(frames):
        return None
    repeated = len(frames) - start - period
    if repeated < max((LEAST_PLAYS - 1) * period, SHORTEST_PERIOD_S * FRAMES_PER_S):
        return None
    difference = float(distances[start:].mean())
    beside = [_distances(frames[start:], near + aside).mean() / unlikeness for aside in _BESIDE]
    return (start, period, difference) if difference < _DISTINCT * np.mean(beside) else None


def _refined(frames: NDArray[np.float32], near: int, equal: float) -> float:
    """The period, in fractions of a frame: where those frames that are about equal a period later are most so."""
    before, at, behind = (frames[near + aside : len(frames) - 1 + aside] for aside in (-1, 0, 1))
    missing, slope = frames[: len(at)] - at, (behind - before) / 2
    is_equal = np.square(missing).sum(1) < equal
    steepness = float(np.square(slope[is_equal]).sum())
    return near + float(np.clip((missing * slope)[is_equal].sum() / steepness, -1, 1)) if steepness > 0 else near


def _distances(frames: NDArray[np.float32], period: float) -> NDArray[np.float32]:
    """Squared distances between the frames and those a period later, between which it interpolates."""
    whole = int(period)
    share = np.float32(period - whole)
    later = (1 - share) * frames[whole:-1] + share * frames[whole + 1 :]
    distances: NDArray[np.float32] = np.square(frames[: len(later)] - later).sum(1)
    return distances


def _start(distances: NDArray[np.float32]) -> int | None:
    """The frame from which on nearly all stretches are repeated, if the distances show one."""
    if len(distances) < 2 * _STRETCH:
        return None
    is_equal = _means(distances, _STRETCH) < _EQUAL
    equal_from_here = np.cumsum(is_equal[::-1])[::-1] / np.arange(len(is_equal), 0, -1)
    begins = (_means(is_equal.astype(np.float32), _STRETCH) == 1) & (equal_from_here[: 1 - _STRETCH] >= _LEAST_EQUAL)
    if not begins.any():
        return None
    start = int(begins.argmax())  # of a stretch, the first part of which may still be the intro's
    return start + int((_means(distances[start:][: 2 * _STRETCH], _ONSET) < _EQUAL).argmax())


def _means(values: NDArray[np.float32], length: int) -> NDArray[np.float64]:
    """Means of all runs of `length` values."""
    sums = np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])
    means: NDArray[np.float64] = (sums[length:] - sums[:-length]) / length
    return means
