"""Adam, its learning rate, and its state as named tensors."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from dualdiff.core.errors import DataError
from dualdiff.training.config import TrainConfig


def learning_rate(step: int, config: TrainConfig, total: int | None = None) -> float:
    """The rate of step `step` (from 1): linear warm-up, then constant, then a decay from `decay_after_steps` on.

    The decay is 1/sqrt(step) (EDM2 eq. 67), or linear to 0, which the step after the last of `total` would have;
    `total` is `config.steps` unless a budget of time has planned another number.
    """
    warmup = min(step / config.warmup_steps, 1.0) if config.warmup_steps else 1.0
    return config.learning_rate * warmup * _decay(step, config, total or config.steps)


def _decay(step: int, config: TrainConfig, total: int) -> float:
    start = config.decay_after_steps
    if not start or step <= start:
        return 1.0
    if config.decay == "inverse-sqrt":
        return math.sqrt(start / step)
    return max(total + 1 - step, 0) / max(total + 1 - start, 1)


def make_optimizer(model: nn.Module) -> torch.optim.Adam:
    """Adam with betas (0.9, 0.99) and no weight decay; one fused kernel updates all parameters."""
    return torch.optim.Adam(model.parameters(), lr=0.0, betas=(0.9, 0.99), fused=True)


def optimizer_tensors(optimizer: torch.optim.Adam, model: nn.Module) -> dict[str, Tensor]:
    """The optimizer's state as named tensors: `exp_avg.<parameter>` and so on; empty before the first step."""
    state = optimizer.state
    return {
        f"{kind}.{name}": value
        for name, parameter in model.named_parameters()
        for kind, value in state.get(parameter, {}).items()
    }


def load_optimizer_tensors(optimizer: torch.optim.Adam, model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Put back what `optimizer_tensors` gave.

    Raises:
        DataError: the tensors belong to another model.
    """
    kinds = {name.partition(".")[0] for name in tensors}
    try:
        for name, parameter in model.named_parameters():
            state = {kind: tensors[f"{kind}.{name}"].clone() for kind in kinds}
            optimizer.state[parameter] = {
                # the moments take the parameter's memory layout; the fused kernel wants its step count beside them
                kind: value.to(parameter.device) if kind == "step" else torch.empty_like(parameter.data).copy_(value)
                for kind, value in state.items()
            }
    except KeyError as error:
        raise DataError(f"the optimizer's state lacks {error}", "the checkpoint belongs to another model") from error
