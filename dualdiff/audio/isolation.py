"""Decode files of unknown origin in a process of their own, which may hang, crash or run out of memory.

The process is reused for all files; it has a limit per file in proportion to the file's size. It is started as a
program, not by multiprocessing, so that scripts without a main guard can read audio, and what it sends is numbers and
JSON, not pickles. `decoding_process` is its other end.
"""

import atexit
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from dualdiff.audio import decoding
from dualdiff.audio import decoding_process as other_end
from dualdiff.audio.stream import REPAIR, WHOLE, Block, Excerpt, NotDecodableError, Stream
from dualdiff.core.errors import DataError

BASE_S, BYTES_PER_S, MOST_S = 5.0, 50_000, 900.0
"""The limit for a file, in seconds of computing: a base, and one second per so many bytes, up to a maximum."""

WAITING = 4
"""A decoder may be waited for this many times as long, on a machine that does other work, too."""

_CODE = "import sys; sys.path[:] = {path!r}; from dualdiff.audio.decoding_process import serve; serve()"
_idle: "list[_Process]" = []
_lock = threading.Lock()


@contextmanager
def stream(path: Path, excerpt: Excerpt = WHOLE, count: bool = False) -> Iterator[Stream]:
    """Decode an excerpt of a file in another process; with `count`, count its frames, and no more.

    Raises:
        DataError, NotDecodableError: as `decoding.stream`; or the decoder takes too long, crashes or fails.
    """
    if os.name != "posix":  # without limits on a process, and without pipes that can be waited for
        with decoding.stream(path, excerpt, count) as own:
            yield own
        return
    process = _take()
    try:
        answer = process.ask(path, excerpt, count)
        kind, content = next(answer)
        assert kind == other_end.HEAD
        notes: list[str] = []
        head = json.loads(content)
        yield Stream(**head, blocks=_blocks(answer, head["channels"], notes), notes=notes)
    finally:
        _give_back(process)


def _blocks(answer: "Iterator[tuple[bytes, bytearray]]", channels: int, notes: list[str]) -> Iterator[Block]:
    for kind, content in answer:
        if kind == other_end.END:
            notes += json.loads(content)
            return
        yield np.frombuffer(content, np.float32).reshape(-1, channels)


def limit_s(path: Path) -> float:
    """Seconds of computing that a file may take."""
    try:
        return min(BASE_S + path.stat().st_size / BYTES_PER_S, MOST_S)
    except OSError:
        return BASE_S


class _Process:
    """A decoding process."""

    def __init__(self) -> None:
        command = [sys.executable, "-I", "-c", _CODE.format(path=sys.path)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
        )
        self.is_idle = True

    def ask(self, path: Path, excerpt: Excerpt, count: bool) -> Iterator[tuple[bytes, bytearray]]:
        """Send a request; yield the messages of the answer up to its end.

        Raises:
            DataError, NotDecodableError: as `stream`.
        """
        self.is_idle = False
        limit = limit_s(path)
        request = {
            "path": str(path),
            "cwd": os.getcwd(),
            "excerpt": vars(excerpt),
            "count": count,
            "cpu_s": limit,
        }
        deadline = Deadline(WAITING * limit)
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
            while True:
                kind, length = other_end.MESSAGE.unpack(self._read(other_end.MESSAGE.size, deadline))
                content = self._read(length, deadline)
                self.is_idle = kind not in (other_end.HEAD, other_end.BLOCK)
                _raise_failure(path, kind, content)
                yield kind, content
                if self.is_idle:
                    return
        except (EOFError, BrokenPipeError) as error:
            raise self._failure(path, limit) from error
        except TimeoutError as error:
            raise _too_long(path, deadline.waited_s) from error

    def _read(self, count: int, deadline: "Deadline") -> bytearray:
        assert self._process.stdout is not None
        content = bytearray()
        descriptor = self._process.stdout.fileno()
        while len(content) < count:
            deadline.wait_for(descriptor)
            piece = os.read(descriptor, min(count - len(content), 1 << 20))
            if not piece:
                raise EOFError
            content += piece
        return content

    def _failure(self, path: Path, limit: float) -> DataError:
        """What the end of the process means."""
        code = self._process.wait()
        if code == -getattr(signal, "SIGXCPU", 0):
            return _too_long(path, limit)
        what = f"signal {-code}" if code < 0 else f"exit code {code}"
        return DataError(f"{path} makes its decoder crash ({what}): it is damaged, or memory ran out", REPAIR)

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            with suppress(OSError):
                pipe and pipe.close()
        self._process.wait()


def _raise_failure(path: Path, kind: bytes, content: bytearray) -> None:
    if kind == other_end.REFUSED:
        raise DataError(*json.loads(content))
    if kind == other_end.UNKNOWN:
        raise NotDecodableError(json.loads(content))
    if kind == other_end.UNEXPECTED:
        raise DataError(f"{path} cannot be decoded: {json.loads(content)}", REPAIR)


def _too_long(path: Path, seconds: float) -> DataError:
    return DataError(f"{path} keeps its decoder busy for more than {seconds:.0f} s: it is damaged", REPAIR)


class Deadline:
    """A limit on the time spent waiting; what the reader does between is not counted."""

    def __init__(self, limit_s: float) -> None:
        self._limit_s, self.waited_s = limit_s, 0.0

    def wait_for(self, descriptor: int) -> None:
        """Wait until something can be read.

        Raises:
            TimeoutError: the limit is reached.
        """
        began = time.monotonic()
        ready, _, _ = select.select([descriptor], [], [], max(0.0, self._limit_s - self.waited_s))
        self.waited_s += time.monotonic() - began
        if not ready:
            raise TimeoutError


def _take() -> _Process:
    with _lock:
        return _idle.pop() if _idle else _Process()


def _give_back(process: _Process) -> None:
    if not process.is_idle:  # in the middle of a file
        process.close()
        return
    with _lock:
        _idle.append(process)


def _forget() -> None:
    """After a fork, the processes belong to the parent."""
    global _lock
    _lock = threading.Lock()
    _idle.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def close_idle() -> None:
    """End the processes that wait for work."""
    with _lock:
        while _idle:
            _idle.pop().close()


atexit.register(close_idle)
