"""Loop points in audio files, as game engines read them: tags in FLAC and Ogg, a `smpl` chunk in WAV.

LOOPSTART and LOOPLENGTH, in samples, are what RPG Maker introduced and most engines have taken over; `smpl` is of RIFF
(Microsoft and IBM 1991, revision 3). Only `audio` uses this module.
"""

import struct
from pathlib import Path

from dualdiff.audio import ogg, tags
from dualdiff.core.files import editing

LOOPING = (".flac", ".ogg", ".opus", ".wav")
"""Suffixes of files that can loop to the sample. MP3 adds silence at both ends."""


def write_loop(path: Path, start: int, length: int, sample_rate: int) -> None:
    """Put loop points into a file of `staged` that was just written."""
    if path.suffix == ".wav":
        tags.append_wave_chunk(path, b"smpl", _smpl(start, length, sample_rate))
        return
    points = {"LOOPSTART": str(start), "LOOPLENGTH": str(length)}
    if path.suffix == ".flac":
        tags.add_flac_comments(path, points)
        return
    with editing(path) as file:
        comments = ogg.comment_header(file, ogg.read_layout(file).links[0])
        content = ogg.with_comments(file, tags.comments_with(comments, points))
        file.seek(0)
        file.write(content)


def _smpl(start: int, length: int, sample_rate: int) -> bytes:
    """The content of a `smpl` chunk: one forward loop without end, at middle C; its last sample is part of it."""
    header = (0, 0, round(1e9 / sample_rate), 60, 0, 0, 0, 1, 0)
    return struct.pack("<9I6I", *header, 0, 0, start, start + length - 1, 0, 0)
