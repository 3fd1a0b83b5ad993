"""Formats: waveform <-> sample. `FORMATS` names them; whatever else is in the house knows only `Format`."""

from typing import Any, Protocol, runtime_checkable

import torch

from dualdiff.core.progress import Progress, silent
from dualdiff.core.quality import Quality
from dualdiff.core.types import Sample, Waveform
from dualdiff.formats.config import FORMAT_CONFIGS
from dualdiff.formats.lapped import MCLTFormat, MDCTFormat
from dualdiff.formats.mel import MelFormat, MultiMelFormat
from dualdiff.formats.waveform import WaveformFormat


class Format(Protocol):
    """A way from waveforms to samples and back.

    Its class has an attribute `Config`, a config dataclass with the fields `name` and `loudness_lufs` (what tracks are
    brought to before they are encoded), and is made as `cls(config, device="cpu")`. Settings that samples do not depend
    on, but only the way back, are named in `Config.DECODE_ONLY`, if there are any.
    """

    config: Any
    sample_rate: int
    """Audio samples per second, Hz."""
    channels: int
    """C of its samples: 2, or a multiple of it, those of the left audio channel first."""
    bins: int
    """F of its samples."""
    hop_length: int
    """Audio samples from one frame to the next."""

    def encode(self, waveform: Waveform) -> Sample:
        """(B, 2, T) to (B, C, F, N)."""
        ...

    def decode(
        self,
        sample: Sample,
        *,
        seed: int = 0,
        quality: Quality = "default",
        circular: bool = False,
        progress: Progress = silent,
    ) -> Waveform:
        """(B, C, F, N) to (B, 2, T); the same seed gives the same waveform, whatever else is in the batch.

        A `circular` sample is a loop, whose first frame follows its last: T is then N hop_length, and the waveform
        goes on from its end to its start without a seam. A format whose way back is exact has but one quality.
        """
        ...

    def frequencies(self) -> torch.Tensor:
        """The centre frequency of each bin, (F,), Hz."""
        ...

    def num_frames(self, samples: int) -> int:
        """N of so many audio samples."""
        ...

    def num_samples(self, frames: int) -> int:
        """T of the waveform that so many frames decode to."""
        ...


@runtime_checkable
class Transposable(Protocol):
    """A format that can also encode music as if it were higher or lower: what pitch variants are made with."""

    def transposed(self, semitones: float) -> Format:
        """The format whose samples are of the music so many semitones higher, at the same speed."""
        ...


@runtime_checkable
class Continuing(Protocol):
    """A format whose way back can go on from audio that is known, without a step. Others are crossfaded."""

    def go_on(
        self,
        sample: Sample,
        waveform: Waveform,
        start: int,
        stop: int,
        *,
        seed: int = 0,
        quality: Quality = "default",
        progress: Progress = silent,
    ) -> Waveform:
        """`waveform`, (2, T), with its samples `start` to `stop` made anew from a sample (1, 2, F, N) of all of it."""
        ...


@runtime_checkable
class PhaseKeeping(Protocol):
    """A format whose way back is exact and has a gradient, so that a loss can compare waveforms."""

    keeps_phase: bool
    """True."""


FORMATS: dict[str, Any] = {
    "multimel": MultiMelFormat,
    "mel": MelFormat,
    "waveform": WaveformFormat,
    "mdct": MDCTFormat,
    "mclt": MCLTFormat,
}
"""Name in the settings -> class; its constants are listed in `config.FORMAT_CONFIGS`."""


def register(name: str, kind: Any) -> None:
    """Make a class with a `Config` a format that settings can name."""
    FORMATS[name], FORMAT_CONFIGS[name] = kind, kind.Config


__all__ = ["FORMATS", "Continuing", "Format", "PhaseKeeping", "Transposable", "register"]
