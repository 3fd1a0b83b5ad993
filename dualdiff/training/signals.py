"""How a training is stopped from outside: Ctrl-C and SIGTERM."""

import contextlib
import logging
import signal
from types import FrameType
from typing import Any

log = logging.getLogger(__name__)


class StopSignals:
    """The first Ctrl-C or SIGTERM asks for a stop after the step; the second stops at once."""

    def __init__(self) -> None:
        self.asked = False
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopSignals":
        with contextlib.suppress(ValueError):  # signals belong to the main thread; elsewhere there is nothing to catch
            for kind in (signal.SIGINT, signal.SIGTERM):
                self._previous[kind] = signal.signal(kind, self._ask)
        return self

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        log.warning("stopping after this step; once more stops at once, without saving")

    def __exit__(self, *_: object) -> None:
        for kind, handler in self._previous.items():
            signal.signal(kind, handler)
