"""Exact resumption, the hard way: real trainings killed with SIGKILL at random moments, and full disks."""

import random
import resource
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from dualdiff.core.errors import DualdiffError
from dualdiff.models.layers import MPConv
from dualdiff.project.settings import open_project
from dualdiff.tasks.train import check_resume, prepare
from dualdiff.training import resume_check
from dualdiff.training.resume_check import WithoutPreviews
from dualdiff.training.run_folder import Run
from dualdiff.training.session import with_micro_batch
from tests.conftest import TINY
from tests.kills import calls_of, killed_after
from tests.training.test_loop import IDENTITY, Toy, fit, state_of

KILLS = 5
"""For each of two trainings with 0 and 2 workers: 20 in all."""


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("network", ["vae", "unet"])
def test_a_training_killed_at_random_moments_ends_as_if_it_had_not_been(
    chain: Path,
    tmp_path: Path,
    network: str,
    workers: int,
) -> None:
    music = open_project(chain).path(open_project(chain).settings.dataset.folder)
    overrides = [*TINY, f'dataset.folder="{music}"', f"{network}.train.num_workers={workers}"]
    lengths = ("steps=9", "grad_accum_steps=2", "validate_every=4", "report_every=2", "save_every=2")
    project = open_project(chain, [*overrides, *(f"{network}.train.{length}" for length in lengths)])

    def train(folder: Path, begins: Callable[[], None] = lambda: None) -> None:
        job = prepare(project, network, folder).job
        job.run.open()
        loop = job.loop(with_micro_batch(job))
        loop.objective = WithoutPreviews(loop.objective)
        begins()
        loop.fit()

    before, calls = calls_of(lambda begins: train(tmp_path / "straight", begins))
    straight, moments, kills = state_of(tmp_path / "straight"), random.Random(f"{network} {workers}"), 0
    assert {"metrics.jsonl", "0.100-00000008.safetensors"} < straight.keys()
    while kills < KILLS:
        if killed_after(moments.randrange(before, calls), lambda: train(tmp_path / "killed")):
            kills += 1
        else:  # it got to its end, and is killed again from its start
            assert state_of(tmp_path / "killed") == straight
            shutil.rmtree(tmp_path / "killed")
    train(tmp_path / "killed")
    assert state_of(tmp_path / "killed") == straight


def test_what_a_kill_left_half_written_goes(tmp_path: Path) -> None:
    fit(tmp_path / "run", steps=8)
    before = sorted(path.name for path in (tmp_path / "run").rglob("*"))
    (tmp_path / "run" / "ema" / ".0.100-00000009.0123456789abcdef.tmp").write_bytes(b"half")
    (tmp_path / "run" / "checkpoints" / ".00000009.tmp").mkdir()
    (tmp_path / "run" / "checkpoints" / ".00000009.tmp" / "model.safetensors").write_bytes(b"half")
    (tmp_path / "run" / "checkpoints" / ".00000009.0123456789abcdef.tmp").mkdir()
    (tmp_path / "run" / ".metrics.0123456789abcdef.tmp.jsonl").write_text("{")
    fit(tmp_path / "run", steps=8)
    assert sorted(path.name for path in (tmp_path / "run").rglob("*")) == before


def test_a_kill_is_a_kill(tmp_path: Path) -> None:
    done = tmp_path / "done"

    def work() -> None:
        for index in range(1000):
            (tmp_path / f"{index}").touch()
        done.touch()

    assert killed_after(2000, work)
    assert (tmp_path / "0").exists()
    assert not done.exists()
    assert not killed_after(10**9, work)
    assert done.exists()


class Wide(Toy):
    """Its optimizer's state is the first file that is larger than the record."""

    def __init__(self) -> None:
        super().__init__()
        self.model = torch.nn.Sequential(MPConv(4, 512, 0), MPConv(512, 4, 0))


def test_a_disk_that_fills_up_during_a_save_keeps_the_checkpoint_before(tmp_path: Path) -> None:
    fit(tmp_path / "run", Wide(), steps=4)
    before = {path: path.read_bytes() for path in (tmp_path / "run" / "checkpoints").rglob("*") if path.is_file()}
    size = (tmp_path / "run" / "checkpoints" / "00000004" / "optimizer.safetensors").stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size - 8, hard))  # the kernel itself refuses the last bytes
    try:
        with pytest.raises(DualdiffError, match="step 8 was not saved") as raised:
            fit(tmp_path / "run", Wide(), steps=8)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "what was saved before is untouched" in raised.value.hint
    assert {path: path.read_bytes() for path in before} == before
    assert Run(tmp_path / "run", IDENTITY, "").checkpoints() == [4]
    fit(tmp_path / "run", Wide(), steps=8)
    fit(tmp_path / "straight", Wide(), steps=8)
    groups = ("model.safetensors", "optimizer.safetensors", "ema.safetensors")
    after, straight = state_of(tmp_path / "run"), state_of(tmp_path / "straight")
    assert {name: after[name] for name in groups} == {name: straight[name] for name in groups}


@pytest.mark.parametrize("network", ["vae", "unet"])
def test_the_proof_is_run_on_the_users_own_settings(
    chain: Path,
    network: str,
    run_cli: Callable[..., object],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(resume_check, "MOST", 4)
    before = sorted(path for path in (chain / "runs").rglob("*"))
    music = open_project(chain).path(open_project(chain).settings.dataset.folder)
    overrides = [*TINY, f'dataset.folder="{music}"']
    sets = [part for override in overrides for part in ("--set", override)]
    outcome = run_cli(network, "train", "--check-resume", "--project", chain, *sets)
    assert outcome.code == 0, outcome.stderr  # type: ignore[attr-defined]
    words = "4 steps straight equal 2 + a resume + 2, byte for byte: model, optimizer, ema, metrics.jsonl"
    assert outcome.stdout.strip() == words  # type: ignore[attr-defined]
    assert sorted(path for path in (chain / "runs").rglob("*")) == before


def test_the_proof_says_what_differs(chain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resume_check, "MOST", 2)
    monkeypatch.setattr("dualdiff.training.loop.load_optimizer_tensors", lambda *_: None)  # a resume that forgets
    music = open_project(chain).path(open_project(chain).settings.dataset.folder)
    found = check_resume(open_project(chain, [*TINY, f'dataset.folder="{music}"']), "unet")
    assert any(words.startswith("model: ") and " by up to " in words for words in found.differences)
    assert any("optimizer: " in words for words in found.differences)
