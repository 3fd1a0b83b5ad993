"""Averages of the weights: exponents, profiles, and widths rebuilt afterwards."""

import numpy as np
import pytest
import torch
from torch import Tensor

from dualdiff.core.errors import DataError
from dualdiff.training.ema.ema import EMA, decay_at, gamma_of, post_hoc


def walk(steps: int, seed: int = 0) -> Tensor:
    """A random walk: what weights do (steps, 32)."""
    return torch.randn(steps, 32, generator=torch.Generator().manual_seed(seed)).cumsum(0)


def averaged(trajectory: Tensor, widths: tuple[float, ...]) -> EMA:
    ema = EMA({"w": torch.zeros_like(trajectory[0])}, widths)
    for step, weights in enumerate(trajectory, start=1):
        ema.update({"w": weights}, step)
    return ema


def profile(step: int, width: float) -> np.ndarray:
    """The weights of steps 1 to `step` in a power-function average: the integral of its density over each step."""
    return np.diff((np.arange(step + 1) / step) ** (gamma_of(width) + 1))


@pytest.mark.parametrize(("width", "gamma"), [(0.05, 16.9722), (0.10, 6.9372)])
def test_the_exponents_of_the_paper(width, gamma):
    assert gamma_of(width) == pytest.approx(gamma, abs=5e-5)


@pytest.mark.parametrize("width", [0.05, 0.2])
def test_the_width_is_the_standard_deviation_of_the_profile(width):
    weights, middle = profile(20_000, width), (np.arange(20_000) + 0.5) / 20_000
    mean = (weights * middle).sum()
    assert np.sqrt((weights * (middle - mean) ** 2).sum()) == pytest.approx(width, rel=1e-4)


@pytest.mark.parametrize("width", [0.0, -0.1, 0.2887, 1.0])
def test_a_width_that_no_average_has_is_refused(width):
    with pytest.raises(ValueError, match="relative width"):
        gamma_of(width)


def test_the_decay_is_the_equation_and_forgets_the_start():
    assert decay_at(1, 16.9722) == 0
    assert decay_at(10, 6.9372) == pytest.approx(0.9**7.9372)


@pytest.mark.parametrize("width", [0.05, 0.1, 0.2])
def test_an_average_weighs_the_steps_by_the_power_function(width):
    trajectory = walk(200)
    expected = profile(200, width) @ trajectory.double().numpy()
    average = averaged(trajectory, (width,)).tensors(width)["w"]
    np.testing.assert_allclose(average.numpy(), expected, atol=1e-4)


def test_averages_are_float32_and_apart_from_the_weights():
    weights = torch.ones(3, dtype=torch.bfloat16)
    ema = EMA({"w": weights}, (0.05,))
    weights.zero_()
    assert torch.equal(ema.tensors(0.05)["w"], torch.ones(3))
    parameter = torch.nn.Parameter(torch.full((3,), 2.0))
    ema.update({"w": parameter}, 1)
    assert torch.equal(ema.tensors(0.05)["w"], torch.full((3,), 2.0))
    assert not ema.tensors(0.05)["w"].requires_grad


def test_widths_that_would_share_a_name_are_refused():
    with pytest.raises(ValueError, match=r"0\.050, 0\.050"):
        EMA({}, (0.05, 0.0501))


def test_a_restored_average_goes_on_as_if_never_stopped():
    trajectory, widths = walk(60), (0.05, 0.1)
    straight = averaged(trajectory, widths).state()
    assert set(straight) == {"0.050/w", "0.100/w"}
    stopped = {name: tensor.clone() for name, tensor in averaged(trajectory[:25], widths).state().items()}
    resumed = EMA({"w": torch.zeros(32)}, widths)
    resumed.load(stopped)
    for step in range(26, 61):
        resumed.update({"w": trajectory[step - 1]}, step)
    assert all(torch.equal(resumed.state()[name], straight[name]) for name in straight)


TWO, THREE = torch.zeros(2), torch.zeros(3)


@pytest.mark.parametrize("state", [{}, {"0.100/w": TWO}, {"0.050/w": THREE}, {"0.050/w": TWO, "0.050/x": TWO}])
def test_averages_of_another_run_are_refused(state):
    ema = EMA({"w": torch.ones(2)}, (0.05,))
    with pytest.raises(DataError, match=r"0\.\d+/\w differs or is missing"):
        ema.load(state)
    assert torch.equal(ema.tensors(0.05)["w"], torch.ones(2))


SNAPSHOTS = [(step, width) for step in range(50, 1001, 50) for width in (0.05, 0.1)]


@pytest.mark.parametrize("target", [(1000, 0.05), (1000, 0.1), (500, 0.1)])
def test_a_tracked_width_is_rebuilt_from_its_own_snapshot(target):
    shares = post_hoc(SNAPSHOTS, *target)
    expected = [float(snapshot == target) for snapshot in SNAPSHOTS]
    assert shares == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize(("step", "width"), [(1000, 0.06), (1000, 0.075), (1000, 0.09), (750, 0.08), (1000, 0.15)])
def test_a_width_between_is_rebuilt_as_if_it_had_been_tracked(step, width):
    trajectory = walk(1000)
    ema = EMA({"w": trajectory[0]}, (0.05, 0.1, width))
    kept: dict[tuple[int, float], Tensor] = {}
    for now, weights in enumerate(trajectory, start=1):
        ema.update({"w": weights}, now)
        kept |= {(now, w): ema.tensors(w)["w"].double().clone() for w in ema.widths if now % 50 == 0}
    shares = post_hoc(SNAPSHOTS, step, width)
    rebuilt = sum(share * kept[snapshot] for share, snapshot in zip(shares, SNAPSHOTS, strict=True))
    assert sum(shares) == pytest.approx(1)
    assert (rebuilt - kept[step, width]).abs().max() < 1e-3 * trajectory.std()


def test_rebuilding_needs_snapshots_and_steps():
    for snapshots, step in (([], 10), ([(0, 0.05)], 10), ([(5, 0.05)], 0)):
        with pytest.raises(ValueError, match="snapshots"):
            post_hoc(snapshots, step, 0.1)
