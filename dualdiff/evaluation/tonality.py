"""Pitch classes of a waveform, and how clearly they are in a key.

Letters: C channels, T audio samples, N frames.
"""

import torch
from torch import Tensor

from dualdiff.core.types import Waveform
from dualdiff.evaluation.metrics import chroma

WINDOW_S = 8.0
"""Key clarity is the mean over windows of this length: a tune may change key."""
MAJOR = (6.35, 2.23, 3.48, 2.33, 4.38, 4.09, 2.52, 5.19, 2.39, 3.66, 2.29, 2.88)
MINOR = (6.33, 2.68, 3.52, 5.38, 2.60, 3.53, 2.54, 4.75, 3.98, 2.69, 3.34, 3.17)
"""How well each pitch class fits a key, from the tonic up: the probe-tone ratings of Krumhansl and Kessler 1982."""


def key_clarity(waveform: Waveform, sample_rate: int) -> float:
    """The largest correlation of the pitch classes of a waveform (C, T) with the 24 keys, 1 being the clearest.

    The mean magnitude of each pitch class in windows of 8 s (of all where it is shorter) with the profiles of Krumhansl
    and Kessler 1982 in every transposition (Krumhansl 1990, "Cognitive foundations of musical pitch", chapter 4); the
    mean over windows. Equal pitch classes have 0.
    """
    length = min(round(WINDOW_S * sample_rate), waveform.shape[-1])
    starts = range(0, waveform.shape[-1] - length + 1, max(length, 1))
    found = [
        float((_profiles() @ _standardised(chroma(waveform[:, start : start + length], sample_rate).mean(dim=1))).max())
        for start in starts
    ]
    return sum(found) / len(found) if found else 0.0


def _profiles() -> Tensor:
    """The profiles of the 24 keys, (24, 12), each of mean 0 and norm 1."""
    rows = [torch.tensor(profile).roll(tonic) for profile in (MAJOR, MINOR) for tonic in range(12)]
    return torch.stack([_standardised(row) for row in rows])


def _standardised(values: Tensor) -> Tensor:
    centred = values.float().cpu() - values.float().cpu().mean()
    unit: Tensor = centred / centred.norm().clamp_min(1e-9)
    return unit
