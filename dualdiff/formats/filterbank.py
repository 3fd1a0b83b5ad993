"""Mel filters: triangles over the bins of a transform, the way back through them, and both on other bins.

Letters: F mel bands; a transform of n_fft points has n_fft // 2 + 1 bins.
"""

import math

import torch
from torch import Tensor

GROUPS = 4
"""Filters are applied in so many groups, each to its own range of bins: most of the full matrix is zero."""


def centres_hz(f_min: float, f_max: float, n_mels: int) -> Tensor:
    """The middle of each band, (F,), Hz."""
    return _to_hz(_edges_mel(f_min, f_max, n_mels)[1:-1])


def _edges_mel(f_min: float, f_max: float, n_mels: int) -> Tensor:
    """Where bands begin, peak and end, (F + 2,), on HTK's mel scale."""
    low, high = (2595 * math.log10(1 + frequency_hz / 700) for frequency_hz in (f_min, f_max))
    return torch.linspace(low, high, n_mels + 2)


def _to_hz(mel: Tensor) -> Tensor:
    return 700 * (10 ** (mel / 2595) - 1)


def mel_filters(n_fft: int, sample_rate: int, f_min: float, f_max: float, n_mels: int, ratio: float = 1.0) -> Tensor:
    """HTK mel filters, triangles of peak 1, (n_fft // 2 + 1, F), all edges divided by `ratio`.

    To divide each edge is to multiply the frequency of each bin. Dividing the two limits alone would not do: the scale
    is linear in the bass, so that low notes would move by less than high ones. Equal to `melscale_fbanks` of
    torchaudio, which takes as long to import as everything else here.
    """
    bins_hz = torch.linspace(0, (sample_rate * ratio if ratio != 1 else sample_rate) // 2, n_fft // 2 + 1)
    edges_hz = _to_hz(_edges_mel(f_min, f_max, n_mels))
    widths_hz, above_hz = edges_hz.diff(), edges_hz - bins_hz[:, None]
    rising, falling = -above_hz[:, :-2] / widths_hz[:-1], above_hz[:, 2:] / widths_hz[1:]
    return torch.minimum(rising, falling).clamp_min(0)


def mel_inverse(filters: Tensor, n_fft: int) -> Tensor:
    """Least squares back from mel to linear magnitudes, (F, n_fft // 2 + 1), on the bins of a transform of that length.

    The pseudo-inverse of the filters, interpolated linearly where that transform has other bins than the filters have.
    """
    inverse = torch.linalg.pinv(filters.double())
    below, part = _places(filters.shape[0], n_fft)
    return torch.lerp(inverse[:, below], inverse[:, below + 1], part).float()


def filters_on(filters: Tensor, n_fft: int) -> Tensor:
    """The filters for magnitudes on the bins of a shorter transform, (n_fft // 2 + 1, F).

    They see what the filters see in the same magnitudes interpolated linearly to their own bins.
    """
    below, part = _places(n_fft // 2 + 1, 2 * (filters.shape[0] - 1))
    coarse = filters.new_zeros(n_fft // 2 + 1, filters.shape[1], dtype=torch.float64)
    coarse.index_add_(0, below, filters * (1 - part)[:, None])
    return coarse.index_add_(0, below + 1, filters * part[:, None]).float()


def _places(bins: int, n_fft: int) -> tuple[Tensor, Tensor]:
    """Where the bins of a transform lie among others of the same range: which bin is below, and how far behind it."""
    place = torch.linspace(0, bins - 1, n_fft // 2 + 1, dtype=torch.float64)
    below = place.long().clamp_max(bins - 2)
    return below, place - below


def grouped(filters: Tensor, device: torch.device) -> list[tuple[int, int, Tensor]]:
    """The filters in groups, each as (first bin, last bin, what it holds in between)."""
    groups = []
    for matrix in filters.tensor_split(GROUPS, dim=1):
        used = matrix.amax(1).nonzero().flatten()
        low, high = (int(used[0]), int(used[-1]) + 1) if len(used) else (0, 1)
        groups.append((low, high, matrix[low:high].contiguous().to(device)))
    return groups
