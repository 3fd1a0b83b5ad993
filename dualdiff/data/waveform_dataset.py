"""Random crops of tracks, as waveforms: what the VAE learns from. The format is applied later, where the training is.

T is the length of a crop in samples at the format's rate.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from dualdiff import audio
from dualdiff.core.errors import DataError
from dualdiff.core.rng import Stream
from dualdiff.core.types import Waveform
from dualdiff.data.loader import Batch
from dualdiff.data.manifest import Row
from dualdiff.data.sampling import TrackDraw
from dualdiff.formats.base import Format

CACHE_BYTES = 512 * 2**20
"""Tracks stay decoded in memory when all of them fit into this, in each process that makes examples."""

RATE_ERROR = 3e-7
"""How much shorter a track may turn out than its duration says, relative: odd sample rates are rounded."""


def at_loudness(waveform: Waveform, row: Row, to_lufs: float) -> Waveform:
    """A piece of a track with the gain that brings the whole track from the ledger's loudness to another, LUFS."""
    from_lufs = -math.inf if row.loudness_lufs is None else row.loudness_lufs
    return audio.gain_to(waveform, from_lufs, to_lufs)


class TrackCrops:
    """Endless crops of tracks at a common loudness; example i is a pure function of (seed, i).

    `left_out` holds the tracks that are shorter than a crop.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        folder: Path,
        format: Format,
        crop_frames: int,
        seed: int,
        temperature: float = 1.0,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        """Crops of `crop_frames` frames of the tracks `rows` below `folder`; `temperature` is as for `TrackDraw`.

        Raises:
            DataError: there is no track, or the crop is longer than every track.
        """
        self.folder = folder
        self.sample_rate = format.sample_rate
        self.loudness_lufs: float = format.config.loudness_lufs
        self.crop_samples = format.num_samples(crop_frames)
        self.rows = [row for row in rows if self._starts(row)]
        self.left_out = [row for row in rows if not self._starts(row)]
        if not self.rows:
            raise self._nothing_to_crop()
        self._stream = Stream(seed).at("track crop")
        lengths_s = [row.weight_s or row.duration_s for row in self.rows]
        self._draw = TrackDraw([row.game for row in self.rows], lengths_s, temperature)
        decoded_bytes = sum(row.duration_s for row in self.rows) * self.sample_rate * 2 * 4
        self._keeps_decoded = decoded_bytes <= cache_bytes
        self._decoded: dict[str, Waveform] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_decoded": {}}  # a worker decodes for itself

    def examples(self, first: int, count: int) -> Batch:
        """The examples `first` .. `first + count - 1`: "waveform" (B, 2, T), named `game/track.ogg@12.345s`.

        Raises:
            DataError: a track is missing, broken, or shorter than the ledger says.
        """
        crops, names = zip(*(self._example(number) for number in range(first, first + count)), strict=True)
        return Batch({"waveform": torch.stack(crops)}, list(names))

    def _example(self, number: int) -> tuple[Waveform, str]:
        which, where = self._stream.at(number).numpy("place").random(2)
        row = self.rows[self._draw.track(which)]
        start = int(where * self._starts(row))
        waveform = self._excerpt(row, start)
        if waveform.shape[-1] != self.crop_samples:
            raise DataError(
                f"{self.folder / row.path} is shorter than the ledger says ({row.duration_s:.1f} s)",
                "it has changed: run dualdiff dataset scan",
            )
        return at_loudness(waveform, row, self.loudness_lufs), f"{row.path}@{start / self.sample_rate:.3f}s"

    def _excerpt(self, row: Row, start: int) -> Waveform:
        path, rate = self.folder / row.source, self.sample_rate
        if not self._keeps_decoded:
            return audio.read_own(path, sample_rate=rate, start_s=start / rate, duration_s=self.crop_samples / rate)
        if row.path not in self._decoded:
            self._decoded[row.path] = audio.read_own(path, sample_rate=rate)
        return self._decoded[row.path][:, start : start + self.crop_samples]

    def _starts(self, row: Row) -> int:
        """At how many places of a track a crop may start."""
        samples = math.floor(row.duration_s * self.sample_rate + 1e-3)
        return max(0, samples - self.crop_samples + 1 - int(samples * RATE_ERROR))

    def _nothing_to_crop(self) -> DataError:
        if not self.left_out:
            return DataError("there is no track to take crops of", "`dualdiff inspect` shows what the ledger holds")
        longest = max(row.duration_s for row in self.left_out)
        crop_s = self.crop_samples / self.sample_rate
        return DataError(
            f"a crop of {crop_s:.2f} s is longer than every track: the longest lasts {longest:.2f} s",
            "set a shorter crop_s, or use longer tracks",
        )
