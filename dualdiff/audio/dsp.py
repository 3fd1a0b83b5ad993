"""What is done to waveforms, whatever file they come from: resample, mix channels, measure and set levels.

Waveforms here are (C, T), float32, full scale [-1, 1]; C channels, T time in samples.
"""

import math
from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING

import torch

from dualdiff.core.types import Waveform

if TYPE_CHECKING:
    import torchaudio

SINC_ZEROS, SINC_ROLLOFF, SINC_BETA = 64, 0.9475937167399596, 14.769656459379492  # Kaiser, as resampy's "kaiser_best"
_HALF_POWER = math.sqrt(0.5)
_PIECE = 1 << 20  # samples oversampled at once


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


def loudness_lufs(waveform: Waveform, sample_rate: int) -> float:
    """Integrated loudness of (C, T), LUFS, gated as ITU-R BS.1770-4 says; -inf for silence.

    Written here because torchaudio's measure clips at full scale inside its filters, and so mismeasures loud tracks.
    What is shorter than one gating block (400 ms) is measured as one block.
    """
    step = min(loudness_step(sample_rate), waveform.shape[-1])
    if step == 0:
        return -math.inf
    pieces = _pieces(waveform, 600 * step, 3 * step)
    return gated_lufs(torch.cat([_powers(_k_weighted(piece, sample_rate)[:, lead:], step) for piece, lead in pieces]))


def loudness_step(sample_rate: int) -> int:
    """Samples in 100 ms, by which the gating blocks of BS.1770 move on; at least one."""
    return max(1, round(sample_rate / 10))


def gated_lufs(powers: torch.Tensor) -> float:
    """Integrated loudness from the K-weighted power of each 100 ms, summed over channels (BS.1770-4, equations 4-7).

    Gating blocks are four steps long, or as long as there are steps. -inf where nothing is heard.
    """
    if not len(powers):
        return -math.inf
    block = powers.unfold(0, min(4, len(powers)), 1).mean(-1)
    heard = block[_lufs(block) > -70.0]
    if not len(heard):
        return -math.inf
    return float(_lufs(heard[_lufs(heard) > _lufs(heard.mean()) - 10.0].mean()))


def _lufs(power: torch.Tensor) -> torch.Tensor:
    return 10 * power.log10() - 0.691


def _powers(weighted: torch.Tensor, step: int) -> torch.Tensor:
    """The power of each whole step, summed over channels."""
    whole = weighted[:, : weighted.shape[-1] // step * step]
    return whole.reshape(whole.shape[0], -1, step).square().mean(-1).sum(0)


def _pieces(waveform: Waveform, length: int, lead: int) -> Iterator[tuple[Waveform, int]]:
    """Cut T into pieces that begin up to `lead` samples early, each with how many: filters run in bounded memory."""
    for start in range(0, waveform.shape[-1], length):
        early = min(start, lead)
        yield waveform[:, start - early : start + length], early


def k_weighting(sample_rate: int) -> list[tuple[list[float], list[float]]]:
    """K-weighting (BS.1770-4, annex 1) at any rate: (b, a) of its high shelf and of its high pass, a[0] being 1."""
    shelf_gain, shelf_q, pass_q = 10 ** (3.999843853973347 / 20), 0.7071752369554196, 0.5003270373238773
    k = math.tan(math.pi * min(1681.974450955533 / sample_rate, 0.49))  # else unstable at rates that hold no shelf
    middle = shelf_gain**0.4996667741545416 * k / shelf_q
    shelf_b = (shelf_gain + middle + k * k, 2 * (k * k - shelf_gain), shelf_gain - middle + k * k)
    shelf_a = (1 + k / shelf_q + k * k, 2 * (k * k - 1), 1 - k / shelf_q + k * k)
    k = math.tan(math.pi * 38.13547087602444 / sample_rate)
    pass_a = (1 + k / pass_q + k * k, 2 * (k * k - 1), 1 - k / pass_q + k * k)
    pass_b = (pass_a[0], -2 * pass_a[0], pass_a[0])  # the standard's high pass has b = (1, -2, 1) beside a normalised a
    return [([x / a[0] for x in b], [x / a[0] for x in a]) for b, a in ((shelf_b, shelf_a), (pass_b, pass_a))]


def _k_weighted(piece: Waveform, sample_rate: int) -> Waveform:
    """A piece (C, T) with K-weighting, in float64."""
    import torchaudio

    audio = piece.double()
    for b, a in k_weighting(sample_rate):
        audio = torchaudio.functional.lfilter(
            audio, torch.tensor(a, dtype=torch.float64), torch.tensor(b, dtype=torch.float64), clamp=False
        )
    return audio


def true_peak_db(waveform: Waveform, sample_rate: int) -> float:
    """The highest peak, between samples too, in dB of full scale; -inf for silence.

    By four times oversampling (BS.1770-4, annex 2).
    """
    peak, context = 0.0, 2 * SINC_ZEROS
    for start in range(0, waveform.shape[-1], _PIECE):
        early = min(start, context)
        finer = resample(waveform[:, start - early : start + _PIECE + context], 1, 4)
        peak = max(peak, finer[:, 4 * early : 4 * (early + _PIECE)].abs().max().item())
    return 20 * math.log10(peak) if peak > 0 else -math.inf


def gain_to(waveform: Waveform, from_lufs: float, to_lufs: float) -> Waveform:
    """Bring a waveform of a known loudness to another; silence (-inf) stays as it is."""
    return waveform * 10 ** ((to_lufs - from_lufs) / 20) if math.isfinite(from_lufs) else waveform


def levelled(waveform: Waveform, sample_rate: int, to_lufs: float, ceiling_db: float = -1.0) -> Waveform:
    """Bring (C, T) to a loudness, or as near to it as the ceiling on its true peak (dB of full scale) allows.

    Silence stays as it is.
    """
    louder = gain_to(waveform, loudness_lufs(waveform, sample_rate), to_lufs)
    excess_db = max(0.0, true_peak_db(louder, sample_rate) - ceiling_db)
    return louder * 10 ** (-excess_db / 20)


def below_full_scale(waveform: Waveform) -> Waveform:
    """The same waveform, turned down where its samples would clip in a file."""
    return waveform / waveform.abs().max().clamp_min(1.0)
