"""A training that is to take so many hours: how many steps that is, planned once and corrected all the way.

The number of steps may be corrected after each one without changing any that was done: the learning rate depends on
the step, and where it decays in a straight line on the number of steps planned so far.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from dualdiff.training.config import TrainConfig

Clock = Callable[[], float]
"""Seconds that only rise."""

WINDOW = 50
"""Steps whose pace the rest is planned by."""

EVENTS = ("validate", "preview", "save")
"""What comes after the last step, and may take long."""

TRIED_AFTER = 0.1
"""The share of the time after which an event that has not come up is tried, to know how long it takes at the end."""


class Budget:
    """Time for a training: `spent_s` of it is gone, over all the times it was started; the rest is planned.

    `step_ended` is told of each step and says how many there will be in all. What comes after the last step (a
    validation, a preview, a checkpoint) is taken to last as long as it did the last time.
    """

    def __init__(
        self,
        total_s: float,
        spent_s: float = 0.0,
        clock: Clock = time.monotonic,
        closing_s: Mapping[str, float] = MappingProxyType({}),
    ) -> None:
        """`closing_s` are the seconds that events are known to take, from an earlier start."""
        self.total_s = total_s
        self._before_s, self._clock = spent_s, clock
        self._started_s = clock()
        self._step_started_s = self._started_s
        self._pace: deque[float] = deque(maxlen=WINDOW)
        self.closing_s = dict(closing_s)

    @property
    def untried(self) -> list[str]:
        """The events that should come up now, because it is not known yet how long they take."""
        is_time = self.spent_s > TRIED_AFTER * self.total_s
        return [event for event in EVENTS if is_time and event not in self.closing_s]

    @property
    def spent_s(self) -> float:
        """Seconds used of the whole, those of earlier starts included."""
        return self._before_s + self._clock() - self._started_s

    def step_ended(self, step: int) -> int:
        """Take note that a step has ended, events and all; returns how many steps there will be, at least `step`."""
        now_s = self._clock()
        self._pace.append(now_s - self._step_started_s)
        self._step_started_s = now_s
        left_s = self.total_s - self.spent_s - sum(self.closing_s.values())
        each_s = sum(self._pace) / len(self._pace)
        return step + max(0, round(left_s / max(each_s, 1e-9)))

    @contextmanager
    def closing(self, event: str) -> Iterator[None]:
        """Time an event that also comes after the last step."""
        started_s = self._clock()
        yield
        self.closing_s[event] = self._clock() - started_s


SCHEDULE = ("warmup_steps", "decay_after_steps", "validate_every", "preview_every", "save_every")
"""The settings of a training that are lengths in steps."""


def scaled(count: int, factor: float) -> int:
    """A length in steps, so many times as long; 0, which says never or at once, stays 0."""
    return max(1, round(count * factor)) if count else 0


def planned(config: TrainConfig, steps: int) -> TrainConfig:
    """The settings of a training with another number of steps: its schedule and its events keep their shares of it."""
    lengths: dict[str, Any] = {name: scaled(getattr(config, name), steps / config.steps) for name in SCHEDULE}
    return replace(config, steps=steps, **lengths)
