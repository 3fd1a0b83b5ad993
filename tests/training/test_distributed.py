"""Two processes, as `accelerate launch` starts them: they equal one, agree on everything, and stop together."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from dualdiff.core.errors import DualdiffError, Interrupted
from dualdiff.data.loader import Batch
from dualdiff.project.settings import open_project
from dualdiff.tasks.train import prepare
from dualdiff.training import run_folder as runs
from dualdiff.training import session as jobs
from dualdiff.training.distributed import all_or_none, is_true_for_any, of_the_first
from dualdiff.training.loop import Loop
from dualdiff.training.objective import BatchPosition, Loss
from dualdiff.training.resume_check import WithoutPreviews
from dualdiff.training.run_folder import Run
from dualdiff.training.session import leave, make_accelerator, train
from dualdiff.training.time_budget import Budget
from tests.conftest import TINY
from tests.training.test_loop import IDENTITY, Numbers, fit, settings
from tests.training.test_time_budget import TOTAL_S, Clock, Slow, job

LAUNCH = "-m accelerate.commands.launch --multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no"
LAUNCH += " --dynamo_backend no --main_process_port 0"


# What each of the two processes does; what it returns is told to the tests, by rank.


def trained(folder: Path) -> None:
    fit(folder, steps=4, grad_accum_steps=1)


def real(folder: Path, accum: int = 1) -> None:
    """Both trainings of the tiny project."""
    chain = Path(os.environ["CHAIN"])
    music = open_project(chain).path(open_project(chain).settings.dataset.folder)
    for network in ("vae", "unet"):
        sets = [f"{network}.train.{key}" for key in (f"grad_accum_steps={accum}", "steps=3", "save_every=3")]
        project = open_project(chain, [*TINY, f'dataset.folder="{music}"', *sets])
        made = prepare(project, network, folder / network).job
        if made.accelerator.is_main_process:
            made.run.open()
        made.accelerator.wait_for_everyone()
        loop = made.loop(made.config)
        loop.objective = WithoutPreviews(loop.objective)
        loop.fit()


def agreeing(folder: Path) -> dict[str, object]:
    both = make_accelerator(torch.device("cpu"))
    own = both.process_index
    return {
        "first": of_the_first(both, 7 + own),
        "any": [is_true_for_any(both, own == 1), is_true_for_any(both, False)],
        "made": all_or_none(both, lambda: own),
    }


def nothing_fits_the_second(folder: Path) -> str:
    rank = make_accelerator(torch.device("cpu")).process_index
    jobs.micro_batch = lambda share, *_: None if rank else share  # type: ignore[assignment]
    return told(lambda: train(job(folder, grad_accum_steps=0, batch_size=4)))


def nothing_fits_either(folder: Path) -> str:
    jobs.micro_batch = lambda *_: None  # type: ignore[assignment]
    return told(lambda: train(job(folder, grad_accum_steps=0, batch_size=4)))


def less_fits_the_second(folder: Path) -> object:
    rank = make_accelerator(torch.device("cpu")).process_index
    jobs.micro_batch = lambda share, *_: share // 2 if rank else share  # type: ignore[assignment]
    started = job(folder, grad_accum_steps=0, batch_size=8)
    return jobs.with_micro_batch(started).grad_accum_steps


def the_disk_of_the_first_is_full(folder: Path) -> str:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    original = runs.save_tensors
    runs.save_tensors = full
    try:
        return told(lambda: train(job(folder)))
    finally:
        runs.save_tensors = original


def told(work: Callable[[], object]) -> str:
    try:
        work()
    except DualdiffError as error:
        return error.message
    return ""


def so_many_hours(folder: Path) -> dict[str, object]:
    """A stop that only the second process hears of, and steps that take three times as long after a third."""
    both, clock = make_accelerator(torch.device("cpu")), Clock()
    pace = (lambda step: 2.0 if step < 100 else 6.0) if both.is_main_process else (lambda step: 0.1)
    found: dict[str, object] = {}
    for part, stop_at in (("stopped", 60), ("ended", -1)):
        run = Run(folder, IDENTITY, "")
        if both.is_main_process:
            run.open()
        both.wait_for_everyone()
        objective = StoppedInTheSecond(clock, pace, stop_at)
        config = settings(steps=450, save_every=150, validate_every=100, preview_every=200, batch_size=2)
        budget = Budget(TOTAL_S, float(run.plan().get("spent_s", 0.0)), clock)
        loop = Loop(objective, Numbers(), config, run, both, 3, budget=budget)
        with contextlib.suppress(Interrupted):
            loop.fit()
        found[part] = [loop.step, loop.total]
    return {**found, "seconds": clock.now_s - 1000, "checkpoints": run.checkpoints()}


class StoppedInTheSecond(Slow):
    def loss(self, batch: Batch, place: BatchPosition) -> Loss:
        if place.step == self.stop_at and place.first:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().loss(batch, place)


def hours_from_start_to_end(folder: Path) -> list[int]:
    return [train(job(folder, batch_size=4), hours=seconds / 3600) for seconds in (0.5, 1.5)]


WORK = (
    trained,
    real,
    agreeing,
    nothing_fits_either,
    nothing_fits_the_second,
    less_fits_the_second,
    the_disk_of_the_first_is_full,
    so_many_hours,
    hours_from_start_to_end,
)


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    original = jobs.micro_batch
    for work in WORK:
        found = work(folder / work.__name__)
        jobs.micro_batch = original  # type: ignore[assignment]
        (folder / f"{work.__name__}-{os.environ['RANK']}.json").write_text(json.dumps(found))
    leave()
    (folder / f"leave-{os.environ['RANK']}.json").write_text(json.dumps(threads()))


def threads() -> list[str]:
    """The names of this process's threads, as Linux has them."""
    return [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory, chain: Path) -> Path:
    """The folder in which two processes have done all of it."""
    folder = tmp_path_factory.mktemp("two processes")
    script = folder / "both.py"
    script.write_text(
        "import sys\nfrom pathlib import Path\n"
        "from tests.training.test_distributed import main\nmain(Path(sys.argv[1]))\n"
    )
    found = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": found, "CHAIN": str(chain)}
    command = [sys.executable, *LAUNCH.split(), str(script), str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


def of(folder: Path, work: Callable[[Path], object]) -> list[object]:
    """What the work came to in the first process and in the second."""
    return [json.loads((folder / f"{work.__name__}-{rank}.json").read_text()) for rank in (0, 1)]


def test_two_processes_equal_one_with_twice_the_accumulation(both: Path, tmp_path: Path) -> None:
    fit(tmp_path / "one", steps=4, grad_accum_steps=2)
    places = (tmp_path / "one", both / "trained")
    one, two = (Run(place, IDENTITY, "").load(("model", "optimizer", "ema")) for place in places)
    assert one is not None
    assert two is not None
    for group, tensors in one.groups.items():
        for name, tensor in tensors.items():
            assert torch.allclose(tensor, two.groups[group][name], rtol=1e-5, atol=1e-7), f"{group} {name}"


@pytest.mark.parametrize("network", ["vae", "unet"])
def test_so_do_both_trainings(
    both: Path, chain: Path, tmp_path: Path, network: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHAIN", str(chain))
    real(tmp_path, accum=2)
    groups = ("model", "optimizer", "ema")
    one, two = (Run(place / network, {}, "").load(groups) for place in (tmp_path, both / "real"))
    assert one is not None
    assert two is not None
    for group, tensors in one.groups.items():
        for name, tensor in tensors.items():
            error = (tensor - two.groups[group][name]).norm() / tensor.norm().clamp_min(1e-30)
            assert error < 1e-5, f"{group} {name}"
    records = [
        json.loads((place / network / "metrics.jsonl").read_text().splitlines()[0])
        for place in (tmp_path, both / "real")
    ]
    assert records[0] == pytest.approx(records[1], rel=1e-5, abs=1e-6)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="Linux names the threads of a process")
def test_leaving_the_group_ends_its_threads(both: Path) -> None:
    for names in of(both, leave):
        assert not [name for name in names if "gloo" in name], "one that outlives the interpreter aborts the process"  # type: ignore[attr-defined]


def test_they_agree(both: Path) -> None:
    found = of(both, agreeing)
    assert found == [{"first": 7, "any": [True, False], "made": own} for own in (0, 1)]


def test_when_nothing_fits_one_of_them_both_stop_with_its_word(both: Path) -> None:
    words = "toy.train: out of memory with micro-batches of 1 (batch_size = 4, grad_accum_steps = 0)"
    assert of(both, nothing_fits_either) == [words] * 2
    assert of(both, nothing_fits_the_second) == [f"process 1: {words}"] * 2


def test_both_take_the_micro_batch_that_fits_the_smaller(both: Path) -> None:
    assert of(both, less_fits_the_second) == [2, 2]
    assert Run(both / "less_fits_the_second", IDENTITY, "").plan() == {"grad_accum_steps": {"2": 2}}


def test_a_checkpoint_that_cannot_be_written_stops_both(both: Path) -> None:
    words = of(both, the_disk_of_the_first_is_full)
    assert words[0] == words[1]
    assert "process 0: the checkpoint of step 4 was not saved: [Errno 28] No space left" in str(words[0])


def test_both_land_in_the_hours_given_by_the_clock_of_the_first(both: Path) -> None:
    first, second = of(both, so_many_hours)
    assert first["stopped"][0] == 61  # type: ignore[index]
    for key in ("stopped", "ended", "checkpoints"):
        assert first[key] == second[key], key  # type: ignore[index]
    assert first["seconds"] == pytest.approx(TOTAL_S, rel=0.05)  # type: ignore[index]
    last = first["ended"][0]  # type: ignore[index]
    assert first["ended"] == [last, last]  # type: ignore[index]
    assert first["checkpoints"][-1] == last < 450  # type: ignore[index]


def test_a_training_by_hours_goes_on_in_two_processes(both: Path) -> None:
    first, second = of(both, hours_from_start_to_end)
    assert first == second
    plan = Run(both / "hours_from_start_to_end", IDENTITY, "").plan()
    assert plan["steps"] == first[1] >= first[0]  # type: ignore[index]
