"""Parts of a given clip written anew: which stretch of it the model sees, and how old and new audio become one.

Letters: C channels, T audio samples, N columns of latents.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from dualdiff.audio.dsp import resample
from dualdiff.core.types import Latents, Waveform
from dualdiff.generation.request import Given

FADE_S = 0.032
"""Old audio goes over into new within so long, just outside of what is written anew, seconds: half a short window."""

LIMIT_S = 0.005
"""How long before and after a peak new audio is turned down where it would be louder than full scale, seconds."""


ROUNDING = 8
"""Columns of latents that a clip may lack to a whole multiple: there it goes on, and does not end."""


@dataclass(frozen=True)
class Stretch:
    """The part of a clip around what is written anew that the model sees, on its grid of columns."""

    start: int
    """Where it begins in the clip, samples: a whole sample at the clip's own rate, too."""
    columns: int
    kept: Tensor
    """(N,): 1 where the clip stays, 0 where it is written anew or is over."""


def stretch(
    first: int, last: int, total: int, *, column: int, quantum: int, longest: int, multiple: int, short: int = 0
) -> Stretch:
    """What the model sees of a clip of `total` samples whose samples `first` to `last` are written anew.

    On both sides as much as makes one window of `longest` columns, but an eighth of it at least and half of it at most.
    `column` is samples per column; the columns come to a whole multiple of `multiple`, and begin at one of `quantum`
    samples from which a column ends where the new begins, or nearly. A column is written anew if its middle is. All
    columns together decode to `short` samples fewer than they span, which still reach beyond the end by one sample: at
    the clip's own rate the end may lie behind its nearest sample here.
    """
    fresh = -(-(last - first) // column)
    context = min(max((longest - fresh) // 2, longest // 8), longest // 2) * column
    start = _aligned(max(first - context, 0), first, column, quantum)
    stop = min(last + context, max(total, last))
    columns = -(-(stop - start + short + 1) // (column * multiple)) * multiple
    middles = torch.arange(columns) * column + start + column // 2
    kept = (middles <= first) | ((middles >= last) & (middles + column // 2 <= total))
    kept[((first + last) // 2 - start) // column] = False  # something is, however short
    return Stretch(start, columns, kept.float())


def _aligned(wanted: int, first: int, column: int, quantum: int) -> int:
    """A multiple of `quantum` near `wanted`, a whole number of columns before `first`, as nearly as there is one."""
    low = wanted // quantum * quantum
    high = min(wanted + max(column, 32 * quantum), (wanted + first) // 2)

    def off(start: int) -> int:
        return abs((first - start + column // 2) % column - column // 2) * 32 // column  # 2 ms are as good as none

    return min(range(low, max(high, low) + 1, quantum), key=lambda start: (off(start), start))


def followed(latents: Latents, columns: int) -> Latents:
    """Latents (B, C, F, N) as so many columns: cut, or followed by a few of them backwards and then by zeros."""
    missing = columns - latents.shape[-1]
    tail = latents.flip(-1)[..., : max(min(missing, ROUNDING), 0)]
    known = torch.cat([latents, tail], -1)[..., :columns]
    return torch.nn.functional.pad(known, (0, columns - known.shape[-1]))


def morphed(one: Latents, other: Latents) -> Latents:
    """From `one` to `other` over time: each column on the arc between both, so that none is flatter than they are.

    Spherical interpolation (Shoemake 1985) of the columns' directions, and a straight line for their lengths, by a
    share that rises smoothly from 0 to 1. Both are (B, C, F, N).
    """
    columns = one.shape[-1]
    place = (torch.arange(columns, device=one.device, dtype=one.dtype) + 0.5) / columns
    share = place.square() * (3 - 2 * place)
    lengths = [latents.square().sum((1, 2), keepdim=True).sqrt().clamp_min(1e-6) for latents in (one, other)]
    units = [latents / length for latents, length in zip((one, other), lengths, strict=True)]
    angle = (units[0] * units[1]).sum((1, 2), keepdim=True).clamp(-0.999, 0.999).arccos()
    arc = (((1 - share) * angle).sin() * units[0] + (share * angle).sin() * units[1]) / angle.sin()
    return arc * torch.lerp(lengths[0], lengths[1], share)


def spliced(clip: Given, fresh: Waveform, fresh_start: int, fresh_rate: int, start_s: float, end_s: float) -> Waveform:
    """The clip as it was, its seconds `start_s` to `end_s` taken from `fresh`, (2, T) at the clip's own rate and level.

    `fresh` (2, T) is at the format's rate and loudness and begins at the clip's sample `fresh_start` of that rate, a
    whole sample of the clip's, too. Both say the same around the borders, where they are crossfaded; new peaks are
    turned down.
    """
    rate = clip.original_rate
    new = resample(fresh, fresh_rate, rate) / clip.gain
    shift = fresh_start * rate // fresh_rate
    first, last, fade = round(start_s * rate), round(end_s * rate), round(FADE_S * rate)
    length = clip.original.shape[-1]
    out = torch.nn.functional.pad(clip.original, (0, max(0, last - length)))
    begin, end = max(0, first - fade), min(last + fade, out.shape[-1])
    weight = torch.ones(end - begin)
    weight[: first - begin] = rise(fade)[fade - (first - begin) :]
    if end > last:
        weight[last - begin :] = rise(fade).flip(0)[: end - last]
    ceiling = max(clip.original.abs().max().item(), 0.9)
    part = limited(new[:, begin - shift : end - shift], min(ceiling, 1.0), round(LIMIT_S * rate))
    out[:, begin:end] = torch.lerp(out[:, begin:end], part, weight).clamp(-1, 1)  # rounding leads past full scale
    return out


def rise(length: int) -> Tensor:
    """Weights of what comes in, (length,), from above 0 to below 1: half a period of a cosine, for what is in phase."""
    place = torch.linspace(0, 1, length + 2)[1:-1]
    return (1 - (math.pi * place).cos()) / 2


def limited(waveform: Waveform, ceiling: float, reach: int) -> Waveform:
    """(C, T), turned down smoothly around peaks above the ceiling, all channels alike; the rest stays as it is.

    The gain that each sample needs, the least of it within `reach`, then its mean within `reach`: nowhere more than
    what a sample needs.
    """
    peaks = waveform.abs().amax(0)
    if not (peaks > ceiling).any():
        return waveform
    need = (ceiling / peaks.clamp_min(ceiling))[None, None]
    pad = torch.nn.functional.pad
    least = -torch.nn.functional.max_pool1d(pad(-need, (2 * reach, 2 * reach), value=-1.0), 2 * reach + 1, 1)
    gain = torch.nn.functional.avg_pool1d(least, 2 * reach + 1, 1)
    return waveform * gain[0]
