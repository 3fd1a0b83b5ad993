"""The `mel` format: a mel-scaled magnitude spectrogram of one window, with as many numbers as the waveform.

Letters: B batch, C channels, T time in audio samples, F mel bands, N frames.
"""

import math
from functools import cached_property

import torch

from dualdiff.core.quality import Quality
from dualdiff.formats.config import MelConfig
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
from dualdiff.formats.phase_retrieval import Integrated, Recovery, at_random
from dualdiff.formats.stft import Stft, cut, hann_power_window


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
