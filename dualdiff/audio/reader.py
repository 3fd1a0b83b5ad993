"""Read audio files of any kind: facts, whole files, excerpts and blocks, resampled and mixed.

Waveforms are (C, T), float32, full scale [-1, 1]. Files of unknown origin are decoded in processes of their own
(`isolation`, `ffmpeg`), so that none can hang or crash this one.
"""

import itertools
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import torch

from dualdiff.audio import decoding, ffmpeg, isolation, midi, notes
from dualdiff.audio.dsp import mix_channels, resample
from dualdiff.audio.ffmpeg import Rendering
from dualdiff.audio.stream import (
    AUDIO_SUFFIXES,
    REPAIR,
    WHOLE,
    AudioInfo,
    Block,
    Excerpt,
    NotDecodableError,
    Stream,
    between,
)
from dualdiff.core.errors import DataError
from dualdiff.core.types import Waveform

READABLE = (*AUDIO_SUFFIXES, *ffmpeg.DEMUXERS, *midi.SUFFIXES)
"""Suffixes of the files that can be read; some of them need ffmpeg or fluidsynth."""

READ_S = 60.0
"""Seconds that are resampled at once."""


def split_tune(path: Path) -> tuple[Path, int | None]:
    """A path such as `music.nsf#03` as the file and the tune in it, counted from 0; other paths as they are."""
    stem, mark, number = path.name.rpartition("#")
    if not mark or not number.isdecimal() or not int(number) or path.exists():
        return path, None
    file = path.with_name(stem) if stem else path
    has_tunes = file.suffix.lower() in (*ffmpeg.CONSOLE_SUFFIXES, *ffmpeg.MODULE_SUFFIXES)
    return (file, int(number) - 1) if has_tunes and file.exists() else (path, None)


def file_of(path: Path) -> Path:
    """The file of a path that may name a tune in it."""
    return split_tune(path)[0]


def is_readable_name(path: Path) -> bool:
    """Whether a path has the suffix of an audio file that can be read, or names a tune of one."""
    return file_of(path).suffix.lower() in READABLE


def tunes_note(path: Path) -> str:
    """What to say of a file of several tunes that is named without one; empty for others."""
    file, tune = split_tune(path)
    count = ffmpeg.count_tunes(file) if tune is None else 1
    return f"It holds {count} tunes, of which this is one: name each by its number, as {path}#02." if count > 1 else ""


@contextmanager
def open_stream(
    path: Path | str, excerpt: Excerpt = WHOLE, *, count: bool = False, rendering: Rendering | None = None
) -> Iterator[Stream]:
    """Decode an excerpt of a file at the file's rate, in another process; with `count`, count its frames, and no more.

    `path` may name a tune of a file of several: `music.nsf#03`.

    Raises:
        DataError: the file is missing, empty, broken, cut off or not audio, needs ffmpeg where there is none, or keeps
            its decoder busy for too long; also while the blocks are read.
    """
    file, tune = split_tune(Path(path))
    if notes.is_midi(file):
        with decoding.regular_file(file), _play(file, excerpt, count) as stream:
            yield stream
            return
    if not ffmpeg.needs_ffmpeg(file):
        try:
            with isolation.stream(file, excerpt, count) as stream:
                yield stream
                return
        except NotDecodableError as error:
            if not ffmpeg.can_try(file):
                raise _unknown(file) from error
    with decoding.regular_file(file), ExitStack() as stack:
        try:
            stream = stack.enter_context(ffmpeg.stream(file, tune, rendering, excerpt))
        except DataError as error:
            if ffmpeg.needs_ffmpeg(file):
                raise
            raise _unknown(file) from error
        if count:
            stream = replace(stream, frames=sum(map(len, stream.blocks)))
            if not stream.frames:
                raise DataError(f"{file} holds no audio", REPAIR)
        yield stream


@contextmanager
def _play(path: Path, excerpt: Excerpt, count: bool) -> Iterator[Stream]:
    """A MIDI file, as fluidsynth plays it with the machine's soundfont."""
    if not midi.has_fluidsynth():
        raise DataError(f"only fluidsynth plays MIDI files such as {path}", midi.GET_FLUIDSYNTH)
    rate, variation = notes.RENDER_RATE, notes.Variation(soundfont=midi.find_soundfont())
    first, last = excerpt.frames(rate)
    frames = sum(map(len, notes.play(path, variation))) if count else None
    played = iter(()) if count else between((block.copy() for block in notes.play(path, variation)), first, last)
    yield Stream(rate, 2, "mid", {}, frames, False, True, first, played, [])


def _unknown(path: Path) -> DataError:
    hint = f"readable are {' '.join(AUDIO_SUFFIXES)}, and with ffmpeg more; convert it, or remove it"
    return DataError(f"{path} is not audio in a known format, whatever its name says, or its start is damaged", hint)


def stereo_blocks(stream: Stream) -> Iterator[Waveform]:
    """The blocks of a stream at the file's rate, mixed to two channels; one of one channel is expanded, not copied."""
    for block in stream.blocks:
        yield mix_channels(torch.from_numpy(block).T, 2)


def probe(path: Path | str) -> AudioInfo:
    """Read a file's facts and tags. Its length is exact: where no header gives it for sure, the file is decoded.

    Raises:
        DataError: as `open_stream`.
    """
    with open_stream(path, count=True) as stream:
        info = stream.info(stream.frames or 0)
        for _ in stream.blocks:
            pass
        return info


def read(
    path: Path | str, *, sample_rate: int, channels: int = 2, start_s: float = 0.0, duration_s: float | None = None
) -> Waveform:
    """Read a file or an excerpt of it, resampled: (channels, T).

    An excerpt equals the same samples of the whole file read at once; one that reaches beyond the end is shorter.
    Mono becomes equal channels; of more than two channels, centre and surrounds are mixed into the first two.

    Raises:
        DataError: as `open_stream`; or the excerpt starts behind the end, or the file holds NaN or infinity.
    """
    excerpt = _excerpt(Path(path), sample_rate, start_s, duration_s)
    return _joined(path, open_stream(path, excerpt), excerpt, sample_rate, channels)


def read_own(
    path: Path | str, *, sample_rate: int, channels: int = 2, start_s: float = 0.0, duration_s: float | None = None
) -> Waveform:
    """As `read`, in this process: for files that dualdiff has written, or that a scan has read to their end.

    Excerpts of uncompressed files and of FLAC are found at once.
    """
    excerpt = _excerpt(Path(path), sample_rate, start_s, duration_s)
    return _joined(path, _own_stream(Path(path), excerpt), excerpt, sample_rate, channels)


def blocks_own(path: Path | str, *, sample_rate: int, block_s: float) -> Iterator[Waveform]:
    """As `blocks`, in this process; see `read_own`."""
    excerpt = Excerpt(0, None, sample_rate)
    yield from _blocks(_own_stream(Path(path), excerpt), excerpt, block_s)


@contextmanager
def _own_stream(path: Path, excerpt: Excerpt) -> Iterator[Stream]:
    with ExitStack() as stack:
        try:
            stream = stack.enter_context(decoding.stream(path, excerpt))
        except NotDecodableError as error:
            raise _unknown(path) from error
        yield stream


def _excerpt(path: Path, sample_rate: int, start_s: float, duration_s: float | None) -> Excerpt:
    first = round(start_s * sample_rate)
    last = None if duration_s is None else first + round(duration_s * sample_rate)
    if first < 0 or (last is not None and last <= first):
        raise DataError(f"there is no excerpt of {path} at {start_s:g} s")
    return Excerpt(first, last, sample_rate)


def _joined(
    path: Path | str, opening: AbstractContextManager[Stream], excerpt: Excerpt, sample_rate: int, channels: int
) -> Waveform:
    with opening as stream:
        parts = list(_resampled(stream, excerpt, max(1, round(READ_S * sample_rate))))
        if not parts:
            raise DataError(f"{path} ends before {excerpt.first / sample_rate:g} s: there is no excerpt of it there")
    return mix_channels(torch.cat(parts, -1), channels).contiguous()


def blocks(
    path: Path | str, *, sample_rate: int, block_s: float, rendering: Rendering | None = None
) -> Iterator[Waveform]:
    """Read a file as stereo in consecutive blocks of `block_s` (the last one shorter), in bounded memory.

    The blocks joined equal `read` of the whole file, but may lie in memory as the file has them, channels in turn.

    Raises:
        DataError: as `read`.
    """
    excerpt = Excerpt(0, None, sample_rate)
    yield from _blocks(open_stream(path, excerpt, rendering=rendering), excerpt, block_s)


def _blocks(opening: AbstractContextManager[Stream], excerpt: Excerpt, block_s: float) -> Iterator[Waveform]:
    assert excerpt.sample_rate is not None
    with opening as stream:
        for block in _resampled(stream, excerpt, max(1, round(block_s * excerpt.sample_rate))):
            yield mix_channels(block, 2)


def _resampled(stream: Stream, excerpt: Excerpt, length: int) -> Iterator[Waveform]:
    """The excerpt of a stream at the wanted rate, in the file's own channels, in blocks of `length`."""
    window, last = Window(stream.blocks, stream.start), excerpt.last
    for first in itertools.count(excerpt.first, length):
        stop = first + length if last is None else min(first + length, last)
        if first >= stop:
            break
        block = _resample_window(window, replace(excerpt, first=first, last=stop), stream.sample_rate)
        if block.shape[-1]:
            yield block
        if block.shape[-1] < stop - first:
            break
    window.drain()


def _resample_window(window: "Window", excerpt: Excerpt, file_rate: int) -> Waveform:
    start, stop = excerpt.frames(file_rate)
    assert stop is not None
    assert excerpt.last is not None
    ratio, audio = excerpt.ratio(file_rate), window.frames(start, stop)
    if ratio == 1:
        return audio
    offset = start // ratio.numerator * ratio.denominator
    resampled = resample(audio, ratio.numerator, ratio.denominator)
    return resampled[:, excerpt.first - offset : excerpt.last - offset]


class Window:
    """A stream of blocks, read forward by position; what was read last can be read again."""

    def __init__(self, blocks: Iterator[Block], start: int) -> None:
        self._blocks = blocks
        self._held: list[Waveform] = []
        self._first = self._next = start
        self._channels = 1

    def frames(self, first: int, last: int) -> Waveform:
        """Frames `first` to `last`, (C, last - first), fewer at the end; none before `first` is needed again."""
        while self._next < last:
            block = next(self._blocks, None)
            if block is None:
                break
            self._channels = block.shape[1]
            self._held.append(torch.from_numpy(block).T)
            self._next += len(block)
        while self._held and self._first + self._held[0].shape[-1] <= first:
            self._first += self._held.pop(0).shape[-1]
        if not self._held:
            return torch.empty(self._channels, 0)
        held = self._held[0] if len(self._held) == 1 else torch.cat(self._held, -1)
        self._held = [held]
        return held[:, first - self._first : last - self._first]

    def drain(self) -> None:
        """Read the blocks to their end, so that what they report at it is known."""
        for _ in self._blocks:
            pass
