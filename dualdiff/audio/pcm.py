"""Containers of uncompressed audio: where the samples lie and how they are stored.

WAV, RF64 and BW64 (EBU Tech 3306), Wave64, AIFF and AIFF-C, AU and CAF. libsndfile decodes the samples, but does not
parse the containers: it takes a file that was cut off for a shorter one, believes sizes that programs leave which write
to a pipe, and loops on some broken ones.
"""

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import BinaryIO

_PLACEHOLDER_REACH = 1 << 16
_LONGEST_TEXT = 1 << 24
_FORMATS = {  # of WAV, by format tag and bits: libsndfile's name for how samples are stored
    (1, 8): "PCM_U8",
    (1, 16): "PCM_16",
    (1, 24): "PCM_24",
    (1, 32): "PCM_32",
    (3, 32): "FLOAT",
    (3, 64): "DOUBLE",
    (6, 8): "ALAW",
    (7, 8): "ULAW",
}
_MPEG = (0x50, 0x55)
_EXTENSIBLE = 0xFFFE
_GUID_TAIL = bytes.fromhex("000000001000800000aa00389b71")  # of a format tag in WAVE_FORMAT_EXTENSIBLE
_WAVE64_TAIL = bytes.fromhex("f3acd3118cd100c04f8edb8a")  # of the names of all chunks but the first
_WAVE64_RIFF = bytes.fromhex("726966662e91cf11a5d628db04c10000")
_AIFC = {  # by compression type: (subtype, is little-endian)
    b"NONE": ("", False),
    b"twos": ("", False),
    b"sowt": ("", True),
    b"in24": ("PCM_24", False),
    b"in32": ("PCM_32", False),
    b"fl32": ("FLOAT", False),
    b"FL32": ("FLOAT", False),
    b"fl64": ("DOUBLE", False),
    b"FL64": ("DOUBLE", False),
    b"ulaw": ("ULAW", False),
    b"ULAW": ("ULAW", False),
    b"alaw": ("ALAW", False),
    b"ALAW": ("ALAW", False),
    b"raw ": ("PCM_U8", False),
}
_AU = {1: "ULAW", 2: "PCM_S8", 3: "PCM_16", 4: "PCM_24", 5: "PCM_32", 6: "FLOAT", 7: "DOUBLE", 27: "ALAW"}
_SIGNED = {8: "PCM_S8", 16: "PCM_16", 24: "PCM_24", 32: "PCM_32"}
_SAMPLE_BYTES = {"PCM_16": 2, "PCM_24": 3, "PCM_32": 4, "FLOAT": 4, "DOUBLE": 8}
_INFO_NAMES = {"INAM": "title", "ICMT": "comment", "IART": "artist", "IPRD": "album", "IGNR": "genre", "ICRD": "date"}
_AIFF_NAMES = {b"NAME": "title", b"AUTH": "artist", b"ANNO": "comment"}
_SMPL = struct.Struct("<28xI12xII8x")  # how many loops; the first and the last sample of the first one


class BrokenContainerError(Exception):
    """The structure of a file cannot be; the message says why, after the file's name."""


@dataclass(frozen=True)
class Layout:
    """Where the samples lie and how they are stored."""

    container: str
    start: int
    length: int
    """Bytes of samples that are there."""
    rate: int
    channels: int
    subtype: str
    """libsndfile's name; "mpeg" for MPEG audio, empty for what only libsndfile or ffmpeg can decode."""
    little_endian: bool = True
    missing: int = 0
    """Bytes of samples that the file announces and that are not there."""
    tags: dict[str, str] = field(default_factory=dict)
    id3_start: int = 0
    """Where a chunk of ID3 tags begins; 0 where there is none."""

    @property
    def frame_bytes(self) -> int:
        """Bytes of one sample of all channels."""
        return _SAMPLE_BYTES.get(self.subtype, 1) * self.channels

    @property
    def frames(self) -> int:
        """Whole frames that are there."""
        return self.length // max(self.frame_bytes, 1)


def read_layout(file: BinaryIO) -> Layout | None:
    """Parse a container; None where the file is none of these.

    Raises:
        BrokenContainerError: it is one, and its structure cannot be.
    """
    file.seek(0)
    magic = file.read(40)
    length = file.seek(0, 2)
    for matches, parse in _PARSERS:
        if matches(magic):
            return parse(file, length)
    return None


def is_placeholder(size: int) -> bool:
    """Whether a size is what programs that write to a pipe leave: 0, or next to 2^31 or 2^32."""
    near = any(power - _PLACEHOLDER_REACH < size <= power for power in (1 << 31, 1 << 32))
    return size == 0 or near or size >= 1 << 62


@dataclass(frozen=True)
class _Chunk:
    name: bytes
    start: int
    size: int

    def content(self, file: BinaryIO, most: int = _LONGEST_TEXT) -> bytes:
        file.seek(self.start)
        return file.read(min(self.size, most))


def _parse_riff(file: BinaryIO, length: int) -> Layout:
    """WAV, RF64 and BW64."""
    found: dict[bytes, _Chunk] = {}
    tags: dict[str, str] = {}
    id3_start = 0
    sizes: dict[bytes, int] = {}
    for chunk in _riff_chunks(file, length, sizes):
        found.setdefault(chunk.name, chunk)
        if chunk.name == b"ds64" and chunk.size >= 24:
            _, sizes[b"data"], _ = struct.unpack("<QQQ", chunk.content(file)[:24].ljust(24, b"\0"))
        elif chunk.name == b"LIST":
            tags |= _info_tags(chunk.content(file), length)
        elif chunk.name == b"smpl":
            tags |= _loop_tags(chunk.content(file))
        elif chunk.name in (b"id3 ", b"ID3 "):
            id3_start = chunk.start
    if b"fmt " not in found or b"data" not in found:
        raise BrokenContainerError(f"has no {'data' if b'fmt ' in found else 'fmt'} chunk where one must be")
    data = found[b"data"]
    layout = _wave_format(found[b"fmt "].content(file))
    layout = replace(layout, container="wav", start=data.start, tags=tags, id3_start=id3_start)
    return _bounded(layout, data.size, length)


def _riff_chunks(file: BinaryIO, length: int, sizes: dict[bytes, int]) -> Iterator[_Chunk]:
    """The chunks up to the end, or to what is none behind the data; `sizes` go before the 32 bits of a header.

    A chunk of odd length whose pad byte is missing is followed by a chunk nevertheless.
    """
    position, has_data = 12, False
    while position + 8 <= length:
        file.seek(position)
        name, size = struct.unpack("<4sI", file.read(8))
        if not _is_name(name):
            if has_data:
                return  # junk behind the audio
            raise BrokenContainerError(f"has no chunk at byte {position}, where one must begin: it is damaged")
        size = sizes.get(name, size)
        start = position + 8
        if name == b"data":
            has_data = True
            size = _data_size(file, start, size, length)
        yield _Chunk(name, start, size)
        position = start + size
        if size % 2 and not _is_unpadded(file, position):
            position += 1


def _is_name(name: bytes) -> bool:
    return all(32 <= byte < 127 for byte in name)


def _is_unpadded(file: BinaryIO, position: int) -> bool:
    """Whether a chunk begins right at an odd position, where a pad byte should be."""
    file.seek(position)
    header = file.read(9)
    return header[:4] in (b"data", b"fmt ", b"LIST", b"fact", b"smpl", b"bext", b"id3 ", b"cue ", b"JUNK", b"PAD ")


def _data_size(file: BinaryIO, start: int, size: int, length: int) -> int:
    """The size of the data: of a placeholder, all up to the end, unless there are chunks instead of audio."""
    if not is_placeholder(size):
        return size
    if size == 0:
        file.seek(start)
        header = file.read(8)
        if len(header) < 8 or (_is_name(header[:4]) and struct.unpack("<I", header[4:])[0] <= length - start - 8):
            return 0
    return size if size <= length - start and size else length - start


def _wave_format(content: bytes) -> Layout:
    if len(content) < 16:
        raise BrokenContainerError("has a fmt chunk that is too short: it is damaged")
    tag, channels, rate, _, align, bits = struct.unpack_from("<HHIIHH", content)
    if tag == _EXTENSIBLE and len(content) >= 40 and content[26:40] == _GUID_TAIL:
        tag = struct.unpack_from("<H", content, 24)[0]
    if tag in (1, 3) and channels and align % channels == 0:
        bits = 8 * (align // channels)  # 20 bits stand in 24
    subtype = "mpeg" if tag in _MPEG else _FORMATS.get((tag, bits), "")
    return Layout("wav", 0, 0, rate, channels, subtype)


def _bounded(layout: Layout, size: int, length: int) -> Layout:
    """The layout with as many bytes as there are."""
    there = max(0, min(size, length - layout.start))
    return replace(layout, length=there, missing=size - there)


def _info_tags(content: bytes, file_length: int) -> dict[str, str]:
    """The texts of a LIST chunk of type INFO.

    Raises:
        BrokenContainerError: a text is said to be longer than the file.
    """
    tags: dict[str, str] = {}
    position = 4
    while content.startswith(b"INFO") and position + 8 <= len(content):
        key, size = struct.unpack_from("<4sI", content, position)
        if size > file_length:
            raise BrokenContainerError(f"announces a text of {size} bytes, more than it has: it is damaged")
        name = _INFO_NAMES.get(key.decode("latin-1"))
        if name:
            tags[name] = _text(content[position + 8 : position + 8 + size])
        position += 8 + size + size % 2
    return tags


def _text(content: bytes) -> str:
    content = content.split(b"\0")[0]
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        return content.decode("cp1252", "replace")


def _loop_tags(content: bytes) -> dict[str, str]:
    """The first loop of a `smpl` chunk, by the names of the tags that FLAC and Ogg files have for it."""
    if len(content) < _SMPL.size:
        return {}
    loops, first, last = _SMPL.unpack_from(content)
    return {"loopstart": str(first), "looplength": str(last + 1 - first)} if loops else {}


def _parse_wave64(file: BinaryIO, length: int) -> Layout:
    """Wave64: names of 16 bytes, sizes of 64 bits that include the header, chunks at multiples of 8."""
    position, layout = 40, None
    while position + 24 <= length:
        file.seek(position)
        name, size = struct.unpack("<16sQ", file.read(24))
        if name == b"fmt " + _WAVE64_TAIL:
            layout = _wave_format(file.read(min(size, 64)))
        elif name == b"data" + _WAVE64_TAIL and layout:
            start = position + 24
            audio = length - start if size == 24 or is_placeholder(size) else size - 24
            return _bounded(replace(layout, container="w64", start=start), audio, length)
        position += max(24, -(-size // 8) * 8)
    raise BrokenContainerError("has no data chunk: it is cut off, or damaged")


def _parse_aiff(file: BinaryIO, length: int) -> Layout:
    found: dict[bytes, _Chunk] = {}
    texts: dict[str, str] = {}
    for chunk in _aiff_chunks(file, length):
        found.setdefault(chunk.name, chunk)
        if chunk.name in _AIFF_NAMES:
            texts[_AIFF_NAMES[chunk.name]] = _text(chunk.content(file))
    common = found[b"COMM"].content(file, 64) if b"COMM" in found else b""
    if len(common) < 18 or b"SSND" not in found:
        raise BrokenContainerError(f"has no {'SSND' if len(common) >= 18 else 'COMM'} chunk: it is cut off, or damaged")
    sound = found[b"SSND"]
    file.seek(8)
    layout = _aiff_format(common, file.read(4) == b"AIFC")
    id3_start = found[b"ID3 "].start if b"ID3 " in found else 0
    offset = 8 + int.from_bytes(sound.content(file, 4), "big")
    layout = replace(layout, start=sound.start + offset, tags=texts, id3_start=id3_start)
    if is_placeholder(sound.size):
        return _bounded(layout, length - layout.start, length)
    size, frames = sound.size - offset, struct.unpack_from(">I", common, 2)[0]
    if layout.subtype and frames and frames * layout.frame_bytes <= size:
        size = frames * layout.frame_bytes
    return _bounded(layout, size, length)


def _aiff_chunks(file: BinaryIO, length: int) -> Iterator[_Chunk]:
    """The chunks up to the end, or to what is none, or to one of unknown size."""
    position = 12
    while position + 8 <= length:
        file.seek(position)
        name, size = struct.unpack(">4sI", file.read(8))
        if not _is_name(name):
            return
        yield _Chunk(name, position + 8, size)
        if name == b"SSND" and is_placeholder(size):
            return
        position += 8 + size + size % 2


def _aiff_format(common: bytes, is_compressed: bool) -> Layout:
    channels, _, bits = struct.unpack_from(">hIh", common)
    exponent, mantissa = struct.unpack_from(">HQ", common, 8)
    rate = mantissa * 2.0 ** ((exponent & 0x7FFF) - 16383 - 63) if exponent & 0x7FFF < 16383 + 63 else 0.0
    subtype, little = _AIFC.get(common[18:22], (None, False)) if is_compressed else ("", False)
    if subtype == "":
        subtype = _SIGNED.get(-(-bits // 8) * 8, "")
    return Layout("aiff", 0, 0, round(rate), channels, subtype or "", little)


def _parse_au(file: BinaryIO, length: int) -> Layout:
    file.seek(0)
    order = ">" if file.read(4) == b".snd" else "<"
    start, size, encoding, rate, channels = struct.unpack(f"{order}5I", file.read(20).ljust(20, b"\0"))
    layout = Layout("au", start, 0, rate, channels, _AU.get(encoding, ""), order == "<")
    return _bounded(layout, length - start if is_placeholder(size) else size, length)


def _parse_caf(file: BinaryIO, length: int) -> Layout:
    position, layout = 8, None
    while position + 12 <= length:
        file.seek(position)
        name, size = struct.unpack(">4sq", file.read(12))
        if name == b"desc":
            layout = _caf_format(file.read(32).ljust(32, b"\0"))
        elif name == b"data" and layout:
            start = position + 16  # behind the number of edits
            return _bounded(replace(layout, start=start), length - start if size < 4 else size - 4, length)
        if size < 0:
            break
        position += 12 + size
    raise BrokenContainerError("has no data chunk: it is cut off, or damaged")


def _caf_format(content: bytes) -> Layout:
    rate, kind, flags, _, _, channels, bits = struct.unpack(">d4s5I", content)
    if kind == b"lpcm":
        subtype = {32: "FLOAT", 64: "DOUBLE"}.get(bits, "") if flags & 1 else _SIGNED.get(bits, "")
    else:
        subtype = {b"ulaw": "ULAW", b"alaw": "ALAW"}.get(kind, "")
    whole = round(rate) if 0 < rate < 1e9 else 0
    return Layout("caf", 0, 0, whole, channels, subtype, bool(flags & 2))


_PARSERS: tuple[tuple[Callable[[bytes], bool], Callable[[BinaryIO, int], Layout]], ...] = (
    (lambda magic: magic[:4] in (b"RIFF", b"RF64", b"BW64") and magic[8:12] == b"WAVE", _parse_riff),
    (lambda magic: magic[:16] == _WAVE64_RIFF, _parse_wave64),
    (lambda magic: magic[:4] == b"FORM" and magic[8:12] in (b"AIFF", b"AIFC"), _parse_aiff),
    (lambda magic: magic[:4] in (b".snd", b"dns."), _parse_au),
    (lambda magic: magic[:4] == b"caff", _parse_caf),
)
