"""Waveforms from magnitudes: the phase that a magnitude spectrogram left out, found again.

`fgla`, fast Griffin-Lim (Perraudin, Balazs and Sondergaard 2013) from a random start, is the reference; `pghi`, phase
gradient heap integration (Prusa, Balazs and Sondergaard 2017), starts near the end, so that few iterations remain.
Letters: N frames, F frequency bins, T time; magnitudes are (2, N, F), left and right.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from dualdiff.formats.heap import integrate
from dualdiff.formats.stft import Stft, to_unit
from dualdiff.progress import Progress, silent
from dualdiff.seeding import Stream
from dualdiff.types import Waveform

MOMENTUM = 0.99 / 1.99
"""The weight of the previous spectra: 0.99, in the form a / (1 + a)."""
MONO_SHARE = 0.67
"""For this share of the iterations both channels have the same magnitudes, and so agree on one phase."""
AUDIBLE = 1e-4
"""Cells this far below the loudest, as a factor, get a random phase to start from instead of an integrated one."""
CHUNK_FRAMES = 256
"""Frames that go through an iteration together: few enough to stay in the processor's cache."""
OVERLAP_SPANS = 4
"""Pieces overlap by so many spans of the frames that cover one audio sample."""
MAX_CELLS = 6_000_000
"""N F of the longest piece that is recovered as one, in some 500 MB: 45 s of the fast method, 15 s of the reference."""

Linear = Callable[[int, int], Tensor]
"""Magnitudes (2, n, F) of the frames `first` to `last`: long spectrograms need not be in memory as a whole."""


@dataclass(frozen=True)
class Recovery:
    """How a phase is recovered: on which transform, from which start, with how many iterations."""

    stft: Stft
    iterations: int
    window_std: float | None = None
    """Standard deviation of the (nearly Gaussian) window, audio samples, to start from integrated phases; or None."""

    def start(self, magnitudes: Tensor, known: Tensor | None, generator: torch.Generator, circular: bool) -> Tensor:
        """Unit spectra to start from, (1, N, F), shared by both channels; `known` spectra (1, K, F) come first."""
        frames, bins = magnitudes.shape[1:]
        if self.window_std is None:
            field = torch.view_as_complex(torch.randn(frames, bins, 2, generator=generator)).to(magnitudes.device)
            return to_unit(field)[None]
        mid = magnitudes.mean(0).cpu()
        phase = torch.rand(frames, bins, generator=generator, dtype=torch.float64) * 2 * math.pi
        known_frames = 0
        if known is not None:
            known_frames = known.shape[1]
            phase[:known_frames] = known[0].angle().cpu()
        per_frame, per_bin = phase_gradient(mid, self.stft, self.window_std, circular)
        floor = max(mid.max().item() * AUDIBLE, 1e-30)
        integrate(mid.numpy(), per_frame.numpy(), per_bin.numpy(), phase.numpy(), known_frames, floor, circular)
        return torch.complex(phase.cos().float(), phase.sin().float())[None].to(magnitudes.device)


def phase_gradient(magnitude: Tensor, stft: Stft, window_std: float, circular: bool = False) -> tuple[Tensor, Tensor]:
    """Both partial derivatives of the phase of (N, F) magnitudes, as a Gaussian window ties them to the magnitudes.

    Prusa et al. 2017, with lambda = 2 pi std^2, hop a, n_fft M, and phases that count from the start of a window of W
    samples: along frames (a M / lambda) d ln|X|/dk + 2 pi a k / M, wrapped to one turn; along bins
    -(lambda / (a M)) d ln|X|/dn - pi W / M. Central differences, one-sided at the borders (but for the frames of a
    loop, which is `circular`). Returns (N, F) twice.
    """
    ratio = stft.hop_length * stft.n_fft / (2 * math.pi * window_std**2)
    log = magnitude.clamp_min(max(magnitude.max().item() * 1e-10, 1e-30)).log_()
    bins = torch.arange(log.shape[1], device=log.device, dtype=torch.float64)
    turns = stft.hop_length * bins / stft.n_fft
    advance = (2 * math.pi * (turns - turns.round())).float()
    rise = (log.roll(-1, 0) - log.roll(1, 0)) / 2 if circular else _slope(log, 0)
    return ratio * _slope(log, 1) + advance, rise / -ratio - 2 * math.pi * stft.half / stft.n_fft


def _slope(values: Tensor, dim: int) -> Tensor:
    """Central differences along a dimension."""
    if values.shape[dim] < 2:
        return torch.zeros_like(values)
    slope: Tensor = torch.gradient(values, dim=dim)[0]
    return slope


def recover(
    linear: Linear, frames: int, recovery: Recovery, *, seed: int, circular: bool = False, progress: Progress
) -> Waveform:
    """A waveform (2, T) near the magnitudes: T = (frames - 1) hop_length, or frames hop_length of a loop.

    Long ones are recovered in pieces that overlap: a piece begins with the spectra that the one before ended with, held
    through its iterations, so that both agree where they are crossfaded. A long loop ends with its beginning, likewise.
    """
    stft = recovery.stft
    overlap = OVERLAP_SPANS * stft.overlaps
    longest = max(MAX_CELLS // (stft.n_fft // 2 + 1), 4 * overlap)
    if frames < (1 if circular else 2):
        return stft.window.new_zeros(2, 0)
    if frames <= longest:
        start = recovery.start(magnitudes := linear(0, frames), None, _generator(seed, 0), circular)
        return polish(stft, magnitudes, start, recovery.iterations, circular=circular, progress=progress)
    if not circular:
        return _in_pieces(linear, frames, recovery, seed, longest, overlap, False, progress)

    def around(first: int, last: int) -> Tensor:
        if last <= frames:
            return linear(first, last)
        return torch.cat([linear(first, frames), linear(0, last - frames)], 1)

    waveform = _in_pieces(around, frames + overlap, recovery, seed, longest, overlap, True, progress)
    length = frames * stft.hop_length
    return _joined(waveform[:, length:], waveform[:, :length], 0, *_fade(stft, overlap // 2))


def _generator(seed: int, piece: int) -> torch.Generator:
    return Stream(seed).at("phase", piece).torch("start")


def _in_pieces(
    linear: Linear,
    frames: int,
    recovery: Recovery,
    seed: int,
    longest: int,
    overlap: int,
    returns: bool,
    progress: Progress,
) -> Waveform:
    """What `recover` does where one piece would be too long; `returns` if its last frames are its first ones again."""
    stft, hop = recovery.stft, recovery.stft.hop_length
    pieces = math.ceil((frames - overlap) / (longest - overlap))
    step = math.ceil((frames - overlap) / pieces)
    whole = stft.window.new_zeros(2, 0)
    for piece in range(pieces):
        first, is_last = piece * step, piece == pieces - 1
        last = frames if is_last else first + step + overlap
        held = {0: _spectra(whole, stft, first, first + overlap // 2)} if piece else {}
        known = held[0].mean(0, keepdim=True) if piece else None
        if returns and is_last:
            held[last - first - overlap // 2] = _spectra(whole, stft, overlap // 2, overlap)
        magnitudes = linear(first, last)
        start = recovery.start(magnitudes, known, _generator(seed, piece), False)
        share = _share(progress, piece, pieces)
        part = polish(stft, magnitudes, start, recovery.iterations, held=held, progress=share)
        whole = _joined(whole, part, first * hop, *(first * hop + time for time in _fade(stft))) if piece else part
    return whole


def _fade(stft: Stft, later: int = 0) -> tuple[int, int]:
    """From when to when pieces are crossfaded, in audio samples: well within the frames that both share."""
    margin, half = stft.overlaps // 2, OVERLAP_SPANS * stft.overlaps // 2
    return (later + margin) * stft.hop_length, (later + half - margin) * stft.hop_length


def _share(progress: Progress, piece: int, pieces: int) -> Progress:
    """What tells of one piece as of its share of them all."""

    def tell(done: float, total: float, note: str = "") -> None:
        progress(piece * total + done, pieces * total, note)

    return tell


def _spectra(waveform: Waveform, stft: Stft, first: int, last: int) -> Tensor:
    """Spectra of frames of a waveform, (2, last - first, F), that lie well inside of it."""
    start = first * stft.hop_length - stft.half
    return stft.spectra(waveform[:, start : (last - 1) * stft.hop_length + stft.half], 0, last - first)


def _joined(before: Waveform, after: Waveform, start: int, fade_start: int, fade_stop: int) -> Waveform:
    """`before`, crossfaded between two times into `after`, which begins at `start`."""
    weight = torch.linspace(0, 1, fade_stop - fade_start, device=after.device)
    faded = torch.lerp(before[:, fade_start:fade_stop], after[:, fade_start - start : fade_stop - start], weight)
    return torch.cat([before[:, :fade_start], faded, after[:, fade_stop - start :]], -1)


def stereo_weight(iteration: int, iterations: int) -> float:
    """How far the channels have magnitudes of their own, from 0 (both the mean) to 1, after so many iterations."""
    done = iteration / iterations if iterations else 1.0
    return min(max((done - MONO_SHARE) / (1 - MONO_SHARE), 0.0), 1.0)


def polish(
    stft: Stft,
    magnitudes: Tensor,
    start: Tensor,
    iterations: int,
    *,
    held: Mapping[int, Tensor] = MappingProxyType({}),
    circular: bool = False,
    progress: Progress = silent,
) -> Waveform:
    """Fast Griffin-Lim: y = iSTFT(P_i A_i), R_i = STFT(y), P_{i+1} = unit(R_i - MOMENTUM R_{i-1}).

    The magnitudes A_i anneal from the mean of both channels to each channel's own; while they are equal, one channel is
    computed for both.

    Args:
        stft: the transform.
        magnitudes: (2, N, F).
        start: P_0, (1, N, F), complex.
        iterations: how many; with 0 the start is taken as it is.
        held: spectra (2, K, F) that K frames from the one of the key on keep through all iterations.
        circular: whether the first frame follows the last.
        progress: told after each iteration.
    """
    frames = magnitudes.shape[1]
    envelope = stft.envelope(frames, circular)
    previous = torch.zeros_like(start)
    waveform: Waveform | None = None
    for iteration in range(iterations + 1):
        weight = stereo_weight(iteration, iterations)
        if weight > 0 and len(previous) == 1:
            previous = previous.repeat(2, 1, 1)
        padded = None if waveform is None else stft.padded(waveform, circular).expand(len(previous), -1)
        buffer = stft.empty(len(previous), frames)
        for first in range(0, frames, CHUNK_FRAMES):
            last = min(first + CHUNK_FRAMES, frames)
            unit = start[:, first:last] if padded is None else _next(stft, padded, previous, first, last)
            spectra = unit * _annealed(magnitudes[:, first:last], weight)
            for begin, kept in held.items():
                _hold(spectra, kept, begin - first)
            stft.add(buffer, spectra, first)
        waveform = stft.finished(buffer, envelope, circular)
        progress(iteration + 1, iterations + 1)
    assert waveform is not None
    return waveform


def _hold(spectra: Tensor, kept: Tensor, begin: int) -> None:
    """Put what is kept, (2, K, F), in the place of frames from `begin` on, as far as they are there."""
    first, last = max(begin, 0), min(begin + kept.shape[1], spectra.shape[1])
    if first < last:
        part = kept[:, first - begin : last - begin]
        spectra[:, first:last] = part if len(spectra) == 2 else part.mean(0)


def _next(stft: Stft, padded: Waveform, previous: Tensor, first: int, last: int) -> Tensor:
    """Some frames of P_{i+1} from y_i, `padded`; their R_i takes the place of R_{i-1} in `previous`."""
    spectra = stft.spectra(padded, first, last)
    accelerated = spectra - MOMENTUM * previous[:, first:last]
    previous[:, first:last] = spectra
    return to_unit(accelerated)


def _annealed(magnitudes: Tensor, weight: float) -> Tensor:
    """The channels' magnitudes (2, n, F), drawn together to their mean; (1, n, F) where nothing else is left."""
    mid = magnitudes.mean(0, keepdim=True)
    return torch.lerp(mid, magnitudes, weight) if weight > 0 else mid
