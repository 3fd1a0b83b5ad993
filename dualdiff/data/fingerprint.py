"""Audio fingerprints: which tracks are the same music at another gain, codec, rate or offset.

A track is listened to at a low rate, as 16 frames a second of 24 bands (`BandMeter`). Its fingerprint is a word of 32
bits for each eighth of a second: the signs of how the spectrum changes within 2.5 s, after Haitsma and Kalker ("A
Highly Robust Audio Fingerprinting System", ISMIR 2002), but with smooth patterns (a DCT) in place of differences of
neighbours, so that words half a step apart are still alike. That is 1.9 kB a minute.

Letters: T samples, N frames, W words.
"""

import base64
import functools
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dualdiff.core.errors import DataError
from dualdiff.core.jit import compiled

Samples: TypeAlias = NDArray[np.float32]

Fingerprint: TypeAlias = NDArray[np.uint32]
"""(W,) words, `WORDS_PER_S` of them; a word is 0 where there is nothing to tell: silence, or a sound that stays."""

FRAMES_PER_S = 16
WORDS_PER_S = 8
BANDS = 24
"""A sixth of an octave each, from 150 Hz to 2.4 kHz: what every codec and rate keeps."""
SILENCE_DB = -90.0
"""Frames with less power in the bands are silent."""
LEAST_SHARE = 0.5
"""Of the words of the shorter of two tracks, how many must be compared to call them the same music."""

_LOWEST_HZ, _BANDS_PER_OCTAVE = 150.0, 6
_LOW_RATE = 6000  # Hz; enough for the bands
_TAPS = 16  # of the filter that lowers the rate, per lowered sample
_LANES = 32  # taps that machine code multiplies at once
_WINDOW_S = 0.25
_PIECE = 64  # frames computed at once: always as many, so that the sizes of the blocks change not a bit
_CONTRAST = 10.0  # bands much below a tenth of the mean count little: those are what codecs change
_GATE_DB = -60.0  # frames so far below the loudest one are silent, too
_PATCH = 40  # frames that a word tells of
_LEAST_CHANGE = 0.05  # of the coefficients of a patch, below which their signs are noise
_MOST_DIFFERENT = 0.25  # share of the bits, where the music is the same
_SPREAD = 0.3  # of the share of different bits around 1/2 between words of different music, one standard deviation
_SURENESS = 8.0  # standard deviations below 1/2 that the mean over all compared words must lie
_NEIGHBOURS = 4  # tracks with the same key that each one is compared with
_PROBES = np.array([-30, -20, -10, 10, 20, 30])  # words from an equal key where two tracks are compared first
_PROBED_DIFFERENT = 0.36  # share of their bits
_BATCH = 1 << 19  # pairs probed at once


def _cosines(length: int, orders: Sequence[int]) -> NDArray[np.float32]:
    """Rows of the DCT-II, (length, orders)."""
    phase = np.pi * (np.arange(length) + 0.5) / length
    rows: NDArray[np.float32] = (np.cos(np.outer(phase, orders)) * math.sqrt(2 / length)).astype(np.float32)
    return rows


_OVER_BANDS = _cosines(BANDS, range(8, 24))  # what pitches make; drums, smooth over the bands, make the lower orders
_OVER_TIME = _cosines(_PATCH, (1, 2))  # without order 0: equalizers do not matter
_BIT_COUNTS = np.array([bin(value).count("1") for value in range(1 << 16)], np.uint8)


@dataclass(frozen=True)
class Bands:
    """The spectrum of a track over time, compact."""

    shape: NDArray[np.float32]
    """(N, BANDS): log(1 + 10 power / mean of the frame), whatever the gain; 0 in silence."""
    power: NDArray[np.float32]
    """(N,): mean square of the audio within the bands; full scale is 1."""

    def sounding(self) -> NDArray[np.bool_]:
        """(N,): which frames are neither silent nor negligible beside the loudest one."""
        gate = 10 ** (_GATE_DB / 10) * float(self.power.max(initial=0.0))
        return self.power > max(gate, 10 ** (SILENCE_DB / 10))


class BandMeter:
    """Measures the bands of a track from its mono audio, in blocks of any sizes: these do not change the result.

    Memory is constant but for the bands themselves, 1.6 kB a second. Frame n begins n / FRAMES_PER_S seconds into the
    track, whatever the rate.
    """

    def __init__(self, sample_rate: int) -> None:
        self._sample_rate = sample_rate
        self._step = max(1, sample_rate // _LOW_RATE)
        self._low_rate = sample_rate / self._step
        window = torch.hann_window(round(_WINDOW_S * self._low_rate))
        self._window = window / window.square().sum().sqrt()
        self._n_fft = 1 << (len(window) - 1).bit_length()
        starts = torch.tensor([self._low_start(frame) for frame in range(_PIECE)])
        self._frames = starts[:, None] + torch.arange(len(window))
        self._piece = int(self._frames[-1, -1]) + 1  # lowered samples of a piece
        self._hop = self._low_rate / FRAMES_PER_S
        self._taps = _low_pass(self._step)
        self._weights = _band_weights(self._low_rate, self._n_fft)
        self._held = torch.zeros(len(self._taps) - _TAPS // 2 * self._step)
        self._low = torch.zeros(0)
        self._low_first = 0  # the lowered sample that `low` begins with
        self._total = 0
        self._count = 0  # frames measured
        # One array that grows by doubling: many small ones would lie between the large ones of each piece, for good.
        self._values = np.empty((_PIECE, BANDS + 1), np.float32)

    def add(self, mono: Tensor) -> None:
        """Listen to the next samples, (T,) float32."""
        self._total += len(mono)
        self._take(mono)

    def finish(self) -> Bands:
        """The bands of all samples, in floor(seconds * FRAMES_PER_S) frames. Nothing can be added thereafter."""
        frames = self._total * FRAMES_PER_S // self._sample_rate
        while self._count < frames:
            self._take(torch.zeros(self._piece * self._step))
        values = self._values[:frames].copy()
        return Bands(np.ascontiguousarray(values[:, :-1]), np.ascontiguousarray(values[:, -1]))

    def _low_start(self, frame: int) -> int:
        return round(frame * self._low_rate / FRAMES_PER_S)

    def _take(self, mono: Tensor) -> None:
        held = torch.cat([self._held, mono]).contiguous()
        lowered = np.empty(max(0, (len(held) - len(self._taps)) // self._step + 1), np.float32)
        _lower()(held.numpy(), self._taps, self._step, lowered)
        self._held = held[len(lowered) * self._step :].clone()
        self._low = torch.cat([self._low, torch.from_numpy(lowered)])
        while len(self._low) >= (start := self._low_start(self._count) - self._low_first) + self._piece:
            self._keep(self._measure(self._low[start:][: self._piece]))
            behind = self._low_start(self._count)
            self._low, self._low_first = self._low[behind - self._low_first :].clone(), behind

    def _keep(self, piece: Tensor) -> None:
        if self._count == len(self._values):
            self._values = np.concatenate([self._values, np.empty_like(self._values)])
        self._values[self._count : self._count + _PIECE] = piece.numpy()
        self._count += _PIECE

    def _measure(self, low: Tensor) -> Tensor:
        """Shape and power of the frames of a piece, (_PIECE, BANDS + 1)."""
        regular = self._hop == int(self._hop)  # then frames are a view, which is faster
        frames = low.unfold(0, len(self._window), int(self._hop)) if regular else low[self._frames]
        spectrum = torch.fft.rfft(frames * self._window, self._n_fft)
        parts = torch.view_as_real(spectrum).flatten(1)[:, : len(self._weights)]  # real and imaginary in turn
        bands = parts.square() @ self._weights
        mean = bands.mean(1, keepdim=True)
        power = mean * (2 * BANDS / self._n_fft)
        is_heard = power > 10 ** (SILENCE_DB / 10)
        return torch.cat([torch.where(is_heard, torch.log1p(_CONTRAST * bands / mean), 0.0), power], dim=1)


def lower(audio: Samples, taps: Samples, step: int, lowered: Samples) -> None:
    """Filter and decimate: sample n of `lowered` is the sum of `taps` times `audio` from n * step on."""
    for n in range(len(lowered)):
        heard = audio[n * step : n * step + len(taps)]  # a slice, so that indices need no check for being negative
        value = np.float32(0.0)
        for k in range(len(taps)):
            value += taps[k] * heard[k]
        lowered[n] = value


@functools.cache
def _lower() -> Callable[..., None]:
    import numba

    samples = numba.float32[::1]
    return compiled(lower, numba.void(samples, samples, numba.int64, samples), fastmath=True)


def _low_pass(step: int) -> Samples:
    """A windowed sinc, passing to 0.45 of the lowered rate, (_TAPS * step,), after zeros up to whole `_LANES`."""
    time = (torch.arange(_TAPS * step) - (_TAPS * step - 1) / 2) / step
    taps = torch.sinc(0.9 * time) * torch.hann_window(_TAPS * step + 2, periodic=False)[1:-1]
    return np.pad((taps / taps.sum()).numpy().astype(np.float32), (-len(taps) % _LANES, 0))


def _band_weights(rate: float, n_fft: int) -> Tensor:
    """Triangles over the logarithm of frequency, (2 bins, BANDS): for the real and the imaginary part of each bin."""
    hz = torch.arange(1, n_fft // 2 + 1) * rate / n_fft
    position = _BANDS_PER_OCTAVE * torch.log2(hz / _LOWEST_HZ) - 0.5
    weights = (1 - (position[:, None] - torch.arange(BANDS)).abs()).clamp(min=0)
    bins = int(weights.sum(1).nonzero().max()) + 1
    return torch.cat([torch.zeros(1, BANDS), weights[:bins]]).repeat_interleave(2, 0)


def fingerprint_of(bands: Bands) -> Fingerprint:
    """The words of a track. Bit 2 f + t is the sign of cosine 8 + f over the bands, 1 + t over 2.5 s."""
    sounding = bands.sounding()
    over_bands = np.where(sounding[:, None], bands.shape, np.float32(0)) @ _OVER_BANDS
    step = FRAMES_PER_S // WORDS_PER_S
    words = max(0, (len(over_bands) - _PATCH) // step + 1)
    changes = np.zeros((words, _OVER_BANDS.shape[1], _OVER_TIME.shape[1]), np.float32)
    heard = np.zeros(words, np.int64)
    for frame in range(_PATCH):
        within = slice(frame, frame + step * words, step)
        changes += over_bands[within][:words, :, None] * _OVER_TIME[frame]
        heard += sounding[within][:words]
    bits = np.packbits(changes.reshape(words, 32) > 0, axis=1, bitorder="little").view("<u4")[:, 0]
    tells = (heard >= _PATCH // 2) & (np.square(changes).mean((1, 2)) > _LEAST_CHANGE**2)
    return np.where(tells, bits, 0).astype(np.uint32)


def to_text(fingerprint: Fingerprint) -> str:
    """A fingerprint as base64, 43 characters a second."""
    return base64.b64encode(fingerprint.astype("<u4").tobytes()).decode("ascii")


def from_text(text: str) -> Fingerprint:
    """The fingerprint in a text of `to_text`.

    Raises:
        DataError: the text is no such thing.
    """
    try:
        return np.frombuffer(base64.b64decode(text, validate=True), "<u4").astype(np.uint32)
    except ValueError as error:  # binascii.Error is one
        raise DataError("a fingerprint is damaged: it is not base64 of whole words", "scan again") from error


def groups(fingerprints: Sequence[Fingerprint]) -> list[list[int]]:
    """Groups of two or more tracks that are near-duplicates of each other, as ascending indices, in ascending order.

    Two tracks are near-duplicates when at some offset they are the same music (`is_same`); what is one of a member of
    a group belongs to the group. The order of the tracks makes no difference. Compared are pairs and offsets at which
    three bytes of a word are equal and the surroundings alike, found by sorting: the effort grows with the number of
    words, not of pairs; 620 hours in 21,000 tracks take one core 45 s and 0.8 GB.
    """
    order = sorted(range(len(fingerprints)), key=lambda index: fingerprints[index].tobytes())
    tracks = [fingerprints[index] for index in order]
    leader = list(range(len(tracks)))

    def find(track: int) -> int:
        while leader[track] != track:
            leader[track] = track = leader[leader[track]]
        return track

    for first, second, offset in _proposals(tracks):
        one, other = find(first), find(second)
        if one != other and is_same(tracks[first], tracks[second], offset):
            leader[max(one, other)] = min(one, other)
    members = defaultdict(list)
    for track, index in enumerate(order):
        members[find(track)].append(index)
    return sorted(sorted(group) for group in members.values() if len(group) > 1)


def is_same(one: Fingerprint, other: Fingerprint, offset: int) -> bool:
    """Whether two tracks are the same music when word w of the one is laid on word w + offset of the other.

    At least half of the words of the shorter track must be there to compare. The share of bits that differ is 1/2 on
    average for different music, with a standard deviation of 0.3 / sqrt(words), as measured between tracks of the same
    game. It must lie eight of those below 1/2 (normally a chance of 6e-16), and be at most 1/4; low-rate codecs make it
    0.05 to 0.2. So matches of few words must be closer ones, at most 0.19 in 10 s of music, and none holds in 5 s.
    """
    start = max(0, -offset)
    length = min(len(one) - start, len(other) - start - offset)
    if length <= 0:
        return False
    left, right = one[start:][:length], other[start + offset :][:length]
    compared = (left != 0) & (right != 0)
    count = int(compared.sum())
    if count == 0 or count < LEAST_SHARE * min(np.count_nonzero(one), np.count_nonzero(other)):
        return False
    different = int(_differing_bits(left[compared], right[compared]).sum()) / (32 * count)
    return different <= min(_MOST_DIFFERENT, 0.5 - _SURENESS * _SPREAD / math.sqrt(count))


def _differing_bits(left: Fingerprint, right: Fingerprint) -> NDArray[np.uint8]:
    differing = np.bitwise_xor(left, right)
    count: NDArray[np.uint8] = _BIT_COUNTS[differing & 0xFFFF] + _BIT_COUNTS[differing >> 16]
    return count


def _proposals(tracks: Sequence[Fingerprint]) -> Iterator[tuple[int, int, int]]:
    """Pairs of tracks (first, second) and the offset from the first to the second at which they look alike."""
    if not tracks:
        return
    words = np.concatenate(tracks)
    starts = np.cumsum([0, *map(len, tracks)])
    owners = np.repeat(np.arange(len(tracks), dtype=np.int32), np.diff(starts))
    for byte in range(4):
        keys = _sorted_keys(words, owners, byte)
        for distance in range(1, _NEIGHBOURS + 1):
            for first in range(0, len(keys) - distance, _BATCH):
                left = keys[first : first + _BATCH][: len(keys) - distance - first]
                right = keys[first + distance : first + distance + _BATCH]
                equal = (left ^ right) >> np.uint64(40) == 0
                here, there = _position(left[equal]), _position(right[equal])
                alike = _look_alike(words, owners, here, there)
                one, other = owners[here[alike]], owners[there[alike]]
                offsets = (there[alike] - starts[other]) - (here[alike] - starts[one])
                yield from map(tuple, np.unique(np.stack([one, other, offsets], 1), axis=0).tolist())


def _sorted_keys(words: Fingerprint, owners: NDArray[np.int32], byte: int) -> NDArray[np.uint64]:
    """Key << 40 | position of the words, ordered, once for each key and track; the key is the word without a byte."""
    entries = np.flatnonzero(words).astype(np.uint64)
    told = words[words != 0]
    below = np.uint32((1 << 8 * byte) - 1)
    entries |= ((told & below) | (told >> np.uint32(8) & ~below)).astype(np.uint64) << np.uint64(40)
    entries.sort()
    track = owners[_position(entries)]
    is_first = np.ones(len(entries), bool)
    is_first[1:] = (entries[1:] ^ entries[:-1]) >> np.uint64(40) != 0
    is_first[1:] |= track[1:] != track[:-1]
    return entries[is_first]


def _position(entries: NDArray[np.uint64]) -> NDArray[np.int64]:
    return (entries & np.uint64((1 << 40) - 1)).astype(np.int64)


def _look_alike(
    words: Fingerprint, owners: NDArray[np.int32], here: NDArray[np.int64], there: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Which of the pairs of positions have alike words around them, too."""
    different, compared = np.zeros(len(here), np.int64), np.zeros(len(here), np.int64)
    for probe in _PROBES:
        left, right = ((side + probe).clip(0, len(words) - 1) for side in (here, there))
        counts = (owners[left] == owners[here]) & (owners[right] == owners[there])
        counts &= (words[left] != 0) & (words[right] != 0)
        different += np.where(counts, _differing_bits(words[left], words[right]), 0)
        compared += counts
    return (compared >= 2) & (different <= _PROBED_DIFFERENT * 32 * compared)
