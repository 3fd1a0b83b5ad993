"""What the mel formats share: magnitudes on a mel scale, as many numbers as the waveform has, there and back.

Letters: B batch, C channels, T time in audio samples, F mel bands, N frames. What is cut off the nearly Gaussian
windows here, to save time, is below what float32 resolves (encoding) or 4e-5 of its sum (the fast ways back).
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dualdiff.core.progress import Progress, silent
from dualdiff.core.quality import Quality
from dualdiff.core.types import Sample, Waveform
from dualdiff.formats.config import AbstractMelConfig
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


def filters_of(config: AbstractMelConfig, n_fft: int, semitones: float) -> Tensor:
    """The mel filters on the bins of a transform, (n_fft // 2 + 1, F), for music so many semitones higher."""
    ratio = 2 ** (semitones / 12)
    return mel_filters(n_fft, config.sample_rate, config.f_min, config.f_max, config.n_mels, ratio)


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
