"""What both trainings do around the loop: open the run, watch it, train, export."""

import contextlib
from collections.abc import Callable, Iterator, Mapping

import torch
from accelerate import Accelerator
from torch import Tensor

from dualdiff.data.loader import BatchSource
from dualdiff.progress import Progress, silent
from dualdiff.training.config import TrainConfig
from dualdiff.training.loop import Loop, Objective
from dualdiff.training.run import Run
from dualdiff.training.watch import TensorBoard

Export = Callable[[Mapping[str, Tensor], int], None]
"""Told the averaged weights by name, and the number of steps they took."""


def make_accelerator(device: torch.device) -> Accelerator:
    """The processes, and the device of this one. Precision is the networks' own affair, who know what stays float32."""
    return Accelerator(cpu=device.type == "cpu", mixed_precision="no")


def train(
    objective: Objective,
    source: BatchSource,
    config: TrainConfig,
    run: Run,
    accelerator: Accelerator,
    *,
    seed: int,
    export: Export,
    progress: Progress = silent,
) -> int:
    """Train to the end, going on where the run stopped, then export; returns the number of steps in all.

    The objective's model must be on the accelerator's device already. In several processes the first one writes.

    Raises:
        ConfigError: the batch does not split among the processes.
        Interrupted, DataError, DualdiffError: see `Run.open` and `Loop.fit`.
    """
    loop = Loop(objective, source, config, run, accelerator, seed, progress=progress)
    if loop.is_main:
        run.open()
    accelerator.wait_for_everyone()
    with _watched(run, loop.is_main) as loop.watcher:
        steps = loop.fit()
    if loop.is_main:
        export(loop.averages(), steps)
    accelerator.wait_for_everyone()
    return steps


@contextlib.contextmanager
def _watched(run: Run, is_main: bool) -> Iterator[TensorBoard | None]:
    if not is_main:
        yield None
        return
    board = TensorBoard(run.folder / "tb")
    try:
        yield board
    finally:
        board.close()


def part(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with `prefix`, without it."""
    return {name[len(prefix) :]: tensor for name, tensor in weights.items() if name.startswith(prefix)}
