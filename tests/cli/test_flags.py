"""Flags that may stand anywhere on the line, and values that look like them."""

import tomli


def test_a_value_that_looks_like_a_flag_is_a_value(run_cli, tmp_path):
    assert run_cli("init", "--name", "-v", "--project", tmp_path, "-q").code == 0
    assert tomli.loads((tmp_path / "dualdiff.toml").read_text())["project"]["name"] == "-v"


def test_flags_may_stand_behind_values_and_commands(run_cli, tmp_path):
    loud = run_cli("init", "--project", tmp_path / "one", "--name", "one")
    quiet = run_cli("init", "--project", tmp_path / "two", "--name", "two", "--quiet")
    assert (loud.code, quiet.code) == (0, 0)
    assert len(quiet.stderr) < len(loud.stderr) or quiet.stderr == loud.stderr == ""
    shown = run_cli("dataset", "scan", tmp_path / "gone", "--debug", "--project", tmp_path)
    assert "Traceback" in shown.stderr
