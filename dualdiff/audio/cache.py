"""The cache of decoded music: a FLAC file for each track that cannot be read from the middle at once.

That is all but uncompressed files and FLAC. A file's name is the identity of what it was made from.
"""

import math
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import soundfile

from dualdiff.audio import ffmpeg, tags
from dualdiff.audio.decoding import GAIN_TAG
from dualdiff.audio.ffmpeg import Rendering
from dualdiff.audio.reader import open_stream, split_tune, stereo_blocks
from dualdiff.audio.stream import Block, Stream
from dualdiff.core.files import TEMPORARY, discard, hash_of, own_folder, sha256_of, staged

NAME = re.compile(r"[0-9a-f]{64}\.flac")
"""The names of the files of the cache."""

NEVER_SEEKABLE = (".mp3", ".oga", ".ogg", ".opus", *ffmpeg.DEMUXERS)
"""Suffixes of files that always have a copy in the cache."""

LARGEST_GAIN = 16


def identity(path: Path, rendering: Rendering) -> str:
    """The SHA-256 of a file's bytes; for a tune of several and for console music, of these and of how it is rendered.

    Raises:
        OSError: the file cannot be read.
    """
    file, tune = split_tune(path)
    digest, suffix = sha256_of(file), file.suffix.lower()
    ending = [rendering.length_s, rendering.fade_s] if suffix in ffmpeg.CONSOLE_SUFFIXES else None
    return digest if tune is None and ending is None else hash_of([digest, tune, ending])


class Copy:
    """A track that is being written into the cache."""

    def __init__(self, path: Path, stream: Stream, gain: int = 1) -> None:
        """Write to `path` at a level divided by `gain`."""
        self.peak = 0.0
        self._gain = gain
        subtype = "PCM_16" if stream.is_lossy else "PCM_24"
        self._channels = min(stream.channels, 2)
        self._file = soundfile.SoundFile(
            path, "w", stream.sample_rate, self._channels, subtype, format="FLAC", compression_level=0.4
        )

    def add(self, block: Block) -> None:
        """Take the next block, (T, 2)."""
        self.peak = max(self.peak, float(np.abs(block).max(initial=0.0)))
        own = np.ascontiguousarray(block[:, : self._channels])
        self._file.write(own / np.float32(self._gain) if self._gain > 1 else own)

    def close(self) -> None:
        """Finish the file."""
        self._file.close()


class Cache:
    """A folder of the program's own with copies of tracks."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, name: str) -> Path:
        """Where the copy of an identity is."""
        return self.folder / f"{name}.flac"

    @contextmanager
    def writing(self, name: str, stream: Stream, gain: int = 1) -> Iterator[Copy]:
        """A copy to write; it takes its name when the block ends without an error.

        Raises:
            DualdiffError: the folder cannot be written to.
        """
        own_folder(self.folder, ffmpeg.CACHE_KIND)
        with staged(self.path(name)) as temporary:
            copy = Copy(temporary, stream, gain)
            try:
                yield copy
            finally:
                copy.close()
            if gain > 1:
                tags.add_flac_comments(temporary, {GAIN_TAG: str(gain)})

    def store(self, name: str, path: Path, rendering: Rendering, gain: int) -> None:
        """Write the copy of a file, or of a tune, at a level divided by `gain`, which reading undoes.

        Raises:
            DataError: the file cannot be decoded.
            DualdiffError: the folder cannot be written to.
        """
        with open_stream(path, rendering=rendering) as stream, self.writing(name, stream, gain) as copy:
            for block in stereo_blocks(stream):
                copy.add(block.T.numpy())

    def prune(self, wanted: Collection[str]) -> None:
        """Delete copies whose file names are not wanted, and what interruptions left."""
        discard(self.folder, NAME, keep=wanted)
        discard(self.folder, TEMPORARY)


def gain_for(peak: float) -> int:
    """The power of two that a level is divided by so that it fits into a file."""
    return min(LARGEST_GAIN, 1 << max(0, math.ceil(math.log2(peak)))) if peak > 1 else 1
