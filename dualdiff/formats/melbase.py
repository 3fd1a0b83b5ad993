"""What the mel formats share: magnitudes on a mel scale, as many numbers as the waveform has, there and back.

Letters: B batch, C channels, T time in audio samples, F mel bands, N frames. What is cut off the nearly Gaussian
windows here, to save time, is below what float32 resolves (encoding) or 4e-5 of its sum (the fast ways back).
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from dualdiff.core.config import setting
from dualdiff.core.progress import Progress, silent
from dualdiff.core.types import Quality, Sample, Waveform
from dualdiff.formats.filterbank import centres_hz, grouped, mel_filters
from dualdiff.formats.griffin_lim import ACCELERATED, Bands, Polish, Target
from dualdiff.formats.phase_retrieval import Recovery, Source, go_on, recover
from dualdiff.formats.stft import Transform, magnitude

ITERATIONS = {
    "pghi": {"draft": 8, "default": 30, "high": 75},
    "fgla": {"draft": 100, "default": 400, "high": 1000},
}
"""Of each way back and quality, unless set."""
MONO_SHARE = 0.5
"""For this share of pghi's iterations both channels agree on one phase."""
FREE_HZ, BLEND_HZ = 400.0, 300.0
"""From here on, and by degrees over so much more, only the mel is given to pghi's iterations, not each bin."""
ENCODE_STDS = 5.0
"""Half the length of the window that encodes, in standard deviations: beyond are 4e-6 of its peak."""
DECODE_STDS = 4.0
"""The same for the fast way back: beyond are 3e-4 of its peak."""
CHUNK_FRAMES = 256
"""Frames encoded together on a CPU, over all of the batch: few enough to stay in its cache."""


@dataclass(frozen=True, kw_only=True)
class AbstractMelConfig(ABC):  # noqa: B024 (its subclasses are final)
    """The constants that the mel formats share; a model carries them along."""

    DECODE_ONLY: ClassVar[tuple[str, ...]] = ("phase", "phase_iterations")

    name: str = setting("mel", "the format")
    sample_rate: int = setting(32000, "audio samples per second, Hz", minimum=8000, maximum=192000)
    n_fft: int = setting(6400, "length of the Fourier transform and its window, samples", minimum=256)
    hop_length: int = setting(256, "samples between frames", minimum=16)
    window_power: int = setting(32, "the window is a periodic Hann to this power", minimum=1)
    n_mels: int = setting(256, "mel bands per channel", minimum=16)
    f_min: float = setting(20.0, "lowest frequency, Hz", minimum=0)
    f_max: float = setting(16000.0, "highest frequency, Hz", above=0)
    magnitude_power: float = setting(0.25, "magnitudes are stored to this power", above=0, maximum=1)
    loudness_lufs: float = setting(
        -20.0, "tracks are brought to this loudness on reading, LUFS", minimum=-60, maximum=0
    )
    mean: float = setting(1.3135, "mean of the powered magnitudes over music at that loudness")
    scale: float = setting(0.4933, "their standard deviation", above=0)
    phase: str = setting("pghi", "how the phase is found on the way back: fast, or the reference")
    phase_iterations: int = setting(-1, "iterations on the way back; -1 is as the quality wants it", minimum=-1)

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

    def filters(self, n_fft: int, semitones: float) -> Tensor:
        """The mel filters on the bins of a transform, (n_fft // 2 + 1, F), for music so many semitones higher."""
        ratio = 2 ** (semitones / 12)
        return mel_filters(n_fft, self.sample_rate, self.f_min, self.f_max, self.n_mels, ratio)

    @property
    def window_std(self) -> float:
        """The standard deviation, samples, of the Gaussian that the window nearly is."""
        return gaussian_std(self.n_fft, self.window_power)


def gaussian_std(length: int, power: int) -> float:
    """Of the Gaussian that a Hann window to a power nearly is, in samples.

    Hann to the power p is cos(pi t / n)^(2p), near exp(-p (pi t / n)^2).
    """
    return length / (math.pi * math.sqrt(2 * power))


def free_at(frequencies_hz: Tensor) -> Tensor:
    """How free of its own least-squares magnitude each bin is; see `FREE_HZ`."""
    return ((frequencies_hz - FREE_HZ) / BLEND_HZ).clamp(0, 1)


def accelerated(back: "Back", iterations: int) -> Polish:
    """The iterations of pghi."""
    return Polish(back.stft, iterations, ACCELERATED, MONO_SHARE, back.bands)


@dataclass(frozen=True)
class Back:
    """What a way back goes through."""

    stft: Transform
    inverse: Tensor
    """(F, its bins), from mel to linear magnitudes."""
    bands: Bands
    """The mel bands, on its bins."""


class AbstractMel(ABC):
    """Waveform <-> sample: log-like magnitudes on a mel scale, and the recovery of the phase that they leave out."""

    config: Any
    """`AbstractMelConfig`, and what a format adds."""

    def __init__(self, config: AbstractMelConfig, device: str | torch.device) -> None:
        self.config, self.device = config, torch.device(device)
        self.sample_rate, self.hop_length = config.sample_rate, config.hop_length
        self.channels, self.bins = 2, config.n_mels

    def _sees(self, stft: Transform, filters: Tensor) -> None:
        """Samples are what `filters`, (bins, F), see in the magnitudes of a transform."""
        self._stft, self._groups = stft, grouped(filters, self.device)

    def num_frames(self, samples: int) -> int:
        """N of so many audio samples: frames are centred, so both ends have one."""
        return samples // self.hop_length + 1

    def num_samples(self, frames: int) -> int:
        """T of the waveform that so many frames decode to."""
        return max(frames - 1, 0) * self.hop_length

    def frequencies(self) -> Tensor:
        """The centre of each mel band, (F,), Hz."""
        return centres_hz(self.config.f_min, self.config.f_max, self.bins)

    @torch.no_grad()
    def encode(self, waveform: Waveform) -> Sample:
        """(B, 2, T), at the loudness of the config, to (B, 2, F, N), N = T // hop_length + 1; T is at least 1."""
        batch, channels, length = waveform.shape
        padded = self._stft.padded(waveform.reshape(-1, length).to(self.device, torch.float32))
        frames = self.num_frames(length)
        sample = padded.new_empty(len(padded), self.bins, frames)
        step = max(1, CHUNK_FRAMES // len(padded))
        for first in range(0, frames, step):
            last = min(first + step, frames)
            linear = magnitude(self._stft.spectra(padded, first, last))
            mel = torch.cat([linear[..., low:high] @ matrix for low, high, matrix in self._groups], -1)
            sample[:, :, first:last] = mel.pow_(self.config.magnitude_power).transpose(-1, -2)
        return sample.sub_(self.config.mean).div_(self.config.scale).view(batch, channels, self.bins, frames)

    @torch.no_grad()
    def decode(
        self,
        sample: Sample,
        *,
        seed: int = 0,
        quality: Quality = "default",
        circular: bool = False,
        progress: Progress = silent,
    ) -> Waveform:
        """(B, 2, F, N) to (B, 2, T), T = (N - 1) hop_length, or N hop_length of a loop, which is `circular`.

        The same seed gives each item the same waveform alone.
        """
        recovery = self._recovery(quality)
        waveforms = []
        for index, item in enumerate(sample):

            def tell(done: float, total: float, note: str = "", before: int = index) -> None:
                progress(before * total + done, len(sample) * total, note)

            source = self._source(item)
            waveforms.append(recover(source, item.shape[-1], recovery, seed=seed, circular=circular, progress=tell))
        return torch.stack(waveforms)

    @torch.no_grad()
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
        """`waveform`, (2, T), with its samples `start` to `stop` made anew from a sample (1, 2, F, N) of all of it.

        The new phase goes on from what is known; see `phase.go_on`.
        """
        source, recovery, known = self._source(sample[0]), self._recovery(quality), waveform.to(self.device)
        return go_on(source, sample.shape[-1], recovery, known, start, stop, seed=seed, progress=progress)

    def _source(self, sample: Sample) -> Source:
        """What the spectra of frames of a sample (2, F, N) should be."""
        inverse = self._back.inverse

        def source(first: int, last: int) -> Target:
            mel = self.mel(sample[..., first:last]).transpose(-1, -2).contiguous()
            return Target((mel @ inverse).clamp_min_(0), mel)

        return source

    def mel(self, sample: Sample) -> Tensor:
        """The mel magnitudes (..., F, N) that a sample stands for."""
        powered: Tensor = sample.to(self.device, torch.float32) * self.config.scale + self.config.mean
        return powered.clamp_min_(0).pow_(1 / self.config.magnitude_power)

    @property
    @abstractmethod
    def _back(self) -> Back:
        """What the way back goes through; made on first use."""

    @abstractmethod
    def _recovery(self, quality: Quality) -> Recovery:
        """How the phase is found."""

    def _iterations(self, quality: Quality) -> int:
        set_iterations: int = self.config.phase_iterations
        return ITERATIONS[self.config.phase][quality] if set_iterations < 0 else set_iterations
