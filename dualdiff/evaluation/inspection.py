"""What a path is, and what is known of it: project, ledger, latents, run, model, clip. What `inspect` shows."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from dualdiff import audio
from dualdiff.clips import read_recipe
from dualdiff.config import parse_toml
from dualdiff.data.latents import check
from dualdiff.data.ledger import LEDGER_NAME, read_ledger, summary
from dualdiff.errors import DataError
from dualdiff.files import sha256_of
from dualdiff.store import read_json, read_model_json

SETTINGS_NAME = "dualdiff.toml"


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """A table of a finding."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What a path turned out to be."""

    kind: str
    path: Path
    facts: Mapping[str, Any]
    """Named values of JSON types; sizes in bytes, lengths in seconds."""
    sheets: Sequence[Sheet] = field(default=())
    next: str = ""
    """The command that is likely to come next."""


def inspect(path: Path) -> Finding:
    """Find out what `path` is.

    Raises:
        DataError: it does not exist, is nothing of dualdiff's and no audio, or is broken.
    """
    if not path.exists():
        raise DataError(f"there is no {path}", "check the path")
    kinds: Sequence[tuple[bool, Callable[[Path], Finding]]] = (
        (path.suffix == ".jsonl", inspect_ledger),
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
    """A project: which stages are done."""
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
    return Finding(
        kind="project",
        path=folder,
        facts={"stages done": sum(done for _, done in steps), "of": len(steps)},
        sheets=[Sheet(title="what is here", columns=("what", "where", "bytes"), rows=rows)] if rows else [],
        next=next((command for command, done in steps if not done), "dualdiff generate"),
    )


def inspect_ledger(path: Path) -> Finding:
    """A ledger: what it holds of each game, and why files are not used."""
    rows = read_ledger(path)
    counts = summary(rows)
    games = [
        (line.game, line.tracks, line.validation, round(line.hours * 3600, 1), line.skipped, line.failed)
        for line in counts.games
    ]
    left_out = [(row.path, row.state, row.reason) for row in rows if row.state != "used"]
    sheets = [
        Sheet(title="games", columns=("game", "tracks", "to validate", "seconds", "skipped", "failed"), rows=games),
        Sheet(title="not used", columns=("file", "state", "reason"), rows=left_out),
    ]
    facts = {
        "files": len(rows),
        "used": counts.tracks,
        "to validate": counts.validation,
        "skipped": counts.skipped,
        "failed": counts.failed,
        "seconds": round(counts.hours * 3600, 1),
        "sha256": sha256_of(path),
    }
    return Finding(
        kind="data set",
        path=path,
        facts=facts,
        sheets=[sheet for sheet in sheets if sheet.rows],
        next="dualdiff vae train",
    )


def inspect_model(folder: Path) -> Finding:
    """A model: its parts with their hashes, sizes and settings, and what they were trained on."""
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
    return Finding(
        kind="model",
        path=folder,
        facts=facts,
        sheets=[Sheet(title="parts", columns=columns, rows=rows), *sheets],
        next=f"dualdiff generate --model {folder}" if "unet" in parts else "dualdiff encode",
    )


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
    columns = ("measure", "first", "lowest", "last", "at step")
    identity = Sheet(
        title="settings", columns=("setting", "value"), rows=list(state["identity"].get("config", {}).items())
    )
    measures = Sheet(title="measures", columns=columns, rows=_measures(folder / "metrics.jsonl"))
    done_next = {"vae": "dualdiff encode", "unet": "dualdiff generate"}.get(network, "")
    return Finding(
        kind="run",
        path=folder,
        facts=facts,
        sheets=[sheet for sheet in (measures, identity) if sheet.rows],
        next=done_next if done >= steps else f"dualdiff {network} train",
    )


def _planned_steps(path: Path, network: str) -> int:
    table: Any = parse_toml(path.read_text(encoding="utf-8"), str(path)) if path.is_file() else {}
    return int(table.get(network, {}).get("train", {}).get("steps", 0))


def _measures(path: Path) -> list[tuple[str, float, float, float, int]]:
    """Each measure's first, lowest and last value, and the step of the last."""
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
    return [
        (name, found[0][1], min(value for _, value in found), found[-1][1], found[-1][0])
        for name, found in series.items()
    ]


def inspect_latents(folder: Path) -> Finding:
    """Latents: who made them, of what, and that each file is the one the index names.

    Raises:
        DataError: a file is missing or is another one.
    """
    index = check(folder)
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
        "variants": index.offsets * len(index.variants),
        "mean": list(index.mean),
        "standard deviation": list(index.std),
        "seconds per column": column_s,
        "bytes": _size(folder),
    }
    columns = ("game", "tracks", "to validate", "seconds")
    sheet = Sheet(title="games", columns=columns, rows=rows)
    return Finding(kind="latents", path=folder, facts=facts, sheets=[sheet], next="dualdiff unet train")


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
    try:
        recipe = read_recipe(path)
    except DataError:
        return Finding(kind="audio", path=path, facts=facts, next=f'dualdiff format roundtrip "{path}"')
    sheet = Sheet(title="recipe", columns=("key", "value"), rows=list(recipe.items()))
    return Finding(kind="clip", path=path, facts=facts, sheets=[sheet], next=f'dualdiff generate --from "{path}"')


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
