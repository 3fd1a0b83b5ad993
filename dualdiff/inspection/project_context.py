"""What lies around a thing that is inspected: its project, the models there, and whether it belongs together."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from dualdiff.core.config import parse_toml
from dualdiff.core.errors import DataError, DualdiffError, closest
from dualdiff.data.latent_dataset import LatentIndex
from dualdiff.data.manifest import LEDGER_NAME, Row, read_ledger
from dualdiff.inspection.report_data import ReportTable
from dualdiff.model_store.components import model_with, read_model_json, split_average
from dualdiff.model_store.location import named_model, shipped_model

SETTINGS_NAME = "dualdiff.toml"
SAME, CHANGED, GONE = "as it was", "another one lies there", "not here"


@dataclass(frozen=True)
class ProjectContext:
    """A project's folder, or none; and a model folder besides those in it, or none."""

    root: Path | None = None
    model: Path | None = None

    @classmethod
    def of(cls, path: Path, root: Path | None = None, model: Path | None = None) -> "ProjectContext":
        """What lies around a path: the project named, or else the nearest one above the path, or the one here."""
        places = [root] if root is not None else [*path.resolve().parents, Path()]
        found = next((place for place in places if (place / SETTINGS_NAME).is_file()), root)
        return cls(found, model)

    def model_named(self, model: Path) -> Path:
        """The folder of a model: itself, one of the project by its name, or the one that travels with the package.

        Raises:
            DataError: there is none; the hint proposes those of a like name.
        """
        own = self.root / "models" / model if self.root and len(model.parts) == 1 else model
        found = next((place for place in (model, own) if (place / "model.json").is_file()), named_model(model))
        if (found / "model.json").is_file():
            return found
        places = [path.parent for path in self.root.glob("models/*/model.json")] if self.root else []
        known = {place.name: self.named(place) for place in places} | ({"nano": "nano"} if shipped_model() else {})
        near = [known[name] for name in closest(model.name, known)] or sorted(known.values())
        raise DataError(f"there is no model {model}", f"at hand: {', '.join(near)}" if near else "name a model folder")

    @cached_property
    def settings(self) -> Mapping[str, Any]:
        """The project's settings as they stand in the file, whatever they are; empty where there are none."""
        path = self.root / SETTINGS_NAME if self.root else None
        try:
            return parse_toml(path.read_text(encoding="utf-8-sig"), str(path)) if path and path.is_file() else {}
        except (OSError, ValueError, DualdiffError):
            return {}

    def setting(self, section: str, key: str, default: str) -> str:
        """A setting that is a text."""
        table = self.settings.get(section)
        value = table.get(key, default) if isinstance(table, dict) else default
        return value if isinstance(value, str) else default

    @cached_property
    def latents(self) -> LatentIndex | None:
        """The project's latents; None where there are none that can be read."""
        if self.root is None:
            return None
        try:
            return LatentIndex.open(self.root / self.setting("encode", "folder", "latents"))
        except DataError:
            return None

    @cached_property
    def models(self) -> dict[Path, dict[str, str]]:
        """The model folders at hand, and the hashes of their parts."""
        places = sorted(path.parent for path in self.root.glob("models/*/model.json")) if self.root else []
        return _parts_in([*([self.model] if self.model else []), *places])

    def model_with(self, part: str, digest: str) -> Path | None:
        """A model folder that holds a part with this hash, and as little else as possible; also what we ship.

        A UNet may be named with another average of its weights.
        """
        digest = split_average(digest)[0]
        shipped = shipped_model()
        known = self.models | _parts_in([shipped] if shipped else [])
        kept = model_with(self.root, part, digest) if self.root else None
        known |= _parts_in([kept] if kept else [])
        able = [place for place, parts in known.items() if parts.get(part) == digest]
        return min(able, key=lambda place: len(known[place]), default=None)

    @cached_property
    def ledger(self) -> list[Row]:
        """The rows of the project's ledger; none where there is none that can be read."""
        try:
            return read_ledger(self.root / LEDGER_NAME) if self.root else []
        except DataError:
            return []

    def row_of(self, path: Path) -> Row | None:
        """The ledger's row of a file of the music folder."""
        if self.root is None or not self.ledger:
            return None
        noted = next((row.folder for row in self.ledger if row.folder), self.setting("dataset", "folder", "music"))
        folder = (self.root / noted).resolve()
        whole = path.resolve()
        return next(
            (row for row in self.ledger if (folder / row.path) == whole or (folder / row.source) == whole), None
        )

    def named(self, path: Path) -> str:
        """A path as the project sees it."""
        whole, root = path.resolve(), self.root.resolve() if self.root else None
        return whole.relative_to(root).as_posix() if root and whole.is_relative_to(root) else str(path)

    def of_part(self, part: str, digest: str) -> tuple[str, str, str, str]:
        """Where a part with this hash is: what, hash, where, and whether it is there."""
        place = self.model_with(part, digest)
        return part, digest, self.named(place) if place else "", SAME if place else GONE

    def of_latents(self, vae_hash: str, facts: Mapping[str, Any]) -> tuple[str, str, str, str]:
        """Whether the latents that a model with these facts learned from are still those here."""
        index = self.latents
        if index is None:
            return "latents", "", "", GONE
        same = index.vae_hash == vae_hash and list(index.mean) == list(facts.get("latent_mean", ()))
        same = same and list(index.std) == list(facts.get("latent_std", ())) and list(index.games) == facts.get("games")
        return "latents", index.vae_hash, self.named(index.folder), SAME if same else CHANGED

    def of_ledger(self, index: LatentIndex) -> tuple[str, str, str, str]:
        """Whether the ledger here names the same tracks, with the same audio, as some latents."""
        if not self.ledger:
            return "ledger", "", "", GONE
        known = {(row.path, row.sha256, row.split) for row in self.ledger if row.state == "used"}
        encoded = {(track.path, track.audio_sha256, track.split) for track in index.tracks}
        words = SAME if known == encoded else f"{len(known ^ encoded)} tracks differ: run dualdiff encode"
        return "ledger", "", LEDGER_NAME, words


def ancestry(rows: Iterable[tuple[str, str, str, str]]) -> ReportTable:
    """Where a thing came from, as a table."""
    return ReportTable(title="came from", columns=("what", "hash", "where", "now"), rows=list(rows))


def _parts_in(folders: Iterable[Path]) -> dict[Path, dict[str, str]]:
    """The hashes of the parts of those model folders that can be read."""
    found = {}
    for folder in folders:
        try:
            found[folder] = dict(read_model_json(folder)["parts"])
        except DataError:
            continue
    return found
