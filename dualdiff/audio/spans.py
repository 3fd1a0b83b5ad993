"""Read-only files composed of parts of another file and of bytes from memory, for decoders that take file objects."""

import bisect
from collections.abc import Iterable
from io import SEEK_CUR, SEEK_END, SEEK_SET
from itertools import accumulate
from typing import BinaryIO, TypeAlias

Part: TypeAlias = "bytes | tuple[int, int]"
"""Bytes, or the (start, length) of a part of the underlying file."""


class Spans:
    """A file object whose content is a sequence of parts."""

    def __init__(self, file: BinaryIO, parts: Iterable[Part]) -> None:
        self._file = file
        self._parts = _merged(parts)
        self._ends = list(accumulate(map(_length, self._parts)))
        self._position = 0

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def seek(self, offset: int, whence: int = SEEK_SET) -> int:
        """Move as files do."""
        self._position = {SEEK_SET: 0, SEEK_CUR: self._position, SEEK_END: len(self)}[whence] + offset
        return self._position

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def read(self, count: int = -1) -> bytes:
        """Read as files do; less where the underlying file has become shorter."""
        stop = len(self) if count < 0 else min(self._position + count, len(self))
        pieces = []
        while self._position < stop:
            index = bisect.bisect_right(self._ends, self._position)
            part, start = self._parts[index], self._ends[index] - _length(self._parts[index])
            first, last = self._position - start, min(stop, self._ends[index]) - start
            if isinstance(part, bytes):
                piece = part[first:last]
            else:
                self._file.seek(part[0] + first)
                piece = self._file.read(last - first)
            pieces.append(piece)
            self._position += len(piece)
            if len(piece) < last - first:
                break
        return b"".join(pieces)

    def write(self, content: bytes) -> int:
        """Refuse: soundfile only checks that the method exists."""
        raise OSError("read-only")


def _length(part: Part) -> int:
    return len(part) if isinstance(part, bytes) else part[1]


def _merged(parts: Iterable[Part]) -> list[Part]:
    """The parts without empty ones, neighbours of the file joined."""
    merged: list[Part] = []
    for part in parts:
        last = merged[-1] if merged else b""
        if isinstance(part, tuple) and isinstance(last, tuple) and last[0] + last[1] == part[0]:
            merged[-1] = (last[0], last[1] + part[1])
        elif _length(part):
            merged.append(part)
    return merged
