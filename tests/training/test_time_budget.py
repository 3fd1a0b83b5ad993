"""Planning by hours, with a clock that only the work itself moves."""

from pathlib import Path

import pytest
import torch

from dualdiff.core.errors import DataError, Interrupted
from dualdiff.data.loader import Batch
from dualdiff.diffusion.config import NoiseConfig
from dualdiff.model_store.latent_space import LatentSpace
from dualdiff.models.config import UNetConfig
from dualdiff.models.unet import UNet
from dualdiff.training.config import TrainConfig, UNetObjectiveConfig
from dualdiff.training.loop import Loop
from dualdiff.training.objective import BatchPosition, Loss, Validation
from dualdiff.training.resume_check import WithoutPreviews
from dualdiff.training.run_folder import Run
from dualdiff.training.session import TrainingSession, make_accelerator, train
from dualdiff.training.time_budget import Budget, planned, scaled
from dualdiff.training.unet import UNetObjective
from tests.training.test_loop import IDENTITY, Numbers, Toy, settings


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


class Slow(Toy):
    """A step takes the time that `pace` says; a validation and a preview take theirs."""

    def __init__(self, clock: Clock, pace: "object", stop_at: int = -1, preview_s: float = 20.0) -> None:
        super().__init__(stop_at=stop_at)
        self.clock, self.pace, self.preview_s = clock, pace, preview_s

    def loss(self, batch: Batch, place: BatchPosition) -> Loss:
        self.clock.now_s += self.pace(place.step)  # type: ignore[operator]
        return super().loss(batch, place)

    def validate(self) -> Validation:
        self.clock.now_s += 3.0
        return super().validate()

    def preview(self, folder: Path, name: str) -> list[Path]:
        self.clock.now_s += self.preview_s
        return super().preview(folder, name)


PACES = {
    "even": lambda step: 2.0,
    "slower from a third on": lambda step: 2.0 if step < 100 else 6.0,
    "faster from a third on": lambda step: 2.0 if step < 100 else 0.7,
    "stalls now and then": lambda step: 30.0 if step % 40 == 39 else 2.0,
    "slowly slower": lambda step: 1.0 + step / 150,
}
TOTAL_S = 900.0


def run(
    folder: Path,
    clock: Clock,
    pace: object,
    spent_s: float = 0.0,
    stop_at: int = -1,
    preview_s: float = 20.0,
    **changes: int,
) -> tuple[Loop, Budget]:
    lengths = {"save_every": 150, "validate_every": 100, "preview_every": 200, "report_every": 50, **changes}
    config = settings(steps=450, batch_size=1, **lengths)
    budget = Budget(TOTAL_S, spent_s, clock)
    opened = Run(folder, IDENTITY, "")
    opened.open()
    objective = Slow(clock, pace, stop_at, preview_s)
    loop = Loop(objective, Numbers(), config, opened, make_accelerator(torch.device("cpu")), 3, budget=budget)
    loop.fit()
    return loop, budget


@pytest.mark.parametrize("pace", PACES)
def test_a_training_of_so_many_hours_lands_there_whatever_slows_it_down(tmp_path: Path, pace: str) -> None:
    clock = Clock()
    loop, _ = run(tmp_path / "run", clock, PACES[pace])
    assert clock.now_s - 1000 == pytest.approx(TOTAL_S, rel=0.05)
    assert loop.step == loop.total
    assert Run(tmp_path / "run", IDENTITY, "").checkpoints()[-1] == loop.step


def test_after_an_interruption_the_rest_of_the_time_is_planned_anew(tmp_path: Path) -> None:
    clock = Clock()
    with pytest.raises(Interrupted):
        run(tmp_path / "run", clock, PACES["even"], stop_at=90)
    spent_s = clock.now_s - 1000
    plan = Run(tmp_path / "run", IDENTITY, "").plan()
    assert plan["spent_s"] == pytest.approx(spent_s)
    clock.now_s += 86_400  # a night in between does not count
    resumed_s = clock.now_s
    loop, _ = run(tmp_path / "run", clock, PACES["slower from a third on"], spent_s=plan["spent_s"])
    assert spent_s + clock.now_s - resumed_s == pytest.approx(TOTAL_S, rel=0.05)
    assert 91 < loop.step < 450


def test_what_comes_only_at_the_end_is_tried_early_to_know_how_long_it_takes(tmp_path: Path) -> None:
    clock = Clock()
    never = {"save_every": 10**6, "validate_every": 10**6, "preview_every": 10**6}
    loop, budget = run(tmp_path / "run", clock, PACES["even"], preview_s=180.0, **never)
    assert clock.now_s - 1000 == pytest.approx(TOTAL_S, rel=0.05)
    assert budget.closing_s == {"validate": 3.0, "preview": 180.0, "save": 0.0}
    opened = Run(tmp_path / "run", IDENTITY, "")
    assert len(opened.checkpoints()) == 2
    assert 0.1 * TOTAL_S / 2 <= opened.checkpoints()[0] < 0.15 * TOTAL_S / 2
    assert opened.checkpoints()[1] == loop.step
    assert opened.plan()["closing_s"] == budget.closing_s, "the next start knows it"
    assert Budget(TOTAL_S, 0.9 * TOTAL_S, clock, {"validate": 3.0}).untried == ["preview", "save"]
    assert not Budget(TOTAL_S, 0.05 * TOTAL_S, clock).untried


def test_time_that_is_used_up_ends_the_training_at_once(tmp_path: Path) -> None:
    clock = Clock()
    loop, _ = run(tmp_path / "run", clock, PACES["even"], spent_s=TOTAL_S)
    assert loop.step == 1


def test_a_schedule_keeps_its_shares_of_the_steps() -> None:
    config = TrainConfig(steps=1000, warmup_steps=100, decay_after_steps=200, validate_every=50, save_every=500)
    longer = planned(config, 3000)
    assert (longer.steps, longer.warmup_steps, longer.decay_after_steps) == (3000, 300, 600)
    assert (longer.validate_every, longer.save_every, longer.report_every) == (150, 1500, config.report_every)
    assert planned(TrainConfig(steps=1000, decay_after_steps=0), 10).decay_after_steps == 0
    assert planned(config, 3).save_every == 2


def test_the_warm_up_of_the_learned_noise_law_keeps_its_share_too() -> None:
    config = UNetConfig(base_channels=8, channel_mults=(1,), blocks=1, attention_levels=0, embedding_channels=16)
    unet = UNet(config, channels=4, games=2, frequencies=torch.arange(1.0, 9.0))
    torch.nn.init.ones_(unet.uncertainty.gain)  # as if it had learned something
    space = LatentSpace(mean=(0.0,) * 4, std=(1.0,) * 4, sigma_min=0.03)
    noise = NoiseConfig(learned_warmup_steps=200)
    objective = UNetObjective(unet, None, space, ("A", "B"), UNetObjectiveConfig(), noise)  # type: ignore[arg-type]
    half, whole = (objective.curves(step)["noise/noise_density"] for step in (100, 200))
    objective.stretch(0.5)
    assert [objective.curves(step)["noise/noise_density"] for step in (50, 100)] == [half, whole]
    assert half != whole


def job(folder: Path, **changes: object) -> TrainingSession:
    return TrainingSession(
        section="toy.train",
        objective=WithoutPreviews(Toy()),
        source=Numbers(),
        config=settings(**changes),
        run=Run(folder, IDENTITY, ""),
        accelerator=make_accelerator(torch.device("cpu")),
        seed=3,
        export=lambda trained: None,
        check=lambda: None,
    )


def test_the_schedule_of_the_first_start_stays_when_the_training_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train(job(tmp_path / "run", warmup_steps=4), hours=0.5 / 3600)
    plan = Run(tmp_path / "run", IDENTITY, "").plan()
    assert plan["schedule"].keys() == {
        "warmup_steps",
        "decay_after_steps",
        "validate_every",
        "preview_every",
        "save_every",
    }
    assert plan["schedule"]["warmup_steps"] == scaled(4, plan["stretch"])
    before = Run(tmp_path / "run", IDENTITY, "").checkpoints()[-1]
    again = job(tmp_path / "run", warmup_steps=4)
    train(again, hours=0.8 / 3600)
    assert again.objective._objective.stretched == plan["stretch"]  # type: ignore[attr-defined]
    assert "was planned by --hours" not in caplog.text
    train(job(tmp_path / "run", warmup_steps=4))
    assert "was planned by --hours and goes on by toy.train instead" in caplog.text
    after = Run(tmp_path / "run", IDENTITY, "")
    assert after.plan()["schedule"] == plan["schedule"]
    assert after.checkpoints()[-1] >= before


@pytest.mark.parametrize(
    "text", ["xx", "[]", '{"steps": "x"}', '{"schedule": {"warmup_steps": "no"}}', '{"spent_s": null}']
)
def test_a_plan_that_cannot_be_read_is_named_and_may_go(tmp_path: Path, text: str) -> None:
    opened = Run(tmp_path / "run", IDENTITY, "")
    opened.open()
    opened.begin()
    (tmp_path / "run" / "plan.json").write_text(text)
    with pytest.raises(DataError, match=r"plan\.json (cannot be read|does not describe a plan)") as raised:
        train(job(tmp_path / "run"), hours=0.5 / 3600)
    assert raised.value.hint.startswith("delete it")
    (tmp_path / "run" / "plan.json").unlink()
    assert opened.plan() == {}
    opened.update_plan({"schedule": {"warmup_steps": 4}, "stretch": 0.5, "steps": 7, "grad_accum_steps": {"2": 1}})
    assert opened.plan()["schedule"] == {"warmup_steps": 4}
