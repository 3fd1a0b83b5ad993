"""The border of the command line: what goes wrong becomes one line, a hint and an exit code."""

import os
import signal
import subprocess
import sys

import pytest

from dualdiff import __version__, cli
from dualdiff.core.errors import ConfigError, DataError, Interrupted, UsageError
from dualdiff.data.manifest import Row, write_ledger


def failing(error):
    def command():
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "code", "stderr"),
    [
        (
            UsageError("a game\nis unknown", "did you mean another?"),
            2,
            "error: a game is unknown\nhint: did you mean another?\n",
        ),
        (DataError("a file is broken"), 3, "error: a file is broken\n"),
        (ConfigError("a key is unknown", "see it"), 4, "error: a key is unknown\nhint: see it\n"),
        (Interrupted("after step 3", "run it again"), 130, "interrupted: after step 3\nhint: run it again\n"),
        (
            KeyboardInterrupt(),
            130,
            "interrupted: before the work was done\nhint: what is on disk is whole: run the same command again\n",
        ),
        (
            OSError(28, "No space left on device", "some/file"),
            1,
            "error: some/file: No space left on device\n"
            "hint: check space and permissions; --debug shows what was going on\n",
        ),
    ],
)
def test_errors_become_a_line_a_hint_and_a_code(run_cli, monkeypatch, error, code, stderr):
    monkeypatch.setattr(cli.app.registered_commands[0], "callback", failing(error))
    outcome = run_cli("init")
    assert (outcome.code, outcome.stdout, outcome.stderr) == (code, "", stderr)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere names of files are always text")
def test_a_name_that_is_no_text_is_no_bug(tmp_path):
    path = tmp_path / os.fsdecode(b"b\xffd.ogg")
    path.write_bytes(b"fLaC")
    command = [sys.executable, "-m", "dualdiff", "inspect"]
    done = subprocess.run([*command, path], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (3, "")
    assert "its name is not valid UTF-8\nhint: rename it" in done.stderr
    folder = path.parent.rename(tmp_path.parent / os.fsdecode(b"\xff"))
    write_ledger(folder / "dataset.jsonl", [Row(path="A/1.flac", game="A", state="used")])
    done = subprocess.run([*command, folder / "dataset.jsonl"], capture_output=True, text=True, check=False)
    assert (done.returncode, "\\udcff" in done.stdout) == (0, True)


@pytest.mark.skipif(sys.platform == "win32", reason="needs a shell that closes streams")
@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_stream_that_is_closed_is_no_error(closed):
    command = f'"{sys.executable}" -m dualdiff doctor --json {closed}'
    assert subprocess.run(command, shell=True, capture_output=True, check=False).returncode == 0


def test_a_bug_is_called_one_and_shows_its_traceback_only_when_asked(run_cli, monkeypatch):
    monkeypatch.setattr(cli.app.registered_commands[0], "callback", failing(ZeroDivisionError("by nothing")))
    outcome = run_cli("init")
    assert outcome.code == 1
    assert f"error: this is a bug in dualdiff {__version__}: ZeroDivisionError: by nothing\nhint: " in outcome.stderr
    assert "Traceback" not in outcome.stderr
    assert "Traceback" in run_cli("init", "--debug").stderr


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("generat", "generate"),
        ("unet tran", "train"),
        ("generate --lenght 3", 'did you mean "--length"?'),
        ("vae train --projct x", 'did you mean "--project"?'),
        ("vae", "dualdiff vae --help"),
        ("generate --count many", "dualdiff generate --help"),
        ("generate --count", "--help"),
        ("--zzz", "--help"),
    ],
)
def test_usage_errors_name_the_closest(run_cli, line, hint):
    outcome = run_cli(*line.split())
    assert outcome.code == 2
    assert outcome.stderr.startswith("error: ")
    assert hint in outcome.stderr
    assert outcome.stdout == ""
    assert len(outcome.stderr.splitlines()) == 2


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_before_any_work_is_an_interruption(kind):
    script = f"import os; os.kill(os.getpid(), {int(kind)})"
    wait = f"from dualdiff import cli; cli._command = lambda: exec({script!r}); cli.main()"
    done = subprocess.run([sys.executable, "-c", wait], capture_output=True, text=True, check=False)
    assert done.returncode == 130
    assert done.stderr.startswith("interrupted: ")
    assert "Traceback" not in done.stderr


def test_version(run_cli):
    assert run_cli("--version").stdout == f"dualdiff {__version__}\n"


def test_no_command_shows_what_there_is(run_cli):
    outcome = run_cli()
    assert outcome.code == 0
    names = [line.split()[0] for line in outcome.stdout.split("Commands:")[1].splitlines() if line.strip()]
    assert [name for name in names if name in cli.IN_ORDER] == list(cli.IN_ORDER)


def test_a_reader_that_leaves_early_is_no_error():
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "dualdiff", "--help"], stdout=write, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(write)
    assert done.stderr == ""


def test_a_run_without_a_project_says_how_to_make_one(run_cli, tmp_path):
    for command in (["dataset", "scan"], ["vae", "train"], ["encode"], ["unet", "train"]):
        outcome = run_cli(*command, "--project", tmp_path)
        assert outcome.code == 4
        assert "there is no dualdiff.toml in" in outcome.stderr
        assert "`dualdiff init`" in outcome.stderr
