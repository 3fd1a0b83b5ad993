"""What `inspect` finds, as plain values: facts, tables, and charts, free of any way to draw them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from dualdiff.core.types import Waveform
from dualdiff.evaluation.memorization import Memorization


@dataclass(frozen=True, kw_only=True)
class ReportTable:
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
class Scatter:
    """Places in a plane, by name; what the axes mean in words."""

    title: str
    words: str
    places: Mapping[str, tuple[float, float]]


@dataclass(frozen=True, kw_only=True)
class Recording:
    """An audio file, to be shown as a spectrogram and to be played."""

    path: Path
    part: tuple[float, float] | None = None
    """From when to when, seconds; None: all of it."""


@dataclass(frozen=True, kw_only=True)
class PlayedWaveform:
    """Audio to play that no file holds: a waveform (C, T), and what it is in words."""

    title: str
    words: str
    waveform: Waveform
    sample_rate: int


@dataclass(frozen=True, kw_only=True)
class ClipSummary:
    """A clip of a folder, and what is known of it."""

    name: str
    path: Path
    sha256: str
    seconds: float
    recipe: Mapping[str, Any]
    asked: Mapping[str, float]
    """Weights that the recipe gives its games, as shares of their sum."""
    shares: Mapping[str, float]
    """Measured probability of each game."""
    copies: Memorization | None
    details: Mapping[str, Any]


Chart: TypeAlias = Bars | Histogram | Lines | PlayedWaveform | Recording | Scatter


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a path turned out to be."""

    kind: str
    path: Path
    facts: Mapping[str, Any]
    """Named values of JSON types; sizes in bytes, lengths in seconds."""
    notes: Sequence[str] = field(default=())
    """What the facts mean, in sentences."""
    sheets: Sequence[ReportTable] = field(default=())
    charts: Sequence[Chart] = field(default=())
    clips: Sequence[ClipSummary] = field(default=())
    """Of a folder of clips."""
    next: str = ""
    """The command that is likely to come next."""

    def as_json(self) -> dict[str, Any]:
        """Return all but charts and clips: each table by its title, as a list of rows by column."""
        tables = {
            sheet.title: [dict(zip(sheet.columns, row, strict=True)) for row in sheet.rows] for sheet in self.sheets
        }
        whole = {"kind": self.kind, "path": self.path, "facts": self.facts, "notes": list(self.notes)}
        return {**whole, **tables, "next": self.next}
