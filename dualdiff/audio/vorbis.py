"""Ogg Vorbis from the middle, to the sample: where libsndfile seeks wrongly, and where random crops must not wait.

The first byte of a packet says how long its block is. So the frame that a decoder gives first, when it starts at some
page, is counted without decoding. What pages say of their position is not enough: it is wrong in files cut out of
longer ones. Byte layouts: RFC 3533 (Ogg) and Vorbis I, sections 4.2 (headers) and 4.3 (packets). Only `audio` uses it.
"""

import mmap
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from io import SEEK_CUR, SEEK_END, SEEK_SET
from itertools import pairwise
from pathlib import Path

_MAGIC = b"OggS\x00"
_PAGE_HEADER = 27
_BEGINS_STREAM = 0x02  # a flag of a page
_MODE_BITS = 41  # of a mode in the setup header: block flag, window and transform (both zero), mapping


class Spliced:
    """The headers of an Ogg Vorbis file, then all from one of its pages on, as the file that a decoder reads."""

    def __init__(self, content: mmap.mmap, headers: int, start: int, first_frame: int) -> None:
        self.first_frame = first_frame
        """The frame of the whole file that a decoder gives first."""
        self._content, self._headers, self._skipped = content, headers, start - headers
        self._length, self._position = len(content) - self._skipped, 0

    def seek(self, offset: int, whence: int = SEEK_SET) -> int:
        """As files do."""
        self._position = {SEEK_SET: 0, SEEK_CUR: self._position, SEEK_END: self._length}[whence] + offset
        return self._position

    def tell(self) -> int:
        """As files do."""
        return self._position

    def read(self, count: int = -1) -> bytes:
        """As files do."""
        first = self._position
        last = self._length if count < 0 else min(first + count, self._length)
        self._position = max(first, last)
        rest = self._content[max(first, self._headers) + self._skipped : last + self._skipped]
        return self._content[first : min(last, self._headers)] + rest

    def write(self, piece: bytes) -> int:
        """Never done: soundfile only asks whether it could be."""
        raise OSError("a part of a file is only read")


def spliced(path: Path, frame: int) -> Spliced | None:
    """A file that begins shortly before a frame; None where it cannot: too near the start, or no plain Ogg Vorbis.

    Chained streams, and files with more than one stream, are not plain.
    """
    with open(path, "rb") as file:
        if file.read(len(_MAGIC)) != _MAGIC:
            return None
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    pages = list(_pages(content))
    headers = _read_headers(content, pages)
    if headers is None or not _is_plain(content, pages):
        return None
    audio = pages[headers.pages :]
    best = None
    for page, first_frame in zip(audio[1:], _first_frames(content, headers, audio)[1:], strict=True):
        if first_frame > frame:
            break
        best = Spliced(content, audio[0].start, page.start, first_frame)
    return best


@dataclass(frozen=True)
class _Page:
    start: int
    segments: bytes
    """The sizes of its segments; a packet ends with the first that is less than 255 bytes long."""

    @property
    def body(self) -> int:
        return self.start + _PAGE_HEADER + len(self.segments)


@dataclass(frozen=True)
class _Headers:
    """What the headers say that matters here."""

    pages: int
    """On how many pages they lie."""
    blocks: tuple[int, ...]
    """Frames of the blocks of each mode."""

    def block(self, first_byte: int) -> int:
        """Frames of the block of a packet."""
        mode = (first_byte >> 1) & ((1 << (len(self.blocks) - 1).bit_length()) - 1)
        return self.blocks[min(mode, len(self.blocks) - 1)]


def _pages(content: mmap.mmap) -> Iterator[_Page]:
    """The pages, up to where there is none."""
    start = 0
    while content[start : start + len(_MAGIC)] == _MAGIC and start + _PAGE_HEADER <= len(content):
        first = start + _PAGE_HEADER
        page = _Page(start, content[first : first + content[first - 1]])
        yield page
        start = page.body + sum(page.segments)


def _is_plain(content: mmap.mmap, pages: list[_Page]) -> bool:
    """Whether the file is one stream: of one number, begun once."""
    serials = {content[page.start + 14 : page.start + 18] for page in pages}
    return len(serials) == 1 and not any(content[page.start + 5] & _BEGINS_STREAM for page in pages[1:])


def _read_headers(content: mmap.mmap, pages: list[_Page]) -> _Headers | None:
    """What the three headers say; they end where a page ends."""
    packets = [b""]
    for number, page in enumerate(pages, start=1):
        position = page.body
        for size in page.segments:
            packets[-1] += content[position : position + size]
            position += size
            if size < 255:
                packets.append(b"")
        if len(packets) > 3:
            identification, setup = packets[0], packets[2]
            if not identification.startswith(b"\x01vorbis") or len(identification) < 29:
                return None
            sizes = (1 << (identification[28] & 15), 1 << (identification[28] >> 4))
            blocks = tuple(sizes[is_long] for is_long in _modes(setup))
            return _Headers(number, blocks) if blocks else None
    return None


def _modes(setup: bytes) -> tuple[bool, ...]:
    """Of each mode, whether its blocks are long: what the end of the setup header lists, behind their number.

    What stands before it would have to be decoded to find it. From the end, it is what looks like modes (32 bits of
    each are zero), as many as the 6 bits before them say; if several numbers would do, the largest.
    """
    bits = int.from_bytes(setup, "little")
    place, flags, found = bits.bit_length() - 1, list[bool](), tuple[bool, ...]()  # at the framing bit
    while place >= _MODE_BITS + 6 and len(flags) < 64:
        place -= _MODE_BITS
        mode = (bits >> place) & ((1 << _MODE_BITS) - 1)
        if (mode >> 1) & 0xFFFFFFFF:
            break
        flags.insert(0, bool(mode & 1))
        if ((bits >> (place - 6)) & 63) + 1 == len(flags):
            found = tuple(flags)
    return found


def _first_frames(content: mmap.mmap, headers: _Headers, audio: list[_Page]) -> list[int]:
    """The frame that a decoder gives first that starts at each of the pages of audio.

    A packet completes half of its own block and half of the one before; the first only prepares the second. Where the
    first page says that less has been played by its end, a decoder of the whole leaves out as much at the start.
    """
    blocks: list[int] = []
    packets_before = []
    begins = True
    for page in audio:
        packets_before.append(len(blocks))
        position = page.body
        for size in page.segments:
            if begins and size and not content[position] & 1:  # an odd first byte: a packet that is not audio
                blocks.append(headers.block(content[position]))
            position += size
            begins = size < 255
    ends = [0]
    for one, other in pairwise(blocks):
        ends.append(ends[-1] + (one + other) // 4)
    (said,) = struct.unpack_from("<q", content, audio[0].start + 6)
    packets_ended = packets_before[1] - (audio[0].segments[-1:] == b"\xff") if len(audio) > 1 else 0
    left_out = max(0, ends[packets_ended - 1] - said) if packets_ended > 0 else 0
    return [ends[min(number, len(ends) - 1)] - left_out for number in packets_before]
