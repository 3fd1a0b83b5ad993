"""What is done to waveforms, whatever file they come from: resample, mix channels, set levels.

Waveforms here are (C, T), float32, full scale [-1, 1]; C channels, T time in samples.
"""

import math
from functools import lru_cache
from typing import TYPE_CHECKING

import torch

from dualdiff.audio.stream import SINC_ROLLOFF, SINC_ZEROS
from dualdiff.core.types import Waveform

if TYPE_CHECKING:
    import torchaudio

SINC_BETA = 14.769656459379492  # Kaiser, as resampy's "kaiser_best"
_HALF_POWER = math.sqrt(0.5)


def resample(waveform: Waveform, from_rate: int, to_rate: int) -> Waveform:
    """Resample (..., T) to (..., ceil(T to_rate / from_rate)) with a Kaiser-windowed sinc, 64 zero crossings a side."""
    if from_rate == to_rate:
        return waveform
    resampled: Waveform = _resampler(from_rate, to_rate)(waveform)
    return resampled


@lru_cache(maxsize=8)
def _resampler(from_rate: int, to_rate: int) -> "torchaudio.transforms.Resample":
    import torchaudio

    return torchaudio.transforms.Resample(
        from_rate,
        to_rate,
        "sinc_interp_kaiser",
        lowpass_filter_width=SINC_ZEROS,
        rolloff=SINC_ROLLOFF,
        beta=SINC_BETA,
    )


# Where the channels behind front left and front right go, as (left, right) weights, by the number of channels
# (WAV and FLAC order). The low-frequency channel is left out, as ITU-R BS.775 has it.
_CENTRE, _LEFT, _RIGHT, _NOWHERE = (_HALF_POWER, _HALF_POWER), (_HALF_POWER, 0.0), (0.0, _HALF_POWER), (0.0, 0.0)
_BEHIND = {
    3: (_CENTRE,),
    4: (_LEFT, _RIGHT),
    5: (_CENTRE, _LEFT, _RIGHT),
    6: (_CENTRE, _NOWHERE, _LEFT, _RIGHT),
    7: (_CENTRE, _NOWHERE, (0.5, 0.5), _LEFT, _RIGHT),
    8: (_CENTRE, _NOWHERE, _LEFT, _RIGHT, _LEFT, _RIGHT),
}


def mix_channels(audio: Waveform, channels: int) -> Waveform:
    """Mix (any, T) to (1 or 2, T); weights of a channel sum to 1, so that nothing clips."""
    count = audio.shape[0]
    if count > 2:
        weights = torch.tensor([(1.0, 0.0), (0.0, 1.0), *_BEHIND.get(count, (_NOWHERE,) * (count - 2))]).T
        audio = weights / weights.sum(1, keepdim=True) @ audio
    if channels == 1:
        return audio.mean(0, keepdim=True)
    return audio.expand(channels, -1)


def gain_to(waveform: Waveform, from_lufs: float, to_lufs: float) -> Waveform:
    """Bring a waveform of a known loudness to another; silence (-inf) stays as it is."""
    return waveform * 10 ** ((to_lufs - from_lufs) / 20) if math.isfinite(from_lufs) else waveform


def below_full_scale(waveform: Waveform) -> Waveform:
    """The same waveform, turned down where its samples would clip in a file."""
    return waveform / waveform.abs().max().clamp_min(1.0)
