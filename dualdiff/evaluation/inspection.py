"""What a path is, and what is known of it: project, ledger, latents, run, model, clip. What `inspect` shows."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from dualdiff import audio
from dualdiff.config import parse_toml
from dualdiff.data.latents import LatentIndex
from dualdiff.data.ledger import LEDGER_NAME
from dualdiff.errors import DataError
from dualdiff.evaluation.card import read_card
from dualdiff.evaluation.dataset import inspect_dataset
from dualdiff.evaluation.finding import Bars, Chart, Finding, Histogram, Lines, Picture, Sheet
from dualdiff.evaluation.plots import Row as PictureRow
from dualdiff.evaluation.plots import png, spectrogram_picture
from dualdiff.files import sha256_of
from dualdiff.recipe import read_recipe
from dualdiff.store import named_model, read_json, read_model_json
from dualdiff.types import Waveform

SETTINGS_NAME = "dualdiff.toml"


def inspect(path: Path) -> Finding:
    """Find out what `path` is.

    Raises:
        DataError: it does not exist, is nothing of dualdiff's and no audio, or is broken.
    """
    path = named_model(path)
    if not path.exists():
        raise DataError(f"there is no {path}", "check the path")
    kinds: Sequence[tuple[bool, Callable[[Path], Finding]]] = (
        (path.suffix == ".jsonl", inspect_dataset),
        (path.suffix.lower() in audio.AUDIO_SUFFIXES, inspect_audio),
        (path.name == SETTINGS_NAME, lambda file: inspect_project(file.parent)),
        ((path / "model.json").is_file(), inspect_model),
        ((path / "state.json").is_file(), inspect_run),
        ((path / "index.json").is_file(), inspect_latents),
        ((path / SETTINGS_NAME).is_file(), inspect_project),
    )
    for matches, look in kinds:
        if matches:
            return look(path)
    raise DataError(
        f"{path} is nothing that dualdiff knows",
        "inspect takes a project's folder, dataset.jsonl, latents/, runs/<name>, models/<name> or an audio file",
    )


def inspect_project(folder: Path) -> Finding:
    """A project: which stages are done, and its data set."""
    found = {
        "data set": sorted(folder.glob(LEDGER_NAME)),
        "runs": sorted(path.parent for path in folder.glob("runs/*/state.json")),
        "models": sorted(path.parent for path in folder.glob("models/*/model.json")),
        "latents": sorted(path.parent for path in folder.glob("*/index.json")),
    }
    rows = [(kind, path.relative_to(folder).as_posix(), _size(path)) for kind, paths in found.items() for path in paths]
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
        charts=data.charts if data else list,
        next=next((command for command, done in steps if not done), "dualdiff generate"),
    )


def inspect_model(folder: Path) -> Finding:
    """A model: its card, and its parts with their hashes, sizes and settings."""
    parts: dict[str, str] = read_model_json(folder)["parts"]
    rows, sheets = [], []
    facts: dict[str, Any] = {}
    for part, digest in parts.items():
        weights = folder / f"{part}.safetensors"
        rows.append((part, digest, parameters_in(weights) if weights.exists() else None, _size(weights)))
        described = read_json(folder / f"{part}.json")
        settings = described.get("config", described)
        sheets.append(Sheet(title=f"settings of the {part}", columns=("setting", "value"), rows=list(settings.items())))
        facts |= described.get("facts", {})
    columns = ("part", "hash", "parameters", "bytes")
    notes, tables = read_card(folder / "README.md")
    return Finding(
        kind="model",
        path=folder,
        facts=facts,
        notes=notes,
        sheets=[*tables, Sheet(title="parts", columns=columns, rows=rows), *sheets],
        charts=partial(_part_charts, {row[0]: row[2] for row in rows if row[2]}),
        next=f"dualdiff generate --model {folder}" if "unet" in parts else "dualdiff encode",
    )


def _part_charts(parameters: dict[str, int]) -> list[Chart]:
    millions = {part: count / 1e6 for part, count in parameters.items()}
    return [Bars(title="size of the parts", unit="million parameters", values=millions)] if millions else []


def inspect_run(folder: Path) -> Finding:
    """A training run: how far it is, and how its measures went."""
    state = read_json(folder / "state.json")
    if not isinstance(state, dict) or "dualdiff_run" not in state:
        raise DataError(f"{folder} holds a state.json that is not of a dualdiff run", "check the path")
    network = state["identity"].get("network", "")
    steps = _planned_steps(folder / "config.toml", network)
    done = state["checkpoint"] or 0
    facts = {
        "trains": network,
        "steps done": done,
        "steps planned": steps,
        "checkpoints": [int(path.name) for path in sorted(folder.glob("checkpoints/[0-9]*"))],
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
    done_next = {"vae": "dualdiff encode", "unet": "dualdiff generate"}.get(network, "")
    return Finding(
        kind="run",
        path=folder,
        facts=facts,
        sheets=[sheet for sheet in (measures, identity) if sheet.rows],
        charts=lambda: [*curves(series), *noise_charts(folder / "metrics.jsonl")],
        next=done_next if done >= steps else f"dualdiff {network} train",
    )


def _planned_steps(path: Path, network: str) -> int:
    table: Any = parse_toml(path.read_text(encoding="utf-8"), str(path)) if path.is_file() else {}
    return int(table.get(network, {}).get("train", {}).get("steps", 0))


def read_measures(path: Path) -> dict[str, list[tuple[int, float]]]:
    """The measures of a run, each as (step, value) in the order of the steps; none if there is no such file.

    Raises:
        DataError: a line is not JSON.
    """
    series: dict[str, list[tuple[int, float]]] = {}
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    for number, line in enumerate(lines, start=1):
        try:
            values = json.loads(line)
        except ValueError as error:
            raise DataError(f"{path}, line {number} is not JSON", "take the line out") from error
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
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []
    known = [line for line in lines if "noise/log_sigma" in line]
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


def inspect_latents(folder: Path) -> Finding:
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
        sheets=[sheet, channels],
        charts=lambda: [
            Bars(title="music by game", unit="min", values=minutes),
            Histogram(title="length of tracks", unit="s", values=lengths),
        ],
        next="dualdiff unet train",
    )


def inspect_audio(path: Path) -> Finding:
    """An audio file: its measures, and for a clip of dualdiff's the recipe it was made by."""
    info = audio.probe(path)
    waveform = audio.read(path, sample_rate=info.sample_rate)
    lufs, peak_db = audio.loudness_lufs(waveform, info.sample_rate), audio.true_peak_db(waveform, info.sample_rate)
    facts = {
        "format": info.format,
        "seconds": round(info.duration_s, 3),
        "sample rate": info.sample_rate,
        "channels": info.channels,
        "loudness, LUFS": round(lufs, 2) if math.isfinite(lufs) else None,
        "true peak, dB": round(peak_db, 2) if math.isfinite(peak_db) else None,
        "bytes": path.stat().st_size,
        "sha256": sha256_of(path),
        **{f"tag {name}": value for name, value in info.tags.items() if name != "comment"},
    }
    charts = partial(_spectrogram, waveform, info.sample_rate)
    try:
        recipe = read_recipe(path)
    except DataError:
        return Finding(kind="audio", path=path, facts=facts, charts=charts, next=f'dualdiff format roundtrip "{path}"')
    sheet = Sheet(title="recipe", columns=("key", "value"), rows=list(recipe.items()))
    return Finding(
        kind="clip", path=path, facts=facts, sheets=[sheet], charts=charts, next=f'dualdiff generate --from "{path}"'
    )


def _spectrogram(waveform: Waveform, sample_rate: int) -> list[Chart]:
    picture = png(spectrogram_picture([PictureRow("", waveform)], sample_rate))
    words = "levels over time and frequency, in dB below the loudest point"
    return [Picture(title="spectrogram", png=picture, words=words)]


def parameters_in(path: Path) -> int:
    """How many numbers a safetensors file holds, from its header alone.

    Raises:
        DataError: it is not safetensors.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118 - no mapping
    except (OSError, SafetensorError) as error:
        raise DataError(f"{path} cannot be read as safetensors: {error}", "make or copy it again") from error


def _size(path: Path) -> int:
    """The bytes of a file, or of all files below a folder; 0 for what is not there."""
    if path.is_dir():
        return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return path.stat().st_size if path.exists() else 0
