"""Two short-time Fourier transforms as one: a longer window for the bass, a shorter one for what lies above.

A spectrum is that of the long window up to a crossover, beside that of the short window from there on; in a crossover
half as wide as its frequency both are there, and the way back goes over from one to the other by degrees. The bass
needs no high sample rate: its transform sees the waveform decimated, which makes it several times cheaper and, with a
filter of 100 dB, changes nothing that matters.

Letters: C channels, T time in audio samples, N frames, F bins, those of the long window first; D decimation.
"""

import math

import torch
from torch import Tensor

from dualdiff.core.types import Waveform
from dualdiff.formats.stft import Stft, reflected, wrapped

CROSSOVER = 0.25
"""The crossover reaches so far to both sides, as a share of its middle."""
STOP_DB = 100.0
"""What the filters before decimation and behind it leave of all else."""
SPARE = 4
"""The sample rate of the bass is at least so many times its highest frequency."""
WINDOW_LEFT = 16
"""What is left of the bass's window, samples: half of it is as long as half of the longest filter, 8, at least."""

Buffers = tuple[Tensor, Tensor]
"""What frames are added to, for the bass and for what lies above."""


def decimation(sample_rate: int, highest_hz: float, window: int, *lengths: int) -> int:
    """The largest power of two that leaves `SPARE` times `highest_hz` and enough of a window, and divides all lengths.

    `window` is how long that is, and `lengths` are whatever else is counted in samples; half of a window is one, too.
    """
    most = min(sample_rate / (SPARE * highest_hz), window / WINDOW_LEFT)
    factor = 1
    while 2 * factor <= most and all(length % (2 * factor) == 0 for length in (window // 2, *lengths)):
        factor *= 2
    return factor


def low_pass(factor: int, sample_rate: int, pass_hz: float) -> Tensor:
    """The filter for decimation by a factor, (taps,), float64, symmetric about its middle one, of sum 1.

    A sinc in a Kaiser window (Kaiser 1974): up to `pass_hz` nothing is changed, and what would fold there is gone.
    """
    if factor == 1:
        return torch.ones(1, dtype=torch.float64)
    transition = 2 * math.pi * (sample_rate / factor - 2 * pass_hz) / sample_rate
    half = math.ceil((STOP_DB - 8) / (2.285 * transition) / 2)
    place = torch.arange(-half, half + 1, dtype=torch.float64)
    window = torch.kaiser_window(2 * half + 1, periodic=False, beta=0.1102 * (STOP_DB - 8.7), dtype=torch.float64)
    taps = torch.sinc(place / factor) * window
    return taps / taps.sum()


class SplitStft:
    """Both transforms behind the interface of one, `Stft`, whose buffers and envelopes are pairs."""

    def __init__(self, high: Stft, long_window: Tensor, long_n_fft: int, sample_rate: int, crossover_hz: float) -> None:
        """The transform of the short window, all of it; the long window and its `n_fft` at the full sample rate."""
        self.high, self.hop_length, self.window = high, high.hop_length, high.window
        self.sample_rate, self.crossover_hz = sample_rate, crossover_hz
        low_hz, high_hz = (crossover_hz * (1 + side * CROSSOVER) for side in (-1, 1))
        factor = decimation(sample_rate, high_hz, len(long_window), self.hop_length, long_n_fft // 2)
        taps = low_pass(factor, sample_rate, high_hz * 1.1)
        self.factor, self._reach = factor, len(taps) // 2
        short = long_window[::factor] * factor
        self.low = Stft(short, long_n_fft // factor, self.hop_length // factor, self.window.device)
        self.half = max(high.half, factor * self.low.half + self._reach)
        self.overlaps = -(-2 * self.half // self.hop_length)
        bins_hz = [sample_rate / n_fft for n_fft in (long_n_fft, high.n_fft)]
        self.low_bins = min(math.ceil(high_hz / bins_hz[0]), long_n_fft // factor // 2) + 1
        self.high_first = math.floor(low_hz / bins_hz[1])
        frequencies = [
            torch.arange(self.low_bins) * bins_hz[0],
            torch.arange(self.high_first, high.n_fft // 2 + 1) * bins_hz[1],
        ]
        self.frequencies_hz = torch.cat(frequencies)
        """Of each bin, (F,)."""
        self.bins = len(self.frequencies_hz)
        rise = [((hz - low_hz) / (high_hz - low_hz)).clamp(0, 1).mul(math.pi / 2).sin().square() for hz in frequencies]
        self._shares = [share.to(high.window) for share in (1 - rise[0], rise[1])]
        self._down, self._up = (matrix.to(high.window) for matrix in _resamplers(taps, factor, self.hop_length))
        self._margin = (self._up.shape[0] - self.low.hop_length) // 2

    def padded(self, waveform: Waveform, circular: bool = False) -> Waveform:
        """(C, T) to (C, T + 2 half): what its first and last frames see beyond its ends."""
        return (wrapped if circular else reflected)(waveform, self.half)

    def spectra(self, padded: Waveform, first: int, last: int) -> Tensor:
        """Frames `first` to `last` of a waveform already `padded`, (C, last - first, F), complex."""
        below, above = self.sides(padded, first, last)
        return torch.cat([below[..., : self.low_bins], above[..., self.high_first :]], -1)

    def sides(self, padded: Waveform, first: int, last: int) -> tuple[Tensor, Tensor]:
        """The whole spectra of the long window, and of the short one."""
        above = self.high.spectra(padded[:, self.half - self.high.half :], first, last)
        begin = self.half + first * self.hop_length - self.factor * self.low.half - self._reach
        samples = (last - first - 1) * self.hop_length + 2 * self.factor * self.low.half + 2 * self._reach
        return self.low.spectra(self._decimated(padded[:, begin : begin + samples]), 0, last - first), above

    def shares(self) -> tuple[Tensor, Tensor]:
        """What each bin of either contributes: one fades into the other in the crossover."""
        return self._shares[0], self._shares[1]

    def pieces(self, sides: tuple[Tensor, Tensor]) -> list[tuple[Tensor, Tensor]]:
        """The frames of both windows as waveforms, and the windows."""
        return [*self.low.pieces((sides[0][..., :0], sides[0])), *self.high.pieces((sides[1][..., :0], sides[1]))]

    def _decimated(self, part: Waveform) -> Waveform:
        """(C, D n + taps - 1) to (C, n), a hop at a time."""
        count = -(-(part.shape[-1] - 2 * self._reach) // self.factor)
        hops = -(-count // self.low.hop_length)
        wanted = (hops - 1) * self.hop_length + self._down.shape[0]
        part = torch.nn.functional.pad(part, (0, max(wanted - part.shape[-1], 0)))
        return (part.unfold(-1, self._down.shape[0], self.hop_length) @ self._down).flatten(1)[:, :count]

    def empty(self, channels: int, frames: int) -> Buffers:
        """Buffers to `add` so many frames to."""
        return self.low.empty(channels, frames), self.high.empty(channels, frames)

    def add(self, buffer: Buffers, spectra: Tensor, first: int) -> None:
        """Overlap-add the frames of `spectra`, (C, n, F), to buffers, from frame `first` on."""
        below = spectra[..., : self.low_bins] * self._shares[0]
        above = spectra[..., self.low_bins :] * self._shares[1]
        self.low.add(buffer[0], below, first)
        self.high.add(buffer[1], torch.nn.functional.pad(above, (self.high_first, 0)), first)

    def envelope(self, frames: int, circular: bool = False) -> Buffers:
        """What the windows, squared, of so many frames add up to."""
        margin = 0 if circular else self._margin
        return self.low.envelope(frames, circular, margin), self.high.envelope(frames, circular)

    def finished(self, buffer: Buffers, envelope: Buffers, circular: bool = False) -> Waveform:
        """The least-squares waveforms of the frames in both buffers, added, (C, T)."""
        low = self.low.finished(buffer[0], envelope[0], circular, 0 if circular else self._margin)
        if circular:
            low = wrapped(low, self._margin)
        hops = low.unfold(-1, self._up.shape[0], self.low.hop_length) @ self._up
        return self.high.finished(buffer[1], envelope[1], circular).add_(hops.flatten(1))


def _resamplers(taps: Tensor, factor: int, hop_length: int) -> tuple[Tensor, Tensor]:
    """Filter and decimation, (hop + taps - 1, hop / D), and the way back, (hop / D + 2 margin, hop), as matrices.

    Both are of the samples around one hop: the first starts half a filter before it, the second `margin` samples.
    """
    reach, low_hop = len(taps) // 2, hop_length // factor
    down = taps.new_zeros(hop_length + 2 * reach, low_hop)
    for sample in range(low_hop):
        down[sample * factor : sample * factor + len(taps), sample] = taps
    margin = -(-reach // factor)
    up = taps.new_zeros(low_hop + 2 * margin, hop_length)
    for sample in range(low_hop + 2 * margin):
        tap = torch.arange(hop_length) - (sample - margin) * factor + reach
        inside = (tap >= 0) & (tap < len(taps))
        up[sample, inside] = factor * taps[tap[inside]]
    return down, up
