"""The process that decodes files of unknown origin: requests come on its input, answers go to its output.

A request is a line of JSON. An answer is a sequence of messages, each a letter, its length in eight bytes and its
content: `HEAD` once, `BLOCK` any number of times, then `END`; or one of the three kinds of failure. `isolation` is the
other end. The process ends when its input does.
"""

import json
import os
import queue
import struct
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from dualdiff.audio import decoding
from dualdiff.audio.stream import Excerpt, NotDecodableError
from dualdiff.core.errors import DataError

HEAD, BLOCK, END = b"h", b"b", b"e"
REFUSED, UNKNOWN, UNEXPECTED = b"r", b"u", b"x"
"""A message with its hint; libsndfile does not know the file; an error of another kind."""

MESSAGE = struct.Struct("<cQ")
LONGEST_WARNINGS = 1 << 20
WARNINGS_KEPT = 3


def serve() -> None:
    """Answer requests until there are no more."""
    output = os.dup(1)
    warnings = _own_stderr()
    requests: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(requests,), daemon=True).start()
    while True:
        _answer(json.loads(requests.get()), output, warnings)


def _receive(requests: "queue.SimpleQueue[str]") -> None:
    """Put the lines of the input into a queue; leave when it ends, even from the middle of a decoder that hangs."""
    for line in sys.stdin:
        requests.put(line)
    os._exit(0)


def _own_stderr() -> int:
    """Send what libraries write to the outputs into a file without a name, of bounded length."""
    import resource  # not on Windows, where no such process is started

    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
    os.dup2(2, 1)
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_FSIZE, (LONGEST_WARNINGS, hard))
        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    return 2


def _answer(request: dict[str, Any], output: int, warnings: int) -> None:
    def send(kind: bytes, content: bytes) -> None:
        unsent = memoryview(MESSAGE.pack(kind, len(content)) + content)
        while unsent:
            unsent = unsent[os.write(output, unsent) :]

    def table(kind: bytes, value: Any) -> None:
        send(kind, json.dumps(value).encode())

    os.ftruncate(warnings, 0)
    os.lseek(warnings, 0, os.SEEK_SET)
    _limit_cpu(request["cpu_s"])
    try:
        os.chdir(request["cwd"])
        excerpt = Excerpt(**request["excerpt"])
        with decoding.stream(Path(request["path"]), excerpt, request["count"]) as stream:
            names = ("sample_rate", "channels", "format", "tags", "frames", "is_seekable", "is_lossy", "start")
            table(HEAD, {name: getattr(stream, name) for name in names})
            for block in stream.blocks if not request["count"] else ():
                send(BLOCK, block.tobytes())
            table(END, [*stream.notes, *_lines(warnings)])
    except DataError as error:
        table(REFUSED, [error.message, error.hint])
    except NotDecodableError as error:
        table(UNKNOWN, str(error))
    except Exception as error:  # noqa: BLE001 - whatever a file does to its decoder is reported as that file's
        table(UNEXPECTED, f"{type(error).__name__}: {error}")
    finally:
        _limit_cpu(None)


def _limit_cpu(seconds: float | None) -> None:
    """End this process by a signal once it has computed for so much longer."""
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    soft = resource.RLIM_INFINITY if seconds is None else int(time.process_time() + seconds) + 1
    if hard != resource.RLIM_INFINITY:
        soft = min(hard if seconds is None else soft, hard)
    resource.setrlimit(resource.RLIMIT_CPU, (soft, hard))


def _lines(warnings: int) -> list[str]:
    """The first lines that libraries have written, each once."""
    text = os.pread(warnings, LONGEST_WARNINGS, 0).decode("utf-8", "replace")
    lines = list(dict.fromkeys(" ".join(line.split()) for line in text.splitlines() if line.strip()))
    more = [f"and {len(lines) - WARNINGS_KEPT} more warnings"] if len(lines) > WARNINGS_KEPT else []
    return [line[:200] for line in lines[:WARNINGS_KEPT]] + more
