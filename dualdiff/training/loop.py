"""The training loop: the only one. What is trained, and for what, is the objective's.

Step s draws examples s*B .. s*B + B - 1 of the run. They are cut into P*A equal micro-batches, of which process p takes
numbers p*A .. p*A + A - 1; every random draw belongs to (seed, step, micro-batch). So a step is the same after a
resume, with any number of loader workers, and, to rounding, for every way to write B/(P*A).
"""

import contextlib
import logging
import math
import signal
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from dualdiff.data.loader import Batch, BatchSource, load
from dualdiff.errors import ConfigError, DualdiffError, Interrupted
from dualdiff.models.layers import renormalise
from dualdiff.progress import Progress, silent
from dualdiff.seeding import Stream
from dualdiff.store import load_into, tensors_of
from dualdiff.training.config import TrainConfig
from dualdiff.training.ema import EMA
from dualdiff.training.optimizer import learning_rate, load_optimizer_tensors, make_optimizer, optimizer_tensors
from dualdiff.training.run import Checkpoint, Run

log = logging.getLogger(__name__)

GROUPS = ("model", "optimizer", "ema")


@dataclass(frozen=True)
class Place:
    """Where a micro-batch stands: its step, and which examples of the step's batch it holds."""

    step: int
    first: int
    batch_size: int
    step_stream: Stream
    stream: Stream


@dataclass(frozen=True)
class Loss:
    """A scalar to descend, and the named terms worth a line in the record (scalars, detached)."""

    total: Tensor
    terms: Mapping[str, Tensor]


class Objective(Protocol):
    """What is trained, and for what. It never sees the loop."""

    @property
    def model(self) -> nn.Module:
        """What is optimized."""

    def loss(self, batch: Batch, place: Place) -> Loss:
        """The mean loss of a micro-batch."""

    def validate(self) -> dict[str, float]:
        """Measures on held-out data, the same examples and draws each time."""

    def preview(self, folder: Path, name: str) -> list[Path]:
        """Write audio and pictures that show the state of the training; returns their paths."""


class Watcher(Protocol):
    """Who is shown more than the record holds: TensorBoard."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Named numbers of a step."""

    def files(self, step: int, paths: list[Path]) -> None:
        """Audio and pictures of a step."""


@dataclass
class Loop:
    """One training run: `fit` resumes and goes on until `config.steps`."""

    objective: Objective
    source: BatchSource
    config: TrainConfig
    run: Run
    accelerator: Accelerator
    seed: int
    watcher: Watcher | None = None
    progress: Progress = silent

    def __post_init__(self) -> None:
        shares = self.accelerator.num_processes * self.config.grad_accum_steps
        if self.config.batch_size % shares:
            raise ConfigError(
                f"the training {self.config.run}: batch_size {self.config.batch_size} does not split into {shares} "
                "equal micro-batches",
                f"it must be a multiple of the processes ({self.accelerator.num_processes}) times "
                f"grad_accum_steps ({self.config.grad_accum_steps})",
            )
        self.micro_size = self.config.batch_size // shares
        self.step = 0
        self.tally: dict[str, float] = {}
        self.model = self.objective.model
        self.optimizer = make_optimizer(self.model)
        self.parameters = dict(self.model.named_parameters())
        self.ema = EMA(self.parameters, self.config.ema_widths)

    @property
    def is_main(self) -> bool:
        """Whether this process writes what the run leaves on disk."""
        return bool(self.accelerator.is_main_process)

    def fit(self) -> int:
        """Train to the end, resuming what is there; returns the number of steps in all.

        Raises:
            Interrupted: Ctrl-C or SIGTERM came; the state is saved.
            DualdiffError: the loss or its gradient is not finite; the state before that step is saved.
        """
        self._resume()
        if self.step >= self.config.steps:
            log.info("nothing to train: %s has done %d of %d steps", self.run.folder, self.step, self.config.steps)
        self.model.train()
        with _StopSignals() as stop:
            batches = load(self.source, self._ranges(), self.config.num_workers)
            while self.step < self.config.steps:
                self._advance(batches)
                self._events(stop)
        return self.step

    def _ranges(self) -> Iterator[tuple[int, int]]:
        accum = self.config.grad_accum_steps
        for step in range(self.step, self.config.steps):
            for index in range(accum):
                micro = self.accelerator.process_index * accum + index
                yield step * self.config.batch_size + micro * self.micro_size, self.micro_size

    def _place(self, index: int) -> Place:
        micro = self.accelerator.process_index * self.config.grad_accum_steps + index
        stream = Stream(self.seed).at("step", self.step)
        return Place(self.step, micro * self.micro_size, self.config.batch_size, stream, stream.at("micro", micro))

    def _advance(self, batches: Iterator[Batch]) -> None:
        """One optimizer step."""
        shares = self.accelerator.num_processes * self.config.grad_accum_steps
        self.optimizer.zero_grad(set_to_none=True)
        names: list[str] = []
        terms: dict[str, Tensor] = {}
        for index in range(self.config.grad_accum_steps):
            batch = next(batches)
            names += batch.names
            place = self._place(index)
            torch.manual_seed(place.stream.seed_for("dropout"))
            loss = self.objective.loss(batch.to(self.accelerator.device), place)
            (loss.total / shares).backward()
            for name, value in {"loss": loss.total.detach(), **loss.terms}.items():
                terms[name] = terms.get(name, torch.zeros((), device=value.device)) + value.float() / shares
        gradients = [p.grad for p in self.parameters.values() if p.grad is not None]
        terms = self._reduced(gradients, terms)
        norm = torch.nn.utils.clip_grad_norm_(self.parameters.values(), self.config.max_grad_norm)
        values = dict(zip([*terms, "gradient_norm"], torch.stack([*terms.values(), norm]).tolist(), strict=True))
        self._require_finite(values, names)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.step + 1, self.config)
        self.optimizer.step()
        renormalise(self.model)
        self.step += 1
        self.ema.update(self.parameters, self.step)
        for name, number in values.items():
            self.tally[name] = self.tally.get(name, 0.0) + number
        self.tally["count"] = self.tally.get("count", 0.0) + 1

    def _reduced(self, gradients: list[Tensor], terms: dict[str, Tensor]) -> dict[str, Tensor]:
        """Sum gradients (in place) and terms over the processes, in one message."""
        if self.accelerator.num_processes == 1:
            return terms
        names = sorted(terms)
        flat = torch.cat([*(g.flatten() for g in gradients), torch.stack([terms[name] for name in names])])
        flat = self.accelerator.reduce(flat, reduction="sum")
        pieces = flat.split([*(g.numel() for g in gradients), len(names)])
        for gradient, piece in zip(gradients, pieces[:-1], strict=True):
            gradient.copy_(piece.view_as(gradient))
        return dict(zip(names, pieces[-1], strict=True))

    def _require_finite(self, values: Mapping[str, float], names: list[str]) -> None:
        bad = [name for name, value in values.items() if not math.isfinite(value)]
        if bad:
            self._save()
            raise DualdiffError(
                f"step {self.step + 1} of {self.run.folder}: {', '.join(bad)} is not a finite number; "
                f"the batch was {', '.join(names[:4])}{' and more' if len(names) > 4 else ''}",
                f"nothing was updated and step {self.step} is saved: listen to these excerpts, or lower the rate",
            )

    def _events(self, stop: "_StopSignals") -> None:
        """What is due after a step: report, validate, preview, save."""
        config, step, last = self.config, self.step, self.step == self.config.steps

        def is_due(every: int) -> bool:
            return step % every == 0 or last

        self.progress(step, config.steps, self._note())
        if is_due(config.report_every):
            self._report(self._means())
        if is_due(config.validate_every):
            with self._averaged():
                self._report({f"validation/{name}": value for name, value in self.objective.validate().items()})
        if is_due(config.preview_every) and self.is_main:
            with self._averaged():
                paths = self.objective.preview(self.run.folder / "demos", f"{step:08d}")
            if self.watcher:
                self.watcher.files(step, paths)
        interrupted = stop.requested(self.accelerator)
        if is_due(config.save_every) or interrupted:
            self._save(snapshots=is_due(config.save_every))
        if interrupted and not last:
            raise Interrupted(
                f"stopped after step {step} of {config.steps}; everything is saved in {self.run.folder}",
                "run the same command again to go on",
            )

    def _note(self) -> str:
        """What the progress says beside rate and time left: the loss, and on a GPU the most memory it took."""
        note = f"loss {self.tally['loss'] / self.tally['count']:.4f}"
        if self.accelerator.device.type == "cuda":
            note += f", {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB"
        return note

    def _means(self) -> dict[str, float]:
        count = self.tally.pop("count")
        means = {name: total / count for name, total in self.tally.items()}
        self.tally = {}
        return {**means, "learning_rate": learning_rate(self.step, self.config)}

    def _report(self, values: Mapping[str, float]) -> None:
        if self.is_main and values:
            self.run.record(self.step, values)
            if self.watcher:
                self.watcher.scalars(self.step, values)

    @contextlib.contextmanager
    def _averaged(self) -> Iterator[None]:
        """The model with its averaged weights, as it will be exported, and without dropout."""
        kept = {name: parameter.detach().clone() for name, parameter in self.parameters.items()}
        self._set(self.ema.tensors(self.config.ema_widths[-1]))
        self.model.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            self._set(kept)
            self.model.train()

    @torch.no_grad()
    def _set(self, tensors: Mapping[str, Tensor]) -> None:
        for name, parameter in self.parameters.items():
            parameter.copy_(tensors[name])

    def averages(self) -> dict[str, Tensor]:
        """The averaged weights to export: those of the last width."""
        return {**tensors_of(self.model), **self.ema.tensors(self.config.ema_widths[-1])}

    def _save(self, snapshots: bool = False) -> None:
        if self.is_main:
            groups = {
                "model": tensors_of(self.model),
                "optimizer": optimizer_tensors(self.optimizer, self.model),
                "ema": self.ema.state(),
            }
            self.run.save(Checkpoint(self.step, groups, {"tally": self.tally}), self.config.keep_checkpoints)
            if snapshots:
                averages = {width: self.ema.tensors(width) for width in self.config.ema_widths}
                self.run.save_snapshots(self.step, averages, self.config.keep_ema_snapshots)
        self.accelerator.wait_for_everyone()

    def _resume(self) -> None:
        found = self.run.load(GROUPS)
        if self.is_main:
            self.run.rewind_record(found.step if found else 0)
        if found is None:
            return
        load_into(self.model, found.groups["model"], f"the checkpoint in {self.run.folder}")
        if found.groups["optimizer"]:
            load_optimizer_tensors(self.optimizer, self.model, found.groups["optimizer"])
        self.ema.load(found.groups["ema"])
        self.step, self.tally = found.step, dict(found.state.get("tally", {}))
        log.info("going on from step %d of %s", self.step, self.run.folder)


class _StopSignals:
    """The first Ctrl-C or SIGTERM asks for a stop after the step; the second stops at once."""

    def __init__(self) -> None:
        self.asked = False
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "_StopSignals":
        with contextlib.suppress(ValueError):  # signals belong to the main thread; elsewhere there is nothing to catch
            for kind in (signal.SIGINT, signal.SIGTERM):
                self._previous[kind] = signal.signal(kind, self._ask)
        return self

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        log.warning("stopping after this step; once more stops at once, without saving")

    def __exit__(self, *_: object) -> None:
        for kind, handler in self._previous.items():
            signal.signal(kind, handler)

    def requested(self, accelerator: Accelerator) -> bool:
        """Whether any process was asked to stop."""
        if accelerator.num_processes == 1:
            return self.asked
        flag = torch.tensor(float(self.asked), device=accelerator.device)
        return float(accelerator.reduce(flag, reduction="sum")) > 0
