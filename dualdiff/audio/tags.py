"""What libsndfile gets wrong in audio files: whether one was cut off, and the tags of WAV and MP3 files.

Byte layouts: RIFF (Microsoft and IBM, Multimedia Programming Interface 1.0, 1991), Ogg pages (RFC 3533), ID3v2.4 (its
"informal standard" of 2000). Only `audio` uses this module.
"""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from dualdiff.core.files import editing

_OGG_HEADER = 27
_OGG_LONGEST_PAGE = _OGG_HEADER + 255 + 255 * 255
_RIFF_UNKNOWN_SIZES = (0, 0xFFFFFFFF)  # what programs that write to a pipe leave behind
_SMPL = struct.Struct("<28xI12xII8x")  # how many loops; the first and the last sample of the first one
_INFO_NAMES = {"INAM": "title", "ICMT": "comment", "IART": "artist", "IPRD": "album"}
_ID3_NAMES = {"title": b"TIT2", "comment": b"COMM", "artist": b"TPE1", "album": b"TALB"}
_LONGEST_TAGS = 1 << 24
_FLAC_COMMENTS = 4  # the type of that block


def is_cut_off(path: Path) -> bool:
    """Whether an Ogg or WAV file ends in the middle of what its own structure announces.

    libsndfile reads such files as shorter ones without a word. An Ogg file that merely lacks its end-of-stream mark is
    accepted: recorded streams look like that.
    """
    with open(path, "rb") as file:
        magic = file.read(12)
        if magic[:4] == b"OggS":
            return _last_ogg_page_is_short(file)
        if magic[:4] == b"RIFF" and magic[8:] == b"WAVE":
            length = file.seek(0, 2)
            return any(start + size > length for _, start, size in _riff_chunks(file))
    return False


def _last_ogg_page_is_short(file: BinaryIO) -> bool:
    length = file.seek(0, 2)
    start = file.seek(max(0, length - _OGG_LONGEST_PAGE - _OGG_HEADER))
    tail = file.read()
    page = tail.rfind(b"OggS\x00")
    segments = tail[page + _OGG_HEADER :][: tail[page + _OGG_HEADER - 1]] if len(tail) - page >= _OGG_HEADER else None
    if page < 0 or segments is None or len(segments) < tail[page + _OGG_HEADER - 1]:
        return True
    return start + page + _OGG_HEADER + len(segments) + sum(segments) > length


def _riff_chunks(file: BinaryIO) -> Iterator[tuple[bytes, int, int]]:
    """The chunks of a WAV file as (name, position of the content, size); stops at one of unknown size."""
    position = 12
    while len(header := file.read(8) if file.seek(position) else b"") == 8:
        name, size = struct.unpack("<4sI", header)
        if size in _RIFF_UNKNOWN_SIZES and name == b"data":
            return
        yield name, position + 8, size
        position += 8 + size + size % 2


def wave_tags(path: Path) -> dict[str, str]:
    """The title, comment, artist and album of a WAV file, of any length (libsndfile drops all beyond 2 kB).

    And the first loop of a `smpl` chunk, by the names of the tags that FLAC and Ogg files have for it.
    """
    tags: dict[str, str] = {}
    with open(path, "rb") as file:
        for name, start, size in list(_riff_chunks(file)):
            file.seek(start)
            if name == b"LIST" and 4 <= size <= _LONGEST_TAGS and file.read(4) == b"INFO":
                tags |= _info_tags(file.read(size - 4))
            elif name == b"smpl" and size >= _SMPL.size and len(content := file.read(_SMPL.size)) == _SMPL.size:
                loops, first, last = _SMPL.unpack(content)
                tags |= {"loopstart": str(first), "looplength": str(last + 1 - first)} if loops else {}
    return tags


def _info_tags(content: bytes) -> dict[str, str]:
    tags, position = {}, 0
    while position + 8 <= len(content):
        key, size = struct.unpack_from("<4sI", content, position)
        name = _INFO_NAMES.get(key.decode("latin-1"))
        if name:
            tags[name] = content[position + 8 : position + 8 + size].rstrip(b"\0").decode("utf-8", "replace")
        position += 8 + size + size % 2
    return tags


def vorbis_comments(path: Path) -> dict[str, str]:
    """The tags of a FLAC or Ogg file (Vorbis, Opus) by their names in small letters; none where they are broken.

    libsndfile gives only some. Layouts: RFC 9639, section 8; RFC 3533; Vorbis I, section 5.
    """
    with open(path, "rb") as file:
        magic = file.read(4)
        if magic == b"OggS":
            packet = _second_ogg_packet(file)
            start = next((len(name) for name in (b"\x03vorbis", b"OpusTags") if packet.startswith(name)), len(packet))
            return _comments(packet[start:])
        while magic == b"fLaC" and len(header := file.read(4)) == 4:
            size = int.from_bytes(header[1:], "big")
            if header[0] & 0x7F == _FLAC_COMMENTS:
                return _comments(file.read(size))
            if header[0] & 0x80:  # the last block
                break
            file.seek(size, 1)
    return {}


def _second_ogg_packet(file: BinaryIO) -> bytes:
    """What follows the packet that names the codec; a packet ends with a segment of less than 255 bytes."""
    packet, packets = b"", 0
    file.seek(0)
    while (
        len(packet) < _LONGEST_TAGS and len(header := file.read(_OGG_HEADER)) == _OGG_HEADER and header[:4] == b"OggS"
    ):
        for size in file.read(header[-1]):
            segment = file.read(size)
            packet += segment if packets == 1 else b""
            packets += size < 255
            if packets == 2:
                return packet
    return b""


def _comments(content: bytes) -> dict[str, str]:
    """The list of a Vorbis comment header: the maker, then `NAME=text` each, all with their lengths before them."""
    tags: dict[str, str] = {}
    position = 8 + int.from_bytes(content[:4], "little")
    while position + 4 <= len(content):
        size = int.from_bytes(content[position : position + 4], "little")
        name, equals, text = content[position + 4 :][:size].decode("utf-8", "replace").partition("=")
        if equals:
            tags.setdefault(name.lower(), text)
        position += 4 + size
    return tags


def append_wave_tags(path: Path, tags: dict[str, str]) -> None:
    """Add tags (keys title, comment, artist, album) to the end of a WAV file that has none, as one LIST INFO chunk."""
    keys = {name: key for key, name in _INFO_NAMES.items()}
    content = b"INFO" + b"".join(_chunk(keys[name].encode(), text.encode() + b"\0") for name, text in tags.items())
    append_wave_chunk(path, b"LIST", content)


def append_wave_chunk(path: Path, name: bytes, content: bytes) -> None:
    """Add a chunk to the end of a WAV file."""
    with editing(path) as file:
        length = file.seek(0, 2)
        file.write(b"\0" * (length % 2) + _chunk(name, content))
        length = file.tell()
        file.seek(4)
        file.write(struct.pack("<I", length - 8))


def _chunk(name: bytes, content: bytes) -> bytes:
    return name + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)


def prepend_id3_tags(path: Path, tags: dict[str, str]) -> None:
    """Put tags (keys title, comment, artist, album) before an MP3 file that has none, in UTF-8, as ID3v2.4 says.

    libsndfile writes UTF-8 but says that it is Latin-1, so that players show every accent as two other letters.
    """
    frames = b"".join(_id3_frame(_ID3_NAMES[name], text) for name, text in tags.items())
    with editing(path) as file:
        audio = file.read()
        file.seek(0)
        file.write(b"ID3\x04\x00\x00" + _syncsafe(len(frames)) + frames + audio)


def _id3_frame(name: bytes, text: str) -> bytes:
    language = b"und\0" if name == b"COMM" else b""  # undetermined, and no name of the comment
    content = b"\x03" + language + text.encode()
    return name + _syncsafe(len(content)) + b"\0\0" + content


def _syncsafe(size: int) -> bytes:
    """28 bits as four bytes of seven, none of which looks like the start of audio."""
    return bytes(size >> shift & 0x7F for shift in (21, 14, 7, 0))
