"""Ogg: pages, logical streams, chains and comment headers (RFC 3533, RFC 7845, Vorbis I sections 4 and 5).

The one parser of Ogg pages in the package. A *link* is one element of a chained file: the pages of its audio stream.
"""

import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import BinaryIO

from dualdiff.audio.spans import Part

MAGIC = b"OggS"
CODECS = {b"\x01vorbis": "vorbis", b"OpusHead": "opus", b"\x7fFLAC": "flac", b"Speex   ": "speex"}
"""How the first packet of a stream begins, and the codec."""
COMMENT_HEADERS = {"vorbis": b"\x03vorbis", "opus": b"OpusTags"}
OPUS_RATE = 48000
LONGEST_COMMENTS = 1 << 24

_HEADER = struct.Struct("<4sBBqIIIB")
_CONTINUED, _FIRST, _LAST = 1, 2, 4  # flags of a page
_NO_POSITION = -1
_SEARCH = 1 << 16
_MAX_SEGMENTS = 255
_REVERSED_BITS = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


@dataclass(frozen=True)
class Page:
    """One page: where it lies in the file and what its header says."""

    start: int
    flags: int
    granule: int
    serial: int
    sequence: int
    segments: bytes
    """Lengths of its segments; a packet ends with the first segment shorter than 255 bytes."""
    head: bytes
    """Its first bytes of content."""
    intact: bool
    """Whether its checksum is right."""

    @property
    def body(self) -> int:
        """Position of its content."""
        return self.start + _HEADER.size + len(self.segments)

    @property
    def end(self) -> int:
        """Position behind its content."""
        return self.body + sum(self.segments)

    @property
    def packets(self) -> int:
        """How many packets end on it."""
        return sum(size < _MAX_SEGMENTS for size in self.segments)


@dataclass(frozen=True)
class Link:
    """One logical audio stream of a chain."""

    codec: str
    pages: list[Page] = field(default_factory=list)


@dataclass(frozen=True)
class Layout:
    """An Ogg file: its links in order, and what is wrong with it."""

    links: list[Link]
    is_cut_off: bool
    """Whether the file ends within a page."""
    damaged_pages: int
    """Pages of its audio whose checksum is wrong."""
    missing_pages: int
    """Gaps in the numbering of its pages."""


def checksum(page: bytes) -> int:
    """The CRC-32 of a page whose own checksum field is zero: polynomial 0x04c11db7, not reflected, initial value 0.

    zlib computes the reflected one with initial value and result inverted, so bits are reversed on both ends.
    """
    reflected = zlib.crc32(page.translate(_REVERSED_BITS), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{reflected:032b}"[::-1], 2)


def page_bytes(page: Page, content: bytes, granule: int | None = None, sequence: int | None = None) -> bytes:
    """A page as it is written, with other content of the same segments, another position or another number."""
    header = bytearray(
        _HEADER.pack(
            MAGIC,
            0,
            page.flags,
            page.granule if granule is None else granule,
            page.serial,
            page.sequence if sequence is None else sequence,
            0,
            len(page.segments),
        )
    )
    header += page.segments
    struct.pack_into("<I", header, 22, checksum(bytes(header) + content))
    return bytes(header) + content


def read_layout(file: BinaryIO) -> Layout:
    """Read all pages of a file and group them into links."""
    links: list[Link] = []
    current: dict[int, str] = {}  # codecs by serial number, of the streams of the link
    audio: int | None = None  # the serial number of its audio stream
    beginning = False
    damaged = missing = 0
    scanner = _Scanner(file)
    for page in scanner.pages():
        if page.flags & _FIRST:
            if not beginning:
                current, audio = {}, None
            codec = next((name for magic, name in CODECS.items() if page.head.startswith(magic)), "")
            current[page.serial] = codec
            if codec and audio is None:
                audio = page.serial
                links.append(Link(codec))
        beginning = bool(page.flags & _FIRST)
        if page.serial == audio:
            pages = links[-1].pages
            missing += bool(pages) and page.sequence != (pages[-1].sequence + 1) & 0xFFFFFFFF
            damaged += not page.intact
            pages.append(page)
    return Layout(links, scanner.is_cut_off, damaged, missing)


class _Scanner:
    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.is_cut_off = False

    def pages(self) -> Iterator[Page]:
        """The pages in order; what lies between is passed over."""
        position: int | None = 0
        while position is not None:
            self._file.seek(position)
            header = self._file.read(_HEADER.size)
            if header[:5] != MAGIC + b"\0" or len(header) < _HEADER.size:
                self.is_cut_off = self.is_cut_off or header[:4] == MAGIC
                position = self._next_magic(position + (1 if header[:4] == MAGIC else 0))
                continue
            page, content = self._page(position, header)
            self.is_cut_off = len(content) < page.end - page.body or len(page.segments) < header[-1]
            if self.is_cut_off:
                return
            yield page
            position = page.end

    def _page(self, start: int, header: bytes) -> tuple[Page, bytes]:
        _, _, flags, granule, serial, sequence, crc, count = _HEADER.unpack(header)
        segments = self._file.read(count)
        content = self._file.read(sum(segments))
        intact = checksum(header[:22] + b"\0\0\0\0" + header[26:] + segments + content) == crc
        return Page(start, flags, granule, serial, sequence, segments, content[:64], intact), content

    def _next_magic(self, position: int) -> int | None:
        while True:
            self._file.seek(position)
            window = self._file.read(_SEARCH)
            index = window.find(MAGIC + b"\0")
            if index >= 0:
                return position + index
            if len(window) < _SEARCH:
                return None
            position += _SEARCH - len(MAGIC)


def packets(file: BinaryIO, pages: Sequence[Page], count: int, longest: int = LONGEST_COMMENTS) -> list[bytes]:
    """The first `count` packets of a stream, or fewer where it ends or they are longer than `longest` together."""
    found, pending, total = list[bytes](), b"", 0
    for page in pages:
        file.seek(page.body)
        for size in page.segments:
            pending += file.read(size)
            total += size
            if size < _MAX_SEGMENTS:
                found.append(pending)
                pending = b""
                if len(found) == count:
                    return found
        if total > longest:
            break
    return found


def comment_header(file: BinaryIO, link: Link) -> bytes:
    """The list of comments of a Vorbis or Opus stream, without the name of the packet; empty where there is none."""
    name = COMMENT_HEADERS.get(link.codec, b"?")
    found = packets(file, link.pages, 2)
    return found[1][len(name) :] if len(found) == 2 and found[1].startswith(name) else b""


def stream_parts(file: BinaryIO, link: Link) -> list[Part]:
    """The file of one link alone, with positions that libsndfile reads to the end.

    libsndfile 1.2 decodes Opus at the input rate that the header names, and takes pages whose positions do not match
    their packets for damage. So the header names 48 kHz, and each page ends where its packets end.
    """
    if link.codec == "opus":
        return _opus_parts(file, link)
    if link.codec == "vorbis":
        return _vorbis_parts(file, link)
    return [(page.start, page.end - page.start) for page in link.pages]


def _content(file: BinaryIO, page: Page) -> bytes:
    file.seek(page.body)
    return file.read(page.end - page.body)


def _vorbis_parts(file: BinaryIO, link: Link) -> list[Part]:
    """The pages as they are; the last position is raised where libsndfile would stop at it before the end."""
    *pages, last = link.pages
    parts: list[Part] = [(page.start, page.end - page.start) for page in pages]
    if last.granule < max((page.granule for page in pages), default=0):
        samples = sum(page.packets for page in link.pages) * (1 << 13)  # the longest block
        return [*parts, page_bytes(last, _content(file, last), granule=samples)]
    return [*parts, (last.start, last.end - last.start)]


def _opus_parts(file: BinaryIO, link: Link) -> list[Part]:
    parts: list[Part] = []
    position = pending = 0
    durations = _opus_durations(file, link.pages)
    headers = 2  # packets: the identification and the comments
    for page, own in zip(link.pages, durations, strict=True):
        content = _content(file, page)
        if page is link.pages[0]:
            content = content[:12] + struct.pack("<I", OPUS_RATE) + content[16:]
            parts.append(page_bytes(page, content, granule=0))
            headers -= page.packets
            continue
        if headers > 0:
            parts.append(page_bytes(page, content, granule=0 if page.packets else _NO_POSITION))
            headers -= page.packets
            continue
        position += sum(own)
        end = position
        if page.flags & _LAST:  # the end of the last packet is not played
            end -= min(max(pending + sum(own) - page.granule, 0), sum(own)) if pending else 0
        parts.append(page_bytes(page, content, granule=end if own else _NO_POSITION))
        pending = page.granule if page.granule != _NO_POSITION else pending
    return parts


def _opus_durations(file: BinaryIO, pages: Sequence[Page]) -> list[list[int]]:
    """Samples at 48 kHz of each packet that ends on each page, from its first two bytes (RFC 6716, section 3.1)."""
    durations, head = list[list[int]](), b""
    starts = True
    for page in pages:
        own = []
        content, position = _content(file, page), 0
        for size in page.segments:
            if starts:
                head = content[position : position + 2]
            position += size
            starts = size < _MAX_SEGMENTS
            if starts:
                own.append(opus_samples(head))
        durations.append(own)
    return durations


def opus_samples(head: bytes) -> int:
    """Samples at 48 kHz of an Opus packet that begins with these bytes (RFC 6716, section 3.1)."""
    if not head:
        return 0
    config, code = head[0] >> 3, head[0] & 3
    if config < 12:
        frame = (480, 960, 1920, 2880)[config & 3]
    elif config < 16:
        frame = (480, 960)[config & 1]
    else:
        frame = (120, 240, 480, 960)[config & 3]
    count = (head[1] & 0x3F if len(head) > 1 else 0) if code == 3 else (1, 2, 2)[code]
    return frame * count


def with_comments(file: BinaryIO, comments: bytes) -> bytes:
    """The content of a Vorbis or Opus file of one link with another list of comments.

    Raises:
        ValueError: it is no such file.
    """
    layout = read_layout(file)
    link = layout.links[0]
    count = 3 if link.codec == "vorbis" else 2
    headers = packets(file, link.pages, count)
    if link.codec not in COMMENT_HEADERS or len(headers) < count:
        raise ValueError("no Vorbis or Opus stream")
    headers[1] = COMMENT_HEADERS[link.codec] + comments + (b"\x01" if link.codec == "vorbis" else b"")
    seen = 0
    for index, page in enumerate(link.pages):  # header packets end where a page ends
        seen += page.packets
        if seen == count:
            audio = link.pages[index + 1 :]
            break
    first = link.pages[0]
    pages = [page_bytes(first, headers[0])]
    pages += _paged(first, headers[1:])
    shift = len(pages)
    body = partial(_content, file)
    pages += [page_bytes(page, body(page), sequence=shift + number) for number, page in enumerate(audio)]
    return b"".join(pages)


def _paged(first: Page, headers: Sequence[bytes]) -> list[bytes]:
    """Header packets on pages of their own, from page 1 on."""
    segments = b"".join(bytes([_MAX_SEGMENTS] * (len(one) // 255) + [len(one) % 255]) for one in headers)
    content, pages, continued = b"".join(headers), list[bytes](), False
    for start in range(0, len(segments), _MAX_SEGMENTS):
        own = segments[start : start + _MAX_SEGMENTS]
        ends = any(size < _MAX_SEGMENTS for size in own)
        page = Page(0, _CONTINUED if continued else 0, 0, first.serial, 1 + len(pages), own, b"", True)
        pages.append(page_bytes(page, content[: sum(own)], granule=0 if ends else _NO_POSITION))
        content = content[sum(own) :]
        continued = own[-1] == _MAX_SEGMENTS
    return pages
