"""A run folder: what is deleted in it, when its settings change, who may train in it, what it says of its data."""

import json
import logging
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dualdiff.core.errors import DataError
from dualdiff.core.files import MARKER, kind_of
from dualdiff.training.run_folder import Run
from tests.conftest import TINY
from tests.training.test_loop import IDENTITY, fit, state_of

SET = [part for override in TINY for part in ("--set", override)]


def test_a_training_deletes_nothing_of_others(tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / ".git").mkdir(parents=True)
    (run / ".git" / "HEAD").write_text("ref: refs/heads/main")
    fit(run, steps=4)
    for place in (".gitignore", "ema/.ipynb_checkpoints/notes", "checkpoints/.notes.tmp", "checkpoints/00000004 old/x"):
        (run / place).parent.mkdir(parents=True, exist_ok=True)
        (run / place).write_text("mine")
    (run / "checkpoints" / "00000004" / "my notes.txt").write_text("mine")
    fit(run, steps=40, save_every=4, keep_checkpoints=1, batch_size=1)
    files = [path for path in run.rglob("*") if path.is_file()]
    found = {path.relative_to(run).as_posix() for path in files if path.read_bytes() == b"mine"}
    assert found == {
        *(".gitignore", "ema/.ipynb_checkpoints/notes", "checkpoints/.notes.tmp", "checkpoints/00000004 old/x"),
        "checkpoints/00000004/my notes.txt",
    }
    assert (run / ".git" / "HEAD").exists()


def test_a_run_of_a_version_that_marked_none_is_marked_and_resumes(tmp_path: Path) -> None:
    fit(tmp_path / "straight", steps=12)
    fit(tmp_path / "run", steps=8)
    for name in (MARKER, "data.json"):
        (tmp_path / "run" / name).unlink(missing_ok=True)
    fit(tmp_path / "run", steps=12)
    assert kind_of(tmp_path / "run") == "run"
    after, straight = state_of(tmp_path / "run"), state_of(tmp_path / "straight")
    groups = ("model.safetensors", "optimizer.safetensors", "ema.safetensors")
    assert {name: after[name] for name in groups} == {name: straight[name] for name in groups}


def test_the_settings_of_a_run_are_those_of_its_steps(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    first = Run(folder, IDENTITY, "[train]\nsteps = 1\n", {"note.json": {"a": 1}})
    first.open()
    assert [path.name for path in folder.iterdir()] == [MARKER], "refused before its first step it leaves nothing"
    first.update_plan({"steps": 7})
    other = Run(folder, {"network": "another"}, "[train]\nsteps = 2\n")
    other.open()  # so it may begin as another
    assert other.plan() == {}
    other.begin()
    assert (folder / "config.toml").read_text() == "[train]\nsteps = 2\n"
    idle = Run(folder, {"network": "another"}, "[train]\nsteps = 3\n")
    idle.open()
    assert (folder / "config.toml").read_text() == "[train]\nsteps = 2\n"
    (folder / "state.json").unlink()
    (folder / "metrics.jsonl").touch()
    with pytest.raises(DataError, match=r"state\.json is missing"):
        idle.open()


@pytest.mark.parametrize("content", ["{", "[]", '{"tracks": 7}', ""])
def test_other_music_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture, content: str) -> None:
    def begun(tracks: dict[str, str]) -> str:
        caplog.clear()
        run = Run(tmp_path / "run", IDENTITY, "", tracks=tracks)
        run.open()
        with caplog.at_level(logging.INFO):
            run.begin()
        return "\n".join(record.getMessage() for record in caplog.records)

    before = {"a" * 64: "A", "b" * 64: "B", "c" * 64: "C"}
    assert not begun(before)
    assert not begun(before)
    words = begun({"a" * 64: "A", "b" * 64: "Z", "d" * 64: "D", "e" * 64: "D"})
    assert words == f"{tmp_path / 'run'} resumes on other music: of 3 tracks, 2 added, 1 gone, 1 of another game"
    (tmp_path / "run" / "data.json").write_text(content)
    assert not begun(before), "what cannot be read is no reason to stop after the first step"
    assert begun({"a" * 64: "A"})


def test_a_second_training_of_a_run_is_refused_and_the_first_goes_on(
    chain: Path, tmp_path: Path, run_cli: Callable[..., object]
) -> None:
    project = shutil.copytree(chain, tmp_path / "project")
    command = ["unet", "train", "--project", project, *SET]
    lock = project / "runs" / "unet" / "run.lock"
    before = (project / "runs" / "unet" / "config.toml").read_bytes()
    child = os.fork()
    if child == 0:
        try:
            run_cli(*command, "--set", "unet.train.steps=100000", "--set", "unet.train.save_every=100000")
        finally:
            os._exit(0)
    try:
        until_s = time.monotonic() + 60
        while not lock.exists():
            assert time.monotonic() < until_s
            time.sleep(0.05)
        outcome = run_cli(*command)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert outcome.code == 1  # type: ignore[attr-defined]
    assert f"is trained already, by process {child} (" in outcome.stderr.replace("\n", " ")  # type: ignore[attr-defined]
    outcome = run_cli(*command, "--set", "unet.train.learning_rate=0.02")
    assert outcome.code == 0, "the lock of the killed one is taken over"  # type: ignore[attr-defined]
    after = (project / "runs" / "unet" / "config.toml").read_bytes()
    assert b"learning_rate = 0.02" not in after, "it had nothing to train"
    assert json.loads((project / "runs" / "unet" / "data.json").read_text())["tracks"]
    assert before == after or b"steps = 100000" in after
