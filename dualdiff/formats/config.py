"""The constants of the formats, as settings. Free of torch, so that commands read settings at once."""

import math
from abc import ABC
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from dualdiff.core.config import setting


@dataclass(frozen=True, kw_only=True)
class AbstractMelConfig(ABC):  # noqa: B024 (its subclasses are final)
    """The constants that the mel formats share; a model carries them along."""

    DECODE_ONLY: ClassVar[tuple[str, ...]] = ("phase", "phase_iterations")

    name: str = setting("mel", "the format")
    sample_rate: int = setting(32000, "audio samples per second, Hz", minimum=8000, maximum=192000)
    n_fft: int = setting(6400, "length of the Fourier transform and its window, samples", minimum=256)
    hop_length: int = setting(256, "samples between frames", minimum=16)
    window_power: int = setting(32, "the window is a periodic Hann to this power", minimum=1, ablation=True)
    n_mels: int = setting(256, "mel bands per channel", minimum=16)
    f_min: float = setting(20.0, "lowest frequency, Hz", minimum=0)
    f_max: float = setting(16000.0, "highest frequency, Hz", above=0)
    magnitude_power: float = setting(0.25, "magnitudes are stored to this power", above=0, maximum=1, ablation=True)
    loudness_lufs: float = setting(
        -20.0, "tracks are brought to this loudness on reading, LUFS", minimum=-60, maximum=0
    )
    mean: float = setting(1.3135, "mean of the powered magnitudes over music at that loudness", ablation=True)
    scale: float = setting(0.4933, "their standard deviation", above=0, ablation=True)
    phase: str = setting("pghi", "how the phase is found on the way back: fast, or the reference")
    phase_iterations: int = setting(
        -1, "iterations on the way back; -1 is as the quality wants it", minimum=-1, ablation=True
    )

    def __post_init__(self) -> None:
        if self.n_fft % 2:
            raise ValueError(f"n_fft = {self.n_fft} is odd: it must be even")
        if self.f_max > self.sample_rate / 2 or self.f_min >= self.f_max:
            raise ValueError(
                f"f_min = {self.f_min:g} and f_max = {self.f_max:g} do not rise within half the sample rate, "
                f"{self.sample_rate / 2:g} Hz"
            )
        if self.hop_length > 2 * self.window_std:
            raise ValueError(
                f"hop_length = {self.hop_length} leaves gaps between windows: at most {2 * self.window_std:.0f}"
            )

    @property
    def window_std(self) -> float:
        """The standard deviation, samples, of the Gaussian that the window nearly is."""
        return gaussian_std(self.n_fft, self.window_power)


def gaussian_std(length: int, power: int) -> float:
    """Of the Gaussian that a Hann window to a power nearly is, in samples.

    Hann to the power p is cos(pi t / n)^(2p), near exp(-p (pi t / n)^2).
    """
    return length / (math.pi * math.sqrt(2 * power))


@dataclass(frozen=True, kw_only=True)
class MelConfig(AbstractMelConfig):
    """The constants of the mel format; a model carries them along."""

    name: Literal["mel"] = setting("mel", "the format: one window for all bands")
    phase: Literal["pghi", "fgla"] = setting("pghi", "how the phase is found on the way back: fast, or the reference")


@dataclass(frozen=True, kw_only=True)
class MultiMelConfig(AbstractMelConfig):
    """The constants of the multimel format; a model carries them along."""

    name: Literal["multimel"] = setting("multimel", "the format: a longer window for the bass")
    mean: float = setting(1.3215, "mean of the powered magnitudes over music at that loudness", ablation=True)
    scale: float = setting(0.506, "their standard deviation", above=0, ablation=True)
    phase: Literal["pghi", "fgla"] = setting("pghi", "how the phase is found on the way back: fast, or the reference")
    bass_n_fft: int = setting(9600, "the same for the bass, samples", minimum=256, ablation=True)
    bass_hz: float = setting(600.0, "bands centred below see the window for the bass, Hz", above=0, ablation=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.bass_n_fft % 2 or self.bass_n_fft < self.n_fft:
            raise ValueError(f"bass_n_fft = {self.bass_n_fft} must be even and at least n_fft = {self.n_fft}")
        if not self.f_min < self.bass_hz < self.f_max / 2:
            raise ValueError(
                f"bass_hz = {self.bass_hz:g} must lie between f_min = {self.f_min:g} and half of f_max = {self.f_max:g}"
            )


@dataclass(frozen=True, kw_only=True)
class MDCTConfig:
    """The constants of the MDCT format; a model carries them along."""

    name: Literal["mdct"] = setting("mdct", "the format")
    sample_rate: int = setting(32000, "audio samples per second, Hz", minimum=8000, maximum=192000)
    bins: int = setting(256, "bins per frame and channel, and samples between frames", minimum=8)
    power: float = setting(0.5, "coefficients are stored to this power, with their sign", above=0, maximum=1)
    loudness_lufs: float = setting(
        -20.0, "tracks are brought to this loudness on reading, LUFS", minimum=-60, maximum=0
    )
    scale: float = setting(0.82, "the standard deviation of the powered coefficients over music, in the bass", above=0)
    tilt: float = setting(0.8, "it falls with frequency f as (1 + f / 500 Hz) to minus this", minimum=0)


@dataclass(frozen=True, kw_only=True)
class MCLTConfig:
    """The constants of the MCLT format; a model carries them along."""

    name: Literal["mclt"] = setting("mclt", "the format")
    sample_rate: int = setting(32000, "audio samples per second, Hz", minimum=8000, maximum=192000)
    bins: int = setting(256, "bins per frame and channel, and samples between frames", minimum=8)
    loudness_lufs: float = setting(
        -20.0, "tracks are brought to this loudness on reading, LUFS", minimum=-60, maximum=0
    )
    mean: float = setting(4.15, "mean of ln(1 + magnitude / 0.0001) over music at that loudness")
    scale: float = setting(2.0, "their standard deviation", above=0)


@dataclass(frozen=True, kw_only=True)
class WaveformConfig:
    """The constants of the waveform format; a model carries them along."""

    name: Literal["waveform"] = setting("waveform", "the format")
    sample_rate: int = setting(32000, "audio samples per second, Hz", minimum=8000, maximum=192000)
    rows: int = setting(64, "audio samples per frame, a row each; 1 leaves the waveform as it is", minimum=1)
    loudness_lufs: float = setting(
        -20.0, "tracks are brought to this loudness on reading, LUFS", minimum=-60, maximum=0
    )
    scale: float = setting(0.081, "the standard deviation of music at that loudness", above=0)


FORMAT_CONFIGS: dict[str, Any] = {
    "multimel": MultiMelConfig,
    "mel": MelConfig,
    "waveform": WaveformConfig,
    "mdct": MDCTConfig,
    "mclt": MCLTConfig,
}
"""Name in the settings -> its constants; `formats.base.FORMATS` has the class of each."""
