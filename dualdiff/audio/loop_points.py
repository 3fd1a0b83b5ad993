"""Loop points in audio files, as game engines read them: tags in FLAC and Ogg, a `smpl` chunk in WAV.

LOOPSTART and LOOPLENGTH, in samples, are what RPG Maker introduced and most engines have taken over; `smpl` is of RIFF
(Microsoft and IBM 1991, revision 3). Only `audio` uses this module.
"""

import struct
from pathlib import Path

from dualdiff.audio.tags import append_wave_chunk
from dualdiff.core.files import editing

LOOPING = (".flac", ".ogg", ".opus", ".wav")
"""Suffixes of files that can loop to the sample. MP3 adds silence at both ends."""

_POLYNOMIAL = 0x04C11DB7  # of the check sum of Ogg pages, RFC 3533
_OGG_HEADER = 27


def placeholders(start: int, length: int) -> dict[str, str]:
    """Tags that libsndfile is to write in the place of the loop points: under names of its own, of the same length.

    It knows a fixed list of names only. "COPYRIGHT=" is as long as "LOOPSTART=", "LICENSE=" three letters shorter than
    "LOOPLENGTH=".
    """
    return {"copyright": str(start), "license": f"{length}***"}


def _renamed(start: int, length: int) -> list[tuple[bytes, bytes]]:
    """Each placeholder as it stands in the file, in small letters, and what it becomes."""
    held = placeholders(start, length)
    entries = [
        (f"copyright={held['copyright']}", f"LOOPSTART={start}"),
        (f"license={held['license']}", f"LOOPLENGTH={length}"),
    ]
    return [
        (struct.pack("<I", len(old)) + old.encode(), struct.pack("<I", len(new)) + new.encode()) for old, new in entries
    ]


def write_loop(path: Path, start: int, length: int, sample_rate: int) -> None:
    """Put loop points into a file that was just written with the `placeholders` as tags (WAV: with none)."""
    if path.suffix == ".wav":
        append_wave_chunk(path, b"smpl", _smpl(start, length, sample_rate))
        return
    content = bytearray(path.read_bytes())
    for old, new in _renamed(start, length):
        place = content.lower().index(old)
        content[place : place + len(new)] = new
        if path.suffix != ".flac":
            _seal_page(content, content.rindex(b"OggS", 0, place))
    with editing(path) as file:
        file.write(content)


def _smpl(start: int, length: int, sample_rate: int) -> bytes:
    """The content of a `smpl` chunk: one forward loop without end, at middle C; its last sample is part of it."""
    header = (0, 0, round(1e9 / sample_rate), 60, 0, 0, 0, 1, 0)
    return struct.pack("<9I6I", *header, 0, 0, start, start + length - 1, 0, 0)


def _seal_page(content: bytearray, page: int) -> None:
    """Give an Ogg page its check sum again."""
    segments = content[page + _OGG_HEADER : page + _OGG_HEADER + content[page + _OGG_HEADER - 1]]
    stop = page + _OGG_HEADER + len(segments) + sum(segments)
    content[page + 22 : page + 26] = bytes(4)
    content[page + 22 : page + 26] = struct.pack("<I", ogg_checksum(bytes(content[page:stop])))


def ogg_checksum(page: bytes) -> int:
    """The CRC of an Ogg page whose own field for it is zero."""
    table = []
    for byte in range(256):
        value = byte << 24
        for _ in range(8):
            value = (value << 1) ^ (_POLYNOMIAL if value & 0x80000000 else 0)
        table.append(value & 0xFFFFFFFF)
    checksum = 0
    for byte in page:
        checksum = ((checksum << 8) & 0xFFFFFFFF) ^ table[(checksum >> 24) ^ byte]
    return checksum
