"""What is known of audio: a clip with its recipe, its games and what it may have copied; a folder of clips; a track."""

import dataclasses
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from dualdiff import audio
from dualdiff.core.errors import DataError, UsageError
from dualdiff.core.progress import Progress, silent
from dualdiff.data.manifest import Row
from dualdiff.evaluation.memorization import FEW_TRACKS, LARGEST_RATE, STATED_RATE, Memorization
from dualdiff.generation.config import SPAN_HINT, span_of
from dualdiff.inspection.clip_analysis import ClipAnalyser, ClipAnalysis
from dualdiff.inspection.project_context import GONE, SAME, ProjectContext, ancestry
from dualdiff.inspection.report_data import Bars, Chart, ClipSummary, Recording, Report, ReportTable

MOST_CLIPS = 1000
"""That are listened to in a folder."""
SHARES_SHOWN = 3
MADE_FROM = {"init": "variation of", "morph": "leads to", "rewrite": "rewritten from"}
"""What a clip is to another one that its recipe names."""


def inspect_audio(
    path: Path, around: ProjectContext, copies: bool | None = None, progress: Progress = silent, part: str = ""
) -> Report:
    """An audio file: its measures; of a clip the recipe it was made by, its games, and what it may have copied.

    `copies` says whether to look for copies: None for clips only; `part`, as START:END, from when to when to listen.

    Raises:
        DataError: it is no audio that can be read.
        UsageError: it has no such part.
    """
    ear = ClipAnalyser(around, copies is not False, progress)
    heard, _ = ear.hear(path, bool(copies), _part_of(path, part) if part else None)
    row = None if heard.recipe else around.row_of(path)
    sheets = [
        *([_recipe_sheet(heard.recipe), _model_sheet(heard, around)] if heard.recipe else []),
        *([ReportTable(title="in the ledger", columns=("key", "value"), rows=row_pairs(row))] if row else []),
        *([_shares_sheet(heard)] if heard.shares else []),
        *([passages_table(heard.copies)] if heard.copies else []),
    ]
    again = f'dualdiff generate --from "{path}"' if heard.recipe else f'dualdiff format roundtrip "{path}"'
    return Report(
        kind="clip" if heard.recipe else "track" if row else "audio",
        path=path,
        facts={**_facts(heard), **_heard_facts(heard)},
        notes=[*memorization_notes(heard.copies), *heard.notes],
        sheets=sheets,
        charts=_charts(heard),
        next=again,
    )


def _part_of(path: Path, text: str) -> tuple[float, float]:
    """The seconds that a text says, START:END, of an audio file."""
    lasts_s = audio.probe(path).duration_s
    part = span_of(text, lasts_s)
    if part is None:
        problem = f'--part: "{text}" is no range START:END within {path}, which lasts {lasts_s:.2f} s'
        raise UsageError(problem, SPAN_HINT)
    return part


def row_pairs(row: Row) -> list[tuple[str, Any]]:
    """All that the ledger says of a file."""
    return [(key, value) for key, value in dataclasses.asdict(row).items() if value not in ("", None)]


def _facts(heard: ClipAnalysis) -> dict[str, Any]:
    info = heard.info
    return {
        "format": info.format,
        "seconds": round(info.duration_s, 3),
        **({"heard, s": f"{heard.part[0]:g} to {heard.part[1]:g}"} if heard.part else {}),
        "sample rate": info.sample_rate,
        "channels": info.channels,
        "loudness, LUFS": round(heard.lufs, 2) if math.isfinite(heard.lufs) else None,
        "true peak, dB": round(heard.peak_db, 2) if math.isfinite(heard.peak_db) else None,
        "bytes": audio.file_of(heard.path).stat().st_size,
        "sha256": heard.sha256,
        **{f"tag {name}": value[:LONGEST_TAG] for name, value in info.tags.items() if name != "comment"},
    }


LONGEST_TAG = 300
"""Letters of a tag that are shown."""


def _heard_facts(heard: ClipAnalysis) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    if heard.shares:
        facts["is like"] = shares_in_words(heard.shares)
    if heard.copies:
        facts["nearest training passage, of the usual distance"] = round(heard.copies.scaled, 3)
        facts["false-alarm rate"] = round(heard.copies.rate, 4)
        facts["may be copied"] = heard.copies.flagged if heard.copies.stated_rate else None
    return facts


def shares_in_words(shares: Mapping[str, float], count: int = SHARES_SHOWN) -> str:
    """Shares such as `61 % A, 24 % B`: the largest ones."""
    return ", ".join(f"{share:.0%} {game}".replace("%", " %") for game, share in list(shares.items())[:count])


def _recipe_sheet(recipe: Mapping[str, Any]) -> ReportTable:
    return ReportTable(title="recipe", columns=("key", "value"), rows=list(recipe.items()))


def _model_sheet(heard: ClipAnalysis, around: ProjectContext) -> ReportTable:
    digest = str(heard.recipe.get("model", ""))
    folder = around.model_with("unet", digest)
    rows = [("model", digest, around.named(folder) if folder else "", SAME if folder else GONE)]
    for key, words in MADE_FROM.items():
        source = heard.recipe.get(key)
        if isinstance(source, dict) and source.get("file"):
            rows.append((words, str(source.get("sha256", "")), str(source["file"]), ""))
    return ancestry(rows)


def _shares_sheet(heard: ClipAnalysis) -> ReportTable:
    asked = _asked(heard.recipe)
    rows = [(game, round(asked.get(game, 0.0), 4), round(share, 4)) for game, share in heard.shares.items()]
    return ReportTable(title="games", columns=("game", "asked", "measured"), rows=rows)


def _asked(recipe: Mapping[str, Any]) -> dict[str, float]:
    """The weights that a recipe gives its games, as shares of their sum."""
    games = recipe.get("games")
    weights = {game: float(weight) for game, weight in games.items()} if isinstance(games, dict) else {}
    total = sum(weights.values())
    return {game: weight / total for game, weight in weights.items()} if total else weights


def passages_table(copies: Memorization) -> ReportTable:
    """The nearest training passages as a table."""
    columns = ("at, s", "is near", "at, s there", "game", "heard in", "distance", "of the usual", "rate")
    rows = [
        (
            round(own.at_s, 1),
            own.track,
            round(own.track_s, 1),
            own.game,
            own.space,
            round(own.distance, 3),
            round(own.scaled, 3),
            round(own.rate, 4),
        )
        for own in copies.matches
    ]
    return ReportTable(title="nearest training passages", columns=columns, rows=rows)


def memorization_notes(copies: Memorization | None) -> list[str]:
    """What the distances mean, in a sentence."""
    if copies is None:
        return []
    nearest = copies.matches[0]
    near = (
        f"Its nearest training passage is in {nearest.track} at {nearest.track_s:.0f} s ({nearest.space}), at "
        f"{copies.scaled:.2f} of the usual distance"
    )
    rate = f"of music that is no copy {copies.rate:.1%} comes anywhere so near, at most"
    if copies.rate <= copies.smallest_rate:
        rate = f"none of the {copies.tracks} tracks that it was compared with comes so near, though they are no copies"
    verdict = "It is not flagged." if copies.stated_rate else "Whether that is chance cannot be told."
    return [f"{near}: {rate}. {'It may be a copy.' if copies.flagged else verdict}", *_few(copies)]


def _few(copies: Memorization) -> list[str]:
    """What is wrong where there is too little music to compare with, or too much of the clip."""
    if copies.smallest_rate <= STATED_RATE:
        return []
    if 1 / (copies.tracks + 1) <= STATED_RATE:  # so it is the length
        problem = (
            f"A clip {copies.parts} times as long as the music to compare with, {copies.part_s:.0f} s a track, has as "
            f"many chances to come near: no rate below {copies.smallest_rate:.1%} can be stated"
        )
        if copies.smallest_rate > LARGEST_RATE:
            problem += ", and no passage told from chance"
        return [f"{problem}; inspect parts of it: --part START:END, up to {copies.part_s:.0f} s each."]
    problem = f"With {copies.tracks} tracks that are no copies no rate below {copies.smallest_rate:.1%} can be stated"
    if copies.smallest_rate > LARGEST_RATE:
        problem += ", too large a one to flag anything by"
    return [f"{problem}; {STATED_RATE:.0%} takes {FEW_TRACKS} of them, as long as the clip: hold more tracks out."]


def _charts(heard: ClipAnalysis) -> list[Chart]:
    percent = {game: 100 * share for game, share in heard.shares.items()}
    bars = [Bars(title="is like", unit="%", values=percent)] if percent else []
    return [Recording(path=heard.path, part=heard.part), *bars]


def clips_in(folder: Path) -> list[Path]:
    """The audio files of a folder and of those in it, by name."""
    found = (path for path in folder.rglob("*") if audio.is_readable_name(path) and path.is_file())
    return sorted(path for path in found if not any(part.startswith(".") for part in path.relative_to(folder).parts))


def inspect_clips(
    folder: Path, around: ProjectContext, copies: bool | None = None, progress: Progress = silent
) -> Report:
    """A folder of clips: what each is like, which may be copied and how many that is, and which cannot be read.

    Raises:
        DataError: it holds no audio that can be read.
    """
    paths = clips_in(folder)
    ear = ClipAnalyser(around, copies is not False)
    heard: list[ClipAnalysis] = []
    unread: list[tuple[str, str]] = []
    for number, path in enumerate(paths[:MOST_CLIPS]):
        progress(number, min(len(paths), MOST_CLIPS), path.name)
        try:
            heard.append(ear.hear(path, always=bool(copies))[0])
        except DataError as error:
            unread.append((path.relative_to(folder).as_posix(), error.message))
    progress(len(heard), len(heard))
    if not heard:
        first = f": {unread[0][1]}" if unread else ""
        raise DataError(f"{folder} holds no audio that can be read{first}", "inspect takes a folder of clips")
    return Report(
        kind="clips",
        path=folder,
        facts=_folder_facts(heard, unread, len(paths)),
        notes=[*_flagged_notes(heard), *sorted({note for own in heard for note in own.notes})],
        sheets=[sheet for sheet in _folder_sheets(folder, heard, unread) if sheet.rows],
        clips=[_summary(folder, own) for own in heard],
        next=f'dualdiff inspect "{folder}" --html clips.html',
    )


def _folder_facts(heard: Sequence[ClipAnalysis], unread: Sequence[Any], found: int) -> dict[str, Any]:
    told = [own.copies for own in heard if own.copies]
    facts: dict[str, Any] = {
        "clips": sum(bool(own.recipe) for own in heard),
        "other audio": sum(not own.recipe for own in heard),
        "not readable": len(unread),
        "seconds": round(sum(own.info.duration_s for own in heard), 1),
        "models": len({own.recipe["model"] for own in heard if own.recipe}),
    }
    if found > MOST_CLIPS:
        facts["not listened to"] = found - MOST_CLIPS
    if told:
        facts["flagged"] = sum(own.flagged for own in told)
        facts["flagged, share"] = round(mean(own.flagged for own in told), 4)
        facts["false alarms to expect, share"] = round(max(own.stated_rate for own in told), 4)
    return facts


def _flagged_notes(heard: Sequence[ClipAnalysis]) -> list[str]:
    told = [own.copies for own in heard if own.copies]
    if not told:
        return []
    flagged, worst = sum(own.flagged for own in told), max(told, key=lambda own: own.smallest_rate)
    rate = f"{worst.stated_rate:.1%} of music that is no copy would, too, at most"
    return [f"{flagged} of {len(told)} clips come nearer to training music than they should; {rate}.", *_few(worst)]


def _folder_sheets(folder: Path, heard: Sequence[ClipAnalysis], unread: Sequence[tuple[str, str]]) -> list[ReportTable]:
    columns = ("clip", "seed", "seconds", "asked", "is like", "of the usual distance", "rate", "may be copied")
    rows = [
        (
            own.path.relative_to(folder).as_posix(),
            own.recipe.get("seed"),
            round(own.info.duration_s, 1),
            shares_in_words(_asked(own.recipe)),
            shares_in_words(own.shares, 2),
            round(own.copies.scaled, 3) if own.copies else None,
            round(own.copies.rate, 4) if own.copies else None,
            _yes_or_no(own.copies),
        )
        for own in heard
    ]
    tallies = Counter(str(own.recipe["model"]) for own in heard if own.recipe)
    flagged = Counter(str(own.recipe["model"]) for own in heard if own.recipe and own.copies and own.copies.flagged)
    models = [(digest, count, flagged[digest], round(flagged[digest] / count, 4)) for digest, count in tallies.items()]
    has_copies = any(own.copies for own in heard)
    return [
        ReportTable(title="clips", columns=columns, rows=rows),
        ReportTable(title="models", columns=("hash", "clips", "flagged", "share"), rows=models if has_copies else []),
        ReportTable(title="not readable", columns=("file", "why"), rows=list(unread)),
    ]


def _yes_or_no(copies: Memorization | None) -> str:
    if copies is None:
        return ""
    return "yes" if copies.flagged else "no" if copies.stated_rate else "not known"


def _summary(folder: Path, heard: ClipAnalysis) -> ClipSummary:
    name = heard.path.relative_to(folder).as_posix()
    return ClipSummary(
        name=name,
        path=heard.path,
        sha256=heard.sha256,
        seconds=heard.info.duration_s,
        recipe=heard.recipe,
        asked=_asked(heard.recipe),
        shares=heard.shares,
        copies=heard.copies,
        details={"file": name, **_heard_facts(heard), **heard.recipe},
    )
