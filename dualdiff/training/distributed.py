"""What the processes of one training agree on; each asks at the same place."""

from collections.abc import Callable
from typing import TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from dualdiff.core.errors import DualdiffError

Made = TypeVar("Made")


def all_or_none(accelerator: Accelerator, work: Callable[[], Made]) -> Made:
    """What a process's own work makes; where one cannot do its own, all stop with its error, instead of waiting for it.

    They leave together. The work asks the others nothing.

    Raises:
        DualdiffError: of the work of any process, the first that has one.
    """
    if accelerator.num_processes == 1:
        return work()
    problem: DualdiffError | None = None
    try:
        made = work()
    except DualdiffError as error:
        problem = error
    found = gather_object([(type(problem), problem.message, problem.hint) if problem else None])
    stopped = [number for number, told in enumerate(found) if told]
    if not stopped:
        return made
    kind, message, hint = found[stopped[0]]
    alone = "" if all(told == found[0] for told in found) else f"process {stopped[0]}: "
    raise kind(alone + message, hint) from problem


def is_true_for_any(accelerator: Accelerator, flag: bool) -> bool:
    """Whether the flag is up in any process."""
    return flag if accelerator.num_processes == 1 else _sum(accelerator, float(flag)) > 0


def of_the_first(accelerator: Accelerator, number: int) -> int:
    """The number (below 2^24) that the first process has."""
    if accelerator.num_processes == 1:
        return number
    return int(_sum(accelerator, float(number) if accelerator.is_main_process else 0.0))


def _sum(accelerator: Accelerator, value: float) -> float:
    return float(accelerator.reduce(torch.tensor(value, device=accelerator.device), reduction="sum"))
