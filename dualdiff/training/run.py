"""A run folder on disk: what it trains, its checkpoints, its record.

config.toml                 the settings, resolved
state.json                  what the run is (its identity), and the newest checkpoint
metrics.jsonl               one line per report; only what repeats exactly, so no times
tb/                         the same and more for TensorBoard
checkpoints/<step>/         model, optimizer and weight averages as safetensors, and the loop's own state
ema/<width>-<step>.safetensors   snapshots of the weight averages
demos/                      audio and pictures made on the way
"""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from dualdiff.errors import DataError, DualdiffError
from dualdiff.files import write_json_atomically, write_text_atomically
from dualdiff.store import load_tensors, read_json, save_tensors

VERSION = 1
"""The version of the folder's layout; a folder of a newer one is refused."""


@dataclass(frozen=True)
class Checkpoint:
    """Everything that a run goes on from: named groups of tensors and a small state."""

    step: int
    groups: Mapping[str, Mapping[str, Tensor]]
    state: Mapping[str, Any]


class Run:
    """A run folder, opened for one identity: a folder of another model is refused, not overwritten."""

    def __init__(self, folder: Path, identity: Mapping[str, Any], settings_toml: str) -> None:
        self.folder = folder
        self._identity = dict(identity)
        self._settings_toml = settings_toml

    def open(self) -> None:
        """Make the folder, or check that it is this run's.

        Raises:
            DataError: the folder holds something else, another model's run, or a run of a newer version.
        """
        state_path = self.folder / "state.json"
        if state_path.exists():
            self._require_same(read_json(state_path))
        elif self.folder.exists() and any(self.folder.iterdir()):
            raise DataError(
                f"{self.folder} is not empty and holds no run", "choose another name for the run in dualdiff.toml"
            )
        else:
            self._write_state(None)
        write_text_atomically(self.folder / "config.toml", self._settings_toml)

    def _require_same(self, state: Mapping[str, Any]) -> None:
        if state.get("dualdiff_run") != VERSION:
            raise DataError(
                f"{self.folder} is a run of version {state.get('dualdiff_run')}, this is version {VERSION}",
                "update dualdiff",
            )
        for key, value in self._identity.items():
            found = state["identity"].get(key)
            if found != value:
                raise DataError(
                    f"{self.folder} is the run of another model: its {key} is {_short(found)}, not {_short(value)}",
                    "go on with that run's settings (its config.toml), or give this run another name in dualdiff.toml",
                )

    def _write_state(self, step: int | None) -> None:
        write_json_atomically(
            self.folder / "state.json", {"dualdiff_run": VERSION, "identity": self._identity, "checkpoint": step}
        )

    def save(self, checkpoint: Checkpoint, keep: int) -> None:
        """Write a checkpoint beside the others, make it the newest, and drop the oldest beyond `keep`.

        Raises:
            DualdiffError: it could not be written; the previous checkpoint is untouched.
        """
        parent = self.folder / "checkpoints"
        target, unfinished = parent / f"{checkpoint.step:08d}", parent / f".{checkpoint.step:08d}.tmp"
        if (
            target.exists()
        ):  # the state after a step is the same whenever it is reached: never delete it to write it again
            return
        try:
            shutil.rmtree(unfinished, ignore_errors=True)
            for group, tensors in checkpoint.groups.items():
                save_tensors(unfinished / f"{group}.safetensors", tensors)
            write_json_atomically(unfinished / "state.json", {"step": checkpoint.step, **checkpoint.state})
            os.replace(unfinished, target)
            self._write_state(checkpoint.step)
        except (OSError, DualdiffError) as error:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise DualdiffError(
                f"the checkpoint of step {checkpoint.step} was not saved: {error}",
                "the previous checkpoint is untouched: free some space and run the same command again",
            ) from error
        for old in self.checkpoints()[:-keep]:
            shutil.rmtree(parent / f"{old:08d}", ignore_errors=True)

    def checkpoints(self) -> list[int]:
        """The steps of the whole checkpoints here, oldest first."""
        parent = self.folder / "checkpoints"
        return sorted(int(path.name) for path in parent.glob("[0-9]*") if path.name.isdigit())

    def load(self, groups: tuple[str, ...]) -> Checkpoint | None:
        """The newest checkpoint, or None where there is none yet.

        Raises:
            DataError: the checkpoint is broken.
        """
        steps = self.checkpoints()
        if not steps:
            return None
        folder = self.folder / "checkpoints" / f"{steps[-1]:08d}"
        state = read_json(folder / "state.json")
        tensors = {group: load_tensors(folder / f"{group}.safetensors") for group in groups}
        return Checkpoint(steps[-1], tensors, {key: value for key, value in state.items() if key != "step"})

    def save_snapshots(self, step: int, averages: Mapping[float, Mapping[str, Tensor]], keep: int) -> None:
        """Write the weight averages of one step, one file a width; keep the newest `keep` of each."""
        for width, tensors in averages.items():
            save_tensors(self.folder / "ema" / f"{width:.3f}-{step:08d}.safetensors", tensors)
            for old in sorted((self.folder / "ema").glob(f"{width:.3f}-*.safetensors"))[:-keep]:
                old.unlink()

    def record(self, step: int, values: Mapping[str, float]) -> None:
        """Append one line to `metrics.jsonl`."""
        with open(self.folder / "metrics.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")

    def rewind_record(self, step: int) -> None:
        """Drop the lines after `step`: they will be written again, the same."""
        path = self.folder / "metrics.jsonl"
        if path.exists():
            lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
            kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
            if kept != lines:
                write_text_atomically(path, "".join(kept))


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."
