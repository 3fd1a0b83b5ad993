"""The measures of music as a report: tables, charts and players."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from dualdiff.evaluation.denoising_ladder import FORMAT, NOTHING, VAE, Rung
from dualdiff.evaluation.distances import Estimate
from dualdiff.evaluation.memorization import Memorization
from dualdiff.evaluation.mixes import Adherence
from dualdiff.evaluation.model_measures import GameMeasures, ModelMeasures
from dualdiff.evaluation.music import MEASURES, MusicExcerpt, MusicRow
from dualdiff.inspection.report_data import Bars, Chart, PlayedWaveform, Report, ReportTable

INTERVALS_OF = ("fad", "kad")
"""Measures whose interval is shown next to the value; all are in the JSON."""
RUNGS = {FORMAT: "the music, through the format", VAE: "its latents, through the VAE", NOTHING: "from noise alone"}


def music_sheet(title: str, rows: Sequence[MusicRow]) -> ReportTable:
    """The table of measures: a line for each measure, a column for each row of music."""
    lines = [
        (titled(key), MEASURES[key].best, *(shown_estimate(key, row.values.get(key)) for row in rows))
        for key in MEASURES
        if any(key in row.values for row in rows)
    ]
    return ReportTable(title=title, columns=("measure", "best", *(row.name for row in rows)), rows=lines)


def titled(key: str) -> str:
    """A measure with its unit."""
    measure = MEASURES[key]
    return f"{measure.title}, {measure.unit}" if measure.unit else measure.title


def shown_estimate(key: str, value: Estimate | None) -> str:
    """A value, with its interval where that is shown; empty without one."""
    if value is None:
        return ""
    places = MEASURES[key].decimals
    text = f"{value.value:.{places}f}"
    return f"{text} ({value.low:.{places}f} to {value.high:.{places}f})" if key in INTERVALS_OF else text


def definitions() -> ReportTable:
    """What each measure is."""
    rows = [(measure.title, measure.definition) for measure in MEASURES.values()]
    return ReportTable(title="what is measured", columns=("measure", "definition"), rows=rows)


def ladder_sheet(ladder: Sequence[Rung]) -> ReportTable:
    """The denoising ladder: the beat strength of real latents noised to a level and denoised from there."""
    rows = [
        (RUNGS.get(rung.name, f"denoised from sigma {rung.name}"), rung.crops, *_rounded(rung.beat_strength))
        for rung in ladder
    ]
    return ReportTable(
        title="denoising ladder", columns=("what", "crops", "beat strength, 4 s", "from", "to"), rows=rows
    )


def _rounded(value: Estimate) -> tuple[float, float, float]:
    return round(value.value, 3), round(value.low, 3), round(value.high, 3)


def games_sheet(games: Sequence[GameMeasures]) -> ReportTable:
    """Of each game the distances of its halves, its clips and other games' music to its own music; and beat, form."""
    keys = ("fad", "kad", "beat_strength_4s", "recurrence_4_beats")
    rows = [
        (own.game, row.name, row.excerpts, *(shown_estimate(key, row.values.get(key)) for key in keys))
        for own in games
        for row in (own.floor, own.clips, own.others)
    ]
    columns = ("game", "music", "excerpts", *(MEASURES[key].title for key in keys))
    return ReportTable(title="by game: distance to the game's own music", columns=columns, rows=rows)


def mix_sheet(found: Adherence) -> ReportTable:
    """What was requested and what the classifier measures, a line for each request."""
    games = list(found.rows[0].measured)
    rows = [
        (
            " + ".join(f"{weight:.0%} {game}" for game, weight in row.requested.items()),
            row.clips,
            *(f"{row.measured[game]:.0%}" for game in games),
            "" if row.has_both is None else f"{row.has_both:.0%}",
        )
        for row in found.rows
    ]
    return ReportTable(
        title="mixes, requested and measured", columns=("requested", "clips", *games, "both at 25 %"), rows=rows
    )


def memorization_facts(found: Sequence[Memorization]) -> dict[str, Any]:
    """How many clips are flagged, and at which rate music that is no copy would be."""
    flagged = mean(one.flagged for one in found)
    return {"memorized clips": round(flagged, 4), "flagged by chance, at most": max(one.stated_rate for one in found)}


def model_report(folder: Path, facts: Mapping[str, Any], notes: Sequence[str], found: ModelMeasures) -> Report:
    """The report of `unet test`."""
    more: dict[str, Any] = {}
    if found.adherence is not None:
        own = found.adherence
        more = {"label adherence": own.right, "by chance": own.chance, "misplaced share": own.misplaced}
    if found.memorization:
        more |= memorization_facts(found.memorization)
    sheets = [
        *([music_sheet("music, from real to noise", found.rows)] if found.rows else []),
        *([ladder_sheet(found.ladder)] if found.ladder else []),
        *([games_sheet(found.games)] if found.games else []),
        *([mix_sheet(found.adherence)] if found.adherence is not None else []),
        *([definitions()] if found.rows else []),
    ]
    return Report(
        kind="model test",
        path=folder,
        facts={**facts, **{key: round(value, 4) for key, value in more.items()}},
        notes=list(notes),
        sheets=sheets,
        charts=_charts(found),
        next="dualdiff generate",
    )


def _charts(found: ModelMeasures) -> list[Chart]:
    charts: list[Chart] = []
    if found.ladder:
        rungs = {RUNGS.get(rung.name, f"sigma {rung.name}"): rung.beat_strength.value for rung in found.ladder}
        charts.append(Bars(title="denoising ladder", unit="beat strength, 4 s", values=rungs))
    for key in ("kad", "beat_strength_4s", "recurrence_4_beats"):
        values = {row.name: row.values[key].value for row in found.rows if key in row.values}
        if values:
            charts.append(Bars(title=MEASURES[key].title, unit=MEASURES[key].unit, values=values))
    return charts + [
        played(f"{name}: {excerpt.track}", excerpt) for name, excerpts in found.examples.items() for excerpt in excerpts
    ]


def played(title: str, excerpt: MusicExcerpt) -> PlayedWaveform:
    """A player of an excerpt."""
    return PlayedWaveform(title=title, words=excerpt.game, waveform=excerpt.waveform, sample_rate=excerpt.sample_rate)


def as_json(found: ModelMeasures) -> dict[str, Any]:
    """All figures, with their intervals, as plain values."""
    own = found.adherence
    return {
        "music": [row_json(row) for row in found.rows],
        "games": [
            {
                "game": one.game,
                "floor": row_json(one.floor),
                "clips": row_json(one.clips),
                "others": row_json(one.others),
            }
            for one in found.games
        ],
        "ladder": [
            {
                "name": rung.name,
                "sigma": rung.sigma,
                "crops": rung.crops,
                "beat_strength": estimate_json(rung.beat_strength),
            }
            for rung in found.ladder
        ],
        "label_adherence": own and {"right": own.right, "chance": own.chance, "misplaced": own.misplaced},
        "mixes": own and [vars(row) for row in own.rows],
        "memorization": found.memorization and memorization_json(found.memorization),
    }


def memorization_json(found: Sequence[Memorization]) -> dict[str, Any]:
    """How many clips are flagged as near-duplicates of training music."""
    return {
        "flagged": sum(one.flagged for one in found),
        "clips": len(found),
        "stated_rate": max(one.stated_rate for one in found),
    }


def row_json(row: MusicRow) -> dict[str, Any]:
    """A row of the table as plain values."""
    values = {key: estimate_json(value) for key, value in row.values.items()}
    return {"name": row.name, "excerpts": row.excerpts, "measures": values}


def estimate_json(value: Estimate) -> dict[str, float]:
    """A value and its 90 % interval."""
    return {"value": value.value, "low": value.low, "high": value.high}
