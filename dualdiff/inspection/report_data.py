"""What `inspect` finds, as plain values: facts, tables, and charts that know no way of being drawn."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """A table of a finding."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]


@dataclass(frozen=True, kw_only=True)
class Bars:
    """Amounts by name."""

    title: str
    unit: str
    values: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Histogram:
    """How a measure is spread."""

    title: str
    unit: str
    values: Sequence[float]


@dataclass(frozen=True, kw_only=True)
class Lines:
    """Measures over steps: points (x, y) by name, with x rising."""

    title: str
    series: Mapping[str, Sequence[tuple[float, float]]]


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture, as the bytes of a PNG file, and what it shows in words."""

    title: str
    png: bytes
    words: str


@dataclass(frozen=True, kw_only=True)
class Scatter:
    """Places in a plane, by name; what the axes mean in words."""

    title: str
    words: str
    places: Mapping[str, tuple[float, float]]


@dataclass(frozen=True, kw_only=True)
class Sound:
    """A piece of audio to play: the bytes of a file, what kind of file (`players.MEDIA`), and what it is in words."""

    title: str
    content: bytes
    suffix: str
    words: str


Chart: TypeAlias = Bars | Histogram | Lines | Picture | Scatter | Sound


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What a path turned out to be."""

    kind: str
    path: Path
    facts: Mapping[str, Any]
    """Named values of JSON types; sizes in bytes, lengths in seconds."""
    notes: Sequence[str] = field(default=())
    """What the facts mean, in sentences."""
    sheets: Sequence[Sheet] = field(default=())
    charts: Callable[[], Sequence[Chart]] = list
    """Makes the charts: only a report asks for them, and a spectrogram takes time."""
    page: "Callable[[Finding], str] | None" = None
    """Makes the page, where it is not the one that all findings have."""
    next: str = ""
    """The command that is likely to come next."""
