"""One process at a time, and the lock of a dead one is taken over."""

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dualdiff.core.errors import DualdiffError
from dualdiff.core.files import own_folder
from dualdiff.core.lock import locked


def in_a_process(work: Callable[[], None]) -> int:
    """Start the work in a process of its own; its id."""
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(0)
    return child


def waiting_for(path: Path) -> None:
    until_s = time.monotonic() + 20
    while not path.exists():
        assert time.monotonic() < until_s, path
        time.sleep(0.01)


def hold(lock: Path, seconds: float = 60) -> None:
    with locked(lock, "it is held"):
        time.sleep(seconds)


def test_a_second_process_is_refused_and_told_which_one_is_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own_folder(tmp_path / "run", "run")
    lock = tmp_path / "run" / "run.lock"
    monkeypatch.setattr(sys, "argv", ["/bin/dualdiff", "unet", "train", "--set", "a=\x1b[31m b"])
    child = in_a_process(lambda: hold(lock))
    try:
        waiting_for(lock)
        with pytest.raises(DualdiffError) as raised, locked(lock, "runs/unet is trained"):
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert raised.value.message.startswith(f"runs/unet is trained already, by process {child} (dualdiff unet train")
    assert raised.value.message.isprintable()
    assert raised.value.exit_code == 1


def test_a_lock_is_gone_with_its_block(tmp_path: Path) -> None:
    own_folder(tmp_path / "run", "run")
    lock = tmp_path / "run" / "run.lock"
    for _ in range(2):
        with locked(lock, "it is held"):
            assert json.loads(lock.read_text())["pid"] == os.getpid()
            with pytest.raises(DualdiffError, match=f"by process {os.getpid()}"), locked(lock, "it is held"):
                pass
        assert not lock.exists()


def test_the_lock_of_a_killed_process_is_taken_over(tmp_path: Path) -> None:
    own_folder(tmp_path / "run", "run")
    lock = tmp_path / "run" / "run.lock"
    child = in_a_process(lambda: hold(lock))
    waiting_for(lock)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert lock.exists(), "nobody took its note away"
    with locked(lock, "it is held"):
        assert json.loads(lock.read_text())["pid"] == os.getpid()


def test_the_lock_of_a_killed_process_is_waited_for_while_its_children_end(tmp_path: Path) -> None:
    own_folder(tmp_path / "run", "run")
    lock = tmp_path / "run" / "run.lock"

    def with_a_worker() -> None:
        with locked(lock, "it is held"):
            in_a_process(lambda: time.sleep(1.5))  # as a worker that loads data, it inherits the lock
            (tmp_path / "ready").touch()
            time.sleep(60)

    child = in_a_process(with_a_worker)
    waiting_for(tmp_path / "ready")
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with locked(lock, "it is held"):
        assert json.loads(lock.read_text())["pid"] == os.getpid()


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(DualdiffError, match=r"run\.lock cannot be written"),
        locked(tmp_path / "file" / "run.lock", "it is held"),
    ):
        pass
