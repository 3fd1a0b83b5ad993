"""What the commands show: results to stdout; progress, notes and errors to stderr.

Rich is imported only when something is shown that needs it, so that `--help` answers at once.
"""

import json
import logging
import math
import os
import re
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dualdiff.core.process import launched_alone, launched_rank
from dualdiff.core.progress import Progress, silent

if TYPE_CHECKING:
    from rich.console import Console

WINDOW_S = 30.0
"""The rate of progress is that of the last this many seconds: a slow start is forgotten."""

PLAIN_EVERY_S = 5.0
"""Without a terminal, progress is one line every this many seconds."""

PIPED_WIDTH = 160
"""Columns of a table that is not shown on a terminal."""


COLUMN_GAP = 2
"""Spaces between columns."""

FOLDED = 16
"""A column of text is never folded to fewer letters than this; one of numbers is never folded."""


@dataclass
class Verbosity:
    """How much is told besides results and errors; set once by the command line."""

    quiet: bool = False
    verbose: bool = False
    errors_only: bool = False
    """Whether this process only reports its own errors: results come from another one."""


verbosity = Verbosity()


def set_verbosity(quiet: bool, verbose: bool) -> None:
    """Decide how much is told, by the commands and by the log of the package."""
    verbosity.quiet, verbosity.verbose, verbosity.errors_only = quiet, verbose, False
    handler = logging.StreamHandler(_CurrentStderr())
    handler.setFormatter(logging.Formatter("%(message)s"))
    log = logging.getLogger("dualdiff")
    log.handlers = [handler]
    log.setLevel(logging.WARNING if quiet else logging.DEBUG if verbose else logging.INFO)


def share_work() -> None:
    """Silence all processes but the first, where a launcher started several for the command: they do the same work.

    Their errors are still shown, unless each process meets them.
    """
    if launched_rank():
        verbosity.quiet = verbosity.errors_only = True
        logging.getLogger("dualdiff").setLevel(logging.ERROR)  # what the others would warn of, the first one does
    elif launched_alone():
        note("accelerate launch started this one process alone: add --multi_gpu, on CPUs too, to train in several")


class _CurrentStderr:
    """Writes a message as one line to whatever stderr is at the time: a progress bar puts its own in its place."""

    def write(self, text: str) -> None:
        sys.stderr.write(in_a_line(text.removesuffix("\n")) + "\n")

    def flush(self) -> None:
        sys.stderr.flush()


_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2028\u2029\u2066-\u2069]")
"""Letters that a terminal takes as commands, or that change the order of the others; not a line's end nor a tab."""


def visible(text: str) -> str:
    """A text whose control letters are written out: names of files may hold any, and a terminal would obey them."""
    return _UNSAFE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def in_a_line(text: str) -> str:
    """A text as one line, such as a file's name."""
    return visible(text).replace("\n", "\\n").replace("\t", "\\t")


def say(text: str) -> None:
    """A line of the result, to stdout."""
    if not verbosity.errors_only:
        sys.stdout.write(f"{visible(text)}\n")


def note(text: str) -> None:
    """A line about what is going on, to stderr; not under `-q`."""
    if not verbosity.quiet:
        sys.stderr.write(f"{in_a_line(text)}\n")


def detail(text: str) -> None:
    """A line that only `-v` shows, to stderr."""
    if verbosity.verbose and not verbosity.quiet:
        sys.stderr.write(f"{in_a_line(text)}\n")


def say_json(value: Any) -> None:
    """The result as strict JSON, to stdout; what JSON cannot say (inf, nan) is null."""
    written = json.dumps(_finite(value), indent=2, ensure_ascii=False)
    say(_UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", written))


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value if isinstance(value, str | int | None) else str(value)


def show_error(message: str, hint: str = "", word: str = "error") -> None:
    """One line that says what, where and why, and one that says what to do, to stderr."""
    sys.stderr.write(f"{word}: {visible(' '.join(message.split()))}\n")
    if hint:
        sys.stderr.write(f"hint: {visible(' '.join(hint.split()))}\n")


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]], title: str = "") -> None:
    """A table to stdout; columns that hold numbers only are set flush right.

    Where the terminal is too narrow for it, each row becomes a list of named values.
    """
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    columns = [in_a_line(name) for name in columns]
    texts = [[in_a_line(text(cell)) for cell in row] for row in rows]
    needed = -COLUMN_GAP
    for index, name in enumerate(columns):
        numeric = all(isinstance(row[index], int | float | None) for row in rows)
        longest = max((len(row[index]) for row in texts), default=0)
        least = max(longest, len(name)) if numeric else min(max(longest, len(name)), FOLDED)
        needed += least + COLUMN_GAP
        grid.add_column(name, justify="right" if numeric else "left", overflow="fold", no_wrap=numeric, min_width=least)
    for row in texts:
        grid.add_row(*(Text(cell) for cell in row))
    if title:  # not Rich's: that would be broken where the table is narrower
        say(in_a_line(title))
    if needed <= _console().width:
        _console().print(grid)
        return
    for number, row in enumerate(texts):
        if number:
            say("")
        facts([(name, cell) for name, cell in zip(columns, row, strict=True) if cell])


def facts(pairs: Sequence[tuple[str, Any]]) -> None:
    """Named values to stdout, one a line."""
    from rich.table import Table
    from rich.text import Text

    lines = [(in_a_line(name), in_a_line(text(value))) for name, value in pairs]
    console, grid = _console(), Table.grid(padding=(0, COLUMN_GAP))
    left = max((len(name) for name, _ in lines), default=0) + COLUMN_GAP
    if all(left + min(len(value), FOLDED) <= console.width for _, value in lines):
        for name, value in lines:
            grid.add_row(Text(name), Text(value, overflow="fold"))
        console.print(grid)
        return
    for name, value in lines:  # a narrow terminal: the value below its name, if not behind it
        fits = len(name) + 2 + len(value) <= console.width
        for line in [f"{name}: {value}"] if fits else [f"{name}:", value]:
            console.print(Text(line, overflow="fold"))


def text(cell: Any) -> str:
    """A cell of a table: numbers to three or four figures, nothing for None."""
    if cell is None:
        return ""
    if isinstance(cell, float):
        return f"{cell:.4g}" if abs(cell) < 1 else f"{cell:,.1f}" if abs(cell) >= 100 else f"{cell:.3g}"
    return str(cell)


def duration(seconds: float) -> str:
    """A length of time as people say it: 42 s, 3 min 20 s, 2 h 05 min, 3 d 4 h."""
    if not math.isfinite(seconds):
        return "unknown"
    whole = max(round(seconds), 0)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 48 * 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


@dataclass
class Meter:
    """Rate and time left of some work, from what was done when, over a sliding window."""

    times: deque[tuple[float, float]] = field(default_factory=deque)

    def update(self, now_s: float, done: float) -> None:
        """Take note that `done` is done at `now_s`."""
        self.times.append((now_s, done))
        while len(self.times) > 2 and now_s - self.times[1][0] >= WINDOW_S:
            self.times.popleft()

    @property
    def rate(self) -> float:
        """How much is done in a second; 0 while unknown."""
        if len(self.times) < 2:
            return 0.0
        (start_s, first), (end_s, last) = self.times[0], self.times[-1]
        return (last - first) / (end_s - start_s) if end_s > start_s else 0.0

    def status(self, total: float) -> str:
        """Rate and time left in words, such as `3.1/s, 2 min 05 s left`; empty while unknown."""
        if self.rate <= 0:
            return ""
        pace = f"{self.rate:.3g}/s" if self.rate >= 1 else f"{1 / self.rate:.3g} s each"
        left = max(total - self.times[-1][1], 0.0) / self.rate
        return f"{pace}, {duration(left)} left"


@contextmanager
def progress(label: str) -> Iterator[Progress]:
    """A callback that shows how far some work is: a bar on a terminal, else a line now and then; nothing under `-q`."""
    if verbosity.quiet:
        yield silent
    elif _is_live():
        with _bar(label) as tell:
            yield tell
    else:
        yield plain_progress(label)


def _is_live() -> bool:
    return sys.stderr.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def plain_progress(label: str) -> Progress:
    """A callback that writes a line to stderr at the start, every few seconds, and at the end."""
    meter = Meter()
    shown_s = -math.inf

    def tell(done: float, total: float, note: str = "") -> None:
        nonlocal shown_s
        now_s = time.monotonic()
        meter.update(now_s, done)
        if now_s - shown_s >= PLAIN_EVERY_S or done >= total:
            shown_s = now_s
            parts = [f"{label}: {amount(done)}/{amount(total)}", meter.status(total), in_a_line(note)]
            sys.stderr.write(", ".join(part for part in parts if part) + "\n")
            sys.stderr.flush()

    return tell


def amount(value: float) -> str:
    """A count, or an amount to one decimal."""
    return f"{value:.0f}" if float(value).is_integer() else f"{value:.1f}"


@contextmanager
def _bar(label: str) -> Iterator[Progress]:
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[words]}", markup=False))
    meter = Meter()
    with Bars(*columns, console=_console(stderr=True), transient=False) as bars:
        task = bars.add_task(label, total=None, words="")

        def tell(done: float, total: float, note: str = "") -> None:
            meter.update(time.monotonic(), done)
            parts = [f"{amount(done)}/{amount(total)}", meter.status(total), in_a_line(note)]
            bars.update(task, completed=done, total=total, words="  ".join(part for part in parts if part))

        yield tell


def _console(stderr: bool = False) -> "Console":
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    return Console(stderr=stderr, width=None if stream.isatty() else PIPED_WIDTH, highlight=False, markup=False)
