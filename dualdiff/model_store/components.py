"""The parts of a model folder: each JSON and weights, chained by hashes. What the parts are, `store` knows.

A hash covers a part's JSON and weights and its parents' hashes, so that two parts belong together or are refused.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from dualdiff.core.errors import DataError
from dualdiff.core.files import hash_of, read_json, sha256_of, write_json_atomically, write_text_atomically
from dualdiff.core.tensors import load_tensors, save_tensors

AVERAGED = "+ema"
"""Stands between the hash of a UNet and the other average of its weights that plays, in what names such a model."""

VERSION = 1
"""The version of the folder's layout; a folder of a newer one is refused."""


def read_model_json(folder: Path) -> dict[str, Any]:
    """What a model folder says it holds.

    Raises:
        DataError: the folder is missing, is no model, or is of a newer version.
    """
    path = folder / "model.json"
    if not path.is_file():
        what = "there is no folder" if not folder.exists() else "there is no model (no model.json) in"
        raise DataError(
            f"{what} {folder}", "`dualdiff vae train` and `dualdiff unet train` write models; check the path"
        )
    found = read_json(path)
    if not isinstance(found, dict) or not isinstance(found.get("parts"), dict):
        raise DataError(f"{path} does not describe a dualdiff model", "copy the model again")
    if found.get("dualdiff_model") != VERSION:
        raise DataError(
            f"{folder} is of model version {found.get('dualdiff_model')}, this is version {VERSION}", "update dualdiff"
        )
    return found


def read_part(folder: Path, part: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The description and the tensors of a part of a model folder.

    Raises:
        DataError: it is missing, broken, or does not belong to the others.
    """
    parts = read_model_json(folder)["parts"]
    if part not in parts:
        maker, found = {"mix": "unet"}.get(part, part), ", ".join(parts)
        raise DataError(f"{folder} holds no {part} (it holds {found})", f"`dualdiff {maker} train` makes one")
    description = read_json(folder / f"{part}.json")
    weights = load_tensors(folder / f"{part}.safetensors")
    if _part_hash(folder, part, description) != parts[part]:
        raise DataError(
            f"the {part} in {folder} is not the one that its model.json names",
            "files were mixed or cut short: make or copy it again",
        )
    for parent, expected in description["parents"].items():
        if parts.get(parent) != expected:
            raise DataError(
                f"the {part} in {folder} was made with another {parent} than lies beside it",
                "files were mixed: make or copy it again",
            )
    return description, weights


def split_average(model: str) -> tuple[str, str]:
    """What names a model that plays: the hash of its UNet, and the average of its weights, if another one plays.

    The average is as `--ema` takes it, such as `0.07@5000`.
    """
    digest, _, average = model.partition(AVERAGED)
    return digest, average


def save_part(
    folder: Path,
    part: str,
    config: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    parents: Mapping[str, str],
    facts: Mapping[str, Any],
) -> str:
    """Write one part of a folder in the making; returns its hash. `parents`: those it belongs to, with theirs."""
    save_tensors(folder / f"{part}.safetensors", weights)
    description = {"config": dict(config), "parents": dict(parents), "facts": dict(facts)}
    write_json_atomically(folder / f"{part}.json", description)
    return _part_hash(folder, part, description)


def finish(folder: Path, parts: Mapping[str, str], card: str) -> None:
    """Write what makes a folder of parts, given with their hashes, a model: its card, then model.json."""
    write_text_atomically(folder / "README.md", card)
    write_json_atomically(folder / "model.json", {"dualdiff_model": VERSION, "parts": dict(parts)})


def add_part(
    folder: Path,
    part: str,
    config: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    parents: Sequence[str],
    facts: Mapping[str, Any],
) -> None:
    """Add a part to a whole model folder, or replace it; `parents` are the parts that it belongs to."""
    found = read_model_json(folder)
    parts = found["parts"]
    digest = save_part(folder, part, config, tensors, {name: parts[name] for name in parents}, facts)
    write_json_atomically(folder / "model.json", {**found, "parts": {**parts, part: digest}})


def _part_hash(folder: Path, part: str, description: Mapping[str, Any]) -> str:
    return hash_of({"json": description, "weights": sha256_of(folder / f"{part}.safetensors")})
