"""Standard output and error whose reader may go away: a closed terminal, an ended `tee`, `less` that was quit."""

import errno
import io
import os
import sys
from typing import Any

GONE = frozenset({errno.EPIPE, errno.EIO, errno.ESHUTDOWN})
"""What writing to a pipe, a terminal or a socket without a reader fails with."""


class Outliving(io.RawIOBase):
    """A file descriptor that drops what is written to it once its reader is gone.

    `outlives`: whether to go on without a reader; else writing fails, as it does for any other file. `always`: whether
    to go on after any other failure, too, such as a full disk.
    """

    def __init__(self, descriptor: int, outlives: bool = False, always: bool = False) -> None:
        self.outlives, self.always = outlives, always
        self._file = io.FileIO(descriptor, "wb", closefd=False)
        self._is_gone = False

    def writable(self) -> bool:
        """Return true."""
        return True

    def fileno(self) -> int:
        """Return the file descriptor."""
        return self._file.fileno()

    def isatty(self) -> bool:
        """Return whether it is a terminal."""
        return self._file.isatty()

    def write(self, data: Any) -> int:
        """Write bytes; returns how many were taken, or dropped."""
        if not self._is_gone:
            try:
                return self._file.write(data) or 0
            except OSError as error:
                if not (self.always or (self.outlives and error.errno in GONE)):
                    raise
                self._is_gone = True
        return memoryview(data).nbytes


def open_streams() -> None:
    """Let standard error drop what nobody reads, and prepare standard output for `outlive_reader`.

    A stream that is closed at the start, as by `>&-`, is replaced by the null device. Names of files and games that
    the terminal's encoding lacks are escaped.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - to the end
            continue
        if not isinstance(stream, io.TextIOWrapper):
            continue
        stream.reconfigure(errors="backslashreplace")
        raw = getattr(stream.buffer, "raw", stream.buffer)
        if type(raw) is io.FileIO:  # not the console of Windows, which no reader leaves
            setattr(sys, name, _replaced(stream, raw.fileno(), always=name == "stderr"))


def _replaced(stream: io.TextIOWrapper, descriptor: int, always: bool) -> io.TextIOWrapper:
    return io.TextIOWrapper(
        io.BufferedWriter(Outliving(descriptor, always, always)),
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=stream.line_buffering or always,
        write_through=stream.write_through,
    )


def outlive_reader() -> None:
    """Go on, from here on, where the reader of standard output goes away: for commands whose work is files."""
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    if isinstance(raw, Outliving):
        raw.outlives = True
