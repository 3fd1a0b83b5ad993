"""Locks on folders: one process at a time trains a run, encodes latents or scans the music.

The operating system holds the lock and drops it with the process, however that ends. Next to it stands, for people and
for the error of the second process, who holds it.
"""

import json
import os
import re
import shlex
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from dualdiff.core.errors import DualdiffError
from dualdiff.core.files import discard, write_json_atomically

PATIENCE_S = 20.0
"""How long the lock of a dead process may still be held by its children, which notice its end within seconds."""


@contextmanager
def locked(path: Path, doing: str) -> Iterator[None]:
    """Hold the lock `path` while the block runs; `doing` says what its holder does, as "runs/unet is trained".

    `path` holds who has the lock, as JSON, and is there only that long; the lock itself is the hidden file next to it.

    Raises:
        DualdiffError: another process holds it, or it cannot be written.
    """
    lock = FileLock(path.with_name(f".{path.name}"), timeout=0, thread_local=False)
    try:
        _acquire(lock, path, doing)
    except OSError as error:
        raise DualdiffError(
            f"{path} cannot be written: {error.strerror or error}", "check space and permissions"
        ) from error
    try:
        write_json_atomically(path, _this_process())
        yield
    finally:
        discard(path.parent, re.compile(re.escape(path.name)))
        lock.release()


def _acquire(lock: FileLock, path: Path, doing: str) -> None:
    until_s = time.monotonic() + PATIENCE_S
    while True:
        try:
            lock.acquire()
            return
        except Timeout as error:
            holder = _read(path)
            if not _is_dead(holder) or time.monotonic() > until_s:
                raise DualdiffError(
                    f"{doing} already, by {_words(holder)}", "wait until it ends, or stop it and run this again"
                ) from error
        time.sleep(0.1)


def _this_process() -> dict[str, Any]:
    program = Path(sys.argv[0]).name.removesuffix(".exe") if sys.argv else "python"
    command = shlex.join(["dualdiff" if program == "__main__.py" else program, *sys.argv[1:]])
    now = datetime.now().astimezone().isoformat(timespec="seconds")
    return {"pid": os.getpid(), "host": socket.gethostname(), "command": command, "since": now}


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _is_dead(holder: dict[str, Any]) -> bool:
    """Whether the holder is a process of this machine that has ended; without children Windows drops a lock at once."""
    pid = holder.get("pid")
    if os.name != "posix" or not isinstance(pid, int) or pid <= 0 or holder.get("host") != socket.gethostname():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


def _words(holder: dict[str, Any]) -> str:
    if "pid" not in holder:
        return "another process"
    command = "".join(letter if letter.isprintable() else "?" for letter in str(holder.get("command", "")))[:80]
    where = "" if holder.get("host") == socket.gethostname() else f" on {holder.get('host')}"
    return f"process {holder['pid']}{where} ({command}, since {holder.get('since')})"
