"""Endings that a user does not plan: a closed terminal, a reader that goes away; and ranks that no launcher gave."""

import fcntl
import io
import os
import pty
import select
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

from dualdiff.cli.streams import Outliving
from dualdiff.core.process import launched_alone, launched_rank
from dualdiff.training.signals import StopSignals
from tests.conftest import tiny_settings

UNET = [sys.executable, "-m", "dualdiff", "unet", "train", "--force", *tiny_settings()]


def checkpoints(folder: Path) -> list[int]:
    return sorted(int(path.name) for path in folder.glob("checkpoints/*") if path.name.isdigit())


def training(chain: Path, run: str, steps: int) -> list[str]:
    return [*UNET, "--project", str(chain), "--set", f"unet.train.run={run}", "--set", f"unet.train.steps={steps}"]


def pipe_without_reader() -> int:
    read, write = os.pipe()
    os.close(read)
    return write


def test_a_training_outlives_its_readers_and_ranks_that_no_launcher_gave(chain: Path) -> None:
    write = pipe_without_reader()
    ranks = {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1"}
    done = subprocess.run(
        training(chain, "unread", 3), stdout=write, stderr=write, env={**os.environ, **ranks}, timeout=300, check=False
    )
    os.close(write)
    assert done.returncode == 0
    assert checkpoints(chain / "runs" / "unread")[-1] == 3
    assert (chain / "models" / "unread" / "model.json").is_file()


def test_closing_the_terminal_finishes_the_step_and_saves(chain: Path) -> None:
    master, terminal = pty.openpty()

    def take_terminal() -> None:
        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    process = subprocess.Popen(
        training(chain, "hung-up", 100_000),
        stdin=terminal, stdout=terminal, stderr=terminal, preexec_fn=take_terminal,
    )  # fmt: skip
    os.close(terminal)
    deadline = time.monotonic() + 120
    while not checkpoints(chain / "runs" / "hung-up") and time.monotonic() < deadline:
        assert process.poll() is None
        if select.select([master], [], [], 0.2)[0]:
            os.read(master, 4096)
    os.close(master)  # the system tells all processes of the terminal, and no write to it succeeds any more
    assert process.wait(timeout=120) == 130
    saved = checkpoints(chain / "runs" / "hung-up")
    assert saved
    assert saved[-1] < 100_000


@pytest.mark.parametrize("command", [["--version"], ["doctor"]])
def test_a_command_speaks_whatever_rank_the_environment_names(command: list[str]) -> None:
    ranks = {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1", "MASTER_ADDR": "x", "MASTER_PORT": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "dualdiff", *command],
        env={**os.environ, **ranks}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout


@pytest.mark.parametrize(
    ("variables", "rank"),
    [
        ({}, None),
        ({"WORLD_SIZE": "2", "RANK": "1"}, None),
        ({"WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": "host", "MASTER_PORT": "1"}, None),
        ({"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1", "MASTER_ADDR": "host", "MASTER_PORT": "1"}, 1),
        ({"TORCHELASTIC_RUN_ID": "none", "WORLD_SIZE": "2", "RANK": "1"}, 1),
        ({"TORCHELASTIC_RUN_ID": "none", "WORLD_SIZE": "1", "RANK": "0"}, None),
        ({"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "3"}, 3),
        ({"PMI_SIZE": "1", "PMI_RANK": "0"}, None),
        ({"WORLD_SIZE": "many", "RANK": ""}, None),
    ],
)
def test_only_a_launcher_gives_a_rank(variables: dict[str, str], rank: int | None) -> None:
    assert launched_rank(variables) == rank


def test_a_launch_of_several_that_started_one_is_noticed() -> None:
    alone = {"ACCELERATE_MIXED_PRECISION": "no", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
    assert launched_alone(alone)
    assert not launched_alone({**alone, "TORCHELASTIC_RUN_ID": "none", "WORLD_SIZE": "2", "RANK": "0"})
    assert not launched_alone({"ACCELERATE_MIXED_PRECISION": "no"})
    assert not launched_alone({"MASTER_ADDR": "127.0.0.1"})


def test_a_stream_goes_on_without_its_reader_only_where_asked() -> None:
    raw = Outliving(pipe_without_reader())
    with pytest.raises(BrokenPipeError):
        raw.write(b"result")
    raw.outlives = True
    text = io.TextIOWrapper(io.BufferedWriter(raw), encoding="utf-8")
    for _ in range(3):
        text.write("x" * 70_000)
        text.flush()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has a device that is always full")
def test_a_full_disk_is_an_error_of_results_but_not_of_notes() -> None:
    raw = Outliving(os.open("/dev/full", os.O_WRONLY))
    raw.outlives = True
    with pytest.raises(OSError, match="No space left"):
        raw.write(b"result")
    raw.always = True
    assert raw.write(b"note") == 4


def test_two_kinds_of_stop_signals_ask_for_one_stop_and_a_hangup_never_stops_at_once() -> None:
    with StopSignals() as stop:
        for kind in (signal.SIGHUP, signal.SIGHUP, signal.SIGTERM, signal.SIGINT):
            os.kill(os.getpid(), kind)
        assert stop.asked
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)


def test_a_hangup_that_the_user_ignores_stops_nothing() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignals() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop.asked
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
