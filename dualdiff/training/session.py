"""What all trainings do around the loop: open the run, look before the first step, watch it, train, export."""

import atexit
import contextlib
import importlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from dualdiff.core.errors import ConfigError, DataError
from dualdiff.core.process import forget_ranks, launched_rank
from dualdiff.core.progress import Progress, silent
from dualdiff.data.loader import BatchSource
from dualdiff.training.config import TrainConfig
from dualdiff.training.distributed import all_or_none, of_the_first
from dualdiff.training.loop import Loop, Trial
from dualdiff.training.memory import is_out_of_memory, largest_fitting, micro_batch, out_of_memory, state_bytes
from dualdiff.training.objective import Objective, Picture, Validation
from dualdiff.training.preflight import Costs, measure
from dualdiff.training.run_folder import Run
from dualdiff.training.tensorboard import TensorBoard
from dualdiff.training.time_budget import SCHEDULE, Budget, planned

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainedWeights:
    """What a training exports: averaged weights by name, the steps that they took, and their last validation."""

    weights: Mapping[str, Tensor]
    steps: int
    validation: Validation


@dataclass(frozen=True)
class TrainingSession:
    """A training, ready to start: `section` is where its settings are."""

    section: str
    objective: Objective
    source: BatchSource
    config: TrainConfig
    run: Run
    accelerator: Accelerator
    seed: int
    export: Callable[[TrainedWeights], None]
    check: Callable[[], None]
    """Looks at the data before the first step of all; raises DataError."""
    picture: Picture | None = None
    command: str = "train"

    @property
    def trial(self) -> Trial:
        """A pass over the first examples."""
        parameters = sum(parameter.numel() for parameter in self.objective.model.parameters())
        to_come_bytes = state_bytes(parameters, self.config)
        return Trial(self.objective, self.source, self.accelerator.device, self.seed, to_come_bytes=to_come_bytes)

    def loop(self, config: TrainConfig, budget: Budget | None = None, progress: Progress = silent) -> Loop:
        """The loop over these settings, not yet started."""
        return Loop(
            self.objective,
            self.source,
            config,
            self.run,
            self.accelerator,
            self.seed,
            progress=progress,
            picture=self.picture,
            budget=budget,
            section=self.section,
            command=self.command,
        )


def make_accelerator(device: torch.device) -> Accelerator:
    """The processes, and the device of this one. Precision is the networks' own affair, who know what stays float32.

    Several processes leave their group in order when each exits, which ends the group's threads: one that outlives the
    interpreter now and then aborts the process.
    """
    if launched_rank() is None and (found := forget_ranks()):
        log.warning("%s of the environment are ignored: no launcher started this process", ", ".join(found))
    if launched_rank() is not None:
        # Its functions have the group for a default, taken when they are imported. The optimizer imports them, later
        # than the group is made: they would keep it, and its threads, alive for ever.
        importlib.import_module("torch.distributed.nn.functional")
    accelerator = Accelerator(cpu=device.type == "cpu", mixed_precision="no")
    if accelerator.num_processes > 1:
        atexit.register(leave)
    return accelerator


def leave() -> None:
    """Leave the group of processes, once."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def train(job: TrainingSession, progress: Progress = silent, hours: float | None = None) -> int:
    """Train to the end, going on where the run stopped, then export; returns the number of steps in all.

    The objective's model must be on the accelerator's device already. In several processes the first one writes.
    With `hours` the training takes so long in all, over all the times it was started, and as many steps as fit.

    Raises:
        ConfigError: the batch does not split among the processes.
        Interrupted, DataError, DualdiffError: see `Run.open`, `Loop.fit` and `preflight`.
    """
    with contextlib.ExitStack() as stack:
        is_main = job.accelerator.is_main_process
        all_or_none(job.accelerator, lambda: stack.enter_context(job.run.held()) if is_main else None)
        return _train(job, progress, hours)


def _train(job: TrainingSession, progress: Progress, hours: float | None) -> int:
    """Train in a run folder that no other process trains in; see `train`."""
    accelerator, is_new, began_s = job.accelerator, not job.run.checkpoints(), time.monotonic()
    if is_new:  # before there is a run: what is wrong may be mended, and then it is another
        all_or_none(accelerator, job.check)
    all_or_none(accelerator, lambda: job.run.open() if accelerator.is_main_process else None)
    config, budget = with_micro_batch(job), None
    if hours is None and "schedule" in job.run.plan():
        log.warning(
            "%s was planned by --hours and goes on by %s instead: give --hours again", job.run.folder, job.section
        )
    if is_new or hours:
        costs = all_or_none(accelerator, lambda: _look(job, config))
        config, budget = _budgeted(job, config, costs, hours, began_s)
        log.info(costs.words(config, config.steps))
    loop = job.loop(config, budget, progress)
    with _watched(job.run, loop.is_main) as loop.watcher:
        steps = loop.fit()
    if loop.is_main:
        job.export(TrainedWeights(loop.averages(), steps, loop.validated()))
    accelerator.wait_for_everyone()
    return steps


def with_micro_batch(job: TrainingSession) -> TrainConfig:
    """The settings with the number of micro-batches found out, where they ask for it; a run keeps what it began with.

    Raises:
        ConfigError: the batch does not split among the processes.
        DualdiffError: not even one example fits into memory.
    """
    config, processes = job.config, job.accelerator.num_processes
    if config.grad_accum_steps:
        return config
    if config.batch_size % processes:
        raise ConfigError(
            f"{job.section}: batch_size {config.batch_size} does not split among {processes} processes",
            "it must be a multiple of their number",
        )
    share, device = config.batch_size // processes, job.accelerator.device
    kept = job.run.plan().get("grad_accum_steps", {}).get(str(processes))
    if isinstance(kept, int) and kept > 0 and share % kept == 0:
        return replace(config, grad_accum_steps=kept)

    def fitting() -> int:
        found = micro_batch(share, device, job.trial.run, job.trial.to_come_bytes)
        if found is None:
            raise out_of_memory(job.section, config, 1, None)
        return found

    size = all_or_none(job.accelerator, fitting)
    if processes > 1:  # all take what fits the smallest
        size = int(job.accelerator.gather(torch.tensor([size], device=device)).min())
    accum = share // size
    if job.accelerator.is_main_process:
        before = job.run.plan().get("grad_accum_steps", {})
        job.run.update_plan({"grad_accum_steps": {**before, str(processes): accum}})
    log.info("micro-batches of %d examples fit: grad_accum_steps = %d", size, accum)
    return replace(config, grad_accum_steps=accum)


def _look(job: TrainingSession, config: TrainConfig) -> Costs:
    """The costs of a step; running out of memory is told with the size that would fit."""
    processes = job.accelerator.num_processes
    try:
        return measure(job.section, job.trial, job.run.folder, config, processes)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
    micro = config.batch_size // (processes * config.grad_accum_steps)
    fits = largest_fitting(micro // 2, job.trial.run) if micro > 1 else None
    raise out_of_memory(job.section, config, micro, fits)


def _budgeted(
    job: TrainingSession, config: TrainConfig, costs: Costs, hours: float | None, began_s: float
) -> tuple[TrainConfig, Budget | None]:
    """The settings for so many hours, and the time that is left of them; this start began at `began_s`.

    The schedule is fixed at the first start, by the first estimate of how many steps there will be.
    """
    if hours is None:
        return config, None
    plan = job.run.plan()
    spent_s = float(plan.get("spent_s", 0.0))
    if "schedule" in plan:
        known: dict[str, Any] = {name: int(plan["schedule"][name]) for name in SCHEDULE if name in plan["schedule"]}
        config = replace(config, **known, steps=max(1, int(plan.get("steps", config.steps))))
        stretch = float(plan.get("stretch", 1.0))
    else:
        steps = of_the_first(job.accelerator, max(1, round(hours * 3600 / costs.step_s)))
        stretch, config = steps / config.steps, planned(config, steps)
        if job.accelerator.is_main_process:
            schedule = {name: getattr(config, name) for name in SCHEDULE}
            decided = {"schedule": schedule, "stretch": stretch, "steps": steps, "spent_s": spent_s}
            job.run.update_plan(decided)
    job.objective.stretch(stretch)
    spent_s += time.monotonic() - began_s
    return config, Budget(hours * 3600, spent_s, closing_s=plan.get("closing_s", {}))


def show_again(job: TrainingSession, step: int) -> list[str]:
    """Write the previews of a step again, from the weight averages that the run has stored; returns their paths.

    Raises:
        DataError: there is no such run, or it has no averages of that step.
    """
    if not (job.run.folder / "state.json").exists():
        raise DataError(f"there is no run {job.run.folder}", f"`dualdiff {job.command}` starts it")
    from dualdiff.training.ema.snapshots import rebuild

    _, weights = rebuild(job.run.folder, job.config.export_ema_width, step)
    config = replace(job.config, grad_accum_steps=job.config.grad_accum_steps or 1)
    return [str(path) for path in job.loop(config).show(weights, step, job.run.folder / "demos")]


@contextlib.contextmanager
def _watched(run: Run, is_main: bool) -> Iterator[TensorBoard | None]:
    if not is_main:
        yield None
        return
    board = TensorBoard(run.folder / "tb", max(run.checkpoints(), default=0))
    try:
        yield board
    finally:
        board.close()


def part(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with `prefix`, without it."""
    return {name[len(prefix) :]: tensor for name, tensor in weights.items() if name.startswith(prefix)}
