"""Work that is killed with SIGKILL after so many calls of functions, in a process of its own."""

import os
import signal
import sys
from collections.abc import Callable, Collection

CHANGES = {"chmod", "fsync", "link", "mkdir", "open", "rename", "replace", "rmdir", "unlink", "write"}
"""The functions of the system's interface that change files."""


def killed_after(calls: int, work: Callable[[], None], only: Collection[str] = ()) -> bool:
    """Do the work in a child process that kills itself (SIGKILL) after so many calls of functions; was it killed?

    With `only`, built-in functions of these names are counted, and it is killed before the last of so many calls.
    """
    child = os.fork()
    if child == 0:
        left, own = calls, os.getpid()

        def count(_: object, event: str, called: object) -> None:
            nonlocal left
            left -= not only or (event == "c_call" and getattr(called, "__name__", "") in only)
            if left <= 0 and os.getpid() == own:  # workers that load data inherit this
                os.kill(own, signal.SIGKILL)

        sys.setprofile(count)
        try:
            work()
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def calls_of(work: Callable[[Callable[[], None]], None]) -> tuple[int, int]:
    """How many calls of functions the work takes until it says that it begins in earnest, and in all."""
    count, before = 0, 0

    def one_more(*_: object) -> None:
        nonlocal count
        count += 1

    def begins() -> None:
        nonlocal before
        before = count

    sys.setprofile(one_more)
    try:
        work(begins)
    finally:
        sys.setprofile(None)
    return before, count
