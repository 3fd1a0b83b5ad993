"""Levels of waveforms: loudness (ITU-R BS.1770-4), true peak, clipping, silence, bandwidth, DC.

Everything is measured in one pass, block by block, in bounded memory. The loops over samples are compiled by numba;
they also run as plain Python. C is channels, N or T time in samples at the file's own rate; tracks are measured as
stereo.
"""

import math
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from dualdiff.audio.dsp import gain_to, resample
from dualdiff.core.jit import compiled
from dualdiff.core.types import Waveform

SILENCE_LUFS = -70.0
"""The absolute gate of BS.1770: what lies below it has no loudness, and is given this one."""

SILENCE_DB = -150.0
"""The true peak that digital silence is given: below the last bit of 24."""

QUIET_LUFS = -60.0
"""A step of 100 ms that is quieter counts as silence within a track."""

FULL_SCALE = 32766 / 32768
"""A sample that reaches this far is at full scale: 16 bits, less one step."""

DUAL_MONO_SHARE = 1e-6
"""Channels whose difference has less than this share of their sum's energy are one channel twice; codecs leave some."""

BANDWIDTH_DB = -80.0
"""A track's bandwidth ends where its mean spectrum falls this far below its highest point, for good."""

BLOCK = 1 << 16
"""Frames that are looked at together."""

_QUIET_POWER = 10 ** ((QUIET_LUFS + 0.691) / 10)
_SPECTRUM = 4096  # frames of a spectrum; one is taken of every block
_REACH = 80  # frames on either side that decide what lies between two
_LIKELY = 0.8  # what is this far below the highest peak between samples, by a short filter, is not looked at closer

Floats: TypeAlias = npt.NDArray[np.float64]
Samples: TypeAlias = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Levels:
    """What `Meter` measured; see the columns of the same names in the ledger."""

    loudness_lufs: float
    true_peak_db: float
    clipped_share: float
    silence_share: float
    bandwidth_hz: float
    dual_mono: bool
    dc: float


def loudness_lufs(waveform: Waveform, sample_rate: int) -> float:
    """Integrated loudness of (C, T), C 1 or 2, LUFS, gated as ITU-R BS.1770-4 says; -inf for silence.

    What is shorter than one gating block (400 ms) is measured as one block.
    """
    meter = _LoudnessMeter(sample_rate)
    for block in _blocks(waveform):
        meter.update(block)
    return gated_lufs(torch.from_numpy(meter.powers()))


def true_peak_db(waveform: Waveform, sample_rate: int) -> float:
    """The highest peak of (C, T), C 1 or 2, between samples too, in dB of full scale; -inf for silence.

    By four times oversampling (BS.1770-4, annex 2), whatever the sample rate.
    """
    meter = _PeakMeter()
    for block in _blocks(waveform):
        meter.update(block)
    peak = meter.peak()
    return 20 * math.log10(peak) if peak > 0 else -math.inf


def levelled(waveform: Waveform, sample_rate: int, to_lufs: float, ceiling_db: float = -1.0) -> Waveform:
    """Bring (C, T) to a loudness, or as near to it as the ceiling on its true peak (dB of full scale) allows.

    Silence stays as it is.
    """
    louder = gain_to(waveform, loudness_lufs(waveform, sample_rate), to_lufs)
    excess_db = max(0.0, true_peak_db(louder, sample_rate) - ceiling_db)
    return louder * 10 ** (-excess_db / 20)


def _blocks(waveform: Waveform) -> Iterator[Samples]:
    """Blocks (2, N) of a waveform (C, T); the second channel of a mono one is silent."""
    samples = waveform.detach().cpu().float().numpy()
    if len(samples) == 1:
        samples = np.concatenate([samples, np.zeros_like(samples)])
    for first in range(0, samples.shape[1], BLOCK):
        yield samples[:, first : first + BLOCK]


class _LoudnessMeter:
    """The K-weighted power of each 100 ms, and sums over samples, of consecutive blocks (2, N)."""

    def __init__(self, sample_rate: int) -> None:
        self._weight = np.array([(*b, *a[1:]) for b, a in k_weighting(sample_rate)]).ravel()
        self._state = np.zeros((2, 4))
        self._step = loudness_step(sample_rate)
        self._open = np.zeros(2)  # power and frames of the step that is not complete
        self._powers = array("d")
        self.sums = np.zeros(5)

    def update(self, block: Samples) -> None:
        """Take note of the next block."""
        powers = np.zeros(block.shape[1] // self._step + 2)
        done = _survey()(block, self._weight, self._state, self._step, self._open, powers, self.sums)
        self._powers.frombytes(powers[:done].tobytes())

    def powers(self) -> Floats:
        """The mean power of each whole step, or of all there is where that is shorter than one."""
        powers = np.array(self._powers)
        return self._open[:1] / self._open[1] if not len(powers) and self._open[1] else powers


class _PeakMeter:
    """The true peak of consecutive blocks (2, N)."""

    def __init__(self) -> None:
        self._peak = np.zeros(1)
        self._recent = np.zeros((2, 2 * _REACH), np.float32)

    def update(self, block: Samples) -> None:
        """Take note of the next block."""
        near = np.concatenate([self._recent, block], axis=1)
        self._recent = near[:, -2 * _REACH :]
        _peak()(near, *_filters(), _REACH, _LIKELY, self._peak)

    def peak(self) -> float:
        """The peak of the blocks so far, linear."""
        self.update(np.zeros((2, _REACH), np.float32))
        return float(self._peak[0])


class Meter:
    """Measures a track from its consecutive blocks; `frames` is how many frames there were so far."""

    def __init__(self, sample_rate: int) -> None:
        self._rate = sample_rate
        self._loudness, self._peak = _LoudnessMeter(sample_rate), _PeakMeter()
        self.frames = 0
        self._spectrum = np.zeros(_SPECTRUM // 2 + 1)

    def update(self, block: Samples) -> None:
        """Take note of the next block, (2, N) with N up to `BLOCK`, of finite samples."""
        self._loudness.update(block)
        self._peak.update(block)
        self.frames += block.shape[1]
        self._add_spectrum(block[:, :_SPECTRUM])

    def levels(self) -> Levels:
        """What the blocks so far come to."""
        powers, peak = self._loudness.powers(), self._peak.peak()
        count = max(2 * self.frames, 1)
        left, right, clipped, difference, total = self._loudness.sums.tolist()
        return Levels(
            loudness_lufs=round(max(gated_lufs(torch.from_numpy(powers)), SILENCE_LUFS), 3),
            true_peak_db=round(max(20 * math.log10(peak), SILENCE_DB) if peak > 0 else SILENCE_DB, 3),
            clipped_share=float(f"{clipped / count:.3g}"),
            silence_share=round(float(np.mean(powers < _QUIET_POWER)) if len(powers) else 1.0, 4),
            bandwidth_hz=float(round(self._bandwidth_hz())),
            dual_mono=difference <= DUAL_MONO_SHARE * total,
            dc=float(f"{2 * max(left, right, key=abs) / count:.3g}"),
        )

    def _add_spectrum(self, piece: Samples) -> None:
        length = piece.shape[1]
        if length >= 256:
            self._spectrum += np.square(np.abs(np.fft.rfft(piece * _hann(length), _SPECTRUM))).sum(0)

    def _bandwidth_hz(self) -> float:
        heard = np.flatnonzero(self._spectrum > self._spectrum.max() * 10 ** (BANDWIDTH_DB / 10))
        return min((heard[-1] + 0.5) / _SPECTRUM, 0.5) * self._rate if len(heard) else 0.0


def loudness_step(sample_rate: int) -> int:
    """Samples in 100 ms, by which the gating blocks of BS.1770 move on; at least one."""
    return max(1, round(sample_rate / 10))


def gated_lufs(powers: torch.Tensor) -> float:
    """Integrated loudness from the K-weighted power of each 100 ms, summed over channels (BS.1770-4, equations 4-7).

    Gating blocks are four steps long, or as long as there are steps. -inf where nothing is heard.
    """
    if not len(powers):
        return -math.inf
    block = powers.unfold(0, min(4, len(powers)), 1).mean(-1)
    heard = block[_lufs(block) > -70.0]
    if not len(heard):
        return -math.inf
    return float(_lufs(heard[_lufs(heard) > _lufs(heard.mean()) - 10.0].mean()))


def _lufs(power: torch.Tensor) -> torch.Tensor:
    return 10 * power.log10() - 0.691


def k_weighting(sample_rate: int) -> list[tuple[list[float], list[float]]]:
    """K-weighting (BS.1770-4, annex 1) at any rate: (b, a) of its high shelf and of its high pass, a[0] being 1."""
    shelf_gain, shelf_q, pass_q = 10 ** (3.999843853973347 / 20), 0.7071752369554196, 0.5003270373238773
    k = math.tan(math.pi * min(1681.974450955533 / sample_rate, 0.49))  # else unstable at rates that hold no shelf
    middle = shelf_gain**0.4996667741545416 * k / shelf_q
    shelf_b = (shelf_gain + middle + k * k, 2 * (k * k - shelf_gain), shelf_gain - middle + k * k)
    shelf_a = (1 + k / shelf_q + k * k, 2 * (k * k - 1), 1 - k / shelf_q + k * k)
    k = math.tan(math.pi * 38.13547087602444 / sample_rate)
    pass_a = (1 + k / pass_q + k * k, 2 * (k * k - 1), 1 - k / pass_q + k * k)
    pass_b = (pass_a[0], -2 * pass_a[0], pass_a[0])  # the standard's high pass has b = (1, -2, 1) beside a normalised a
    return [([x / a[0] for x in b], [x / a[0] for x in a]) for b, a in ((shelf_b, shelf_a), (pass_b, pass_a))]


def survey(
    block: Samples, weight: Floats, state: Floats, step: int, pending: Floats, powers: Floats, sums: Floats
) -> int:
    """Filter and count one block; returns how many steps it completed, with their powers in `powers`.

    Args:
        block: (2, N).
        weight: ten coefficients, of `k_weighting`.
        state: (2, 4), the memory of the two filters for each channel.
        step: frames in a step.
        pending: the power, summed over frames, and the frames of the step under way.
        powers: takes the mean power of each completed step.
        sums: added to: left, right, samples at full scale, (l-r)^2, (l+r)^2.
    """
    b0, b1, b2, a1, a2, c0, c1, c2, d1, d2 = weight
    l1, l2, l3, l4 = state[0]
    r1, r2, r3, r4 = state[1]
    power, count, done = pending[0], pending[1], 0
    left_sum, right_sum, clipped, difference, total = 0.0, 0.0, 0, 0.0, 0.0
    for n in range(block.shape[1]):
        left, right = float(block[0, n]), float(block[1, n])
        left_sum += left
        right_sum += right
        clipped += (abs(left) >= FULL_SCALE) + (abs(right) >= FULL_SCALE)
        difference += (left - right) * (left - right)
        total += (left + right) * (left + right)
        shelf = b0 * left + l1  # transposed direct form II
        l1 = b1 * left - a1 * shelf + l2
        l2 = b2 * left - a2 * shelf
        high = c0 * shelf + l3
        l3 = c1 * shelf - d1 * high + l4
        l4 = c2 * shelf - d2 * high
        power += high * high
        shelf = b0 * right + r1
        r1 = b1 * right - a1 * shelf + r2
        r2 = b2 * right - a2 * shelf
        high = c0 * shelf + r3
        r3 = c1 * shelf - d1 * high + r4
        r4 = c2 * shelf - d2 * high
        power += high * high
        count += 1
        if count == step:
            powers[done] = power / step
            done += 1
            power, count = 0.0, 0.0
    state[0, 0], state[0, 1], state[0, 2], state[0, 3] = l1, l2, l3, l4
    state[1, 0], state[1, 1], state[1, 2], state[1, 3] = r1, r2, r3, r4
    pending[0], pending[1] = power, count
    sums[0] += left_sum
    sums[1] += right_sum
    sums[2] += clipped
    sums[3] += difference
    sums[4] += total
    return done


def raise_peak(near: Samples, short: Samples, exact: Samples, reach: int, likely: float, peak: Floats) -> None:
    """Raise `peak` to the highest magnitude, between samples too, of (2, N), but `reach` frames at either end.

    Args:
        near: (2, N).
        short: half a sample later, by a few taps: says where a closer look may pay.
        exact: (4, 2 reach): the taps of the four phases of the oversampling filter.
        reach: frames the exact filter looks ahead and back.
        likely: places whose peak by the short filter is below this share of the highest so far are passed over.
        peak: (1,), changed in place.
    """
    half = len(short) // 2
    best = peak[0]
    for c in range(2):
        for n in range(reach, near.shape[1] - reach):
            rough = max(abs(near[c, n]), abs(near[c, n + 1]))
            if rough < 0.5 * best:
                continue
            middle, heard = np.float32(0.0), near[c, n - half + 1 : n + half + 1]
            for k in range(len(short)):
                middle += short[k] * heard[k]
            if max(rough, abs(middle)) < likely * best:
                continue
            heard = near[c, n - reach : n + reach]
            for phase in range(exact.shape[0]):
                value, taps = np.float32(0.0), exact[phase]
                for k in range(len(taps)):
                    value += taps[k] * heard[k]
                best = max(best, abs(value))
    peak[0] = best


@lru_cache(maxsize=4)
def _hann(length: int) -> Samples:
    return np.hanning(length).astype(np.float32)


@cache
def _filters() -> tuple[Samples, Samples]:
    """The short and the exact filter of `raise_peak`; the exact one is what `resample` does to an impulse."""
    impulse = torch.zeros(1, 2 * _REACH + 1)
    impulse[0, _REACH] = 1
    spread = resample(impulse, 1, 4).numpy()[0]  # spread[4 n + p] is phase p, n - reach frames later
    exact = np.ascontiguousarray(spread[: 4 * (2 * _REACH + 1)].reshape(-1, 4).T[:, ::-1])
    place = np.arange(-3, 5) - 0.5
    short = np.sinc(place) * np.hanning(10)[1:-1]
    return (short / short.sum()).astype(np.float32), exact[:, :-1].copy()


@cache
def _survey() -> Callable[..., int]:
    import numba

    many, grid = numba.float64[::1], numba.float64[:, ::1]
    block = numba.types.Array(numba.float32, 2, "A")
    return compiled(survey, numba.int64(block, many, grid, numba.int64, many, many, many), fastmath={"contract"})


@cache
def _peak() -> Callable[..., None]:
    import numba

    taps = numba.float32[::1]
    signature = numba.void(
        numba.float32[:, ::1], taps, numba.float32[:, ::1], numba.int64, numba.float64, numba.float64[::1]
    )
    return compiled(raise_peak, signature, fastmath=True)
