"""`dualdiff format`: round trips as tables, JSON, audio and pictures; comparisons over tracks of the data set."""

import json

import pytest

from dualdiff import audio
from dualdiff.cli.format import counted, spread
from dualdiff.data.manifest import Row, write_ledger

QUICK = ["--set", "format.phase_iterations=1"]
ALONE = ["--no-baselines", *QUICK]


def test_a_round_trip_is_measured_and_written(run_cli, music, tmp_path):
    file = music / "Bubble Bay" / "01 tune.flac"
    outcome = run_cli("format", "roundtrip", file, "--seconds", 1, "--out", tmp_path / "out", *ALONE)
    assert outcome.code == 0
    written = tmp_path / "out" / "01 tune-roundtrip.flac"
    assert outcome.stdout.startswith(f"{file}, 1.0 s\n")
    assert str(written) in outcome.stdout
    assert "spectral convergence" in outcome.stdout
    assert audio.probe(written).duration_s == 1.0
    assert written.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    again = run_cli("format", "roundtrip", file, "--seconds", 1, "--out", tmp_path / "out", *ALONE)
    assert again.code == 2
    assert "--force" in again.stderr


def test_round_trips_as_json(run_cli, music):
    files = sorted((music / "Bubble Bay").iterdir())[:2]
    found = json.loads(run_cli("format", "roundtrip", *files, "--seconds", 0.5, "--json", *ALONE).stdout)["files"]
    assert [entry["path"] for entry in found] == [str(file) for file in files]
    assert 0 < found[0]["metrics"]["spectral_convergence"] < 1
    assert found[0]["real_time_factor"] > 0
    assert found[0]["audio"] is None


def test_a_round_trip_is_heard_beside_baselines(run_cli, music, tmp_path):
    file = music / "Bubble Bay" / "01 tune.flac"
    quick = ["--seconds", 1, "--baseline", "mp3-64", "--baseline", "griffin-lim-2", *QUICK]
    outcome = run_cli("format", "roundtrip", file, "--out", tmp_path / "out", *quick)
    assert outcome.code == 0
    assert "actual rate, kbit/s" in outcome.stdout
    assert "log-mel distance: Mean |difference| of 80 mel bands, dB" in outcome.stdout
    page = (tmp_path / "out" / "comparison.html").read_text(encoding="utf-8")
    assert page.count("<audio") == page.count("<img") == 4
    found = json.loads(run_cli("format", "roundtrip", file, "--json", *quick).stdout)
    assert [way["name"] for way in found["ways"]] == ["multimel", "mp3-64", "griffin-lim-2"]
    assert 40 < found["ways"][1]["bitrate_kbps"] < 80
    again = run_cli("format", "test", "--out", tmp_path / "out", "--project", tmp_path)
    assert again.code != 0


def test_a_quality_is_chosen_by_name(run_cli, music):
    file = music / "Bubble Bay" / "01 tune.flac"

    def error(quality):
        asked = ["--quality", quality, "--no-baselines", "--json", "--seconds", 1]
        outcome = run_cli("format", "roundtrip", file, *asked)
        return json.loads(outcome.stdout)["files"][0]["metrics"]["spectral_convergence"]

    assert error("draft") > error("high")
    outcome = run_cli("format", "roundtrip", file, "--quality", "hi")
    assert outcome.code == 2
    assert 'did you mean "high"?' in outcome.stderr


def test_of_a_very_long_file_the_beginning_goes_through(run_cli, music, monkeypatch):
    monkeypatch.setattr("dualdiff.evaluation.roundtrip.LONGEST_S", 0.5)
    file = music / "Bubble Bay" / "01 tune.flac"
    outcome = run_cli("format", "roundtrip", file, "--no-baselines", "--json", *QUICK)
    assert "go there and back" in outcome.stderr
    assert json.loads(outcome.stdout)["files"][0]["duration_s"] == pytest.approx(0.5)


def test_bad_files_are_named(run_cli, tmp_path):
    (tmp_path / "words.flac").write_text("not music")
    for name, problem in (("words.flac", "is not audio"), ("missing.flac", "does not exist")):
        outcome = run_cli("format", "roundtrip", tmp_path / name)
        assert outcome.code == 3
        assert f"{name} {problem}" in outcome.stderr


def test_what_cannot_be_is_refused_before_the_first_file(run_cli, music, tmp_path):
    files = music / "Bubble Bay" / "01 tune.flac", tmp_path / "01 tune.flac"
    files[1].write_bytes(files[0].read_bytes())
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "there-roundtrip.png").write_text("mine")
    refusals = {
        "two files would be written to": [*files, "--out", tmp_path / "new"],
        "there-roundtrip.png exists already": [files[0], tmp_path / "there.flac", "--out", tmp_path / "out"],
        'no baseline "mp4-64"': [files[0], "--baseline", "mp4-64"],
        "mp3 takes 32 to 320 kbit/s": [files[0], "--baseline", "mp3-999"],
    }
    for problem, arguments in refusals.items():
        outcome = run_cli("format", "roundtrip", *arguments, *QUICK)
        assert (outcome.code, outcome.stdout, problem in outcome.stderr) == (2, "", True)
    assert not (tmp_path / "new").exists()


def test_a_named_folder_without_a_project_is_an_error(run_cli, music, tmp_path):
    outcome = run_cli("format", "roundtrip", music / "Bubble Bay" / "01 tune.flac", "--project", tmp_path)
    assert outcome.code == 4


def test_compares_ways_over_tracks_of_the_data_set(run_cli, project, music):
    paths = [file.relative_to(music).as_posix() for file in sorted(music.glob("*/*.flac"))]
    rows = [Row(path=path, game=path.split("/")[0], state="used", split="train") for path in paths]
    write_ledger(project / "dataset.jsonl", rows)
    quick = ["-n", 2, "--seconds", 0.5, "--baseline", "mp3-64", "--project", project, *QUICK]
    outcome = run_cli("format", "test", *quick)
    assert outcome.code == 0
    lines = outcome.stdout.splitlines()
    assert any(line.startswith("notes, F1") for line in lines)
    assert lines[0] == "2 excerpts, 1 s in all"
    assert counted(1, "excerpt") == "1 excerpt"
    assert lines[1].split() == ["measure", "best", "multimel", "mp3-64"]
    found = json.loads(run_cli("format", "test", *quick, "--json").stdout)
    assert [(way["name"], way["files"]) for way in found] == [("multimel", 2), ("mp3-64", 2)]


def test_an_unknown_baseline_names_the_closest(run_cli, project, music):
    write_ledger(project / "dataset.jsonl", [Row(path="Bubble Bay/01 tune.flac", game="Bubble Bay", state="used")])
    outcome = run_cli("format", "test", "--baseline", "mp4-64", "--project", project)
    assert outcome.code == 2
    assert 'did you mean "mp3-64"?' in outcome.stderr


def test_games_take_turns():
    rows = [Row(path=f"{game}/{number}", game=game, state="used") for game in "BA" for number in (1, 2, 3)]
    rows = rows[:4]
    assert [row.path for row in spread(rows, 3)] == ["A/1", "B/1", "B/2"]
    assert len(spread(rows, 9)) == 4


def test_a_page_is_written_without_baselines_too(run_cli, music, tmp_path):
    out = tmp_path / "out"
    line = ("format", "roundtrip", music / "Bubble Bay" / "01 tune.flac", "--no-baselines", "--seconds", 0.5)
    outcome = run_cli(*line, "--out", out, "--quality", "draft", "--json")
    assert outcome.code == 0
    page = out / "comparison.html"
    assert json.loads(outcome.stdout)["page"] == str(page)
    assert [way["name"] for way in json.loads(outcome.stdout)["ways"]] == ["multimel"]
    assert "<audio" in page.read_text(encoding="utf-8")
