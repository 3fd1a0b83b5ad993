"""Decode one audio file in this process: what it is, its tags and its samples, to the last one that is there.

libsndfile decodes; containers are parsed by `pcm`, `ogg` and `mpeg`, which know where libsndfile stops too early,
starts at the wrong rate or loops. It is what a decoding process runs (`isolation`), without torch, and what the files
are read with that dualdiff has written or has read whole before.
"""

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import soundfile

from dualdiff.audio import mpeg, ogg, pcm, tags
from dualdiff.audio.spans import Part, Spans
from dualdiff.audio.stream import BLOCK, REPAIR, WHOLE, Block, Excerpt, NotDecodableError, Stream
from dualdiff.core.errors import DataError

GAIN_TAG = "DUALDIFF_GAIN"
"""In a FLAC file of the cache: what its samples are to be multiplied by."""

LOWEST_RATE, HIGHEST_RATE = 1000, 1_536_000
MOST_CHANNELS = 64
_UNKNOWN = 1 << 40  # frames; libsndfile gives 2^63 - 1 where a header says nothing
_SHORTER_MP3 = 3  # frames that a Xing header may announce without being there: encoders count differently
_LIBSNDFILE_TAGS = ("title", "artist", "album", "comment", "genre", "date", "tracknumber", "software")


@dataclass
class Segment:
    """A stretch of audio of one rate and number of channels, as a file that libsndfile opens."""

    parts: Sequence[Part] | None
    """None: the file itself."""
    raw: dict[str, Any] = field(default_factory=dict)
    """How samples without a header are stored."""
    announced: int | None = None
    """Frames that must be there."""


@dataclass
class Source:
    """An open file, parsed."""

    path: Path
    file: BinaryIO
    format: str
    segments: list[Segment]
    tags: dict[str, str] = field(default_factory=dict)
    rate: int = 0
    channels: int = 0
    frames: int | None = None
    """Exact, or None where only decoding tells."""
    is_seekable: bool = False
    """Whether samples in its middle are found exactly and at once."""
    is_lossy: bool = True
    """Whether its samples are no better than 16 bits."""
    gain: float = 1.0
    """What its samples are multiplied by."""
    notes: list[str] = field(default_factory=list)
    """What is odd about the file, though it is read."""
    _opened: os.stat_result | None = None

    def count(self) -> int:
        """How many frames the file holds, by decoding it where nothing else tells.

        Raises:
            DataError: as `blocks`.
        """
        if self.frames is None:
            self.frames = sum(map(len, self.blocks()))
            if not self.frames:
                raise DataError(f"{self.path} holds no audio", REPAIR)
        return self.frames

    def blocks(self, first: int = 0, last: int | None = None) -> Iterator[Block]:
        """Samples `first` to `last`, or to the end, in blocks.

        Raises:
            DataError: the audio is damaged, cut off, not finite, or changes while it is read.
        """
        if self.frames is not None and first >= self.frames:
            return
        skip = first
        left = None if last is None else last - first
        for segment in self.segments:
            for block in self._decoded(segment, skip if self.is_seekable else 0):
                if not self.is_seekable and skip:
                    block, skip = block[skip:], max(0, skip - len(block))
                if left is not None:
                    block, left = block[:left], left - len(block[:left])
                if len(block):
                    yield block
                if left == 0:
                    return
        self._require_unchanged()

    def _decoded(self, segment: Segment, first: int) -> Iterator[Block]:
        decoder = _open_segment(self, segment)
        decoder.seekable = lambda: False  # libsndfile 1.2 seeks wrongly in Ogg and MP3, and soundfile after each block
        with decoder:
            position = first
            if first:
                with _blamed(self.path):
                    decoder.seek(first)
            convert = _converter(self, decoder)
            while segment.announced is None or position < segment.announced:  # behind it may be what is no audio
                count = BLOCK if segment.announced is None else min(BLOCK, segment.announced - position)
                with _blamed(self.path):
                    block: Block = decoder.read(count, dtype="float32", always_2d=True)
                if not np.isfinite(block.sum(dtype=np.float64)):
                    raise DataError(f"{self.path} holds samples that are not finite numbers (NaN or infinity)", REPAIR)
                position += len(block)
                if self.gain != 1.0:
                    block *= np.float32(self.gain)
                yield from convert(block)
                if len(block) < count:
                    break
        if segment.announced is not None and position < segment.announced:
            self._require_unchanged()
            raise _cut_off(self.path, f"it announces {segment.announced} frames and ends earlier")

    def _require_unchanged(self) -> None:
        before, now = self._opened, os.fstat(self.file.fileno())
        if before and (before.st_size, before.st_mtime_ns) != (now.st_size, now.st_mtime_ns):
            raise DataError(f"{self.path} changed while it was read", "try again when it is complete")


def _cut_off(path: Path, why: str) -> DataError:
    return DataError(f"{path} is cut off: {why}", REPAIR)


@contextmanager
def _blamed(path: Path) -> Iterator[None]:
    """Turn an error of libsndfile into one about the file."""
    try:
        yield
    except soundfile.LibsndfileError as error:
        raise DataError(f"{path} cannot be decoded: its audio is damaged or cut off", REPAIR) from error


def _open_segment(source: Source, segment: Segment) -> soundfile.SoundFile:
    where = source.file if segment.parts is None else Spans(source.file, segment.parts)
    where.seek(0)
    with _blamed(source.path):
        return soundfile.SoundFile(where, **segment.raw)


def _converter(source: Source, decoder: soundfile.SoundFile) -> Any:
    """A function from the blocks of a segment to blocks at the rate and with the channels of the first segment."""
    if (decoder.samplerate, decoder.channels) == (source.rate, source.channels):
        return lambda block: [block]
    import torch

    from dualdiff.audio.dsp import mix_channels, resample

    collected: list[Block] = []

    def convert(block: Block) -> Iterator[Block]:
        collected.append(block)
        if len(block) < BLOCK:  # the end: a change of rate within a file is rare, so its parts may be large
            whole = torch.from_numpy(np.concatenate(collected).T.copy())
            mixed = mix_channels(whole, source.channels) if source.channels <= 2 else whole[: source.channels]
            samples = resample(mixed, decoder.samplerate, source.rate).T.contiguous().numpy()
            yield from (samples[first : first + BLOCK] for first in range(0, len(samples), BLOCK))

    return convert


@contextmanager
def opened(path: Path) -> Iterator[Source]:
    """An audio file, opened and parsed.

    Raises:
        DataError: the file is missing, a folder, empty, cut off, or its structure is broken.
        NotDecodableError: libsndfile does not know what is in it.
    """
    with regular_file(path) as file:
        before = os.fstat(file.fileno())
        source = _parsed(path, file)
        source._opened = before
        problem = None
        if not LOWEST_RATE <= source.rate <= HIGHEST_RATE:
            problem = f"says that its sample rate is {source.rate} Hz: it is damaged"
        elif not 1 <= source.channels <= MOST_CHANNELS:
            problem = f"says that it has {source.channels} channels: it is damaged"
        elif source.frames == 0:
            problem = "holds no audio"
        if problem:
            raise DataError(f"{path} {problem}", REPAIR)
        yield source


@contextmanager
def regular_file(path: Path) -> Iterator[BinaryIO]:
    """A file, opened; refused where it is missing, a folder, empty, or no regular file."""
    try:
        str(path).encode()  # else no message could name it
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise DataError(f"{path} is a folder, not an audio file")
        if not stat.S_ISREG(status.st_mode):
            raise DataError(f"{path} is not a regular file")
        if status.st_size == 0:
            raise DataError(f"{path} is empty (0 bytes)", REPAIR)
        with open(path, "rb") as file:
            yield file
    except FileNotFoundError as error:
        hint = "check the path; if the music has moved, `dualdiff dataset scan`"
        raise DataError(f"{path} does not exist", hint) from error
    except UnicodeEncodeError as error:
        raise DataError(f"{path} cannot be read: its name is not valid UTF-8", "rename it") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error


def _parsed(path: Path, file: BinaryIO) -> Source:
    file.seek(0)
    start = tags.id3_end(file)
    file.seek(start)
    magic = file.read(4)
    if magic == ogg.MAGIC:
        return _ogg(path, file)
    if magic == b"fLaC":
        return _flac(path, file, start)
    try:
        layout = pcm.read_layout(file)
    except pcm.BrokenContainerError as error:
        raise DataError(f"{path} {error}", REPAIR) from error
    if layout is not None:
        return _pcm(path, file, layout)
    stream = mpeg.read_stream(file, start, file.seek(0, 2))
    if stream is not None and (start or path.suffix.lower() == ".mp3" or stream.skipped_bytes == 0):
        texts = tags.read_id3v1(file) | tags.read_id3(file)
        return _mpeg(path, file, stream, "mp3", texts)
    return _whole(path, file, start)


def _pcm(path: Path, file: BinaryIO, layout: pcm.Layout) -> Source:
    texts = dict(layout.tags)
    if layout.id3_start:
        texts = tags.read_id3(file, layout.id3_start) | texts
    if layout.missing:
        raise _cut_off(path, f"{layout.missing} bytes of its audio are missing")
    if layout.subtype == "mpeg":
        stream = mpeg.read_stream(file, layout.start, layout.start + layout.length)
        if stream is None:
            raise DataError(f"{path} cannot be decoded: its audio is damaged or cut off", REPAIR)
        return _mpeg(path, file, stream, layout.container, texts)
    if not layout.subtype:
        source = _whole(path, file, 0)
        source.tags |= texts
        return source
    endian = "LITTLE" if layout.little_endian else "BIG"
    raw = {"samplerate": layout.rate, "channels": layout.channels, "subtype": layout.subtype, "format": "RAW"}
    if layout.subtype not in ("PCM_U8", "PCM_S8", "ULAW", "ALAW"):
        raw["endian"] = endian
    span = (layout.start, layout.frames * layout.frame_bytes)
    source = Source(path, file, layout.container, [Segment([span], raw, layout.frames)], texts)
    source.rate, source.channels, source.frames = layout.rate, layout.channels, layout.frames
    source.is_seekable, source.is_lossy = True, False
    return source


def _flac(path: Path, file: BinaryIO, start: int) -> Source:
    length = file.seek(0, 2)
    segment = Segment([(start, length - start)])
    source = Source(path, file, "flac", [segment], tags.flac_comments(file, start), is_lossy=False)
    gain = source.tags.get(GAIN_TAG.lower(), "")
    source.gain = float(gain) if gain in ("2", "4", "8", "16") else 1.0
    frames = _described(source, segment)
    if 0 < frames < _UNKNOWN:
        source.frames = segment.announced = frames
        source.is_seekable = True
    return source


def _ogg(path: Path, file: BinaryIO) -> Source:
    layout = ogg.read_layout(file)
    if layout.is_cut_off:
        raise _cut_off(path, "it ends in the middle of a page")
    links = [link for link in layout.links if len(link.pages) > 1]
    if layout.damaged_pages:
        raise DataError(f"{path} is damaged: {layout.damaged_pages} of its pages fail their checksums", REPAIR)
    if not links or any(link.codec == "speex" for link in links):
        raise NotDecodableError("no stream of Vorbis, Opus or FLAC")
    segments = [Segment(ogg.stream_parts(file, link)) for link in links]
    source = Source(path, file, "ogg", segments, tags.read_comments(ogg.comment_header(file, links[0])))
    if links[0].codec == "flac":
        source.tags, source.is_lossy = _libsndfile_tags(source), False
    _described(source, segments[0])
    if layout.missing_pages:
        source.notes.append(f"{layout.missing_pages} gaps in the numbering of its pages")
    return source


def _mpeg(path: Path, file: BinaryIO, stream: mpeg.Stream, format: str, texts: dict[str, str]) -> Source:
    announced = stream.announced or 0
    if stream.lost_bytes > BLOCK or (announced - stream.frames > _SHORTER_MP3 and stream.lost_bytes):
        raise _cut_off(path, f"it announces {announced} frames and holds {stream.frames}")
    source = Source(path, file, format, [Segment(stream.parts)], texts)
    if stream.skipped_bytes:
        source.notes.append(f"{stream.skipped_bytes} bytes between its frames are no audio")
    _described(source, source.segments[0])
    return source


def _whole(path: Path, file: BinaryIO, start: int) -> Source:
    """A file that libsndfile parses itself."""
    length = file.seek(0, 2)
    segment = Segment([(start, length - start)] if start else None)
    source = Source(path, file, "", [segment])
    frames = _described(source, segment)
    source.tags = _libsndfile_tags(source)
    if 0 <= frames < _UNKNOWN:
        segment.announced = frames
    return source


def _described(source: Source, segment: Segment) -> int:
    """Set rate, channels and format from the header; return the frames that it announces.

    Raises:
        NotDecodableError: libsndfile does not know what it is.
    """
    where = source.file if segment.parts is None else Spans(source.file, segment.parts)
    where.seek(0)
    try:
        with soundfile.SoundFile(where) as decoder:
            source.rate, source.channels = decoder.samplerate, decoder.channels
            source.format = source.format or decoder.format.lower()
            return int(decoder.frames)
    except (soundfile.LibsndfileError, TypeError) as error:
        raise NotDecodableError(str(error)) from error


def _libsndfile_tags(source: Source) -> dict[str, str]:
    with suppress(soundfile.LibsndfileError), _open_segment(source, source.segments[0]) as decoder:
        return {name: text for name in _LIBSNDFILE_TAGS if (text := getattr(decoder, name))}
    return {}


@contextmanager
def stream(path: Path, excerpt: Excerpt = WHOLE, count: bool = False) -> Iterator[Stream]:
    """Decode an excerpt of a file in this process; with `count`, its frames are counted first.

    Raises:
        DataError, NotDecodableError: as `opened`; and while decoding, as `Source.blocks`.
    """
    with opened(path) as source:
        if count:
            source.count()
        first, last = excerpt.frames(source.rate)
        yield Stream(
            source.rate,
            source.channels,
            source.format,
            tags.with_comment(source.tags),
            source.frames,
            source.is_seekable,
            source.is_lossy,
            first,
            source.blocks(first, last),
            source.notes,
        )
