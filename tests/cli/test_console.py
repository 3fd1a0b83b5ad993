"""What commands show: rates and times left, plain progress, strict JSON, tables; and where it goes."""

import io
import json
import logging
import math
import sys

import pytest
from rich.console import Console

from dualdiff.cli import console


@pytest.fixture(autouse=True)
def talkative():
    console.set_verbosity(quiet=False, verbose=False)
    yield
    console.set_verbosity(quiet=False, verbose=False)


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    return now


def test_a_meter_knows_the_rate_of_the_last_half_minute():
    meter = console.Meter()
    meter.update(0.0, 50)
    assert meter.rate == 0
    assert meter.status(100) == ""
    meter.update(20.0, 52)  # a slow start
    assert meter.rate == pytest.approx(0.1)
    for second in range(21, 81):
        meter.update(second, 52 + 2 * (second - 20))
    assert meter.rate == pytest.approx(2.0)
    assert meter.status(772) == "2/s, 5 min 00 s left"


def test_a_resumed_run_does_not_count_what_was_done_before():
    meter = console.Meter()
    meter.update(0.0, 900)
    meter.update(10.0, 901)
    assert meter.status(1000) == "10 s each, 16 min 30 s left"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.2, "0 s"), (59.4, "59 s"), (60, "1 min 00 s"), (3599, "59 min 59 s"), (3600, "1 h 00 min"),
        (7500, "2 h 05 min"), (3600 * 49, "2 d 1 h"), (math.inf, "unknown"),
    ],
)  # fmt: skip
def test_durations_in_words(seconds, words):
    assert console.duration(seconds) == words


def test_plain_progress_is_a_line_now_and_then_and_one_at_the_end(capsys, clock):
    with console.progress("vae") as tell:
        for step in range(1, 13):
            tell(step, 12, f"loss {step / 10:.1f}")
            clock[0] += 1.0
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "vae: 1/12, loss 0.1",
        "vae: 6/12, 1/s, 6 s left, loss 0.6",
        "vae: 11/12, 1/s, 1 s left, loss 1.1",
        "vae: 12/12, 1/s, 0 s left, loss 1.2",
    ]


def test_a_terminal_gets_a_bar_on_stderr(monkeypatch, capsys):
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    with console.progress("unet") as tell:
        tell(3, 10, "loss 0.5")
    assert "unet" in terminal.getvalue()
    assert "3/10" in terminal.getvalue()
    assert "loss 0.5" in terminal.getvalue()
    assert capsys.readouterr().out == ""


def test_no_color_means_plain_lines_even_on_a_terminal(monkeypatch):
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("NO_COLOR", "1")
    with console.progress("unet") as tell:
        tell(10, 10)
    assert terminal.getvalue() == "unet: 10/10\n"


def test_quiet_leaves_results_and_errors(capsys):
    console.set_verbosity(quiet=True, verbose=True)
    console.note("a note")
    console.detail("a detail")
    with console.progress("vae") as tell:
        tell(1, 1)
    console.say("a result")
    console.show_error("an error")
    assert capsys.readouterr() == ("a result\n", "error: an error\n")


def test_details_are_for_the_verbose(capsys):
    console.detail("unseen")
    console.set_verbosity(quiet=False, verbose=True)
    console.detail("seen")
    assert capsys.readouterr().err == "seen\n"


def test_the_log_of_the_package_goes_to_stderr(capsys):
    import logging

    log = logging.getLogger("dualdiff.training.loop")
    log.info("going on from step 3")
    log.debug("unseen")
    console.set_verbosity(quiet=True, verbose=False)
    log.info("unseen")
    log.warning("beware")
    assert capsys.readouterr() == ("", "going on from step 3\nbeware\n")


def test_of_several_processes_only_the_first_talks(monkeypatch, capsys):
    monkeypatch.setattr(console, "launched_rank", lambda: 1)
    console.set_verbosity(quiet=False, verbose=False)
    console.say("a result of a command that runs in each")
    assert capsys.readouterr().out
    console.share_work()
    console.say("a result")
    console.note("a note")
    assert capsys.readouterr() == ("", "")


def test_json_is_strict_and_keeps_letters(capsys):
    console.say_json({"loudness": -math.inf, "names": ("Ōkami", None), "n": 3, "on": True, "x": 0.5})
    out = capsys.readouterr().out
    assert "Ōkami" in out
    found = json.loads(out, parse_constant=lambda name: pytest.fail(name))
    assert found == {"loudness": None, "names": ["Ōkami", None], "n": 3, "on": True, "x": 0.5}


def test_tables_show_every_cell_whole_when_piped(capsys):
    name = "a very long [name] of a game: " * 3
    console.table(("game", "tracks", "error"), [(name, 12, 0.01234), ("b", 3, None)], title="games")
    out = capsys.readouterr().out
    assert name.strip() in out
    assert "games" in out
    assert "0.01234" in out
    assert "None" not in out
    assert "\x1b" not in out


def test_a_title_is_a_line_however_narrow_its_table(capsys):
    console.table(("a", "b"), [(1, 2)], title="settings of the mix")
    assert capsys.readouterr().out.startswith("settings of the mix\n")


@pytest.mark.parametrize(
    ("value", "text"), [(None, ""), (3, "3"), (0.123456, "0.1235"), (12.345, "12.3"), (12345.6, "12,345.6"), ("x", "x")]
)
def test_cells(value, text):
    assert console.text(value) == text


def test_only_the_first_process_warns(monkeypatch, capsys):
    log = logging.getLogger("dualdiff.training")
    for rank, told in ((0, "the VAE may be undertrained\n"), (1, "")):
        monkeypatch.setattr(console, "launched_rank", lambda rank=rank: rank)
        console.set_verbosity(quiet=False, verbose=True)
        console.share_work()
        log.warning("the VAE may be undertrained")
        assert capsys.readouterr().err == told


@pytest.mark.parametrize("width", [20, 30, 40])
def test_a_narrow_terminal_loses_no_column_and_folds_no_number(width, capsys, monkeypatch):
    monkeypatch.setattr(console, "_console", lambda: Console(width=width, highlight=False, markup=False))
    columns = ["track", "length, s", "loudness", "game"]
    console.table(columns, [["a very/long name.flac", 1234.5, -20.12, "Pekka Kana 2"], ["b.flac", 3.25, -19.0, "X"]])
    console.facts([("parameters of the network", 123456789), ("error", 0.1234)])
    shown = capsys.readouterr().out
    assert all(len(line) <= width for line in shown.splitlines())
    words = shown.split()
    assert {"1,234.5", "-20.1", "3.25", "-19", "123456789", "0.1234"} <= set(words)
    assert words.count("loudness:") + words.count("loudness") == 2


def test_a_wide_terminal_shows_a_table(capsys, monkeypatch):
    monkeypatch.setattr(console, "_console", lambda: Console(width=60, highlight=False, markup=False))
    console.table(["track", "length, s"], [["a.flac", 1234.5]])
    assert [line.split() for line in capsys.readouterr().out.splitlines()][-1] == ["a.flac", "1,234.5"]


NASTY = "a\x1b]0;owned\x07\x1b[2J\x9b31m\u202egnp\nerror: b"


def test_names_of_files_cannot_command_the_terminal(capsys):
    console.set_verbosity(quiet=False, verbose=True)
    console.say(NASTY)
    console.note(NASTY)
    console.detail(NASTY)
    console.show_error(NASTY, NASTY)
    console.table([NASTY], [[NASTY]], title=NASTY)
    console.facts([(NASTY, NASTY)])
    console.plain_progress("scanning")(1, 1, NASTY)
    logging.getLogger("dualdiff.test").warning("%s is odd", NASTY)
    out, err = capsys.readouterr()
    assert not {letter for letter in out + err if letter != "\n" and not letter.isprintable()}
    assert err.count("\nerror: b") == 0, "a line's end in a name begins no line"
    console.say_json({NASTY: NASTY})
    written = capsys.readouterr().out
    assert json.loads(written) == {NASTY: NASTY}
    assert not {letter for letter in written if letter != "\n" and not letter.isprintable()}
