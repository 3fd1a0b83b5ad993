"""The `multimel` format: a mel whose low bands see a longer window than the others.

A window that is right for drums is too short for the bass: low partials blur into each other. Here bands centred below
600 Hz see a window half as long again, all others the one of the `mel` format; both are scaled to the same sum, so that
a tone has the same magnitude in either. Letters: F mel bands, N frames.
"""

import math
from functools import cached_property

import torch
from torch import Tensor

from dualdiff.core.quality import Quality
from dualdiff.formats.config import MultiMelConfig, gaussian_std
from dualdiff.formats.dual_stft import SplitStart, SplitStft
from dualdiff.formats.filterbank import filters_on, mel_inverse
from dualdiff.formats.griffin_lim import Bands, Polish
from dualdiff.formats.melbase import (
    DECODE_STDS,
    ENCODE_STDS,
    AbstractMel,
    Back,
    accelerated,
    filters_of,
    free_at,
)
from dualdiff.formats.phase_retrieval import Recovery, at_random
from dualdiff.formats.stft import Stft, cut, hann_power_window

ALIGNED = 64
"""Half the length of a cut window is a multiple of this, so that it can be decimated."""


class MultiMelFormat(AbstractMel):
    """The mel of two windows."""

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
