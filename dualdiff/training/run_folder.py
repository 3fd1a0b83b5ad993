"""A run folder on disk: what it trains, its checkpoints, its record.

config.toml                 the settings, resolved: those of the last step that was taken
state.json                  what the run is (its identity), and the newest checkpoint
data.json                   the tracks that the last step was drawn from
run.lock                    the process that trains here, while one does
metrics.jsonl               one line per report; only what repeats exactly, so no times
costs.jsonl                 time and memory of steps, which do not repeat
plan.json                   what was decided when the run began: its precision, its micro-batches, and its hours
latents.json                the latent statistics that a UNet began with
failure.json                where a loss was not finite: its step, its numbers and its batch
tb/                         all of it for TensorBoard
checkpoints/<step>/         model, optimizer and weight averages as safetensors, and the loop's own state
ema/<width>-<step>.safetensors   snapshots of the weight averages
exports/<hash>/             models that later exports replaced, as whole model folders
demos/                      audio and pictures made on the way, with the command that makes them again
"""

import json
import logging
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from torch import Tensor

from dualdiff.core.config import parse_toml
from dualdiff.core.errors import ConfigError, DataError, DualdiffError
from dualdiff.core.files import (
    TEMPORARY,
    append_text,
    discard,
    discard_folders,
    has_key,
    new_folder,
    own_folder,
    parse_json,
    read_json,
    write_json_atomically,
    write_text_atomically,
)
from dualdiff.core.lock import locked
from dualdiff.core.tensors import load_tensors, save_tensors
from dualdiff.training.ema import snapshots

log = logging.getLogger(__name__)

VERSION = 1
"""The version of the folder's layout; a folder of a newer one is refused."""

_OLD_KEY = re.compile(r"(.*?) at (?:(sigma|width) )?(.+)")

RECORD_NAME, COSTS_NAME, PLAN_NAME, DATA_NAME = "metrics.jsonl", "costs.jsonl", "plan.json", "data.json"

KIND = "run"
"""What the marker of a run folder says."""

_CHECKPOINT = re.compile(r"\d{8,}")
_UNFINISHED = re.compile(rf"{TEMPORARY.pattern}|\.\d{{8,}}\.tmp")
_CONTENT = re.compile(r"(model|optimizer|ema)\.safetensors|state\.json")


def current_key(name: str) -> str:
    """The key of a measure as it is written today; the first records had `loss at sigma 2` and `loss at GAME`."""
    old = _OLD_KEY.fullmatch(name)
    if old is None or "/game/" in name:
        return name
    measure, axis, place = old.groups()
    return f"{measure}/{axis}_{place}" if axis else f"{measure}/game/{place}"


@dataclass(frozen=True)
class Checkpoint:
    """Everything that a run goes on from: named groups of tensors and a small state."""

    step: int
    groups: Mapping[str, Mapping[str, Tensor]]
    state: Mapping[str, Any]


class Run:
    """A run folder, opened for one identity: a folder of another model is refused, not overwritten."""

    def __init__(
        self,
        folder: Path,
        identity: Mapping[str, Any],
        settings_toml: str,
        notes: Mapping[str, Any] = MappingProxyType({}),
        precision: str = "",
        tracks: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """Name the folder and what is trained there.

        Args:
            folder: the run folder; it need not exist.
            identity: what makes it this run and no other, as JSON values.
            settings_toml: the settings of this start.
            notes: JSON values by file name, which a run keeps as it was begun with them.
            precision: the type that the run computes in; it is kept in the plan.
            tracks: the game of each track that is trained on, by the SHA-256 of its audio.
        """
        self.folder = folder
        self._notes = notes
        self._precision = precision
        self._identity = dict(identity)
        self._settings_toml = settings_toml
        self._tracks = {digest[:16]: game for digest, game in tracks.items()}
        self._has_begun = False

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep other trainings out of the folder while the block runs.

        Raises:
            DataError: the folder holds something else.
            DualdiffError: another process trains here.
        """
        self._claim()
        with locked(self.folder / "run.lock", f"{self.folder} is trained"):
            yield

    def open(self) -> None:
        """Make the folder, or check that it is this run's. Until the first step nothing in it changes.

        Raises:
            DataError: the folder holds something else, another model's run, or a run of a newer version.
        """
        self._claim()
        state_path = self.folder / "state.json"
        if state_path.exists():
            self._require_same(read_json(state_path))
        elif self.checkpoints() or (self.folder / RECORD_NAME).exists():
            raise DataError(f"{state_path} is missing", "put the file back, or choose another name for the run")
        else:  # an earlier start decided it, and took no step
            discard(self.folder, re.compile(re.escape(PLAN_NAME)))

    def _claim(self) -> None:
        """Make or mark the folder.

        Raises:
            DataError: it holds something else.
        """
        if not own_folder(self.folder, KIND, _is_run):
            if (self.folder / "state.json").exists():
                self._require_same(read_json(self.folder / "state.json"))
            raise DataError(
                f"{self.folder} is not empty and holds no run", "choose another name for the run in dualdiff.toml"
            )

    def begin(self) -> None:
        """Write what the run is, its settings and its tracks, once a step was taken; say what has changed of them."""
        if self._has_begun:
            return
        if not (self.folder / "state.json").exists():
            self._write_state(None)
        for name, value in self._notes.items():
            if not (self.folder / name).exists():
                write_json_atomically(self.folder / name, value)
        self._tell_changes()
        if self._precision and self.plan().get("precision") != self._precision:
            self.update_plan({"precision": self._precision})
        self._tell_other_tracks()
        write_text_atomically(self.folder / "config.toml", self._settings_toml)
        if self._tracks:
            write_json_atomically(self.folder / DATA_NAME, {"tracks": self._tracks})
        self._has_begun = True

    def _tell_changes(self) -> None:
        """Say which settings a run resumes with that it did not begin with: they are no error, but no secret either."""
        path = self.folder / "config.toml"
        try:
            texts = path.read_text("utf-8"), self._settings_toml
            before, now = (_flat(parse_toml(text, str(path))) for text in texts)
        except (OSError, UnicodeDecodeError, ConfigError):  # there is none, or it was changed by hand
            return
        for key in sorted(before.keys() | now.keys()):
            if before.get(key) != now.get(key):
                log.info("%s goes on with %s = %s, was %s", self.folder, key, now.get(key), before.get(key))

    def _tell_other_tracks(self) -> None:
        """Say how the tracks differ from those of the last step."""
        try:
            found = read_json(self.folder / DATA_NAME)
        except DataError:  # an older version wrote none
            return
        before = found.get("tracks") if isinstance(found, dict) else None
        if not isinstance(before, dict) or not self._tracks:
            return
        counts = {
            "added": len(self._tracks.keys() - before.keys()),
            "gone": len(before.keys() - self._tracks.keys()),
            "of another game": sum(self._tracks.get(digest, game) != game for digest, game in before.items()),
        }
        if any(counts.values()):
            words = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
            log.warning("%s resumes on other music: of %d tracks, %s", self.folder, len(before), words)

    def _require_same(self, state: Any) -> None:
        if not isinstance(state, dict) or not isinstance(state.get("identity"), dict):
            path = self.folder / "state.json"
            raise DataError(f"{path} does not describe a run", "put the file back, or choose another name for the run")
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
        """Write a checkpoint, make it the newest, and drop the oldest so that `keep` stay.

        Where two or more stay, the oldest goes before the new one is written: it takes no more of the disk.

        Raises:
            DualdiffError: it could not be written; the previous checkpoint is untouched.
        """
        target = self.folder / "checkpoints" / f"{checkpoint.step:08d}"
        if target.exists():
            return  # the state after a step is the same whenever it is reached: never delete it to write it again
        self.begin()
        self._drop_checkpoints(max(keep - 1, 1))
        try:
            with new_folder(target) as unfinished:
                for group, tensors in checkpoint.groups.items():
                    save_tensors(unfinished / f"{group}.safetensors", tensors)
                write_json_atomically(unfinished / "state.json", {"step": checkpoint.step, **checkpoint.state})
            self._write_state(checkpoint.step)
        except (OSError, DualdiffError) as error:
            raise DualdiffError(
                f"the checkpoint of step {checkpoint.step} was not saved: {error}",
                "what was saved before is untouched: free some space and run the same command again",
            ) from error
        self._drop_checkpoints(keep)

    def _drop_checkpoints(self, keep: int) -> None:
        kept = {f"{step:08d}" for step in self.checkpoints()[-keep:]}
        discard_folders(self.folder, _CHECKPOINT, _CONTENT, "checkpoints", keep=kept)

    def checkpoints(self) -> list[int]:
        """The steps of the whole checkpoints here, oldest first."""
        parent = self.folder / "checkpoints"
        return sorted(int(path.name) for path in parent.glob("[0-9]*") if _CHECKPOINT.fullmatch(path.name))

    def load(self, groups: tuple[str, ...]) -> Checkpoint | None:
        """The newest checkpoint, or None where there is none yet.

        Raises:
            DataError: the checkpoint is broken.
        """
        steps = self.checkpoints()
        if not steps:
            return None
        folder = self.folder / "checkpoints" / f"{steps[-1]:08d}"
        before = f"of step {steps[-2]}" if len(steps) > 1 else "before: there is none, so from the start"
        hint = f"remove the folder {folder} to go on from the checkpoint {before}"
        try:
            state = read_json(folder / "state.json")
            tensors = {group: load_tensors(folder / f"{group}.safetensors") for group in groups}
        except DataError as error:
            raise DataError(error.message, hint) from error
        if not isinstance(state, dict):
            raise DataError(f"{folder / 'state.json'} does not describe a checkpoint", hint)
        return Checkpoint(steps[-1], tensors, {key: value for key, value in state.items() if key != "step"})

    def save_snapshots(self, step: int, averages: Mapping[float, Mapping[str, Tensor]], keep: int) -> None:
        """Write the weight averages of one step; see `snapshots.save`.

        Raises:
            DualdiffError: they cannot be written.
        """
        snapshots.save(self.folder, step, averages, keep)

    def record(self, step: int, values: Mapping[str, float | Sequence[float]], name: str = RECORD_NAME) -> None:
        """Append one line to `metrics.jsonl`, or another record.

        Raises:
            DualdiffError: it cannot be written.
        """
        path = self.folder / name
        try:
            append_text(path, json.dumps({"step": step, **values}) + "\n")
        except OSError as error:
            saved = (self.checkpoints() or [0])[-1]
            hint = f"step {saved} is saved: free some space and run the same command again"
            raise DualdiffError(f"{path} cannot be written: {error.strerror or error}", hint) from error

    def rewind(self, step: int) -> None:
        """Drop the lines and snapshots after `step`, which will be written again, and files that a kill left half."""
        for place in ("", "ema", "checkpoints"):
            discard(self.folder, TEMPORARY, place)
        discard_folders(self.folder, _UNFINISHED, _CONTENT, "checkpoints")
        snapshots.rewind(self.folder, step)
        for name in (RECORD_NAME, COSTS_NAME):
            path = self.folder / name
            if path.exists():
                lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
                kept = [line for line in lines if _step_of(line) <= step]
                if kept != lines:
                    write_text_atomically(path, "".join(kept))

    @property
    def failure_path(self) -> Path:
        """Where a loss that is not finite is described."""
        return self.folder / "failure.json"

    def write_failure(self, step: int, values: Mapping[str, float], batch: Sequence[str]) -> None:
        """Describe a step whose loss was not finite: its numbers as text (JSON has no NaN), and its examples' names."""
        numbers = {name: repr(value) for name, value in values.items()}
        write_json_atomically(self.failure_path, {"step": step, "values": numbers, "batch": list(batch)})

    def plan(self) -> dict[str, Any]:
        """See `read_plan`."""
        return read_plan(self.folder)

    def update_plan(self, values: Mapping[str, Any]) -> None:
        """Keep a decision for when the run goes on."""
        write_json_atomically(self.folder / PLAN_NAME, {**self.plan(), **values})


def _is_run(folder: Path) -> bool:
    """Whether an unmarked folder is a run, by its state, or holds nothing but hidden files."""
    return has_key(folder / "state.json", "dualdiff_run") or all(path.name.startswith(".") for path in folder.iterdir())


def read_plan(folder: Path) -> dict[str, Any]:
    """Return what was decided when the run in a folder began; empty before.

    Raises:
        DataError: the file is broken.
    """
    path = folder / PLAN_NAME
    hint = "delete it: the run makes another, and counts the hours given to it anew"
    try:
        found = read_json(path) if path.exists() else {}
    except DataError as error:
        raise DataError(error.message, hint) from error
    if not _is_plan(found):
        raise DataError(f"{path} does not describe a plan", hint)
    return dict(found)


def _is_plan(found: Any) -> bool:
    """Return whether a value is a table of numbers, and of tables of numbers, but for the name of a precision."""
    if not isinstance(found, dict) or found.get("precision", "float32") not in ("float32", "bfloat16"):
        return False
    tables = [value for key, value in found.items() if key != "precision"]
    values = [own for value in tables for own in (value.values() if isinstance(value, dict) else [value])]
    return all(isinstance(value, int | float) for value in values)


def _step_of(line: str) -> float:
    """The step of a whole line of the record; endless for a line that is broken or cut short."""
    try:
        found = parse_json(line)["step"]
    except (ValueError, KeyError, TypeError):
        return math.inf
    return found if line.endswith("\n") and isinstance(found, int) else math.inf


def _flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested table by dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in table.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."
