"""What both trainings do around the loop: open the run, watch it, train, export."""

import contextlib
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

from dualdiff.data.loader import BatchSource
from dualdiff.progress import Progress, silent
from dualdiff.training.config import TrainConfig
from dualdiff.training.loop import Loop, Objective, make_accelerator
from dualdiff.training.run import Run
from dualdiff.training.watch import TensorBoard

Export = Callable[[Mapping[str, Tensor], int], None]
"""Told the averaged weights by name, and the number of steps they took."""


def train(
    objective: Objective,
    source: BatchSource,
    config: TrainConfig,
    run: Run,
    *,
    device: torch.device,
    seed: int,
    export: Export,
    progress: Progress = silent,
) -> int:
    """Train to the end, going on where the run stopped, then export; returns the number of steps in all.

    The objective's model must be on the device already. In several processes the first one writes.

    Raises:
        Interrupted, DataError, DualdiffError: see `Run.open` and `Loop.fit`.
    """
    accelerator = make_accelerator(device)
    if accelerator.is_main_process:
        run.open()
    accelerator.wait_for_everyone()
    with _watched(run, accelerator.is_main_process) as watcher:
        loop = Loop(objective, source, config, run, accelerator, seed, watcher, progress)
        steps = loop.fit()
    if accelerator.is_main_process:
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
