"""The training loop: the only one. What is trained, and for what, is the objective's.

Step s draws examples s*B .. s*B + B - 1 of the run. They are cut into P*A equal micro-batches, of which process p takes
numbers p*A .. p*A + A - 1; every random draw belongs to (seed, step) or to (seed, step, example). So a step is the same
after a resume, with any number of loader workers, and, to rounding, for every way to cut a batch. Dropout alone, where
it is on, belongs to (seed, step, micro-batch): its draws are the network's own.
"""

import contextlib
import logging
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from dualdiff.core.errors import ConfigError, DualdiffError, Interrupted
from dualdiff.core.files import write_text_atomically
from dualdiff.core.progress import Progress, silent
from dualdiff.core.rng import Stream
from dualdiff.core.tensors import load_into, tensors_of
from dualdiff.data.loader import Batch, BatchSource, load
from dualdiff.models.layers import renormalise
from dualdiff.training.config import TrainConfig
from dualdiff.training.distributed import all_or_none, is_true_for_any, of_the_first
from dualdiff.training.ema.ema import EMA, decay_at, gamma_of
from dualdiff.training.ema.snapshots import is_due as is_snapshot_due
from dualdiff.training.ema.snapshots import stored_widths
from dualdiff.training.memory import is_out_of_memory, largest_fitting, memory_bytes, out_of_memory
from dualdiff.training.objective import BatchPosition, Loss, Objective, Picture, Validation, Watcher
from dualdiff.training.optimizer import (
    OPTIMIZER_VERSION,
    learning_rate,
    load_optimizer_tensors,
    make_optimizer,
    optimizer_tensors,
)
from dualdiff.training.run_folder import COSTS_NAME, Checkpoint, Run, current_key
from dualdiff.training.signals import StopSignals
from dualdiff.training.time_budget import EVENTS, Budget

log = logging.getLogger(__name__)

GROUPS = ("model", "optimizer", "ema")


SUM, COUNT = "sum of ", "count of "
"""What the tally calls the two numbers of one of a loss's `sums`."""


@dataclass(frozen=True)
class Trial:
    """Passes of an objective over the first examples of a step."""

    objective: Objective
    source: BatchSource
    device: torch.device
    seed: int = 0
    step: int = 0
    to_come_bytes: int = 0
    """What a training takes besides later on: a GPU holds it during a pass, so that what fits now will fit then."""

    def run(self, size: int) -> None:
        """Forward and backward of `size` examples; no gradient stays. May run out of memory."""
        held = torch.empty(self.to_come_bytes * (self.device.type == "cuda"), dtype=torch.uint8, device=self.device)
        batch = self.source.examples(self.step * size, size).to(self.device)
        place = BatchPosition(self.step, 0, size, Stream(self.seed).at("step", self.step))
        try:
            torch.autograd.backward(self.objective.loss(batch, place).total)
        finally:
            for parameter in self.objective.model.parameters():
                parameter.grad = None
            del held

    def seconds(self, size: int) -> float:
        """How long a pass takes, the second time: the first one compiles, and fills caches."""
        for _ in range(2):
            started_s = time.perf_counter()
            self.run(size)
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
        return time.perf_counter() - started_s


@dataclass
class Loop:
    """One training run: `fit` resumes and goes on until `config.steps`, or until the budget of time is used."""

    objective: Objective
    source: BatchSource
    config: TrainConfig
    run: Run
    accelerator: Accelerator
    seed: int
    watcher: Watcher | None = None
    progress: Progress = silent
    picture: Picture | None = None
    budget: Budget | None = None
    section: str = "train"
    """The section of the settings that the config comes from, for messages."""
    command: str = "train"
    """What the user calls to go on, for messages."""

    def __post_init__(self) -> None:
        shares = self.accelerator.num_processes * self.config.grad_accum_steps
        if shares < 1 or self.config.batch_size % shares:
            raise ConfigError(
                f"the training {self.config.run}: batch_size {self.config.batch_size} does not split into {shares} "
                "equal micro-batches",
                f"it must be a multiple of the processes ({self.accelerator.num_processes}) times "
                f"grad_accum_steps ({self.config.grad_accum_steps})",
            )
        self.micro_size = self.config.batch_size // shares
        self.step, self.total = 0, self.config.steps
        self.tally: dict[str, float] = {}
        self.validation: Validation | None = None
        self.model = self.objective.model
        renormalise(self.model)  # as EDM2 does before its first step; a resume puts other weights in their place
        self.optimizer = make_optimizer(self.model)
        self.parameters = dict(self.model.named_parameters())
        self.ema = EMA(self.parameters, self.config.ema_widths)
        self._reported = (0, time.perf_counter())

    @property
    def is_main(self) -> bool:
        """Whether this process writes what the run leaves on disk."""
        return bool(self.accelerator.is_main_process)

    def fit(self) -> int:
        """Train to the end, resuming what is there; returns the number of steps in all.

        Raises:
            Interrupted: a stop signal came (Ctrl-C, SIGTERM, the end of the terminal); the state is saved.
            DualdiffError: the loss or its gradient is not finite (the state before that step is saved), memory or the
                disk is full.
        """
        self.resume()
        if self.step >= self.total:
            log.info("nothing to train: %s has done %d of %d steps", self.run.folder, self.step, self.total)
        self.model.train()
        self._reported = (self.step, time.perf_counter())
        with StopSignals() as stop:
            batches = load(self.source, self._ranges(), self.config.num_workers)
            while self.step < self.total:
                self._advance(batches)
                if self.is_main:
                    self.run.begin()
                self._plan()
                self._events(stop)
        return self.step

    def _plan(self) -> None:
        """Correct the number of steps by the time that is left; all processes follow the first one."""
        if self.budget is None:
            return
        self.total = of_the_first(self.accelerator, self.budget.step_ended(self.step))

    def _ranges(self) -> Iterator[tuple[int, int]]:
        accum, step = self.config.grad_accum_steps, self.step
        while self.budget is not None or step < self.total:
            for index in range(accum):
                micro = self.accelerator.process_index * accum + index
                yield step * self.config.batch_size + micro * self.micro_size, self.micro_size
            step += 1

    def place(self, index: int) -> BatchPosition:
        """Where this process's micro-batch number `index` of the step at hand stands."""
        micro = self.accelerator.process_index * self.config.grad_accum_steps + index
        return BatchPosition(
            self.step, micro * self.micro_size, self.config.batch_size, Stream(self.seed).at("step", self.step)
        )

    def _advance(self, batches: Iterator[Batch]) -> None:
        """One optimizer step."""
        shares = self.accelerator.num_processes * self.config.grad_accum_steps
        self.optimizer.zero_grad(set_to_none=True)
        names: list[str] = []
        terms: dict[str, Tensor] = {}
        for index in range(self.config.grad_accum_steps):
            batch = self._next(batches)
            names += batch.names
            for name, value in self._backward(batch, self.place(index), shares).items():
                terms[name] = terms[name] + value if name in terms else value
        gradients = [p.grad for p in self.parameters.values() if p.grad is not None]
        terms = self._reduced(gradients, terms)
        norm = torch.nn.utils.clip_grad_norm_(self.parameters.values(), self.config.max_grad_norm)
        values = dict(zip([*terms, "gradient_norm"], torch.stack([*terms.values(), norm]).tolist(), strict=True))
        self._require_finite(values, names)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.step, self.config, self.total)
        self.optimizer.step()
        renormalise(self.model)
        self.step += 1
        self.ema.update(self.parameters, self.step)
        for name, number in values.items():
            self.tally[name] = self.tally.get(name, 0.0) + number
        self.tally["count"] = self.tally.get("count", 0.0) + 1

    def _next(self, batches: Iterator[Batch]) -> Batch:
        try:
            return next(batches)
        except DualdiffError as error:
            raise self._own(error) from error.__cause__

    def _own(self, error: DualdiffError) -> DualdiffError:
        """An error of this process alone: where there are several, it says which one it is."""
        if self.accelerator.num_processes > 1:
            error.message = f"process {self.accelerator.process_index}: {error.message}"
            error.is_everyones = False
        return error

    def _backward(self, batch: Batch, place: BatchPosition, shares: int) -> dict[str, Tensor]:
        """Add a micro-batch's gradients; its share of the step's terms, and sums and counts as they are."""
        torch.manual_seed(Stream(self.seed).at("dropout", place.step, place.first).seed_for("masks"))
        loss: Loss | None = None
        try:
            loss = self.objective.loss(batch.to(self.accelerator.device), place)
            torch.autograd.backward(loss.total / shares)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            loss = None
        if loss is None:  # not inside the except: there the traceback still holds all that filled the memory
            raise self._own(out_of_memory(self.section, self.config, self.micro_size, self._fitting()))
        terms = {name: value.float() / shares for name, value in {"loss": loss.total.detach(), **loss.terms}.items()}
        for name, pair in loss.sums.items():
            terms[SUM + name], terms[COUNT + name] = pair.float().unbind()
        return terms

    def _fitting(self) -> int | None:
        trial = Trial(self.objective, self.source, self.accelerator.device, self.seed, self.step)
        return largest_fitting(max(self.micro_size // 2, 1), trial.run)

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
        """Stop before the update where a number is not finite; the state and the names of the batch are saved."""
        bad = [name for name, value in values.items() if not math.isfinite(value)]
        if not bad:
            return
        batch = gather_object(names) if self.accelerator.num_processes > 1 else names
        self._save()
        if self.is_main:
            self.run.write_failure(self.step + 1, values, batch)
        raise DualdiffError(
            f"step {self.step + 1} of {self.run.folder}: {', '.join(bad)} is not a finite number; "
            f"the batch was {', '.join(batch[:4])}{' and more' if len(batch) > 4 else ''}",
            f"nothing was updated and step {self.step} is saved; {self.run.failure_path} names the whole batch: "
            "listen to these excerpts, or lower the rate",
        )

    def _events(self, stop: StopSignals) -> None:
        """What is due after a step: snapshot, report, validate, preview, save."""
        config, step, last, tried = self.config, self.step, self.step == self.total, self._tried()

        def is_due(every: int, event: str = "") -> bool:
            return step % every == 0 or last or event in tried

        self.progress(step, self.total, self._note())
        if is_snapshot_due(step) and self.is_main:
            widths = stored_widths(config.ema_widths, config.export_ema_width)
            averages = {width: self.ema.tensors(width) for width in widths}
            self.run.save_snapshots(step, averages, config.keep_ema_snapshots)
        if is_due(config.report_every):
            self._report(self._means())
            self._record_costs()
        if is_due(config.validate_every, "validate"):
            with self._closing("validate"):
                self._report_validation()
        if is_due(config.preview_every, "preview") and self.is_main:
            with self._closing("preview"):
                self.preview(self.run.folder / "demos")
        interrupted = is_true_for_any(self.accelerator, stop.asked)
        if is_due(config.save_every, "save") or interrupted:
            with self._closing("save"):
                self._save()
        if interrupted and not last:
            raise Interrupted(
                f"stopped after step {step} of {self.total}; everything is saved in {self.run.folder}",
                "run the same command again to go on",
            )

    def _tried(self) -> list[str]:
        """Events that the budget wants to know the length of; all processes follow the first one."""
        if self.budget is None:
            return []
        wanted = of_the_first(self.accelerator, sum(1 << EVENTS.index(event) for event in self.budget.untried))
        return [event for number, event in enumerate(EVENTS) if wanted >> number & 1]

    def _closing(self, event: str) -> contextlib.AbstractContextManager[None]:
        return self.budget.closing(event) if self.budget else contextlib.nullcontext()

    def preview(self, folder: Path) -> list[Path]:
        """Write audio and pictures of the averaged model as it stands, and beside them the command that does it again.

        Returns what was written.
        """
        with self._averaged():
            paths = self.objective.preview(folder, f"{self.step:08d}")
        if self.picture:
            paths = [*paths, *map(self.picture, paths)]
        if paths:
            command = f"dualdiff {self.command} --preview {self.step}"
            write_text_atomically(folder / f"{self.step:08d}.txt", f"made by: {command}\n")
        if self.watcher:
            self.watcher.files(self.step, paths)
        return paths

    def _note(self) -> str:
        """What the progress says beside rate and time left: the loss, and on a GPU the most memory it took."""
        note = f"loss {self.tally['loss'] / self.tally['count']:.4f}"
        if self.accelerator.device.type == "cuda":
            note += f", {memory_bytes(self.accelerator.device) / 2**30:.1f} GiB"
        return note

    def _means(self) -> dict[str, float]:
        """What was tallied since the last report, as means, and what the step alone decides."""
        count = self.tally.pop("count")
        tally, self.tally = self.tally, {}
        means = {name: total / count for name, total in tally.items() if not name.startswith((SUM, COUNT))}
        for name in (name.removeprefix(COUNT) for name, total in tally.items() if name.startswith(COUNT) and total):
            means[name] = tally[SUM + name] / tally[COUNT + name]
        betas = {f"ema_beta/width_{w:g}": decay_at(self.step, gamma_of(w)) for w in self.config.ema_widths}
        return {**means, "learning_rate": learning_rate(self.step - 1, self.config, self.total), **betas}

    def _report(self, values: Mapping[str, float]) -> None:
        if self.is_main and values:
            self.run.record(self.step, values)
            if self.watcher:
                self.watcher.scalars(self.step, values)

    def _report_validation(self) -> None:
        """Measures of the averaged model on held-out data, and the objective's curves as it trains, in one line."""
        self.validation = self._validate()
        found = self.validation.named()
        curves = self.objective.curves(self.step)
        if self.is_main and (found or curves):
            self.run.record(self.step, {**found, **curves})
            if self.watcher:
                self.watcher.scalars(self.step, found)
                self.watcher.curves(self.step, curves)

    def _validate(self) -> Validation:
        with self._averaged():
            return self.objective.validate()

    def validated(self) -> Validation:
        """Return the last validation; of the averages as they are where a checkpoint of an earlier version has none."""
        return self.validation or self._validate()

    def _record_costs(self) -> None:
        """Time and memory have a record of their own: they do not repeat."""
        (before, then), now = self._reported, time.perf_counter()
        self._reported = (self.step, now)
        if self.is_main and self.step > before:
            costs = {
                "step_s": (now - then) / (self.step - before),
                "memory_mib": memory_bytes(self.accelerator.device) / 2**20,
            }
            self.run.record(self.step, costs, COSTS_NAME)
            if self.watcher:
                self.watcher.scalars(self.step, {f"costs/{name}": value for name, value in costs.items()})

    @contextlib.contextmanager
    def _averaged(self) -> Iterator[None]:
        """The model with its averaged weights, as it will be exported, and without dropout."""
        kept = {name: parameter.detach().clone() for name, parameter in self.parameters.items()}
        self._set(self.ema.tensors(self.config.export_ema_width))
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
        """The averaged weights to export."""
        return {**tensors_of(self.model), **self.ema.tensors(self.config.export_ema_width)}

    def show(self, averages: Mapping[str, Tensor], step: int, folder: Path) -> list[Path]:
        """Write the previews of a step again, from the averaged weights of that step; returns what was written."""
        for name, tensor in self.ema.tensors(self.config.export_ema_width).items():
            tensor.copy_(averages[name])
        self.step = step
        return self.preview(folder)

    def _save(self) -> None:
        all_or_none(self.accelerator, self._write_checkpoint)

    def _write_checkpoint(self) -> None:
        if not self.is_main:
            return
        groups = {
            "model": tensors_of(self.model),
            "optimizer": optimizer_tensors(self.optimizer, self.model),
            "ema": self.ema.state(),
        }
        state: dict[str, Any] = {"tally": self.tally, "optimizer": OPTIMIZER_VERSION}
        if self.validation:
            state["validation"] = asdict(self.validation)
        self.run.save(Checkpoint(self.step, groups, state), self.config.keep_checkpoints)
        if self.budget:
            known = {"spent_s": self.budget.spent_s, "steps": self.total, "closing_s": self.budget.closing_s}
            self.run.update_plan(known)

    def resume(self) -> None:
        """Take up the newest checkpoint, if there is one."""
        found = all_or_none(self.accelerator, lambda: self.run.load(GROUPS))
        if self.is_main:
            self.run.rewind(found.step if found else 0)
        if found is None:
            return
        load_into(self.model, found.groups["model"], f"the checkpoint in {self.run.folder}")
        if found.groups["optimizer"]:
            load_optimizer_tensors(self.optimizer, self.model, found.groups["optimizer"])
        self.ema.load(found.groups["ema"])
        tally = {current_key(name): value for name, value in found.state.get("tally", {}).items()}
        self.step, self.tally = found.step, tally
        if found.state.get("optimizer", 1) != OPTIMIZER_VERSION:
            log.info("%s was trained with the optimizer of another version; this one continues it", self.run.folder)
        if "validation" in found.state:
            self.validation = Validation(**found.state["validation"])
        log.info("going on from step %d of %s", self.step, self.run.folder)
