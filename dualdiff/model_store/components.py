"""The parts of a model folder: each JSON and weights, chained by hashes. What the parts are, `store` knows.

A hash covers a part's JSON and weights and its parents' hashes, so that two parts belong together or are refused.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from dualdiff.core.errors import DataError
from dualdiff.core.files import (
    has_key,
    hash_of,
    kind_of,
    read_json,
    replacing_folder,
    restore_folder,
    sha256_of,
    write_json_atomically,
    write_text_atomically,
)
from dualdiff.core.tensors import load_tensors, save_tensors

AVERAGED = "+ema"
"""Stands between the hash of a UNet and the other average of its weights that plays, in what names such a model."""

VERSION = 1
"""The version of the folder's layout; a folder of a newer one is refused."""

EXPORTS = "exports"
"""The folder, in that of a run, of models that later exports of the run replaced."""

KIND = "model"
"""What the marker of a model folder says."""

OWN = {"model.json", "format.json", "labels.json", "README.md"} | {
    f"{part}.{end}" for part in ("phase", "vae", "unet", "mix", "fingerprints") for end in ("json", "safetensors")
}
"""The files of a model folder that a new model does not take over from the one before it."""


class Part(NamedTuple):
    """A part that is added to a model: its name, its content, and the parts that it belongs to."""

    name: str
    config: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    parents: Sequence[str]
    facts: Mapping[str, Any]


def is_model(folder: Path) -> bool:
    """Whether a folder holds a model of this program, of any version."""
    return has_key(folder / "model.json", "dualdiff_model")


def require_own(folder: Path) -> None:
    """Refuse a folder that a model cannot be written to, since it holds something else.

    Raises:
        DataError: so it is.
    """
    restore_folder(folder)
    if folder.exists() and kind_of(folder) is None and not is_model(folder) and any(folder.iterdir()):
        raise DataError(
            f"{folder} holds files, and no model of dualdiff",
            "choose another name for the run in dualdiff.toml, or move these files",
        )


@contextmanager
def writing(folder: Path, keep_in: Path | None = None) -> Iterator[Path]:
    """A folder to write a model into that takes the place of `folder`, at once, when the block ends without an error.

    An older model with another UNet is kept in `keep_in`, under the first letters of its UNet's hash. Files of others
    in `folder` stay there.

    Raises:
        DataError: the folder holds something else than a model.
        DualdiffError: it cannot be written.
    """
    require_own(folder)

    def retire(old: Path) -> Path | None:
        digests = [_parts_of(place).get("unet", "") for place in (old, folder)]
        return keep_in / digests[0][:12] if keep_in and digests[0] and digests[0] != digests[1] else None

    with replacing_folder(folder, KIND, is_model, OWN, retire) as staging:
        yield staging


def _parts_of(folder: Path) -> dict[str, str]:
    try:
        return dict(read_model_json(folder)["parts"])
    except DataError:
        return {}


def read_model_json(folder: Path) -> dict[str, Any]:
    """What a model folder says it holds.

    Raises:
        DataError: the folder is missing, is no model, or is of a newer version.
    """
    path = folder / "model.json"
    restore_folder(folder)
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


def model_with(root: Path, part: str, digest: str) -> Path | None:
    """A model of a project whose part has this hash: of its models, or of those that later exports replaced.

    `digest` may name another average of a UNet's weights.
    """
    places = [*root.glob("models/*/model.json"), *root.glob(f"runs/*/{EXPORTS}/*/model.json")]
    found = sorted(place.parent for place in places)
    return next((place for place in found if _parts_of(place).get(part) == split_average(digest)[0]), None)


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


def add_part(folder: Path, part: Part) -> None:
    """Add a part to a whole model folder, or replace it."""
    read_model_json(folder)
    with replacing_folder(folder, KIND, is_model, (f"{part.name}.json", f"{part.name}.safetensors")) as staging:
        found = read_model_json(folder)
        write_json_atomically(staging / "model.json", {**found, "parts": save_extra(staging, part, found["parts"])})


def save_extra(folder: Path, part: Part, parts: Mapping[str, str]) -> dict[str, str]:
    """Write a part that belongs to those of `parts` that it names; returns them all with their hashes."""
    parents = {name: parts[name] for name in part.parents}
    return {**parts, part.name: save_part(folder, part.name, part.config, part.tensors, parents, part.facts)}


def _part_hash(folder: Path, part: str, description: Mapping[str, Any]) -> str:
    return hash_of({"json": description, "weights": sha256_of(folder / f"{part}.safetensors")})
