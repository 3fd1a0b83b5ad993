"""MPEG audio frames (ISO 11172-3, 13818-3): how many a file really holds, whatever its headers say.

libsndfile reads no further than the length that a Xing header announces, or than a guess from the file's size where
there is none. So frames are counted, and a decoder is given a header with that count.
"""

import struct
from dataclasses import dataclass
from typing import BinaryIO

from dualdiff.audio.spans import Part

_BITRATES = {  # kbit/s by (MPEG 1, layer)
    (True, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}  # by version bits
_SAME = 0xFFFE0C00  # the bits of a header that all frames of a stream share: sync, version, layer, rate
_CONFIRMED = 3  # frames in a row that make a beginning
_BLOCK = 1 << 20
_HAS_FRAMES, _HAS_BYTES = 1, 2  # flags of a Xing header
_XING_BITRATE = 9  # index of a bit rate whose frame holds a Xing header at every rate


@dataclass(frozen=True)
class Frame:
    """What the header of a frame says."""

    length: int
    samples: int
    rate: int
    channels: int
    side: int
    """Bytes between the header and the main data: where a Xing header stands."""


@dataclass(frozen=True)
class Stream:
    """The frames of a file."""

    parts: list[Part]
    """Them alone, one after the other, with a true count in front."""
    frames: int
    """How many hold audio."""
    samples: int
    rate: int
    channels: int
    announced: int | None
    """Frames that the header announces."""
    lost_bytes: int
    """Bytes that its header announces beyond the end of the file."""
    skipped_bytes: int
    """Bytes between frames that are none."""


def parse_header(word: int) -> Frame | None:
    """The header of a frame from 32 bits; None where they are none, or of free format."""
    version, layer = word >> 19 & 3, 4 - (word >> 17 & 3)
    index, rate_index = word >> 12 & 15, word >> 10 & 3
    if word >> 21 != 0x7FF or version == 1 or layer == 4 or index in (0, 15) or rate_index == 3:
        return None
    is_one, padding = version == 3, word >> 9 & 1
    rate, bitrate = _RATES[version][rate_index], 1000 * _BITRATES[is_one, layer][index - 1]
    mono = word >> 6 & 3 == 3
    if layer == 1:
        return Frame((12 * bitrate // rate + padding) * 4, 384, rate, 2 - mono, 0)
    samples = 1152 if is_one or layer == 2 else 576
    side = ((17 if mono else 32) if is_one else (9 if mono else 17)) if layer == 3 else 0
    return Frame(samples // 8 * bitrate // rate + padding, samples, rate, 2 - mono, side)


def read_stream(file: BinaryIO, start: int, stop: int) -> Stream | None:
    """Count the frames between two positions of a file; None where there are none."""
    content = _Window(file, stop)
    position = _first_frame(content, start)
    if position is None:
        return None
    first_word = content.word(position)
    first = parse_header(first_word)
    assert first is not None  # _first_frame has read it
    beginning, parts, count, skipped = position, list[Part](), 0, 0
    while position is not None:
        frame = _like(content.word(position), first_word)
        if frame is None:
            following = _resume(content, position + 1, first_word)
            skipped += following - position if following is not None else 0
            position = following
            continue
        if position + frame.length > stop:
            break
        parts.append((position, frame.length))
        count += 1
        position += frame.length
    return _with_true_count(content, first, beginning, parts, count, skipped) if count else None


def _with_true_count(
    content: "_Window", first: Frame, start: int, parts: list[Part], count: int, skipped: int
) -> Stream:
    head = content.bytes(start, first.length)
    xing = 4 + first.side
    announced: int | None = None
    lost = 0
    if head[xing : xing + 4] in (b"Xing", b"Info") and len(head) >= xing + 16:
        (flags,) = struct.unpack_from(">I", head, xing + 4)
        values = struct.unpack_from(">II", head, xing + 8)
        announced = values[0] if flags & _HAS_FRAMES else None
        size = values[1 if flags & _HAS_FRAMES else 0] if flags & _HAS_BYTES else 0
        lost = max(0, size - (content.stop - start))
        count -= 1
        if announced not in (count, count + 1):
            parts[0] = _recounted(head, xing, flags, count)
    elif head[36:40] == b"VBRI" and len(head) >= 54:
        lost = max(0, struct.unpack_from(">I", head, 46)[0] - (content.stop - start))
        (announced,) = struct.unpack_from(">I", head, 50)
        count -= 1
        parts[0] = _counted(content.word(start), first, count)
    elif first.side:  # layer 3
        parts.insert(0, _counted(content.word(start), first, count))
    return Stream(parts, count, count * first.samples, first.rate, first.channels, announced, lost, skipped)


def _recounted(head: bytes, xing: int, flags: int, count: int) -> bytes:
    """A Xing header with another count; its table of positions, and its other fields, stay."""
    if not flags & _HAS_FRAMES:  # there is no room for the count: a header of nothing else
        return head[: xing + 4] + struct.pack(">II", _HAS_FRAMES, count) + bytes(len(head) - xing - 12)
    return head[: xing + 8] + struct.pack(">I", count) + head[xing + 12 :]


def _counted(word: int, first: Frame, count: int) -> bytes:
    """A frame that holds no audio but a Xing header with a count."""
    word = word & ~0xF200 | 0x10000 | _XING_BITRATE << 12  # no checksum, no padding
    frame = parse_header(word)
    assert frame is not None
    head = struct.pack(">I", word) + bytes(first.side) + b"Xing" + struct.pack(">II", _HAS_FRAMES, count)
    return head + bytes(frame.length - len(head))


class _Window:
    """Random access to a file in blocks."""

    def __init__(self, file: BinaryIO, stop: int) -> None:
        self._file, self.stop = file, stop
        self._start, self._block = 0, b""

    def bytes(self, position: int, count: int) -> bytes:
        if not (self._start <= position and position + count <= self._start + len(self._block)):
            self._file.seek(position)
            self._start, self._block = position, self._file.read(max(_BLOCK, count))
        offset = position - self._start
        return self._block[offset : offset + min(count, max(0, self.stop - position))]

    def word(self, position: int) -> int:
        four = self.bytes(position, 4)
        return int.from_bytes(four, "big") if len(four) == 4 else 0

    def find(self, byte: int, position: int) -> int | None:
        """The next position of a byte before the end."""
        while position < self.stop:
            block = self.bytes(position, min(_BLOCK, self.stop - position))
            index = block.find(byte)
            if index >= 0:
                return position + index
            if not block:
                return None
            position += len(block)
        return None


def _like(word: int, first: int) -> Frame | None:
    """The header of a frame of the same stream as the first one."""
    return parse_header(word) if (word ^ first) & _SAME == 0 else None


def _first_frame(content: _Window, start: int) -> int | None:
    """Where a few frames of one stream, or all up to the end, follow each other."""
    position = content.find(0xFF, start)
    while position is not None:
        if parse_header(word := content.word(position)) and _follow(content, position, word, _CONFIRMED):
            return position
        position = content.find(0xFF, position + 1)
    return None


def _resume(content: _Window, start: int, first: int) -> int | None:
    """Where the stream goes on behind what is no frame."""
    position = content.find(0xFF, start)
    while position is not None:
        if _like(content.word(position), first) and _follow(content, position, first, 2):
            return position
        position = content.find(0xFF, position + 1)
    return None


def _follow(content: _Window, position: int, first: int, count: int) -> bool:
    """Whether so many frames follow each other from a position on, or as many as there are up to the end."""
    for number in range(count):
        if position >= content.stop - 4:
            return number > 0
        frame = _like(content.word(position), first)
        if frame is None:
            return number > 1 and content.bytes(position, 3) in (b"TAG", b"APE", b"LYR")
        position += frame.length
    return True
