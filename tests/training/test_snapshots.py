"""Any average of the weights, rebuilt from the few that a run stores, against the same average tracked directly."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from dualdiff.core.errors import DataError
from dualdiff.models.layers import MPConv
from dualdiff.training.config import TrainConfig
from dualdiff.training.ema import snapshots
from dualdiff.training.ema.ema import EMA
from dualdiff.training.preflight import disk_needed
from dualdiff.training.run_folder import Checkpoint, Run
from tests.training.test_loop import IDENTITY, Toy, fit, settings

WIDTHS = TrainConfig().ema_widths
KEEP = TrainConfig().keep_ema_snapshots
WANTED = (0.015, 0.018, 0.02, 0.03, 0.05, 0.07, 0.12, 0.14, 0.2, 0.227, 0.25)


def test_snapshots_are_due_at_a_fixed_ratio() -> None:
    steps = [step for step in range(1, 2001) if snapshots.is_due(step)]
    assert steps[:4] == [8, 13, 21, 36]
    late = np.array(steps[4:])
    assert np.allclose(late[:-1] / late[1:], snapshots.RATIO, atol=0.01)


@pytest.mark.parametrize("last", [700, 1000, 1270])
def test_every_width_is_rebuilt_to_a_thousandth_from_a_bounded_number_of_snapshots(tmp_path: Path, last: int) -> None:
    """Weights that walk at random are the worst case: what a training does is smoother."""
    weights = torch.zeros(4096)
    run = Run(tmp_path, IDENTITY, "")
    run.open()
    kept = snapshots.stored_widths(WIDTHS, 0.1)
    stored, tracked = EMA({"w": weights}, WIDTHS), [EMA({"w": weights}, (width,)) for width in WANTED]
    generator = torch.Generator().manual_seed(0)
    for step in range(1, last + 1):
        weights += torch.randn(4096, generator=generator)
        for ema in (stored, *tracked):
            ema.update({"w": weights}, step)
        if snapshots.is_due(step):
            snapshots.save(tmp_path, step, {width: stored.tensors(width) for width in kept}, KEEP)
    run.save(Checkpoint(last, {"model": {}, "optimizer": {}, "ema": stored.state()}, {}), 1)
    assert len(list((tmp_path / "ema").iterdir())) == len(kept) * KEEP == 12
    for width, direct in zip(WANTED, tracked, strict=True):
        how, rebuilt = snapshots.rebuild(tmp_path, width)
        error = (rebuilt["w"] - direct.tensors(width)["w"]).norm() / direct.tensors(width)["w"].norm()
        assert error < 1e-3, width
        assert how.step == last
        assert how.error < 1.2e-3
        assert error < 3 * how.error + 1e-5  # it says itself how good it is
        assert sum(how.shares.values()) == pytest.approx(1)


def test_the_averages_of_a_training_are_rebuilt(tmp_path: Path) -> None:
    loop = fit(tmp_path / "run", steps=80, batch_size=1, save_every=40)
    tracked = {"ema_widths": (0.07,), "export_ema_width": 0.07}
    direct = fit(tmp_path / "direct", steps=80, batch_size=1, save_every=40, **tracked)
    assert loop.step == 80
    _, rebuilt = snapshots.rebuild(tmp_path / "run", 0.07)
    wanted = direct.ema.tensors(0.07)
    assert rebuilt.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert (rebuilt[name] - tensor).norm() / tensor.norm() < 1e-3


class Weighed(Toy):
    """Has many numbers, and looks after each step at what the run takes on the disk."""

    def __init__(self) -> None:
        super().__init__()
        self.model = torch.nn.Sequential(MPConv(4, 512, 0), MPConv(512, 4, 0))
        self.bytes: list[int] = []
        self.files: list[int] = []

    def preview(self, folder: Path, name: str) -> list[Path]:
        sizes = [path.stat().st_size for path in folder.parent.rglob("*.safetensors")]
        self.bytes.append(sum(sizes))
        self.files.append(len(list((folder.parent / "ema").glob("*"))))
        return []


def test_what_a_run_takes_on_the_disk_is_bounded_by_what_is_said_before_it(tmp_path: Path) -> None:
    weighed = Weighed()
    fit(tmp_path / "run", weighed, steps=170, batch_size=1, save_every=10, preview_every=1)
    config = settings()
    needed = disk_needed(sum(parameter.numel() for parameter in weighed.model.parameters()), config)
    assert needed / 2 < max(weighed.bytes) <= needed
    assert max(weighed.bytes[100:]) <= max(weighed.bytes[:100]), "it does not grow with the steps"
    assert set(weighed.files[60:]) == {3 * config.keep_ema_snapshots}


def test_an_earlier_step_is_rebuilt_from_its_own_snapshots(tmp_path: Path) -> None:
    fit(tmp_path / "run", steps=20, batch_size=1)
    how, _ = snapshots.rebuild(tmp_path / "run", 0.1, step=13)
    assert how.shares[13, 0.1] == pytest.approx(1, abs=1e-6)
    assert all(step <= 13 for step, _ in how.shares)


@pytest.mark.parametrize(
    ("width", "step", "message"),
    [
        (0.3, None, "width 0.3 cannot be rebuilt"),
        (0.01, None, "width 0.01 cannot be rebuilt"),
        (0.1, 999, "not of step 999"),
        (0.1, 1, "not of step 1"),
        (0.1, 0, "not of step 0"),
    ],
)
def test_what_cannot_be_rebuilt_is_refused(tmp_path: Path, width: float, step: int | None, message: str) -> None:
    fit(tmp_path / "run", steps=30, batch_size=1)
    with pytest.raises(DataError, match=message):
        snapshots.plan(tmp_path / "run", width, step)


def test_a_folder_without_averages_is_named_and_a_strange_file_is_left_alone(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no weight averages"):
        snapshots.plan(tmp_path, 0.1)
    fit(tmp_path / "run", steps=40, batch_size=1)
    strange = tmp_path / "run" / "ema" / "mine.safetensors"
    strange.touch()
    assert snapshots.plan(tmp_path / "run", 0.1).step == 40
    snapshots.rewind(tmp_path / "run", 8)
    assert strange.exists()


def test_averages_that_a_newer_version_does_not_store_go_with_their_step(tmp_path: Path) -> None:
    fit(tmp_path / "run", steps=20, batch_size=1)
    ema = tmp_path / "run" / "ema"
    for step in (8, 13):
        shutil.copy(ema / f"0.100-{step:08d}.safetensors", ema / f"0.015-{step:08d}.safetensors")
    fit(tmp_path / "run", steps=60, batch_size=1)
    assert sorted(path.name[6:14] for path in ema.glob("0.015*")) == ["00000013"]


def test_snapshots_of_steps_that_are_done_again_go(tmp_path: Path) -> None:
    fit(tmp_path / "run", steps=40, batch_size=1)
    snapshots.rewind(tmp_path / "run", 13)
    assert {path.stem.split("-")[1] for path in (tmp_path / "run" / "ema").iterdir()} == {"00000008", "00000013"}
