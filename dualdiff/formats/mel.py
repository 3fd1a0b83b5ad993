"""The formats `mel` and `multimel`: magnitudes on a mel scale, as many numbers as the waveform has, there and back.

Letters: B batch, C channels, T time in audio samples, F mel bands, N frames. What is cut off the nearly Gaussian
windows here, to save time, is below what float32 resolves (encoding) or 4e-5 of its sum (the fast ways back).
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from dualdiff.core.progress import Progress, silent
from dualdiff.core.quality import Quality
from dualdiff.core.types import Sample, Waveform
from dualdiff.formats.config import AbstractMelConfig, MelConfig, MultiMelConfig, gaussian_std
from dualdiff.formats.dual_stft import SplitStft
from dualdiff.formats.filterbank import centres_hz, filters_on, grouped, mel_filters, mel_inverse
from dualdiff.formats.griffin_lim import ACCELERATED, Bands, Polish, Target
from dualdiff.formats.pghi import Integrated, SplitStart
from dualdiff.formats.phase_retrieval import Recovery, Source, at_random, go_on, recover
from dualdiff.formats.stft import Stft, Transform, cut, hann_power_window, magnitude

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
ALIGNED = 64
"""Half the length of a cut window is a multiple of this, so that it can be decimated."""
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


class MelFormat(AbstractMel):
    """The mel of one window."""

    Config = MelConfig

    def __init__(
        self,
        config: MelConfig = MelConfig(),
        device: str | torch.device = "cpu",
        semitones: float = 0.0,
    ) -> None:
        """A format whose samples are of the music `semitones` higher than it is; see `transposed`."""
        super().__init__(config, device)
        self.window = hann_power_window(config.n_fft, config.window_power)
        self.filters = filters_of(config, config.n_fft, semitones)
        half = math.ceil(ENCODE_STDS * config.window_std)
        stft = Stft(cut(self.window, half), config.n_fft, config.hop_length, device)
        self._sees(stft, self.filters)

    def transposed(self, semitones: float) -> "MelFormat":
        """The format that encodes music as if it were so many semitones higher, at the same speed.

        Its mel filters lie lower by that interval, from the limits on, so that a tone falls into the band of the higher
        one. Music made lower lacks what lay above half the sample rate: its highest bands are empty.
        """
        return MelFormat(self.config, self.device, semitones)

    def _recovery(self, quality: Quality) -> Recovery:
        stft, iterations, std = self._short_stft, self._iterations(quality), self.config.window_std
        if self.config.phase == "fgla":
            return Recovery(Polish(stft, iterations), at_random)
        return Recovery(accelerated(self._back, iterations), Integrated(stft, std))

    @cached_property
    def _short_stft(self) -> Stft:
        """The transform of the way back."""
        config, length = self.config, self.config.n_fft
        if config.phase != "fgla":
            length = min(2 ** math.ceil(math.log2(2 * DECODE_STDS * config.window_std)), length)
        return Stft(cut(self.window, length // 2), length, config.hop_length, self.device)

    @cached_property
    def _back(self) -> Back:
        stft = self._short_stft
        frequencies_hz = torch.arange(stft.bins) * self.sample_rate / stft.n_fft
        bands = Bands(filters_on(self.filters, stft.n_fft).to(self.device), free_at(frequencies_hz).to(self.device))
        return Back(stft, mel_inverse(self.filters, stft.n_fft).to(self.device), bands)


class MultiMelFormat(AbstractMel):
    """The mel of two windows: the bands of the bass see a longer one.

    A window that is right for drums is too short for the bass: low partials blur into each other. Bands centred below
    `bass_hz` see a window half as long again, all others the one of `MelFormat`; both are scaled to the same sum, so
    that a tone has the same magnitude in either.
    """

    Config = MultiMelConfig

    def __init__(
        self, config: MultiMelConfig = MultiMelConfig(), device: str | torch.device = "cpu", semitones: float = 0.0
    ) -> None:
        """A format whose samples are of the music `semitones` higher than it is; see `transposed`."""
        super().__init__(config, device)
        self._bass_filters, self._filters = (
            filters_of(config, n, semitones) for n in (config.bass_n_fft, config.n_fft)
        )
        self._std, self._bass_std = config.window_std, gaussian_std(config.bass_n_fft, config.window_power)
        self._seen_hz = config.bass_hz / min(1.0, 2 ** (semitones / 12))  # by the bands for the bass, at most
        stft = self._split(config.n_fft, config.bass_n_fft, ENCODE_STDS)
        self._sees(stft, self._own_bands(stft, self._bass_filters, self._filters))

    def transposed(self, semitones: float) -> "MultiMelFormat":
        """The format that encodes music as if it were so many semitones higher: see `MelFormat.transposed`."""
        return MultiMelFormat(self.config, self.device, semitones)

    def _split(self, n_fft: int, bass_n_fft: int, stds: float) -> SplitStft:
        """Both transforms, their windows cut at so many standard deviations, at the same sum."""
        config = self.config
        window, bass = (hann_power_window(n, config.window_power) for n in (config.n_fft, config.bass_n_fft))
        halves = [_aligned(stds * std) for std in (self._std, self._bass_std)]
        high = Stft(cut(window, min(halves[0], n_fft // 2)), n_fft, config.hop_length, self.device)
        scaled = cut(bass, min(halves[1], bass_n_fft // 2)) * (window.sum() / bass.sum())
        return SplitStft(high, scaled, bass_n_fft, config.sample_rate, self._seen_hz)

    def _own_bands(self, stft: SplitStft, bass_filters: Tensor, filters: Tensor) -> Tensor:
        """Each band's filter on the bins of its own window only, (bins, F)."""
        own = (self.frequencies() < self.config.bass_hz).to(filters)
        return torch.cat([bass_filters[: stft.low_bins] * own, filters[stft.high_first :] * (1 - own)])

    def _recovery(self, quality: Quality) -> Recovery:
        iterations = self._iterations(quality)
        if self.config.phase == "fgla":
            return Recovery(Polish(self._short, iterations), at_random)
        return Recovery(accelerated(self._back, iterations), SplitStart(self._short, (self._bass_std, self._std)))

    @cached_property
    def _short(self) -> SplitStft:
        """The transform of the way back."""
        config = self.config
        sides = (self._std, config.n_fft), (self._bass_std, config.bass_n_fft)
        lengths = [min(2 ** math.ceil(math.log2(2 * DECODE_STDS * std)), n_fft) for std, n_fft in sides]
        return self._split(lengths[0], lengths[1], DECODE_STDS)

    @cached_property
    def _back(self) -> Back:
        stft = self._short
        sides = ((self._bass_filters, stft.low.n_fft * stft.factor), (self._filters, stft.high.n_fft))
        bass_filters, filters = (filters_on(side, n_fft) for side, n_fft in sides)
        low, high = (mel_inverse(side, n_fft) for side, n_fft in sides)
        inverse = torch.cat([low[:, : stft.low_bins], high[:, stft.high_first :]], 1)
        spread = torch.cat([bass_filters[: stft.low_bins], filters[stft.high_first :]])
        own = self._own_bands(stft, bass_filters, filters)
        bands = Bands(own.to(self.device), free_at(stft.frequencies_hz).to(self.device), spread.to(self.device))
        return Back(stft, inverse.to(self.device), bands)


def _aligned(samples: float) -> int:
    return math.ceil(samples / ALIGNED) * ALIGNED
