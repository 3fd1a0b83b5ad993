"""The loop: exact resume, micro-batches, processes, stops, failures. With a toy objective that draws and drops out."""

import json
import logging
import os
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from dualdiff.core.errors import ConfigError, DataError, DualdiffError, Interrupted
from dualdiff.core.rng import Stream
from dualdiff.data.loader import Batch
from dualdiff.models.layers import MPConv, renormalise
from dualdiff.training.config import TrainConfig
from dualdiff.training.loop import Loop
from dualdiff.training.objective import BatchPosition, Loss, Validation
from dualdiff.training.run_folder import Run
from dualdiff.training.session import make_accelerator

IDENTITY = {"network": "toy", "config": {"width": 8}}


class Numbers:
    """Example i is a pure function of i."""

    def examples(self, first: int, count: int) -> Batch:
        x = torch.stack([torch.randn(4, generator=Stream(7).torch(f"{i}")) for i in range(first, first + count)])
        return Batch({"x": x}, [f"example {i}" for i in range(first, first + count)])


class Toy:
    """Learns to undo a random perturbation; uses every kind of draw that the real objectives use."""

    def __init__(self, poison_at: int = -1, stop_at: int = -1) -> None:
        torch.manual_seed(0)
        self.model: nn.Module = nn.Sequential(MPConv(4, 8, 0), nn.SiLU(), nn.Dropout(0.2), MPConv(8, 4, 0))
        self.poison_at, self.stop_at = poison_at, stop_at
        self.modes: list[bool] = []

    def loss(self, batch: Batch, place: BatchPosition) -> Loss:
        x = batch.tensors["x"]
        noise = place.normal(x.shape, "noise")
        scale = torch.rand((), generator=place.step_stream.torch("scale"))
        error = (self.model(x + scale * noise) - x).square().mean()
        if place.step == self.poison_at:
            error = error * float("nan")
        if place.step == self.stop_at and place.first == 0:
            os.kill(os.getpid(), signal.SIGTERM)
        return Loss(error, {"scale": scale})

    def stretch(self, factor: float) -> None:
        self.stretched = factor

    def validate(self) -> Validation:
        self.modes.append(self.model.training)
        error = float(self.model(torch.ones(1, 4)).square().mean())
        return Validation({"error": error}, {"error": {"A: the game": 2 * error}})

    def curves(self, step: int) -> dict[str, list[float]]:
        return {"noise/log_sigma": [0.0, 1.0], "noise/noise_density": [0.5, 0.5]}

    def preview(self, folder: Path, name: str) -> list[Path]:
        folder.mkdir(exist_ok=True)
        (folder / name).write_text("heard")
        return [folder / name]


def settings(**changes: object) -> TrainConfig:
    base = {
        "run": "toy",
        "steps": 12,
        "batch_size": 4,
        "save_every": 4,
        "report_every": 3,
        "validate_every": 5,
        "warmup_steps": 4,
    }
    return TrainConfig(**{**base, **changes})  # type: ignore[arg-type]


def fit(folder: Path, objective: Toy | None = None, seed: int = 3, **changes: object) -> Loop:
    run = Run(folder, IDENTITY, "")
    accelerator = make_accelerator(torch.device("cpu"))
    if accelerator.is_main_process:  # one of two processes makes the folder, as in a training
        run.open()
    accelerator.wait_for_everyone()
    loop = Loop(objective or Toy(), Numbers(), settings(**changes), run, accelerator, seed)
    loop.fit()
    return loop


def state_of(folder: Path) -> dict[str, bytes]:
    """Everything that must be the same after a resume, byte for byte."""
    newest = sorted((folder / "checkpoints").iterdir())[-1]
    files = [*sorted(newest.iterdir()), folder / "metrics.jsonl", *sorted((folder / "ema").glob("*"))]
    return {path.name: path.read_bytes() for path in files}


@pytest.mark.parametrize("changes", [{}, {"grad_accum_steps": 2}, {"num_workers": 2}])
def test_resumed_training_equals_straight_training_byte_for_byte(tmp_path: Path, changes: dict[str, int]) -> None:
    fit(tmp_path / "straight", **changes)
    with pytest.raises(Interrupted):
        fit(tmp_path / "resumed", Toy(stop_at=6), **changes)
    assert Run(tmp_path / "resumed", IDENTITY, "").checkpoints()[-1] == 7
    fit(tmp_path / "resumed", **changes)
    expected, found = state_of(tmp_path / "straight"), state_of(tmp_path / "resumed")
    found = {name: content for name, content in found.items() if name in expected}
    assert found == expected
    assert {"model.safetensors", "optimizer.safetensors", "ema.safetensors", "metrics.jsonl"} <= expected.keys()


def test_workers_do_not_change_the_result(tmp_path: Path) -> None:
    fit(tmp_path / "none", steps=4)
    fit(tmp_path / "two", steps=4, num_workers=2)
    assert state_of(tmp_path / "none") == state_of(tmp_path / "two")


def test_a_killed_run_goes_on_from_its_checkpoint_and_rewrites_its_record(tmp_path: Path) -> None:
    fit(tmp_path / "straight")
    fit(tmp_path / "killed", steps=12)
    # as if killed after step 8's checkpoint: later lines, one of them cut short, and an unfinished checkpoint
    for late in ("00000012", ".00000012.tmp"):
        path = tmp_path / "killed" / "checkpoints" / late
        if path.exists():
            for file in path.iterdir():
                file.unlink()
            path.rmdir()
        if late.startswith("."):
            path.mkdir()
            (path / "model.safetensors").write_bytes(b"half")
    with open(tmp_path / "killed" / "metrics.jsonl", "a") as file:
        file.write('{"step": 1')
    fit(tmp_path / "killed")
    assert state_of(tmp_path / "killed") == state_of(tmp_path / "straight")


def test_accumulation_splits_a_batch_without_changing_what_it_means(tmp_path: Path) -> None:
    class Plain(Toy):
        def loss(self, batch: Batch, place: BatchPosition) -> Loss:
            x = batch.tensors["x"]
            return Loss((self.model[3](self.model[0](x)) - x).square().mean(), {})  # type: ignore[index]

    one, two = fit(tmp_path / "one", Plain(), steps=3), fit(tmp_path / "two", Plain(), steps=3, grad_accum_steps=2)
    for a, b in zip(one.model.parameters(), two.model.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_stop_signal_saves_and_says_how_to_go_on(
    tmp_path: Path, kind: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signal, "SIGTERM", kind)  # what the toy stops by
    with pytest.raises(Interrupted, match="stopped after step 3 of 12") as raised:
        fit(tmp_path / "run", Toy(stop_at=2))
    monkeypatch.undo()
    assert Run(tmp_path / "run", IDENTITY, "").checkpoints() == [3]
    assert "same command" in raised.value.hint
    assert raised.value.exit_code == 130
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


class Steep(Toy):
    """Its loss stays finite at a step, but its gradient does not."""

    def loss(self, batch: Batch, place: BatchPosition) -> Loss:
        loss = super().loss(batch, place)
        if place.step != self.poison_at:
            return loss
        weight = next(self.model.parameters())
        return Loss((weight - weight.detach()).abs().sqrt().mean(), loss.terms)  # 0, with an endless slope


@pytest.mark.parametrize(("kind", "what"), [(Toy, "loss, gradient_norm"), (Steep, "gradient_norm")])
def test_what_is_not_finite_stops_before_the_update_with_state_and_batch_saved(
    tmp_path: Path, kind: type[Toy], what: str
) -> None:
    run = tmp_path / "run"
    with pytest.raises(DualdiffError, match=rf"step 6 of .*: {what} is not a finite number; .*example 20") as raised:
        fit(run, kind(poison_at=5), grad_accum_steps=2)
    assert "nothing was updated and step 5 is saved" in raised.value.hint
    fit(tmp_path / "straight", steps=5, grad_accum_steps=2)
    groups = ("model", "optimizer", "ema")
    found, wanted = (Run(folder, IDENTITY, "").load(groups) for folder in (run, tmp_path / "straight"))
    assert found is not None
    assert wanted is not None
    assert found.step == wanted.step == 5
    for group in groups:
        assert all(torch.equal(found.groups[group][name], tensor) for name, tensor in wanted.groups[group].items()), (
            group
        )
    failure = json.loads((run / "failure.json").read_text())
    assert failure["step"] == 6
    assert failure["batch"] == [f"example {number}" for number in range(20, 24)]
    assert failure["values"]["gradient_norm"] in ("nan", "inf")
    fit(run, grad_accum_steps=2)  # what is mended goes on, as if nothing had been
    fit(tmp_path / "whole", grad_accum_steps=2)
    after, whole = state_of(run), state_of(tmp_path / "whole")
    assert {name: after[name] for name in whole} == whole


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_stops_at_once_without_saving(tmp_path: Path, kind: signal.Signals) -> None:
    class Impatient(Toy):
        def loss(self, batch: Batch, place: BatchPosition) -> Loss:
            if place.step == 6:
                os.kill(os.getpid(), kind)
                os.kill(os.getpid(), kind)
            return super().loss(batch, place)

    before = signal.getsignal(kind)
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "run", Impatient())
    assert Run(tmp_path / "run", IDENTITY, "").checkpoints() == [4]
    assert signal.getsignal(kind) == before
    fit(tmp_path / "run")
    fit(tmp_path / "straight")
    assert state_of(tmp_path / "run") == state_of(tmp_path / "straight")


def test_a_batch_that_does_not_split_among_the_processes_is_refused(tmp_path: Path) -> None:
    three = SimpleNamespace(num_processes=3, process_index=0, is_main_process=True, device=torch.device("cpu"))
    with pytest.raises(ConfigError, match="batch_size 4 does not split into 3"):
        Loop(Toy(), Numbers(), settings(), Run(tmp_path, IDENTITY, ""), three, 0)  # type: ignore[arg-type]


def test_the_record_holds_means_between_reports_and_validations_of_the_averaged_model(tmp_path: Path) -> None:
    toy = Toy()
    loop = fit(tmp_path / "run", toy)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [3, 6, 9, 12]
    assert [line["step"] for line in lines if "validation/error" in line] == [5, 10, 12]
    assert {"loss", "scale", "gradient_norm", "learning_rate"} < lines[0].keys()
    assert toy.modes == [False, False, False]
    assert loop.model.training
    assert (tmp_path / "run" / "demos" / "00000012").exists()


class Telling(Toy):
    """Tells a weight where it is measured."""

    def validate(self) -> Validation:
        return Validation({"weight": float(next(self.model.parameters()).detach()[0, 0])})

    def curves(self, step: int) -> dict[str, list[float]]:
        return {"weight": list(self.validate().measures.values())}


def test_averages_are_validated_but_curves_are_of_the_weights_in_training(tmp_path: Path) -> None:
    loop = fit(tmp_path / "run", Telling(), steps=10)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    last = next(line for line in reversed(lines) if "weight" in line)
    assert last["weight"] == [float(next(loop.model.parameters()).detach()[0, 0])]
    average = next(iter(loop.ema.tensors(loop.config.export_ema_width).values()))
    assert last["validation/weight"] == float(average[0, 0]) != last["weight"][0]


def test_the_last_validation_is_part_of_the_state(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        fit(tmp_path / "run", Toy(stop_at=6))
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    error = next(line["validation/error"] for line in lines if line["step"] == 5 and "validation/error" in line)
    (tmp_path / "run" / "metrics.jsonl").write_text("")  # a log that is lost loses nothing that is exported
    loop = Loop(
        Toy(), Numbers(), settings(), Run(tmp_path / "run", IDENTITY, ""), make_accelerator(torch.device("cpu")), 3
    )
    loop.resume()
    assert loop.validated() == Validation({"error": error}, {"error": {"A: the game": 2 * error}})


def test_a_finished_run_of_a_version_that_kept_no_validation_is_validated_again(tmp_path: Path) -> None:
    finished = fit(tmp_path / "run")
    path = tmp_path / "run" / "checkpoints" / "00000012" / "state.json"
    state = json.loads(path.read_text())
    del state["validation"]
    path.write_text(json.dumps(state))
    again = fit(tmp_path / "run")
    assert again.validation is None
    assert again.validated() == finished.validated() == finished.validation


def test_steps_taken_again_replace_what_tensorboard_has_of_them(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from dualdiff.training.tensorboard import TensorBoard

    for done, steps, value in ((0, range(1, 6), 1.0), (3, range(4, 6), 2.0)):
        board = TensorBoard(tmp_path, done)
        for step in steps:
            board.scalars(step, {"loss": value})
        board.close()
    shown = EventAccumulator(str(tmp_path)).Reload().Scalars("loss")
    assert [(event.step, event.value) for event in shown] == [(1, 1.0), (2, 1.0), (3, 1.0), (4, 2.0), (5, 2.0)]


def test_old_checkpoints_and_snapshots_go(tmp_path: Path) -> None:
    fit(tmp_path / "run", steps=36, save_every=2, keep_checkpoints=2, keep_ema_snapshots=3, ema_widths=(0.05, 0.1))
    assert Run(tmp_path / "run", IDENTITY, "").checkpoints() == [34, 36]
    kept = sorted(path.stem for path in (tmp_path / "run" / "ema").iterdir())
    assert kept == [f"{width}-{step:08d}" for width in ("0.050", "0.100") for step in (13, 21, 36)]


def test_a_run_folder_of_another_model_is_refused(tmp_path: Path) -> None:
    fit(tmp_path / "run", steps=1)
    before = state_of(tmp_path / "run")
    with pytest.raises(DataError, match="run of another model: its config is {'width': 8}, not {'width': 9}"):
        Run(tmp_path / "run", {"network": "toy", "config": {"width": 9}}, "").open()
    assert state_of(tmp_path / "run") == before


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").write_text("dear")
    with pytest.raises(DataError, match="not empty and holds no run"):
        Run(tmp_path, IDENTITY, "").open()


def test_a_save_that_fails_keeps_the_previous_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fit(tmp_path / "run", steps=4)
    before = state_of(tmp_path / "run")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("dualdiff.training.run_folder.save_tensors", full)
    with pytest.raises(DualdiffError, match=r"step 8 was not saved: .*No space left") as raised:
        fit(tmp_path / "run", steps=8)
    assert "saved before is untouched" in raised.value.hint
    assert {k: v for k, v in state_of(tmp_path / "run").items() if k.startswith(("model", "opt"))} == {
        k: v for k, v in before.items() if k.startswith(("model", "opt"))
    }


def test_a_run_says_which_settings_have_changed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    started = Run(tmp_path / "run", IDENTITY, "[unet.train]\nsteps = 5\nseed = 1\n")
    started.open()
    started.begin()
    resumed = Run(tmp_path / "run", IDENTITY, "[unet.train]\nsteps = 9\nseed = 1\n")
    with caplog.at_level(logging.INFO):
        resumed.open()
        assert not caplog.records, "no step was taken with them"
        resumed.begin()
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path / 'run'} goes on with unet.train.steps = 9, was 5"
    ]


def test_damaged_files_of_a_run_are_named(tmp_path: Path) -> None:
    fit(tmp_path / "run", steps=4)
    with open(tmp_path / "run" / "metrics.jsonl", "a") as file:
        file.write('garbage\n["not", "a", "line"]\n')
    fit(tmp_path / "run", steps=5)  # what cannot be read of the record is dropped, like what is written again
    assert all(json.loads(line)["step"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    weights = tmp_path / "run" / "checkpoints" / "00000005" / "optimizer.safetensors"
    whole = weights.read_bytes()
    for cut in (0, 7, len(whole) // 2, len(whole) - 1):
        weights.write_bytes(whole[:cut])
        with pytest.raises(DataError, match=r"00000005.optimizer.safetensors cannot be read") as raised:
            fit(tmp_path / "run", steps=6)
        assert raised.value.hint == f"remove the folder {weights.parent} to go on from the checkpoint of step 4"
    weights.write_bytes(whole)
    (tmp_path / "run" / "checkpoints" / "00000005" / "state.json").write_text("[]")
    with pytest.raises(DataError, match=r"00000005.state.json does not describe a checkpoint"):
        fit(tmp_path / "run", steps=6)
    (tmp_path / "run" / "state.json").write_text("[]")
    with pytest.raises(DataError, match=r"state.json does not describe a run"):
        fit(tmp_path / "run", steps=6)


def test_a_folder_that_was_killed_before_its_first_file_is_a_fresh_run(tmp_path: Path) -> None:
    (tmp_path / ".state.json.x1y2").write_text("{")
    opened = Run(tmp_path, IDENTITY, "")
    opened.open()
    assert not (tmp_path / "state.json").exists(), "it is a run from its first step on"
    opened.begin()
    assert (tmp_path / "state.json").exists()


def test_a_record_that_cannot_be_written_says_what_is_saved(tmp_path: Path) -> None:
    fit(tmp_path / "run", steps=4)
    (tmp_path / "run" / "metrics.jsonl").unlink()
    (tmp_path / "run" / "metrics.jsonl").mkdir()
    with pytest.raises(DualdiffError, match=r"metrics.jsonl cannot be written") as raised:
        Run(tmp_path / "run", IDENTITY, "").record(5, {"loss": 1.0})
    assert "step 4 is saved" in raised.value.hint


def test_a_run_of_the_first_version_of_the_optimizer_resumes_and_says_so(tmp_path: Path, caplog) -> None:
    fit(tmp_path, steps=8)
    state = tmp_path / "checkpoints" / "00000008" / "state.json"
    known = json.loads(state.read_text())
    del known["optimizer"]
    state.write_text(json.dumps(known))
    with caplog.at_level(logging.INFO, "dualdiff"):
        assert fit(tmp_path, steps=12).step == 12
        assert "optimizer of another version" in caplog.text
        caplog.clear()
        fit(tmp_path, steps=16)
    assert "optimizer of another version" not in caplog.text


class Small(nn.Module):
    """A network with an output gain: where that starts at 0, so do all gradients but the gain's."""

    def __init__(self, gain: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.gain = MPConv(4, 32, 0), MPConv(32, 4, 0), nn.Parameter(torch.tensor(gain))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(nn.functional.silu(self.first(x))) * self.gain


class Regression(Toy):
    """The mean squared error of the network over its elements, as small as that of a large crop."""

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.model = Small(gain)

    def loss(self, batch: Batch, place: BatchPosition) -> Loss:
        x = batch.tensors["x"]
        return Loss((self.model(x) - x).square().mean() / ELEMENTS, {})


ELEMENTS = 2**14


@pytest.mark.parametrize(("gain", "warmup", "steps"), [(0.0, 50, 100), (1.0, 0, 2)])
def test_the_first_steps_are_those_of_edm2(tmp_path: Path, gain: float, warmup: int, steps: int) -> None:
    """EDM2's own loop, written out: the loss a sum over elements, the rate from 0, weights normalised beforehand."""
    objective, paper = Regression(gain), Small(gain)
    fit(tmp_path, objective, steps=steps, batch_size=8, warmup_steps=warmup, validate_every=100, save_every=100)
    adam = torch.optim.Adam(paper.parameters(), betas=(0.9, 0.99), eps=1e-8)
    for step in range(steps):
        with torch.no_grad():
            for layer in (paper.first, paper.second):
                layer.weight /= 1e-4 + layer.weight.square().mean(1, keepdim=True).sqrt()
        x = Numbers().examples(step * 8, 8).tensors["x"]
        adam.zero_grad()
        (paper(x) - x).square().sum(1).mean().backward()
        for group in adam.param_groups:
            group["lr"] = 0.01 * (min(step / warmup, 1) if warmup else 1)
        adam.step()
    renormalise(paper)
    for ours, theirs in zip(objective.model.parameters(), paper.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=1e-3)
