"""What a data set is like: its games and how even they are, how long and loud its tracks are, what it is enough for."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dualdiff.core.files import sha256_of
from dualdiff.data.manifest import Row, kind_of, read_ledger, summary, used
from dualdiff.data.selection import REMEDIES
from dualdiff.inspection.report_data import Bars, Chart, Histogram, Report, ReportTable

BITS_PER_HOUR = 32000 * 2 / 32 * math.log2(16) * 3600
"""Of music as latents: 32 times fewer numbers than the waveform, 4 bits each at a signal-to-noise ratio of 16."""

EPOCHS_PER_BIT = 100
"""After so many passes over its data, a network holds about one bit per parameter of it."""


@dataclass(frozen=True)
class PresetSize:
    """What the rule of thumb knows of a preset: its UNet, and how much music one step of its training sees."""

    name: str
    parameters: int
    step_s: float


PRESETS = (
    PresetSize("nano", 4_300_000, 16 * 4.096),
    PresetSize("small", 31_100_000, 32 * 40.96),
    PresetSize("seed", 279_000_000, 32 * 40.96),
)
"""From small to large."""


@dataclass(frozen=True)
class Allowance:
    """What some music allows with one preset."""

    preset: str
    suits: bool
    """Whether the music is more than the network could learn by heart."""
    epochs: int
    """Passes over the music after which copies of it are to be expected."""
    steps: int
    """The same in steps of the preset's training."""


def allowances(hours: float) -> list[Allowance]:
    """What so many hours of music allow with each preset: a rule of thumb, not a measurement.

    The music holds `BITS_PER_HOUR`; a network that saw each thing 100 times holds about 1 bit per parameter of it, and
    about 2 after 1000 (Allen-Zhu and Li 2024, arXiv 2404.05405, measured on texts). So a preset suits where the music
    has at least 1 bit per parameter: with less it fits into the network as a whole. And copies are to be expected
    beyond 100 epochs for each bit per parameter. The smallest preset counts as suiting any music.
    """
    found = []
    for preset in PRESETS:
        bits = hours * BITS_PER_HOUR / preset.parameters
        epochs = max(1, round_to_two(EPOCHS_PER_BIT * bits))
        steps = max(1, round_to_two(epochs * hours * 3600 / preset.step_s))
        found.append(Allowance(preset.name, bits >= 1 or preset is PRESETS[0], epochs, steps))
    return found


def round_to_two(value: float) -> int:
    """A whole number to two figures: more would claim to know more."""
    digits = max(0, math.floor(math.log10(value)) - 1) if value > 0 else 0
    return int(round(value / 10**digits) * 10**digits)


def effective_number(shares: Sequence[float]) -> float:
    """How many parts of equal size these shares count like: the exponential of their entropy."""
    return math.exp(-sum(share * math.log(share) for share in shares if share > 0))


def inspect_dataset(path: Path, title: str = "data set") -> Report:
    """A ledger: what it holds of each game, how it is spread, why files are not used, and what it is enough for."""
    rows = read_ledger(path)
    counts = summary(rows)
    own = used(rows)
    new_hours = sum(row.unique_s or row.duration_s for row in own) / 3600
    shares = [line.share for line in counts.games if line.tracks]
    games = [
        (
            line.game,
            line.tracks,
            line.validation,
            round(line.hours * 3600, 1),
            round(line.share, 4),
            line.skipped,
            line.failed,
        )
        for line in sorted(counts.games, key=lambda line: (-line.hours, line.game))
    ]
    reasons = [(kind, count, REMEDIES.get(kind, "")) for kind, count in counts.reasons.items()]
    left_out = [(row.path, row.state, row.reason) for row in rows if row.state != "used"]
    game_columns = ("game", "tracks", "to validate", "seconds", "share", "skipped", "failed")
    sheets = [
        ReportTable(title="games", columns=game_columns, rows=games),
        ReportTable(
            title="spread", columns=("of used tracks", "least", "5 %", "median", "95 %", "most"), rows=_spread(rows)
        ),
        ReportTable(title="why files are not used", columns=("reason", "files", "what helps"), rows=reasons),
        ReportTable(title="not used", columns=("file", "state", "reason"), rows=left_out),
    ]
    facts = {
        "hours": round(counts.hours, 3),
        "games": len(shares),
        "files": len(rows),
        "used": counts.tracks,
        "to validate": counts.validation,
        "skipped": counts.skipped,
        "failed": counts.failed,
        "seconds": round(counts.hours * 3600, 1),
        "largest share of a game": round(max(shares, default=0.0), 4),
        "effective games": round(effective_number(shares), 2) if shares else 0.0,
        "hours without repeats": round(new_hours, 3),
        "dual mono": sum(row.dual_mono for row in own),
        "sha256": sha256_of(path),
    }
    return Report(
        kind=title,
        path=path,
        facts=facts,
        notes=_notes(new_hours, {line.game: line.share for line in counts.games if line.tracks}),
        sheets=[sheet for sheet in sheets if sheet.rows],
        charts=_charts(rows),
        next="dualdiff vae train" if counts.tracks else "dualdiff dataset scan",
    )


def _spread(rows: Sequence[Row]) -> list[tuple[str, float, float, float, float, float]]:
    own = used(rows)
    measures = {
        "length, s": [row.duration_s for row in own],
        "loudness, LUFS": [row.loudness_lufs for row in own if row.loudness_lufs is not None],
        "true peak, dB": [row.true_peak_db for row in own if row.true_peak_db is not None],
        "bandwidth, Hz": [row.bandwidth_hz for row in own if row.bandwidth_hz is not None],
        "silence, share": [row.silence_share for row in own if row.silence_share is not None],
        "clipped, share": [row.clipped_share for row in own if row.clipped_share is not None],
    }
    spread = []
    for name, values in measures.items():
        if values:
            least, low, median, high, most = (round(float(q), 4) for q in np.quantile(values, (0, 0.05, 0.5, 0.95, 1)))
            spread.append((name, least, low, median, high, most))
    return spread


def _notes(hours: float, share_of_game: dict[str, float]) -> list[str]:
    """What the amount of music allows, and how even its games are, in sentences."""
    if not share_of_game:
        return ["No file is used: there is nothing to learn from yet."]
    suitable = [allowance for allowance in allowances(hours) if allowance.suits]
    names = " or ".join(allowance.preset for allowance in suitable)
    largest_fit = suitable[-1]
    limit = f"{largest_fit.epochs:,} epochs of {largest_fit.preset} ({largest_fit.steps:,} steps)"
    amount = f"{hours:.1f} hours of music" if hours >= 1 else f"{hours * 60:.0f} minutes of music"
    games = "1 game" if len(share_of_game) == 1 else f"{len(share_of_game):,} games"
    notes = [f"{amount}, {games}: preset {names}; expect copying beyond {limit}. A rule of thumb, not a measurement."]
    effective = effective_number(list(share_of_game.values()))
    if len(share_of_game) > 1 and effective < 0.75 * len(share_of_game):
        largest = max(share_of_game, key=lambda game: share_of_game[game])
        notes.append(
            f"{largest} has {share_of_game[largest]:.0%} of the music: the {games} count like {effective:.1f} of equal "
            "size. A lower game_temperature draws the small ones more often."
        )
    return notes


def _charts(rows: Sequence[Row]) -> list[Chart]:
    own = used(rows)
    minutes: dict[str, float] = {}
    for row in own:
        minutes[row.game] = minutes.get(row.game, 0.0) + row.duration_s / 60
    reasons = Counter(kind_of(row.reason) for row in rows if row.reason)
    charts: list[Chart] = []
    if own:
        lufs = [row.loudness_lufs for row in own if row.loudness_lufs is not None]
        charts += [
            Bars(title="music by game", unit="min", values=dict(sorted(minutes.items(), key=lambda item: -item[1]))),
            Histogram(title="length of tracks", unit="s", values=[row.duration_s for row in own]),
        ]
        charts += [Histogram(title="loudness of tracks", unit="LUFS", values=lufs)] if lufs else []
    if reasons:
        charts.append(Bars(title="files not used, by reason", unit="", values=dict(reasons.most_common())))
    return charts
