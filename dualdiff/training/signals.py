"""How a training is stopped from outside: Ctrl-C, SIGTERM, and the end of its terminal."""

import contextlib
import logging
import signal
from types import FrameType
from typing import Any

from dualdiff.core.process import STOP_SIGNALS, heeded

log = logging.getLogger(__name__)


class StopSignals:
    """The first stop signal asks for a stop after the step; the second of the same kind stops at once.

    One of another kind asks for the same stop: a launcher passes on to its processes what the terminal has sent them
    already. The end of a terminal may be reported more than once, by the shell and by the system, and never stops at
    once.
    """

    def __init__(self) -> None:
        self.asked = False
        self._kinds: set[int] = set()
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopSignals":
        with contextlib.suppress(ValueError):  # signals belong to the main thread; elsewhere there is nothing to catch
            for kind in filter(heeded, STOP_SIGNALS):
                self._previous[kind] = signal.signal(kind, self._ask)
        return self

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if number in self._kinds:
            if number in (signal.SIGINT, signal.SIGTERM):
                raise KeyboardInterrupt
            return
        self._kinds.add(number)
        if self.asked:
            return
        self.asked = True
        log.warning("stopping after this step; once more stops at once, without saving")

    def __exit__(self, *_: object) -> None:
        for kind, handler in self._previous.items():
            signal.signal(kind, handler)
