"""What a path is, and what is known of it: project, ledger, latents, run, model, clip. What `inspect` shows."""

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dualdiff import audio
from dualdiff.core.config import parse_toml
from dualdiff.core.errors import DataError, UsageError, did_you_mean
from dualdiff.core.files import has_key, hash_of, read_json, sha256_of
from dualdiff.core.progress import Progress, silent
from dualdiff.data.latent_dataset import INDEX_NAME, LatentIndex
from dualdiff.data.latent_file import facts_of
from dualdiff.data.manifest import LEDGER_NAME, read_ledger
from dualdiff.inspection.audio import clips_in, inspect_audio, inspect_clips, row_pairs
from dualdiff.inspection.dataset import inspect_dataset
from dualdiff.inspection.model import inspect_model
from dualdiff.inspection.project_context import CHANGED, GONE, SAME, SETTINGS_NAME, Around, ancestry
from dualdiff.inspection.report_data import Bars, Chart, Finding, Histogram, Lines, Sheet
from dualdiff.model_store.components import read_model_json
from dualdiff.model_store.location import named_model


@dataclass(frozen=True)
class Asked:
    """What is asked about a path besides the path itself."""

    project: Path | None = None
    """The project that it belongs to; None: the nearest one above it, or the one here."""
    model: Path | None = None
    """A model folder to judge clips by, besides those of the project."""
    row: str = ""
    """The track of a ledger that is asked about."""
    copies: bool | None = None
    """Whether to look for copies; None: of clips, but not of other audio."""
    part: str = ""
    """From when to when an audio file is listened to, START:END in seconds; empty: all of it."""


def inspect(path: Path, asked: Asked = Asked(), progress: Progress = silent) -> Finding:
    """Find out what `path` is.

    Raises:
        DataError: it does not exist, is nothing of dualdiff's and no audio, or is broken; or there is no such model.
        UsageError: what is asked of it is of another kind of thing.
    """
    path = named_model(path)
    if not audio.file_of(path).exists():
        raise DataError(f"{path} does not exist", "check the path")
    around = Around.of(path, asked.project)
    if asked.model is not None:
        around = replace(around, model=around.model_named(asked.model))
    is_audio = audio.is_readable_name(path)
    if asked.row and path.suffix != ".jsonl":
        raise UsageError("--row names a track of a ledger", "inspect dataset.jsonl with it")
    if asked.part and not is_audio:
        raise UsageError("--part is of one audio file", "inspect that file with it")

    def listen(file: Path) -> Finding:
        return inspect_audio(file, around, asked.copies, progress, asked.part)

    kinds: Sequence[tuple[bool, Callable[[Path], Finding]]] = (
        (
            path.suffix == ".jsonl",
            lambda file: inspect_row(file, asked.row, around) if asked.row else inspect_dataset(file),
        ),
        (is_audio, listen),
        (path.suffix == ".safetensors", lambda file: inspect_latent_file(file)),
        (path.name == SETTINGS_NAME, lambda file: inspect_project(file.parent)),
        (
            has_key(path / "model.json", "dualdiff_model", True),
            lambda folder: inspect_model(folder, around, asked.copies, progress),
        ),
        (has_key(path / "state.json", "dualdiff_run", True), lambda folder: inspect_run(folder, around)),
        (has_key(path / INDEX_NAME, "dualdiff_latents", True), lambda folder: inspect_latents(folder, around)),
        ((path / SETTINGS_NAME).is_file(), inspect_project),
        (path.is_dir() and bool(clips_in(path)), lambda folder: inspect_clips(folder, around, asked.copies, progress)),
    )
    for matches, look in kinds:
        if matches:
            return look(path)
    what = "holds nothing" if path.is_dir() else "is nothing"
    raise DataError(
        f"{path} {what} that dualdiff knows",
        "inspect takes a project's folder, dataset.jsonl, latents/, runs/<name>, models/<name>, an audio file or a "
        "folder of clips",
    )


def inspect_project(folder: Path) -> Finding:
    """A project: which stages are done, and its data set."""
    around = Around(folder)
    latents = {folder / around.setting("encode", "folder", "latents") / INDEX_NAME, *folder.glob(f"*/{INDEX_NAME}")}
    found = {
        "data set": sorted(folder.glob(LEDGER_NAME)),
        "runs": _with_key(folder.glob("runs/*/state.json"), "dualdiff_run"),
        "models": _with_key(folder.glob("models/*/model.json"), "dualdiff_model"),
        "latents": _with_key(latents, "dualdiff_latents"),
    }
    rows = [(kind, around.named(path), _size(path)) for kind, paths in found.items() for path in paths]
    parts = [part for model in found["models"] for part in read_model_json(model)["parts"]]
    steps = (
        ("dualdiff dataset scan", bool(found["data set"])),
        ("dualdiff vae train", "vae" in parts),
        ("dualdiff encode", bool(found["latents"])),
        ("dualdiff unet train", "unet" in parts),
    )
    here = Sheet(title="what is here", columns=("what", "where", "bytes"), rows=rows)
    data = inspect_dataset(folder / LEDGER_NAME) if found["data set"] else None
    return Finding(
        kind="project",
        path=folder,
        facts={"stages done": sum(done for _, done in steps), "of": len(steps), **(data.facts if data else {})},
        notes=data.notes if data else (),
        sheets=[sheet for sheet in (here, *(data.sheets if data else ())) if sheet.rows],
        charts=data.charts if data else (),
        next=next((command for command, done in steps if not done), "dualdiff generate"),
    )


def _with_key(paths: Iterable[Path], key: str) -> list[Path]:
    """The folders of those JSON files that have a key: those that this program wrote."""
    return sorted(path.parent for path in paths if has_key(path, key))


def inspect_run(folder: Path, around: Around) -> Finding:
    """A training run: how far it is, and how its measures went."""
    state = read_json(folder / "state.json")
    if not isinstance(state, dict) or "dualdiff_run" not in state or not isinstance(state.get("identity"), dict):
        raise DataError(f"{folder} holds a state.json that is not of a dualdiff run", "check the path")
    network = state["identity"].get("network", "")
    steps = _planned_steps(folder, network)
    checkpoints = sorted(int(path.name) for path in folder.glob("checkpoints/*") if path.name.isdigit())
    done = max(checkpoints, default=0)
    facts = {
        "trains": network,
        "steps done": done,
        "steps planned": steps,
        "checkpoints": checkpoints,
        "weight averages": len(list(folder.glob("ema/*.safetensors"))),
        "bytes": _size(folder),
        **{key: value for key, value in state["identity"].items() if key not in ("network", "config")},
    }
    series = read_measures(folder / "metrics.jsonl") | read_measures(folder / "costs.jsonl")
    identity = Sheet(
        title="settings", columns=("setting", "value"), rows=list(state["identity"].get("config", {}).items())
    )
    measures = Sheet(
        title="measures",
        columns=("measure", "first", "lowest", "last", "at step"),
        rows=[
            (name, points[0][1], min(value for _, value in points), points[-1][1], points[-1][0])
            for name, points in series.items()
        ],
    )
    done_next = {"vae": "dualdiff encode", "unet": "dualdiff generate"}
    return Finding(
        kind="run",
        path=folder,
        facts=facts,
        sheets=[sheet for sheet in (measures, _run_origins(state["identity"], around), identity) if sheet.rows],
        charts=[*curves(series), *noise_charts(folder / "metrics.jsonl")],
        next=done_next.get(network, "") if done >= steps else f"dualdiff {network} train",
    )


def _run_origins(identity: Mapping[str, Any], around: Around) -> Sheet:
    """What a run trains on, and whether that is still what lies in the project."""
    rows = [around.of_part("vae", str(identity["vae"]))] if "vae" in identity else []
    rows += [around.of_part("format", str(identity["format"]))] if "format" in identity else []
    index, digest = around.latents, str(identity.get("latent statistics", ""))
    if digest:
        now = GONE if index is None else SAME if hash_of([index.mean, index.std]) == digest else CHANGED
        rows.append(("latents", digest, around.named(index.folder) if index else "", now))
    return ancestry(rows)


def _planned_steps(folder: Path, network: str) -> int:
    """How many steps a run is to take: those that `--hours` has planned, else those of its settings."""
    path = folder / "plan.json"
    plan = read_json(path) if path.is_file() else {}
    if isinstance(plan, dict) and isinstance(plan.get("steps"), int):
        return int(plan["steps"])
    path = folder / "config.toml"
    table: Any = parse_toml(path.read_text(encoding="utf-8"), str(path)) if path.is_file() else {}
    return int(table.get(network, {}).get("train", {}).get("steps", 0))


def read_record(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a run's record; one that is being written, or that a kill cut short, is not there yet.

    Raises:
        DataError: a line is no record of a step.
    """
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    lines = text[: text.rfind("\n") + 1].splitlines()
    found = []
    for number, line in enumerate(lines, start=1):
        try:
            values = json.loads(line)
        except ValueError as error:
            raise DataError(f"{path}, line {number} is not JSON", "take the line out") from error
        if not isinstance(values, dict) or not isinstance(values.get("step"), int):
            raise DataError(f"{path}, line {number} is no record of a step", "take the line out")
        found.append(values)
    return found


def read_measures(path: Path) -> dict[str, list[tuple[int, float]]]:
    """The measures of a run, each as (step, value) in the order of the steps; none if there is no such file.

    Raises:
        DataError: see `read_record`.
    """
    series: dict[str, list[tuple[int, float]]] = {}
    for values in read_record(path):
        for name, value in values.items():
            if name != "step" and isinstance(value, int | float):
                series.setdefault(name, []).append((values["step"], float(value)))
    return series


VALIDATION = "validation/"


def curves(series: Mapping[str, Sequence[tuple[int, float]]]) -> list[Chart]:
    """A chart per measure, with its validation beside it, also where that is measured at several noise levels."""
    charts: dict[str, dict[str, Sequence[tuple[int, float]]]] = {}
    for name, points in series.items():
        measure, _, place = name.removeprefix(VALIDATION).partition(" at ")
        label = "validation" if name.startswith(VALIDATION) else "training"
        charts.setdefault(measure, {})[f"{label}, {place}" if place else label] = points
    return [Lines(title=measure.replace("_", " "), series=own) for measure, own in charts.items()]


def noise_charts(path: Path) -> list[Chart]:
    """The noise law and u(sigma) over ln sigma, at the first, a middle and the last validation of a run."""
    known = [line for line in read_record(path) if "noise/log_sigma" in line]
    shown = [known[index] for index in sorted({0, len(known) // 2, len(known) - 1})] if known else []
    titles = {"noise/noise_density": "noise law over ln sigma", "noise/u": "u over ln sigma"}
    return [
        Lines(
            title=title,
            series={
                f"step {line['step']}": list(zip(line["noise/log_sigma"], line[name], strict=True)) for line in shown
            },
        )
        for name, title in titles.items()
        if shown
    ]


def inspect_latents(folder: Path, around: Around) -> Finding:
    """Latents: who made them, and of what. Their hashes are for `dualdiff encode --check`: reading all takes long.

    Raises:
        DataError: a file is missing.
    """
    index = LatentIndex.open(folder)
    missing = [file.name for track in index.tracks for file in track.files if not (folder / file.name).is_file()]
    if missing:
        raise DataError(
            f"{folder / missing[0]} is missing ({len(missing)} of its files are)",
            "make the latents anew: dualdiff encode",
        )
    column_s = index.frames_per_column * index.frame_s
    rows = [
        (
            game,
            len(own),
            sum(track.split == "validation" for track in own),
            round(sum(track.columns for track in own) * column_s, 1),
        )
        for game in index.games
        for own in [[track for track in index.tracks if track.game == game]]
    ]
    facts = {
        "made by the VAE": index.vae_hash,
        "in": index.vae,
        "made with the format": index.format_hash,
        "tracks": len(index.tracks),
        "games": len(index.games),
        "hours": round(sum(track.columns for track in index.tracks) * column_s / 3600, 3),
        "variants": index.offsets * len(index.variants),
        "time shifts": index.offsets,
        "pitches, semitones": sorted({variant.pitch_semitones for variant in index.variants}),
        "mirrored": any(variant.mirrored for variant in index.variants),
        "mean": list(index.mean),
        "standard deviation": list(index.std),
        "seconds per column": column_s,
        "bytes": _size(folder),
    }
    made_by = [around.of_part("vae", index.vae_hash), around.of_part("format", index.format_hash)]
    columns = ("game", "tracks", "to validate", "seconds")
    sheet = Sheet(title="games", columns=columns, rows=rows)
    channels = Sheet(
        title="latent channels",
        columns=("channel", "mean", "standard deviation"),
        rows=[(number, *own) for number, own in enumerate(zip(index.mean, index.std, strict=True))],
    )
    minutes = {game: seconds / 60 for game, _, _, seconds in sorted(rows, key=lambda row: -row[3])}
    lengths = [track.columns * column_s for track in index.tracks]
    return Finding(
        kind="latents",
        path=folder,
        facts=facts,
        sheets=[sheet, channels, ancestry([*made_by, around.of_ledger(index)] if around.root else made_by)],
        charts=[
            Bars(title="music by game", unit="min", values=minutes),
            Histogram(title="length of tracks", unit="s", values=lengths),
        ],
        next="dualdiff unet train",
    )


def inspect_latent_file(path: Path) -> Finding:
    """One file of latents: which track it is of, and whether it is what was written.

    Raises:
        DataError: it is no such file, or lies in no folder of latents.
    """
    facts = facts_of(path)
    if facts is None:
        raise DataError(f"{path} is no file of latents", "inspect takes a model's or a run's folder, not its weights")
    index = LatentIndex.open(path.parent)
    owners = [
        (track, variant, file)
        for track in index.tracks
        for variant, file in zip(index.variants, track.files, strict=True)
        if file.name == path.name
    ]
    digest = sha256_of(path)
    named: dict[str, Any] = {"track": None}
    if owners:
        track, variant, file = owners[0]
        named = {
            "track": track.path,
            "game": track.game,
            "split": track.split,
            "pitch, semitones": variant.pitch_semitones,
            "mirrored": variant.mirrored,
            "as it was written": digest == file.sha256,
        }
    counts = facts["count"] / max(len(facts["sum"]), 1)
    means = [total / facts["count"] for total in facts["sum"]]
    spreads = [
        math.sqrt(max(squares / facts["count"] - own * own, 0.0))
        for squares, own in zip(facts["sum_of_squares"], means, strict=True)
    ]
    return Finding(
        kind="latents of a track",
        path=path,
        facts={
            **named,
            "columns": facts["columns"],
            "seconds": round(facts["columns"] * index.frames_per_column * index.frame_s, 3),
            "time shifts": index.offsets,
            "made by the VAE": index.vae_hash,
            "made with the format": index.format_hash,
            "numbers per channel": round(counts),
            "bytes": path.stat().st_size,
            "sha256": digest,
        },
        notes=() if owners else ("The index of its folder does not name it: it is left over, or of another VAE.",),
        sheets=[
            Sheet(
                title="latent channels",
                columns=("channel", "mean", "standard deviation"),
                rows=[(number, *own) for number, own in enumerate(zip(means, spreads, strict=True))],
            )
        ],
        next="dualdiff encode --check",
    )


def inspect_row(path: Path, track: str, around: Around) -> Finding:
    """One file of a ledger: all that is known of it.

    Raises:
        DataError: the ledger cannot be read, or does not name it.
    """
    rows = {row.path: row for row in read_ledger(path)}
    if track not in rows:
        hint = did_you_mean(track, rows) or "name it as the ledger does, from the music folder: game/track"
        raise DataError(f"{path} names no file {track}", hint)
    row = rows[track]
    music = path.parent / (row.folder or around.setting("dataset", "folder", "music"))
    return Finding(
        kind="row of a data set",
        path=path,
        facts=dict(row_pairs(row)),
        notes=[f"It is not used: {row.reason}."] if row.reason else (),
        next=f'dualdiff inspect "{music / row.source}"' if row.state == "used" else "dualdiff dataset scan",
    )


def _size(path: Path) -> int:
    """The bytes of a file, or of all files below a folder; 0 for what is not there."""
    if path.is_dir():
        return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return path.stat().st_size if path.exists() else 0
