"""Latents on disk: what the UNet learns from. Files of latents per track, and an index that names their makers.

A file holds "latents" (V, N, C, F) in float16: V time shifts, N columns of time, C latent channels, F rows; a crop is
one contiguous slice. Each pitch of a track, and each with left and right swapped, has a file of its own. float16 rounds
values around 1 by 3e-4 RMS, a hundredth of the noise of the most precise VAE (0.03 at a signal-to-noise ratio of 32),
and halves the disk space.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError

from dualdiff.audio.beat_grid import BeatGrid, no_rhythm
from dualdiff.core.errors import DataError
from dualdiff.core.files import parse_json, sha256_of, write_json_atomically
from dualdiff.core.progress import Progress, silent
from dualdiff.core.rng import Stream
from dualdiff.core.types import Latents, Rhythm
from dualdiff.data.config import Variant
from dualdiff.data.latent_file import read_columns
from dualdiff.data.loader import Batch
from dualdiff.data.manifest import Split
from dualdiff.data.sampling import TrackDraw
from dualdiff.model_store.latent_space import LatentSpace

INDEX_NAME = "index.json"
VERSION = 1
"""The version of the index and of the files; an index of a newer one is refused."""

ENCODE = "make the latents anew: dualdiff encode"
REPAIR = "make them again: dualdiff encode --repair"


class LatentFile(NamedTuple):
    """A file of the folder, its hash and its size; 0 where an older index does not hold it."""

    name: str
    sha256: str
    bytes: int = 0


@dataclass(frozen=True, kw_only=True)
class LatentTrack:
    """A track's latents: a file per variant, and what the track is."""

    path: str
    """The track's, from the music folder."""
    game: str
    split: Split
    columns: int
    weight_s: float
    """How much music the track counts for when crops are drawn."""
    audio_sha256: str
    files: tuple[LatentFile, ...]
    """In the order of the index's variants."""
    grid: BeatGrid | None = None
    """Where its beats are; None where that is not known."""


@dataclass(frozen=True, kw_only=True)
class LatentIndex:
    """The latents of a folder: who made them, of which tracks, and their statistics over the training split."""

    folder: Path
    vae: str
    """The model folder that encoded, as the settings named it."""
    vae_hash: str
    format_hash: str
    offsets: int
    """Time shifts in each file."""
    variants: tuple[Variant, ...]
    frame_s: float
    """Seconds from frame to frame of the format."""
    frames_per_column: int
    mean: tuple[float, ...]
    """Per latent channel."""
    std: tuple[float, ...]
    games: tuple[str, ...]
    """In the order of the labels."""
    tracks: tuple[LatentTrack, ...]

    @classmethod
    def open(cls, folder: Path) -> "LatentIndex":
        """Read the index of a folder.

        Raises:
            DataError: there is none, it is not one, or it was written by a newer dualdiff.
        """
        path = folder / INDEX_NAME
        try:
            table = parse_json(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise DataError(f"there are no latents in {folder}", "make them: dualdiff encode") from error
        except (OSError, ValueError) as error:
            raise DataError(f"{path} cannot be read: {error}", f"delete it, then {ENCODE}") from error
        version = table.get("dualdiff_latents") if isinstance(table, dict) else None
        if not isinstance(version, int):
            raise DataError(f"{path} is not an index of latents", "choose another folder with encode.folder")
        if version > VERSION:
            raise DataError(f"{path} is of version {version}, this dualdiff reads {VERSION}", "update dualdiff")
        try:
            return cls(folder=folder, **_from_json(table))
        except (KeyError, TypeError) as error:
            raise DataError(f"{path} is broken: {error}", f"delete it, then {ENCODE}") from error

    def write(self) -> None:
        """Write `index.json` into the folder, atomically."""
        table = {name: value for name, value in asdict(self).items() if name != "folder"}
        write_json_atomically(self.folder / INDEX_NAME, {"dualdiff_latents": VERSION, **table})

    def require(self, *, vae_hash: str, format_hash: str) -> None:
        """Refuse latents of another VAE or format than the ones asked for.

        Raises:
            DataError: they are; the message names both.
        """
        for what, found, wanted in (
            ("format", self.format_hash, format_hash),
            ("VAE", self.vae_hash, vae_hash),
        ):
            if found != wanted:
                raise DataError(
                    f"the latents in {self.folder} were made with another {what} ({self.vae}, {what} {found[:12]})"
                    f" than the one in use ({what} {wanted[:12]})",
                    ENCODE,
                )

    def tracks_of(self, split: Split) -> list[LatentTrack]:
        """The tracks of one split."""
        return [track for track in self.tracks if track.split == split]

    def has(self, split: Split, columns: int) -> bool:
        """Whether a split has a track of at least so many columns."""
        return any(track.columns >= columns for track in self.tracks_of(split))


def _from_json(table: Mapping[str, Any]) -> dict[str, Any]:
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in table.items()}
    values["variants"] = tuple(Variant(*variant) for variant in values["variants"])
    values["tracks"] = tuple(_track_from_json(track) for track in values["tracks"])
    del values["dualdiff_latents"]
    return values


def _track_from_json(table: Mapping[str, Any]) -> LatentTrack:
    grid = table.get("grid")
    own = {"files": tuple(LatentFile(*file) for file in table["files"]), "grid": grid and BeatGrid.from_json(grid)}
    return LatentTrack(**{**table, **own})


@dataclass(frozen=True)
class Damage:
    """A file of latents that is not the one of the index."""

    path: Path
    track: str
    variant: Variant
    is_there: bool

    def __str__(self) -> str:
        problem = "is not what was written" if self.is_there else "is missing"
        return f"{self.path}, the latents of {self.track}{self.variant}, {problem}"


def damage_of(index: LatentIndex, progress: Progress = silent) -> list[Damage]:
    """Read all files of latents and return those that are missing or are not the ones that the index names."""
    files = [
        (track, variant, file)
        for track in index.tracks
        for variant, file in zip(index.variants, track.files, strict=True)
    ]
    damage = []
    for number, (track, variant, file) in enumerate(files, start=1):
        path = index.folder / file.name
        is_there = path.is_file()
        if not is_there or sha256_of(path) != file.sha256:
            damage.append(Damage(path, track.path, variant, is_there))
        progress(number, len(files), track.path)
    return damage


def require_whole(damage: Sequence[Damage]) -> None:
    """Refuse damaged latents.

    Raises:
        DataError: there are some; names the first, and says how many more there are.
    """
    if damage:
        others = f" (and {len(damage) - 1} more like it)" if len(damage) > 1 else ""
        raise DataError(f"{damage[0]}{others}", REPAIR)


class LatentCrops:
    """Endless crops of latents with their game as label; example i is a pure function of (seed, i).

    `left_out` holds the tracks of the split that are shorter than a crop.
    """

    def __init__(
        self, index: LatentIndex, split: Split, crop_columns: int, seed: int, temperature: float = 1.0
    ) -> None:
        """Crops of `crop_columns` columns; `temperature` is as for `TrackDraw`.

        Raises:
            DataError: the split has no track, or the crop is longer than each.
        """
        self.index = index
        self.crop_columns = crop_columns
        own = index.tracks_of(split)
        self.tracks = [track for track in own if track.columns >= crop_columns]
        self.left_out = [track for track in own if track.columns < crop_columns]
        if not self.tracks:
            raise _nothing_to_crop(index, split, crop_columns)
        self._stream = Stream(seed).at("latent crop")
        games, weights_s = [track.game for track in self.tracks], [track.weight_s for track in self.tracks]
        self._draw = TrackDraw(games, weights_s, temperature)
        self._space = LatentSpace(mean=index.mean, std=index.std, sigma_min=0.0)

    def examples(self, first: int, count: int) -> Batch:
        """The examples `first` .. `first + count - 1`, named `game/track.ogg@12.345s`.

        "latents" (B, C, F, N) are normalised, "labels" (B, K) one-hot over the index's games, "rhythm" (B, R, N) where
        the beats are, 0 where that is not known. Time shift and variant are drawn too.

        Raises:
            DataError: a file is missing or broken.
        """
        examples = (self._example(number) for number in range(first, first + count))
        latents, games, names, rhythms = zip(*examples, strict=True)
        numbers = torch.tensor([self.index.games.index(game) for game in games])
        labels = torch.nn.functional.one_hot(numbers, len(self.index.games)).float()
        tensors = {"latents": self._space.normalise(torch.stack(latents)), "labels": labels}
        return Batch({**tensors, "rhythm": torch.stack(rhythms)}, list(names))

    def shares(self) -> dict[str, float]:
        """The share of the examples that each game has."""
        shares: dict[str, float] = {}
        for track, probability in zip(self.tracks, self._draw.probabilities, strict=True):
            shares[track.game] = shares.get(track.game, 0.0) + float(probability)
        return shares

    def _example(self, number: int) -> tuple[Latents, str, str, Rhythm]:
        which, where, how = self._stream.at(number).numpy("place").random(3)
        track = self.tracks[self._draw.track(which)]
        start = int(where * (track.columns - self.crop_columns + 1))
        variant, offset = divmod(int(how * self.index.offsets * len(self.index.variants)), self.index.offsets)
        start_s = (start * self.index.frames_per_column + offset) * self.index.frame_s
        name = f"{track.path}@{start_s:.3f}s{self.index.variants[variant]}"
        return self._slice(track, track.files[variant], offset, start), track.game, name, self._rhythm(track, start_s)

    def _rhythm(self, track: LatentTrack, start_s: float) -> Rhythm:
        """The rhythm (R, N) of a crop; each column's is that of its centre."""
        if track.grid is None:
            return no_rhythm(self.crop_columns)
        column_s = self.index.frames_per_column * self.index.frame_s
        return track.grid.channels(start_s + (np.arange(self.crop_columns, dtype=np.float64) + 0.5) * column_s)

    def _slice(self, track: LatentTrack, file: LatentFile, offset: int, start: int) -> Latents:
        path = self.index.folder / file.name
        try:
            piece = read_columns(path, offset, start, start + self.crop_columns)
        except (OSError, SafetensorError) as error:
            raise DataError(f"{path}, the latents of {track.path}, cannot be read: {error}", ENCODE) from error
        return piece.permute(1, 2, 0).float()


def _nothing_to_crop(index: LatentIndex, split: Split, crop_columns: int) -> DataError:
    columns: Sequence[int] = [track.columns for track in index.tracks_of(split)]
    if not columns:
        return DataError(
            f"the latents in {index.folder} have no {split} track", "see dualdiff dataset scan, then encode"
        )
    column_s = index.frames_per_column * index.frame_s
    return DataError(
        f"a crop of {crop_columns} columns ({crop_columns * column_s:.2f} s) is longer than every {split} track: "
        f"the longest has {max(columns)} ({max(columns) * column_s:.2f} s)",
        "set a shorter crop_s, or use longer tracks",
    )
