"""What a decoder gives: facts about a file, and its samples in blocks. It loads no torch, for the decoding process."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Block: TypeAlias = npt.NDArray[np.float32]
"""Consecutive samples, (T, C)."""

AUDIO_SUFFIXES = (".aif", ".aiff", ".au", ".caf", ".flac", ".mp3", ".oga", ".ogg", ".opus", ".w64", ".wav")
REPAIR = "fetch or convert the file again, or remove it"
BLOCK = 1 << 16
"""Samples decoded at once."""

SINC_ZEROS, SINC_ROLLOFF = 64, 0.9475937167399596
"""The reach of the filter that resamples: zero crossings a side, and its cutoff by the Nyquist frequency."""


@dataclass(frozen=True)
class Excerpt:
    """Samples `first` to `last` (None: the end) of a file, counted at a rate (None: the file's own)."""

    first: int = 0
    last: int | None = None
    sample_rate: int | None = None

    def ratio(self, file_rate: int) -> Fraction:
        """File frames per sample; odd rates are rounded (by 2.5e-7 at most): their filters would fill the memory."""
        return Fraction(file_rate, self.sample_rate or file_rate).limit_denominator(2000)

    def frames(self, file_rate: int) -> tuple[int, int | None]:
        """The frames of the file that the excerpt depends on, with the reach of the filter."""
        ratio = self.ratio(file_rate)
        if ratio == 1:
            return self.first, self.last
        step_in, step_out = ratio.numerator, ratio.denominator
        context = math.ceil(SINC_ZEROS / (min(step_in, step_out) * SINC_ROLLOFF)) + 1
        start = max(0, self.first // step_out - context) * step_in
        return start, None if self.last is None else (-(-self.last // step_out) + context) * step_in


WHOLE = Excerpt()


@dataclass(frozen=True)
class AudioInfo:
    """What a file is; frames are samples per channel."""

    duration_s: float
    sample_rate: int
    channels: int
    frames: int
    format: str
    tags: dict[str, str]

    @property
    def loop(self) -> tuple[int, int] | None:
        """Start and length of the loop in samples, by its tags or `smpl` chunk; None where there is no valid one."""
        start, length = (self.tags.get(name, "") for name in ("loopstart", "looplength"))
        if not (start.isdecimal() and length.isdecimal() and len(start + length) < 24):
            return None
        if not 0 < int(length) <= self.frames - int(start):
            return None
        return int(start), int(length)


class NotDecodableError(Exception):
    """libsndfile does not know what is in a file; another decoder may."""


@dataclass
class Stream:
    """A file that is being decoded."""

    sample_rate: int
    channels: int
    format: str
    tags: dict[str, str]
    frames: int | None
    """Exact, or None where only decoding tells."""
    is_seekable: bool
    is_lossy: bool
    """Whether its samples are no better than 16 bits."""
    start: int
    """The frame that the blocks begin with."""
    blocks: Iterator[Block]
    notes: list[str]
    """Oddities of the file; complete when the blocks are exhausted."""

    def info(self, frames: int) -> AudioInfo:
        """Facts about the file, given how many frames it holds."""
        return AudioInfo(frames / self.sample_rate, self.sample_rate, self.channels, frames, self.format, self.tags)


def between(blocks: Iterator[Block], first: int, last: int | None) -> Iterator[Block]:
    """Samples `first` to `last` of a stream that begins at 0."""
    position = 0
    for block in blocks:
        start, position = position, position + len(block)
        part = block[max(0, first - start) : None if last is None else max(0, last - start)]
        if len(part):
            yield part
        if last is not None and position >= last:
            return
