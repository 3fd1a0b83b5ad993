"""Micro-batches that fit, and what is said when one does not."""

import logging
from pathlib import Path

import pytest
import torch

from dualdiff.core.errors import DualdiffError
from dualdiff.data.loader import Batch
from dualdiff.training import memory, preflight
from dualdiff.training.config import TrainConfig
from dualdiff.training.loop import Trial
from dualdiff.training.objective import BatchPosition, Loss
from dualdiff.training.run_folder import Run
from dualdiff.training.session import train, with_micro_batch
from tests.training.test_loop import Numbers, Toy, fit, state_of
from tests.training.test_time_budget import job


class Hungry(Toy):
    """Runs out of memory with more than so many examples; has no dropout, whose masks belong to a micro-batch."""

    def __init__(self, most: int, at_step: int = 0) -> None:
        super().__init__()
        self.model[2] = torch.nn.Identity()  # type: ignore[index]
        self.most, self.at_step = most, at_step

    def loss(self, batch: Batch, place: BatchPosition) -> Loss:
        if len(batch) > self.most and place.step >= self.at_step:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return super().loss(batch, place)


def test_running_out_of_memory_names_the_setting_and_the_size_that_fits(tmp_path: Path) -> None:
    with pytest.raises(DualdiffError, match="out of memory with micro-batches of 8") as raised:
        fit(tmp_path / "run", Hungry(2, at_step=3), batch_size=8)
    assert "micro-batches of 2 fit: set train.grad_accum_steps = 4" in raised.value.hint
    fit(tmp_path / "run", Hungry(2), batch_size=8, grad_accum_steps=4)  # what it says works
    with pytest.raises(DualdiffError) as raised:
        fit(tmp_path / "other", Hungry(0), batch_size=8)
    assert "not even one example fits" in raised.value.hint


def test_it_is_found_out_before_the_first_step(tmp_path: Path) -> None:
    hungry = job(tmp_path / "run", batch_size=8)
    object.__setattr__(hungry, "objective", Hungry(3))
    with pytest.raises(DualdiffError, match="toy.train: out of memory with micro-batches of 8") as raised:
        train(hungry)
    assert "toy.train.grad_accum_steps = 4" in raised.value.hint
    assert not Run(tmp_path / "run", {}, "").checkpoints()


@pytest.mark.parametrize(("most", "expected"), [(1, 8), (2, 4), (5, 2), (8, 1), (100, 1)])
def test_the_largest_micro_batch_that_fits_is_found_by_trying(most: int, expected: int) -> None:
    trial = Trial(Hungry(most), Numbers(), torch.device("cpu"))
    assert 8 // memory.micro_batch(8, torch.device("cuda"), trial.run) == expected
    assert all(parameter.grad is None for parameter in trial.objective.model.parameters())


def test_each_kind_of_device_says_in_its_own_words_that_memory_ran_out() -> None:
    for words in (
        "MPS backend out of memory (MPS allocated: 5.10 GiB, max allowed: 9.07 GiB). Tried to allocate 4.00 GiB.",
        "[enforce fail at alloc_cpu.cpp:118] err == 0. DefaultCPUAllocator: can't allocate memory: you tried ...",
    ):
        assert memory.is_out_of_memory(RuntimeError(words))
    assert memory.is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory."))
    assert not memory.is_out_of_memory(ValueError("out of memory"))


def test_an_error_that_is_not_about_memory_is_none() -> None:
    def broken(size: int) -> None:
        raise RuntimeError("shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="shapes"):
        memory.micro_batch(8, torch.device("cuda"), broken)


def test_on_a_cpu_the_size_is_reckoned_from_what_one_example_keeps(monkeypatch: pytest.MonkeyPatch) -> None:
    trial = Trial(Hungry(8), Numbers(), torch.device("cpu"))
    each = memory.saved_bytes(trial.run)
    assert 100 < each < 10_000
    for free, expected in ((10**9, 8), (8 * each, 4), (each, 1)):
        monkeypatch.setattr(memory, "free_bytes", lambda free=free: free)
        assert memory.micro_batch(8, torch.device("cpu"), trial.run) == expected
    monkeypatch.setattr(memory, "free_bytes", lambda: 10**6 + 8 * each)
    assert memory.micro_batch(8, torch.device("cpu"), trial.run, to_come_bytes=10**6) == 4


def test_not_even_one_example_names_section_and_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dualdiff.training.session.micro_batch", lambda *_: None)  # as a trial on a GPU says
    started = job(tmp_path / "run", grad_accum_steps=0, batch_size=4)
    started.run.open()
    with pytest.raises(DualdiffError, match=r"toy\.train: out of memory with micro-batches of 1") as raised:
        with_micro_batch(started)
    assert "shorten toy.train.crop_s, shrink the network or track fewer ema_widths" in raised.value.hint


def test_the_memory_that_is_told_holds_the_averages(tmp_path: Path) -> None:
    few, many = (job(tmp_path / "run", ema_widths=widths) for widths in ((0.1,), (0.05, 0.1, 0.2)))
    parameters = sum(p.numel() for p in few.objective.model.parameters())
    assert many.trial.to_come_bytes - few.trial.to_come_bytes == 2 * 4 * parameters
    told = preflight.measure("toy.train", many.trial, tmp_path, many.config, 1).memory_bytes
    assert told >= memory.memory_bytes(torch.device("cpu")) + 4 * 5 * parameters - 10**6


def test_the_result_is_the_same_to_rounding_whatever_fits(tmp_path: Path) -> None:
    whole, cut = (fit(tmp_path / str(n), Hungry(8), batch_size=8, grad_accum_steps=n, steps=6) for n in (1, 4))
    for a, b in zip(whole.model.parameters(), cut.model.parameters(), strict=True):
        assert torch.allclose(a, b, rtol=1e-5, atol=1e-6)


def test_a_run_keeps_the_micro_batches_that_it_began_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for free, expected in ((10**9, 1), (1, 1)):  # the second time there is next to no memory
        monkeypatch.setattr(memory, "free_bytes", lambda free=free: free)
        started = job(tmp_path / "run", grad_accum_steps=0, batch_size=4)
        started.run.open()
        assert with_micro_batch(started).grad_accum_steps == expected
        started.run.begin()  # as the first step does: a run that has not begun keeps nothing
    other = job(tmp_path / "other", grad_accum_steps=0, batch_size=4)
    other.run.open()
    assert with_micro_batch(other).grad_accum_steps == 4


def test_micro_batches_are_chosen_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        train(job(tmp_path / "auto", grad_accum_steps=0))
    assert "micro-batches of 4 examples fit: grad_accum_steps = 1" in caplog.text
    assert "a step computes 4 examples; memory" in caplog.text
    assert "12 steps of about" in caplog.text
    assert state_of(tmp_path / "auto")


def test_memory_of_a_cpu_is_reckoned_before_it_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    toy, config = Toy(), TrainConfig(batch_size=8, ema_widths=(0.05, 0.1))
    parameters = sum(p.numel() for p in toy.model.parameters())
    trial = Trial(toy, Numbers(), torch.device("cpu"), to_come_bytes=memory.state_bytes(parameters, config))
    each = memory.saved_bytes(trial.run)
    kept = 4 * parameters * (1 + 2 + 2)  # gradients, Adam's moments, two averages
    monkeypatch.setattr(preflight, "free_bytes", lambda: kept + 2 * each)
    with pytest.raises(DualdiffError, match="out of memory with micro-batches of 8") as raised:
        preflight.require_memory("unet.train", trial, config, 8)
    assert "micro-batches of 2 fit: set unet.train.grad_accum_steps = 4" in raised.value.hint
    preflight.require_memory("unet.train", trial, config, 2)


def test_a_disk_too_small_for_the_checkpoints_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, config = Toy().model, TrainConfig(ema_widths=(0.05, 0.1), keep_checkpoints=2, keep_ema_snapshots=4)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    needed, _ = preflight.require_disk(tmp_path / "run", model, config)
    # two checkpoints; five snapshots of both averages; the exported model and the one that it replaces
    assert needed == 4 * parameters * ((1 + 2 + 2) * 2 + 2 * 5 + 2)
    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda _: type("U", (), {"free": needed - 1})())
    with pytest.raises(DualdiffError, match="and this training needs"):
        preflight.require_disk(tmp_path / "run", model, config)
