"""Averages of the weights over training, of several lengths at once, and any length rebuilt afterwards.

A power-function average at step t weighs the weights of step i as i^gamma: its length is a fixed share of the training
so far, the relative width. Source: Karras et al. 2023 (EDM2, arXiv 2312.02696), section 3 and appendix C.
"""

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dualdiff.core.errors import DataError

Floats: TypeAlias = npt.NDArray[np.float64]

WIDEST = 12**-0.5  # the relative width of a plain mean, gamma = 0


def gamma_of(relative_width: float) -> float:
    """The exponent of a relative width w: the largest real root g of g^3 + 7 g^2 + (16 - w^-2) g + (12 - w^-2) = 0.

    Raises:
        ValueError: the width is not above 0 and below 0.2887, that of a plain mean.
    """
    if not 0 < relative_width < WIDEST:
        raise ValueError(f"the relative width {relative_width:g} is not above 0 and below {WIDEST:.4f}")
    inverse_square = relative_width**-2
    roots = np.roots([1.0, 7.0, 16.0 - inverse_square, 12.0 - inverse_square])
    return float(roots.real[np.isclose(roots.imag, 0)].max())


def decay_at(step: int, gamma: float) -> float:
    """The share (1 - 1/t)^(gamma + 1) of the old average that stays at step t = 1, 2, ...; none does at the first."""
    return float((1 - 1 / step) ** (gamma + 1))


class EMA:
    """Averages of named tensors, one per relative width, float32, where the tensors are."""

    def __init__(self, params: Mapping[str, Tensor], widths: Sequence[float]) -> None:
        """Start an average of each width at the parameters as they are.

        Raises:
            ValueError: a width out of range (see `gamma_of`), or two that agree to three decimals.
        """
        labels = [_label(width) for width in widths]
        if len(set(labels)) != len(labels):
            raise ValueError(f"two of the relative widths {', '.join(labels)} are the same to three decimals")
        self.widths = tuple(widths)
        self._gammas = dict(zip(labels, map(gamma_of, widths), strict=True))
        self._averages = {
            label: {name: tensor.detach().clone().float() for name, tensor in params.items()} for label in labels
        }

    @torch.no_grad()
    def update(self, params: Mapping[str, Tensor], step: int) -> None:
        """Take in the parameters after the optimizer's step number `step` (from 1)."""
        for label, average in self._averages.items():
            new = [params[name].detach().float() for name in average]
            torch._foreach_lerp_(list(average.values()), new, 1 - decay_at(step, self._gammas[label]))

    def tensors(self, width: float) -> dict[str, Tensor]:
        """The average of one tracked width, by name: the tensors themselves, which the next update changes."""
        return dict(self._averages[_label(width)])

    def state(self) -> dict[str, Tensor]:
        """All averages under names such as `0.050/unet.conv.weight`, to be stored; the tensors themselves."""
        return {f"{label}/{name}": t for label, average in self._averages.items() for name, t in average.items()}

    @torch.no_grad()
    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take up stored averages.

        Raises:
            DataError: the names or shapes are not those of this model and these widths.
        """
        own = self.state()
        wanted, found = ({name: tensor.shape for name, tensor in tensors.items()} for tensors in (own, state))
        if wanted != found:
            place = min(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
            message = f"the stored averages are not of this model and these EMA widths: {place} differs or is missing"
            raise DataError(message, "go on with the model and the widths that the run was started with")
        for name, tensor in own.items():
            tensor.copy_(state[name])


def post_hoc(snapshots: Sequence[tuple[int, float]], target_step: int, target_width: float) -> list[float]:
    """The share of each snapshot, given as (step, relative width), in an average of any width at any step.

    Least squares between averaging profiles: the sum of the snapshots' profiles that comes closest to the wanted one
    (EDM2 appendix C), in float64; the shares add up to 1. The snapshots' steps should reach up to the target's.

    Raises:
        ValueError: no snapshots, a step below 1, or a width out of range.
    """
    if not snapshots or min(target_step, *(step for step, _ in snapshots)) < 1:
        raise ValueError("rebuilding an average needs snapshots, and steps from 1 up")
    steps = np.array([*(step for step, _ in snapshots), target_step], dtype=np.float64)
    gammas = np.array([gamma_of(width) for width in (*(width for _, width in snapshots), target_width)])
    overlaps = _overlaps(steps, gammas)
    shares = np.linalg.lstsq(overlaps[:-1, :-1], overlaps[:-1, -1], rcond=None)[0]
    return [float(share) for share in shares / shares.sum()]


def _overlaps(steps: Floats, gammas: Floats) -> Floats:
    """The inner products (n, n) of profiles p(i) = (g + 1)/t (i/t)^g on [0, t], for n steps t and exponents g.

    The integral up to m = min(ta, tb) is (ga + 1)(gb + 1)/(ga + gb + 1) (m/ta)^ga (m/tb)^gb m/(ta tb): written with
    quotients of steps, nothing overflows.
    """
    ta, tb, ga, gb = steps[:, None], steps[None, :], gammas[:, None], gammas[None, :]
    shorter = np.minimum(ta, tb)
    shape = (ga + 1) * (gb + 1) / (ga + gb + 1)
    overlaps: Floats = shape * (shorter / ta) ** ga * (shorter / tb) ** gb * shorter / (ta * tb)
    return overlaps


def _label(width: float) -> str:
    return f"{width:.3f}"
