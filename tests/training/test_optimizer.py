"""Learning rate and optimizer state."""

import math

import pytest
import torch

from dualdiff.core.errors import DataError
from dualdiff.models.layers import MPConv
from dualdiff.training.config import TrainConfig
from dualdiff.training.optimizer import learning_rate, load_optimizer_tensors, make_optimizer, optimizer_tensors


def test_learning_rate_warms_up_holds_and_decays() -> None:
    config = TrainConfig(learning_rate=0.01, warmup_steps=10, decay_after_steps=100)
    assert learning_rate(0, config) == 0
    assert learning_rate(1, config) == pytest.approx(0.001)
    assert learning_rate(10, config) == learning_rate(100, config) == pytest.approx(0.01)
    assert learning_rate(400, config) == pytest.approx(0.01 / math.sqrt(4))
    assert learning_rate(10**6, TrainConfig(learning_rate=0.01, warmup_steps=0, decay_after_steps=0)) == 0.01


def test_learning_rate_falls_in_a_line_to_0_at_the_end() -> None:
    config = TrainConfig(
        learning_rate=0.01, warmup_steps=10, decay="constant-then-linear", decay_after_steps=100, steps=200
    )
    assert learning_rate(100, config) == pytest.approx(0.01)
    assert learning_rate(150, config) == pytest.approx(0.005)
    assert learning_rate(199, config) == pytest.approx(0.0001)
    assert learning_rate(200, config) == learning_rate(10**6, config) == 0.0
    assert learning_rate(150, config, total=150) == 0.0, "a budget of time has planned fewer steps"
    assert learning_rate(150, config, total=300) == pytest.approx(0.0075)


def test_state_comes_back_exactly_and_knows_its_model() -> None:
    model = MPConv(3, 4)
    optimizer = make_optimizer(model)
    assert optimizer_tensors(optimizer, model) == {}
    model(torch.randn(1, 3, 8, 8)).square().sum().backward()
    optimizer.step()
    saved = {name: tensor.clone() for name, tensor in optimizer_tensors(optimizer, model).items()}
    assert saved.keys() == {"step.weight", "exp_avg.weight", "exp_avg_sq.weight"}
    fresh = make_optimizer(model)
    load_optimizer_tensors(fresh, model, saved)
    assert all(torch.equal(tensor, saved[name]) for name, tensor in optimizer_tensors(fresh, model).items())
    with pytest.raises(DataError, match="lacks"):
        load_optimizer_tensors(fresh, model, {"step.bias": torch.zeros(())})
