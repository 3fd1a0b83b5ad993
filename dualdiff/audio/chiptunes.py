"""What game music files without samples of their own say in their headers: how many tunes, how long, how to end.

Byte layouts: SPC with ID666 and extended ID666 tags (snesmusic.org, "SPC File Format v0.31"), NSF (nesdev wiki), GBS
(ocremix.org, "GBS"), VGM (vgmrips wiki), SAP (asap.sourceforge.net), AY ("ZXAYEMUL").
"""

import gzip
import re
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

_HEADER = 1 << 12
_SPC_TICKS = 64000  # a second of the extended ID666 tag
_VGM_RATE = 44100
_SPC_TAGGED, _SPC_REGISTERS, _SPC_TAG, _SPC_RAM = 0x23, 0x24, 0x2E, 0x100
_SPC_END = 0x10200  # where the extended tag begins
_MOST_TUNES = 256
_LONGEST_S = 24 * 3600


@dataclass(frozen=True, kw_only=True)
class PlayingTime:
    """How long a tune plays at full level, and how long it then fades, seconds; None where the file does not say."""

    length_s: float
    fade_s: float | None


def count_tunes(path: Path) -> int:
    """How many tunes a file holds: several in NSF, GBS, SAP and AY files, else one.

    Raises:
        OSError: the file cannot be read.
    """
    with open(path, "rb") as file:
        header = file.read(_HEADER)
    count = 1
    if header.startswith(b"NESM\x1a"):
        count = header[6]
    elif header.startswith(b"GBS"):
        count = header[4]
    elif header.startswith(b"ZXAYEMUL") and len(header) > 16:
        count = header[16] + 1
    elif header.startswith(b"SAP"):
        songs = re.search(rb"^SONGS (\d+)", header, re.MULTILINE)
        count = int(songs[1]) if songs else 1
    return min(max(count, 1), _MOST_TUNES)


def playing_time(path: Path) -> PlayingTime | None:
    """How long the tune of a file plays, from the tags of SPC and the header of VGM files; None where nothing says.

    Raises:
        OSError: the file cannot be read.
    """
    content = path.read_bytes()
    if content.startswith(b"SNES-SPC700"):
        return _spc_extended(content[_SPC_END:]) or _spc_time(content)
    if content.startswith(b"\x1f\x8b"):
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error):
            return None
    return _vgm_time(content) if content.startswith(b"Vgm ") else None


def without_times(path: Path) -> bytes:
    """An SPC file without its tags: libgme then plays it on and on, instead of breaking off at the tag's length.

    Raises:
        OSError: the file cannot be read.
    """
    content = bytearray(path.read_bytes()[:_SPC_END])
    content[_SPC_TAGGED:_SPC_REGISTERS] = b"\x1b"  # 27: there is no tag
    content[_SPC_TAG:_SPC_RAM] = bytes(len(content[_SPC_TAG:_SPC_RAM]))
    return bytes(content)


def _spc_time(content: bytes) -> PlayingTime | None:
    """The ID666 tag: seconds as text in three bytes and the fade in milliseconds in five, or both as numbers."""
    if len(content) < 0xB1 or content[_SPC_TAGGED] != 26:
        return None
    seconds, fade = content[0xA9:0xAC], content[0xAC:0xB1]
    if _is_digits(seconds) and _is_digits(fade):
        return _time(_number(seconds), _number(fade) / 1000)
    return _time(int.from_bytes(seconds[:2], "little"), int.from_bytes(fade[:4], "little") / 1000)


def _is_digits(text: bytes) -> bool:
    return bool(re.fullmatch(rb"\d*[\0 ]*", text))


def _number(text: bytes) -> int:
    return int(text.strip(b"\0 ") or b"0")


def _time(length_s: float, fade_s: float | None) -> PlayingTime | None:
    if not 0 < length_s < _LONGEST_S or (fade_s or 0) >= _LONGEST_S:
        return None
    return PlayingTime(length_s=length_s, fade_s=fade_s)


def _spc_extended(chunk: bytes) -> PlayingTime | None:
    """The extended tag: introduction, loop, end and fade in 1/64000 s, and how often the loop is played."""
    if not chunk.startswith(b"xid6"):
        return None
    content = chunk[8 : 8 + int.from_bytes(chunk[4:8], "little")]
    numbers, position = {}, 0
    while position + 4 <= len(content):
        key, kind, value = struct.unpack_from("<BBH", content, position)
        position += 4
        if kind:  # the value is a length, and the value follows, padded to four bytes
            numbers[key] = int.from_bytes(content[position : position + value], "little")
            position += -(-value // 4) * 4
        else:
            numbers[key] = value
    intro, loop, end = (numbers.get(key, 0) / _SPC_TICKS for key in (0x30, 0x31, 0x32))
    fade_s = numbers[0x33] / _SPC_TICKS if 0x33 in numbers else None
    return _time(intro + loop * numbers.get(0x35, 1) + end, fade_s)


def _vgm_time(content: bytes) -> PlayingTime | None:
    """The header's samples: all up to the end, and of them those of the loop, which is played twice, then fades."""
    if len(content) < 0x24:
        return None
    total, _, loop = struct.unpack_from("<III", content, 0x18)
    return _time((total + loop) / _VGM_RATE, None if loop else 0.0)
