"""The precision of a run: kept from its start, on whatever machine it resumes."""

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from dualdiff.core.errors import DataError
from dualdiff.project.settings import open_project
from dualdiff.tasks.train import prepare
from dualdiff.training.precision import precision_of_run
from dualdiff.training.run_folder import Run, read_plan
from dualdiff.training.session import make_accelerator
from tests.conftest import TINY

Machine = Callable[..., None]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Make this machine's processor one that has these instructions for bfloat16."""

    def become(*instructions: str) -> None:
        found = dict.fromkeys(instructions, True)
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found, raising=False)

    return become


def precision(folder: Path, name: str = "auto") -> torch.dtype:
    return precision_of_run(folder, name, make_accelerator(torch.device("cpu")))


def begin(run: Run) -> None:
    """Open a run, and write what it is, as after its first step."""
    run.open()
    run.begin()


def test_a_run_keeps_the_precision_that_it_began_with(
    tmp_path: Path, machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    machine("avx512_bf16")
    assert precision(tmp_path / "fast") == torch.bfloat16
    begin(Run(tmp_path / "fast", {}, "", precision="bfloat16"))
    machine()
    assert precision(tmp_path / "slow") == torch.float32
    begin(Run(tmp_path / "slow", {}, "", precision="float32"))
    with caplog.at_level(logging.WARNING):
        assert precision(tmp_path / "slow") == torch.float32
        assert not caplog.records
        assert precision(tmp_path / "fast") == torch.bfloat16
    assert "began in bfloat16 and keeps it, though this machine (cpu) computes it slowly" in caplog.text
    assert 'set project.precision = "float32"' in caplog.text
    caplog.clear()
    assert precision(tmp_path / "fast", "float32") == torch.float32
    assert not caplog.records
    machine("amx_bf16")
    assert precision(tmp_path / "slow") == torch.float32
    assert precision(tmp_path / "slow", "bfloat16") == torch.bfloat16


def test_runs_that_stored_none_go_on_as_they_began(tmp_path: Path, machine: Machine) -> None:
    begin(Run(tmp_path / "old", {}, ""))
    assert "precision" not in read_plan(tmp_path / "old")
    for instructions, began in (
        (("avx512_bf16",), torch.float32),
        (("avx512_bf16", "amx_bf16"), torch.bfloat16),
        ((), torch.float32),
    ):
        machine(*instructions)
        assert precision(tmp_path / "old") == began


def test_another_precision_in_the_plan_is_no_plan(tmp_path: Path) -> None:
    Run(tmp_path / "run", {}, "", precision="float32").open()
    (tmp_path / "run" / "plan.json").write_text('{"precision": "float16"}')
    with pytest.raises(DataError, match="does not describe a plan"):
        precision(tmp_path / "run")


@pytest.mark.parametrize("name", ["float32", "bfloat16"])
def test_both_networks_train_in_what_is_asked_and_pass_the_checks_before_the_first_step(
    chain: Path, tmp_path: Path, machine: Machine, name: str
) -> None:
    music = open_project(chain).path(open_project(chain).settings.dataset.folder)
    overrides = [*TINY, f'dataset.folder="{music}"', f'project.precision="{name}"']
    project = open_project(chain, overrides)
    for kind in ("vae", "unet"):
        job = prepare(project, kind, tmp_path / kind, force=True).job
        job.check()
        begin(job.run)
        assert read_plan(job.run.folder)["precision"] == name
        job.loop(job.config).fit()
        machine()  # and resumed elsewhere by "auto", it is what it was
        again = prepare(open_project(chain, overrides[:-1]), kind, job.run.folder).job
        begin(again.run)
        assert read_plan(job.run.folder)["precision"] == name
    assert torch.get_num_threads() == 1
