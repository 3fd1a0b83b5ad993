"""What the processes of one training agree on; each asks at the same place."""

import torch
from accelerate import Accelerator


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
