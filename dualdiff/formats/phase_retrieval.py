"""Waveforms from magnitudes: the phase that a magnitude spectrogram left out, found again.

`fgla`, fast Griffin-Lim (Perraudin, Balazs and Sondergaard 2013) from a random start, is the reference; `pghi`, phase
gradient heap integration (Prusa, Balazs and Sondergaard 2017), starts near the end, so that few iterations remain.
Letters: N frames, F frequency bins, T time; magnitudes are (2, N, F), left and right.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from dualdiff.core.progress import Progress
from dualdiff.core.rng import Stream
from dualdiff.core.types import Waveform
from dualdiff.formats.griffin_lim import Polish, Target
from dualdiff.formats.pghi import Known
from dualdiff.formats.stft import Transform, with_magnitude

OVERLAP_SPANS = 4
"""Pieces overlap by so many spans of the frames that cover one audio sample."""
MAX_CELLS = 6_000_000
"""N F of the longest piece that is recovered as one, in some 500 MB: 45 s of the fast method, 15 s of the reference."""

Source = Callable[[int, int], Target]
"""What the spectra of the frames `first` to `last` should be: long spectrograms need not be in memory as a whole."""

Starter = Callable[[Tensor, Known, torch.Generator, bool], Tensor]
"""Unit spectra to start from, (1, N, F), shared by both channels, for magnitudes (2, N, F).

Further arguments are what is known, whose phases they go on from; where to draw from; and whether the first frame
follows the last.
"""


@dataclass(frozen=True)
class Recovery:
    """How a phase is recovered: from which start, with which iterations."""

    polish: Polish
    start: Starter


def at_random(magnitudes: Tensor, known: Known, generator: torch.Generator, circular: bool) -> Tensor:
    """The start of the reference, evenly spread phases: a `Starter`."""
    field = torch.view_as_complex(torch.randn(*magnitudes.shape[1:], 2, generator=generator))
    return with_magnitude(field.to(magnitudes.device))[None]


def recover(
    source: Source, frames: int, recovery: Recovery, *, seed: int, circular: bool = False, progress: Progress
) -> Waveform:
    """A waveform (2, T) near the magnitudes: T = (frames - 1) hop_length, or frames hop_length of a loop.

    Long ones are recovered in pieces that overlap: a piece begins with the spectra that the one before ended with, held
    through its iterations, so that both agree where they are crossfaded. A long loop ends with its beginning, likewise.
    """
    stft = recovery.polish.stft
    overlap = OVERLAP_SPANS * stft.overlaps
    longest = max(MAX_CELLS // stft.bins, 4 * overlap)
    if frames < (1 if circular else 2):
        return stft.window.new_zeros(2, 0)
    if frames <= longest:
        target = source(0, frames)
        start = recovery.start(target.magnitudes, {}, _generator(seed, 0), circular)
        return recovery.polish(target, start, circular=circular, progress=progress)
    if not circular:
        return _in_pieces(source, frames, recovery, seed, longest, overlap, False, progress)

    def around(first: int, last: int) -> Target:
        if last <= frames:
            return source(first, last)
        return source(first, frames).followed_by(source(0, last - frames))

    waveform = _in_pieces(around, frames + overlap, recovery, seed, longest, overlap, True, progress)
    length = frames * stft.hop_length
    loop = waveform[:, :length].clone()
    begin, end = _fade(stft, overlap // 2)
    loop[:, :begin] = waveform[:, length : length + begin]
    loop[:, begin:end] = _crossfade(waveform[:, length + begin : length + end], loop[:, begin:end])
    return loop


def go_on(
    source: Source,
    frames: int,
    recovery: Recovery,
    known: Waveform,
    start: int,
    stop: int,
    *,
    seed: int,
    progress: Progress,
) -> Waveform:
    """`known`, (2, (frames - 1) hop_length), with its samples `start` to `stop` made anew, near the magnitudes.

    Frames that see nothing but known samples are held, so that the phase of the new ones goes on from theirs, at both
    ends. Within a window's length outside of `start` to `stop` the answer is not quite `known`, but near it and without
    a step: where to crossfade. What is long goes in pieces, each of which goes on from the one before.
    """
    stft = recovery.polish.stft
    hop, overlap = stft.hop_length, OVERLAP_SPANS * stft.overlaps
    longest = max(MAX_CELLS // stft.bins, 4 * overlap)
    whole, done, begun = known.clone(), start, start
    while done < stop:
        first = max(0, done // hop - overlap)
        last = min(frames, first + longest)
        offset, ends = first * hop, min(stop, (last - 1) * hop)
        target = source(first, last)
        before = _whole_frames(done - offset, stft) if done > 0 else 0
        after = -(-(stop - offset + stft.half) // hop)
        spectra = stft.spectra(stft.padded(whole[:, offset : (last - 1) * hop]), 0, last - first)
        held = {0: spectra[:, :before], after: spectra[:, after:]} if before or after < last - first else {}
        phase = recovery.start(target.magnitudes, held, _generator(seed, first), False)
        share = _share(progress, done - begun, stop - begun)
        part = recovery.polish(target, phase, held=held, progress=share)
        lead = min(stft.half, done - offset) if done == begun else _FADE_HOPS * hop
        tail = min(stft.half, part.shape[-1] - (ends - offset)) if ends == stop else 0
        weight = torch.linspace(0, 1, lead + 2, device=part.device)[1:-1] if done > begun else torch.ones(lead)
        here = slice(done - lead, done)
        whole[:, here] = torch.lerp(whole[:, here], part[:, done - lead - offset : done - offset], weight.to(part))
        whole[:, done : ends + tail] = part[:, done - offset : ends + tail - offset]
        done = ends if ends == stop else ends - overlap * hop // 2
    return whole


_FADE_HOPS = 2
"""Pieces that go on from each other are crossfaded over so many hops."""


def _whole_frames(samples: int, stft: Transform) -> int:
    """How many frames from the first on see no sample from `samples` on."""
    return max((samples - stft.half) // stft.hop_length + 1, 0)


def _generator(seed: int, piece: int) -> torch.Generator:
    return Stream(seed).at("phase", piece).torch("start")


def _in_pieces(
    source: Source,
    frames: int,
    recovery: Recovery,
    seed: int,
    longest: int,
    overlap: int,
    returns: bool,
    progress: Progress,
) -> Waveform:
    """What `recover` does where one piece would be too long; `returns` if its last frames are its first ones again."""
    stft = recovery.polish.stft
    hop = stft.hop_length
    pieces = math.ceil((frames - overlap) / (longest - overlap))
    step = math.ceil((frames - overlap) / pieces)
    whole = stft.window.new_zeros(2, (frames - 1) * hop)
    for piece in range(pieces):
        first, is_last = piece * step, piece == pieces - 1
        last = frames if is_last else first + step + overlap
        held = {0: _spectra(whole, stft, first, first + overlap // 2)} if piece else {}
        if returns and is_last:
            held[last - first - overlap // 2] = _spectra(whole, stft, overlap // 2, overlap)
        target = source(first, last)
        unit = recovery.start(target.magnitudes, held, _generator(seed, piece), False)
        part = recovery.polish(target, unit, held=held, progress=_share(progress, piece, pieces))
        start, stop = _fade(stft) if piece else (0, 0)
        place = whole[:, first * hop : first * hop + part.shape[-1]]
        place[:, start:stop] = _crossfade(place[:, start:stop], part[:, start:stop])
        place[:, stop:] = part[:, stop:]
    return whole


def _fade(stft: Transform, later: int = 0) -> tuple[int, int]:
    """From when to when pieces are crossfaded, in audio samples: well within the frames that both share."""
    margin, half = stft.overlaps // 2, OVERLAP_SPANS * stft.overlaps // 2
    return (later + margin) * stft.hop_length, (later + half - margin) * stft.hop_length


def _share(progress: Progress, piece: int, pieces: int) -> Progress:
    """What tells of one piece as of its share of them all."""

    def tell(done: float, total: float, note: str = "") -> None:
        progress(piece * total + done, pieces * total, note)

    return tell


def _spectra(waveform: Waveform, stft: Transform, first: int, last: int) -> Tensor:
    """Spectra of frames of a waveform, (2, last - first, F), that lie well inside of it."""
    start = first * stft.hop_length - stft.half
    return stft.spectra(waveform[:, start : (last - 1) * stft.hop_length + stft.half], 0, last - first)


def _crossfade(before: Waveform, after: Waveform) -> Waveform:
    """From one to the other, evenly."""
    return torch.lerp(before, after, torch.linspace(0, 1, before.shape[-1], device=before.device))
