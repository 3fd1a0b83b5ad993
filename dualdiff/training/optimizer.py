"""Adam, its learning rate, and its state as named tensors."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from dualdiff.core.errors import DataError
from dualdiff.training.config import TrainConfig

EPSILON = 1e-8 / 2**16
"""Adam's epsilon: EDM2 takes 1e-8 for a loss that is summed over the elements of an example; here it is their mean.

Adam does not see the scale of a loss but by its epsilon, so the mean needs one smaller by the number of elements, 2^13
to 2^17 in a crop of latents. With 1e-8, and gains that start at 0, the first hundred steps are shorter than Adam's.
"""

OPTIMIZER_VERSION = 2
"""Of how the optimizer steps: 1 had an epsilon of 1e-8, a rate one step ahead, and weights not normalised at first."""


def learning_rate(done: int, config: TrainConfig, total: int | None = None) -> float:
    """The rate of the step after `done` steps: warm-up from 0, then constant, then a decay from `decay_after_steps` on.

    The decay is 1/sqrt(done) (EDM2 eq. 67), or linear to 0, which the step after the last of `total` would have;
    `total` is `config.steps` unless a budget of time has planned another number.
    """
    warmup = min(done / config.warmup_steps, 1.0) if config.warmup_steps else 1.0
    return config.learning_rate * warmup * _decay(done, config, total or config.steps)


def _decay(done: int, config: TrainConfig, total: int) -> float:
    start = config.decay_after_steps
    if not start or done <= start:
        return 1.0
    if config.decay == "inverse-sqrt":
        return math.sqrt(start / done)
    return max(total - done, 0) / max(total - start, 1)


def make_optimizer(model: nn.Module) -> torch.optim.Adam:
    """Adam with betas (0.9, 0.99), `EPSILON` and no weight decay; one fused kernel updates all parameters."""
    return torch.optim.Adam(model.parameters(), lr=0.0, betas=(0.9, 0.99), eps=EPSILON, fused=True)


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
