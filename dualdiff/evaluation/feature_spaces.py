"""The spaces in which clips and tracks are compared: series of numbers over time, one per track, read when needed.

`latents`: what the VAE makes, on the axes along which training tracks vary most; every pitch and mirrored variant that
was encoded is searched. `audio`: fingerprints, as the scan of the data set made them, which know nothing of the VAE.

Letters: C channels, F rows, N columns of latents; D dimensions and M steps of a series; W words of a fingerprint.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor

from dualdiff.core.errors import DataError
from dualdiff.core.types import Latents, Waveform
from dualdiff.data.fingerprint import WORDS_PER_S, BandMeter, Fingerprint, fingerprint_of
from dualdiff.data.latent_dataset import ENCODE, LatentIndex, LatentTrack
from dualdiff.data.latent_file import read_columns
from dualdiff.data.manifest import Split

AXES = 32
"""Of the latents, along which most of their variance lies (nine tenths of it, on the example music)."""
AXES_FROM = 64
"""Tracks that the axes are taken from, spread evenly over the training tracks."""


@dataclass(frozen=True)
class Space:
    """Tracks as series: all of them by number, each as often as it has variants; one as it is; seconds of a step."""

    name: str
    step_s: float
    training: Callable[[], Iterator[tuple[int, Tensor]]]
    """The training tracks, by their number in the index, (D, M) each."""
    track: Callable[[int], Tensor]
    """A track as it is, (D, M)."""


def numbers_of(index: LatentIndex, split: Split) -> list[int]:
    """The numbers of the tracks of a split."""
    return [number for number, track in enumerate(index.tracks) if track.split == split]


def latent_space(index: LatentIndex) -> tuple[Space, Callable[[Latents], Tensor]]:
    """The space of latents, and what takes a clip's latents (C, F, N), as the VAE makes them, into it.

    Raises:
        DataError: there is no training track, or a file is missing or broken.
    """
    training = numbers_of(index, "train")
    if not training:
        raise DataError(f"the latents in {index.folder} have no training track to compare with", ENCODE)
    few = training[:: max(1, len(training) // AXES_FROM)]
    axes = _axes(_flat(_read(index, index.tracks[number], 0, 0), index) for number in few)
    shifts = sorted({0, index.offsets // 2})

    def into(latents: Latents) -> Tensor:
        return axes @ _flat(latents.permute(2, 0, 1), index)

    def series() -> Iterator[tuple[int, Tensor]]:
        for number in training:
            for variant in range(len(index.variants)):
                for shift in shifts:
                    yield number, axes @ _flat(_read(index, index.tracks[number], variant, shift), index)

    def one(number: int) -> Tensor:
        return axes @ _flat(_read(index, index.tracks[number], index.variants.index((0, False)), 0), index)

    return Space("latents", index.frame_s * index.frames_per_column, series, one), into


def _read(index: LatentIndex, track: LatentTrack, variant: int, shift: int) -> Tensor:
    path = index.folder / track.files[variant].name
    try:
        return read_columns(path, shift, 0, track.columns)
    except (OSError, SafetensorError, IndexError) as error:
        raise DataError(f"{path}, the latents of {track.path}, cannot be read: {error}", ENCODE) from error


def _flat(columns: Tensor, index: LatentIndex) -> Tensor:
    """Columns (N, C, F) as a series (C F, N), each channel with the variance 1."""
    scale = torch.tensor(index.std)[:, None]
    return (columns.float() / scale).flatten(1).T


def _axes(tracks: Iterator[Tensor]) -> Tensor:
    """The axes (D, C F) along which series (C F, N) vary most about their own means."""
    centred = ((own - own.mean(dim=1, keepdim=True)).double() for own in tracks)
    total = sum(own @ own.T for own in centred)
    vectors: Tensor = torch.linalg.eigh(torch.as_tensor(total)).eigenvectors
    return vectors.flip(1)[:, :AXES].T.float().contiguous()


def audio_space(index: LatentIndex, prints: Mapping[str, Fingerprint]) -> Space | None:
    """The space of fingerprints; None unless all tracks of the latents have one."""
    if any(track.audio_sha256 not in prints for track in index.tracks):
        return None

    def one(number: int) -> Tensor:
        return bits_of(prints[index.tracks[number].audio_sha256])

    def series() -> Iterator[tuple[int, Tensor]]:
        for number in numbers_of(index, "train"):
            yield number, one(number)

    return Space("audio", 1 / WORDS_PER_S, series, one)


def bits_of(words: Fingerprint) -> Tensor:
    """A fingerprint (W,) as a series (32, W) of 1 and -1; 0 where there is nothing to tell."""
    bits = np.unpackbits(words.astype("<u4").view(np.uint8).reshape(-1, 4), axis=1, bitorder="little")
    signs = torch.from_numpy(bits).float() * 2 - 1
    return (signs * torch.from_numpy(words != 0)[:, None]).T.contiguous()


def fingerprint(waveform: Waveform, sample_rate: int) -> Tensor:
    """The series of a clip (C, T) in the space of fingerprints."""
    meter = BandMeter(sample_rate)
    meter.add(waveform.mean(dim=0))
    return bits_of(fingerprint_of(meter.finish()))
