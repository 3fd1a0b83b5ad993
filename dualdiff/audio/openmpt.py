"""Tracker modules by libopenmpt: their notes, where each row lies in time, and their audio at another tempo.

The library is loaded when it is first needed; Debian's ffmpeg brings it along. Its functions are those of libopenmpt
0.5 and later (https://lib.openmpt.org/doc/group__libopenmpt__c.html).
"""

import ctypes
import ctypes.util
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from dualdiff.core.errors import DataError

GET_LIBRARY = "install libopenmpt (Debian, Ubuntu: apt install libopenmpt0; macOS: brew install libopenmpt)"

LONGEST_S = 3600.0
_STEP = 64  # frames read at once: 2 ms at 32 kHz, the precision of the times of rows
_RELEASE_S = 0.11  # how long the library lets notes die away behind the end, at most
_NOTE, _INSTRUMENT = 0, 1  # numbers of a cell's commands
_INTERPOLATION = 3  # number of a parameter of rendering
_LAST_NOTE = 120
_HANDLE, _INT, _DOUBLE, _TEXT = ctypes.c_void_p, ctypes.c_int32, ctypes.c_double, ctypes.c_void_p
_FUNCTIONS: dict[str, tuple[Any, list[Any]]] = {
    "create_from_memory2": (_HANDLE, [ctypes.c_char_p, ctypes.c_size_t, *[ctypes.c_void_p] * 7]),
    "destroy": (None, [_HANDLE]),
    "select_subsong": (ctypes.c_int, [_HANDLE, _INT]),
    "set_repeat_count": (ctypes.c_int, [_HANDLE, _INT]),
    "ctl_set": (ctypes.c_int, [_HANDLE, ctypes.c_char_p, ctypes.c_char_p]),
    "set_render_param": (ctypes.c_int, [_HANDLE, ctypes.c_int, _INT]),
    "read_interleaved_float_stereo": (ctypes.c_size_t, [_HANDLE, _INT, ctypes.c_size_t, ctypes.c_void_p]),
    "get_current_order": (_INT, [_HANDLE]),
    "get_current_pattern": (_INT, [_HANDLE]),
    "get_current_row": (_INT, [_HANDLE]),
    "get_num_orders": (_INT, [_HANDLE]),
    "get_num_channels": (_INT, [_HANDLE]),
    "get_order_pattern": (_INT, [_HANDLE, _INT]),
    "get_pattern_num_rows": (_INT, [_HANDLE, _INT]),
    "get_pattern_row_channel_command": (ctypes.c_uint8, [_HANDLE, _INT, _INT, _INT, ctypes.c_int]),
    "get_sample_name": (_TEXT, [_HANDLE, _INT]),
    "get_instrument_name": (_TEXT, [_HANDLE, _INT]),
    "get_num_samples": (_INT, [_HANDLE]),
    "get_num_instruments": (_INT, [_HANDLE]),
}


@lru_cache(maxsize=1)
def _library() -> ctypes.CDLL | None:
    """The library with its functions declared; None where it is missing or too old."""
    name = ctypes.util.find_library("openmpt")
    try:
        library = ctypes.CDLL(name) if name else None
        for function, (result, arguments) in _FUNCTIONS.items() if library else ():
            entry = getattr(library, f"openmpt_module_{function}")
            entry.restype, entry.argtypes = result, arguments
    except (OSError, AttributeError):
        return None
    return library


def has_library() -> bool:
    """Whether libopenmpt is on this machine."""
    return _library() is not None


@dataclass(frozen=True)
class PlayedRow:
    """A row of a module as it plays: when it begins, its number in its pattern, that pattern's rows, and its notes."""

    time_s: float
    row: int
    rows: int
    notes: int


class Module:
    """An open module."""

    def __init__(self, library: ctypes.CDLL, handle: int) -> None:
        self._library, self._handle = library, handle

    def _call(self, function: str, *arguments: Any) -> Any:
        return getattr(self._library, f"openmpt_module_{function}")(self._handle, *arguments)

    def names(self, kind: str) -> list[str]:
        """The names of its samples or instruments (`kind` "sample" or "instrument"), the first one at index 0."""
        return [self._text(f"get_{kind}_name", index) for index in range(self._call(f"get_num_{kind}s"))]

    def _text(self, function: str, index: int) -> str:
        address = self._call(function, index)
        text = ctypes.string_at(address).decode("utf-8", "replace") if address else ""
        free = self._library.openmpt_free_string
        free.restype, free.argtypes = None, [ctypes.c_void_p]
        free(address)
        return text

    def notes(self) -> Iterator[tuple[int, int]]:
        """The notes in the order of its patterns, each once for each time it plays: instrument (from 1), note (from 1).

        An instrument column left empty means the channel's last one.
        """
        last: dict[int, int] = {}
        channels = self._call("get_num_channels")
        for order in range(self._call("get_num_orders")):
            pattern = self._call("get_order_pattern", order)
            for row in range(self._call("get_pattern_num_rows", pattern)):
                for channel in range(channels):
                    note, instrument = (
                        self._call("get_pattern_row_channel_command", pattern, row, channel, command)
                        for command in (_NOTE, _INSTRUMENT)
                    )
                    last[channel] = instrument or last.get(channel, 0)
                    if 0 < note <= _LAST_NOTE and last[channel]:
                        yield last[channel], note

    def play(
        self, sample_rate: int, *, tempo: float = 1.0, subsong: int | None = None
    ) -> Iterator[np.ndarray[Any, Any]]:
        """Its audio from start to end at `tempo` times its own, (T, 2) float32, in blocks of some seconds.

        Drums and notes keep their pitch: rows come faster, samples do not play faster.
        """
        for block, _ in self._blocks(sample_rate, sample_rate * 4, tempo, subsong):
            yield block

    def played_rows(self, *, tempo: float = 1.0, subsong: int | None = None) -> list[PlayedRow]:
        """The rows that play, from start to end."""
        sample_rate = 32000
        self._call("set_render_param", _INTERPOLATION, 1)  # none: only the times matter
        found: list[PlayedRow] = []
        place, is_back, frames = (-1, -1), False, 0
        for block, (order, pattern, row) in self._blocks(sample_rate, _STEP, tempo, subsong):
            if (order, row) != place:
                place, is_back = (order, row), (order, row) < place
                rows = self._call("get_pattern_num_rows", pattern)
                found.append(PlayedRow(frames / sample_rate, row, rows, self._notes_at(pattern, row)))
            frames += len(block)
        has_ended = is_back and frames / sample_rate - found[-1].time_s <= _RELEASE_S  # what would play again
        return found[:-1] if has_ended else found

    def _notes_at(self, pattern: int, row: int) -> int:
        cells = range(self._call("get_num_channels"))
        notes = (self._call("get_pattern_row_channel_command", pattern, row, cell, _NOTE) for cell in cells)
        return sum(0 < note <= _LAST_NOTE for note in notes)

    def _blocks(
        self, sample_rate: int, size: int, tempo: float, subsong: int | None
    ) -> Iterator[tuple[np.ndarray[Any, Any], tuple[int, int, int]]]:
        """Blocks of audio, and order, pattern and row at the end of each."""
        self._call("set_repeat_count", 0)
        if subsong is not None:
            self._call("select_subsong", subsong)
        self._call("ctl_set", b"play.tempo_factor", f"{tempo:.6f}".encode())
        buffer = np.empty((size, 2), np.float32)
        frames = 0
        while frames < LONGEST_S * sample_rate:
            count = self._call("read_interleaved_float_stereo", sample_rate, size, buffer.ctypes.data)
            if not count:
                return
            frames += count
            place = [self._call(f"get_current_{what}") for what in ("order", "pattern", "row")]
            yield buffer[:count].copy(), (place[0], place[1], place[2])


@contextmanager
def opened(content: bytes, name: str) -> Iterator[Module]:
    """A module from its bytes; `name` names it in errors.

    Raises:
        DataError: libopenmpt is missing, or cannot read it.
    """
    library = _library()
    if library is None:
        raise DataError(f"only libopenmpt plays {name}, and it is not on this machine", GET_LIBRARY)
    error = ctypes.c_int(0)
    handle = library.openmpt_module_create_from_memory2(
        content, len(content), None, None, None, None, ctypes.byref(error), None, None
    )
    if not handle:
        raise DataError(f"{name} cannot be read by libopenmpt: it is damaged, or of a kind that it does not know", "")
    try:
        yield Module(library, handle)
    finally:
        library.openmpt_module_destroy(handle)
