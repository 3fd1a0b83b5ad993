"""A model folder: its parts, where they came from, what it knows of each game, and how its games lie to each other."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from dualdiff.core.errors import DataError
from dualdiff.core.files import read_json
from dualdiff.core.progress import Progress, silent
from dualdiff.data.latent_dataset import LatentIndex
from dualdiff.evaluation.training_fingerprints import PART as FINGERPRINTS
from dualdiff.generation.config import GenerateConfig
from dualdiff.generation.recipe import read_recipe
from dualdiff.inspection.audio import clips_in
from dualdiff.inspection.clip_analysis import ClipAnalyser
from dualdiff.inspection.model_card import read_card
from dualdiff.inspection.project_context import ProjectContext, ancestry
from dualdiff.inspection.report_data import Bars, Chart, Report, ReportTable, Scatter
from dualdiff.model_store.components import read_model_json, split_average

EMBEDDING = "label_embedding.weight"
"""The tensor of the UNet that holds a vector per game."""
TABLES = ("per_game", "mix", "window")
"""Facts that are shown as tables, or are of use to programs only."""


MOST_CLIPS = 100
"""Clips of a model that are compared with its training music, spread evenly over those there are."""


def inspect_model(
    folder: Path, around: ProjectContext, copies: bool | None = None, progress: Progress = silent
) -> Report:
    """A model: its parts with their hashes, sizes and settings, what they were trained on, its games, and its clips.

    Its clips are those in the project's output folder; `copies` says whether to compare them with its training music.

    Raises:
        DataError: a part is missing or broken.
    """
    parts: dict[str, str] = read_model_json(folder)["parts"]
    rows, settings = [], []
    facts: dict[str, Any] = {}
    for part, digest in parts.items():
        weights = folder / f"{part}.safetensors"
        rows.append((part, digest, parameters_in(weights) if weights.exists() else None, _bytes(weights)))
        described = read_json(folder / f"{part}.json")
        if not isinstance(described, dict):
            raise DataError(f"{folder / part}.json does not describe a part of a model", "make or copy it again")
        facts |= described.get("facts", {})
        if part == FINGERPRINTS:
            facts["fingerprints of training tracks"] = len(described["config"]["tracks"])
            continue
        table = described.get("config", described)
        settings.append(
            ReportTable(title=f"settings of the {part}", columns=("setting", "value"), rows=list(table.items()))
        )
    if "unet" in parts and copies is not False:
        facts |= _clips_of(parts["unet"], around, progress)
    places = map_of_games(folder, facts.get("games", ())) if "unet" in parts else {}
    said, tables = read_card(folder / "README.md")
    sheets = [
        *tables,
        ReportTable(title="parts", columns=("part", "hash", "parameters", "bytes"), rows=rows),
        _origins(parts, facts, around),
        *_games(facts, around.latents),
        *([ReportTable(title="map of games", columns=("game", "x", "y"), rows=_map_rows(places))] if places else []),
        *([_mix_sheet(facts["mix"])] if isinstance(facts.get("mix"), dict) else []),
        *settings,
    ]
    return Report(
        kind="model",
        path=folder,
        facts={key: value for key, value in facts.items() if key not in TABLES},
        notes=[*said, *_notes(facts, parts)],
        sheets=[sheet for sheet in sheets if sheet.rows],
        charts=_charts({row[0]: row[2] for row in rows if row[2]}, facts, places),
        next=_next(folder, parts),
    )


def _clips_of(digest: str, around: ProjectContext, progress: Progress) -> dict[str, Any]:
    """The clips of a UNet in the project's output folder, and the share of them that is flagged as copies."""
    folder = (around.root or Path()) / around.setting("generate", "out", GenerateConfig().out)
    paths = [path for path in (clips_in(folder) if folder.is_dir() else []) if _is_by(path, digest)]
    if not paths:
        return {}
    chosen = paths[:: math.ceil(len(paths) / MOST_CLIPS)]
    ear = ClipAnalyser(around, shares=False)
    told = []
    for number, path in enumerate(chosen):
        progress(number, len(chosen), path.name)
        heard, _ = ear.hear(path)
        told += [heard.copies.flagged] if heard.copies and heard.copies.stated_rate else []
    progress(len(chosen), len(chosen))
    facts: dict[str, Any] = {"clips here": len(paths), "clips compared with training music": len(told)}
    if told:
        facts |= {"clips flagged": sum(told), "clips flagged, share": round(sum(told) / len(told), 4)}
    return facts


def _is_by(path: Path, digest: str) -> bool:
    """Return whether the recipe in a clip's tags names this UNet, with whichever average of its weights."""
    try:
        return split_average(str(read_recipe(path).get("model", "")))[0] == digest
    except DataError:
        return False


def _next(folder: Path, parts: Mapping[str, str]) -> str:
    if "unet" in parts:
        return f'dualdiff generate --model "{folder}"'
    return "dualdiff encode" if "vae" in parts else "dualdiff format test"


def _origins(parts: Mapping[str, str], facts: Mapping[str, Any], around: ProjectContext) -> ReportTable:
    """What of a whole model is still there in the project: the VAE it was trained with, its latents, the ledger."""
    if "unet" not in parts:
        return ancestry(())
    rows = [around.of_part(part, parts[part]) for part in ("vae",) if part in parts]
    rows.append(around.of_latents(parts.get("vae", ""), facts))
    if around.latents is not None:
        rows.append(around.of_ledger(around.latents))
    return ancestry(rows)


def _games(facts: Mapping[str, Any], index: LatentIndex | None) -> list[ReportTable]:
    """What was learned of each game: as the export told it, or as the latents tell it where they are of these games."""
    told = facts.get("per_game")
    if not isinstance(told, dict):
        told = _of_latents(index) if index and list(index.games) == facts.get("games") else {}
    columns = ("game", "tracks", "hours", "share", "held-out loss")
    rows = [
        (
            game,
            own.get("tracks"),
            _rounded(own.get("hours")),
            _rounded(own.get("share")),
            _rounded(own.get("held_out_loss")),
        )
        for game, own in told.items()
        if isinstance(own, dict)
    ]
    return [ReportTable(title="games", columns=columns, rows=rows)]


def _of_latents(index: LatentIndex) -> dict[str, dict[str, Any]]:
    column_h = index.frames_per_column * index.frame_s / 3600
    training = index.tracks_of("train")
    total = sum(track.columns for track in training) or 1
    found = {}
    for game in index.games:
        columns = [track.columns for track in training if track.game == game]
        found[game] = {"tracks": len(columns), "hours": sum(columns) * column_h, "share": sum(columns) / total}
    return found


def _rounded(value: Any) -> Any:
    return round(value, 4) if isinstance(value, float) and math.isfinite(value) else value


def _mix_sheet(facts: Mapping[str, Any]) -> ReportTable:
    return ReportTable(title="what tells its games apart", columns=("fact", "value"), rows=list(facts.items()))


def _notes(facts: Mapping[str, Any], parts: Mapping[str, str]) -> list[str]:
    if "unet" not in parts:
        return []
    mix = facts.get("mix")
    if not isinstance(mix, dict):
        return ["It was made without what tells games apart: how much a clip is like each game cannot be told with it."]
    if not mix.get("held-out tracks"):
        return ["There were no held-out tracks: how often its games are told apart rightly is not known."]
    right, chance = mix.get("right, of held-out tracks", 0.0), mix.get("right by chance", 0.0)
    return [
        f"Its games are told apart rightly in {right:.0%} of {mix['held-out tracks']} held-out tracks; "
        f"{chance:.0%} would be chance."
    ]


def map_of_games(folder: Path, games: Sequence[str]) -> dict[str, tuple[float, float]]:
    """Where the vectors of the games lie in the plane along which they differ most, in lengths of such a vector.

    Raises:
        DataError: the weights are broken, or of other games.
    """
    path = folder / "unet.safetensors"
    try:
        with safe_open(path, framework="pt") as file:
            vectors: Tensor = file.get_tensor(EMBEDDING)
    except (OSError, SafetensorError) as error:
        raise DataError(f"{path} cannot be read: {error}", "make or copy it again") from error
    if vectors.shape[1] != len(games):
        raise DataError(f"{path} knows {vectors.shape[1]} games, its facts {len(games)}", "make or copy it again")
    rows = torch.nn.functional.normalize(vectors.double().flatten(1), dim=1).T
    centred = (rows - rows.mean(dim=0)) / rows.norm(dim=1).mean().clamp_min(1e-12)
    left, sizes, _ = torch.linalg.svd(centred, full_matrices=False)
    plane = torch.nn.functional.pad(left * sizes, (0, 2))[:, :2]
    # The sign of a singular vector is arbitrary: make the largest entry of each axis positive.
    largest = plane.gather(0, plane.abs().argmax(dim=0, keepdim=True))
    plane = torch.where(largest < 0, -plane, plane)
    return {game: (float(x), float(y)) for game, (x, y) in zip(games, plane.tolist(), strict=True)}


def _map_rows(places: Mapping[str, tuple[float, float]]) -> list[tuple[str, float, float]]:
    return [(game, round(x, 4), round(y, 4)) for game, (x, y) in places.items()]


def _charts(
    parameters: Mapping[str, int], facts: Mapping[str, Any], places: Mapping[str, tuple[float, float]]
) -> list[Chart]:
    millions = {part: count / 1e6 for part, count in parameters.items()}
    charts: list[Chart] = (
        [Bars(title="size of the parts", unit="million parameters", values=millions)] if millions else []
    )
    told = facts.get("per_game")
    if isinstance(told, dict):
        losses = {game: own.get("held_out_loss") for game, own in told.items() if isinstance(own, dict)}
        known = {game: float(loss) for game, loss in losses.items() if isinstance(loss, float) and math.isfinite(loss)}
        charts += [Bars(title="held-out loss by game", unit="", values=known)] if known else []
    if len(places) > 1:
        words = "label vectors in the plane where they differ most"
        charts.append(Scatter(title="map of games", words=words, places=places))
    return charts


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


def _bytes(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
