"""`dualdiff dataset scan`: the table, the ledger, and what bad input comes to."""

import shutil

import pytest

from dualdiff.data.manifest import read_ledger
from dualdiff.project.settings import open_project


def test_shows_a_line_per_game_and_the_ledger(run_cli, project):
    outcome = run_cli("dataset", "scan", "--project", project)
    assert outcome.code == 0
    lines = outcome.stdout.splitlines()
    assert any(line.split()[:3] == ["Bubble", "Bay", "3"] for line in lines)
    assert any("Déjà Vu, the Game" in line for line in lines)
    assert lines[-1] == str(project / "dataset.jsonl")
    assert "next: `dualdiff vae train`" in outcome.stderr
    assert len(read_ledger(project / "dataset.jsonl")) == 8


def test_says_what_is_not_used_and_what_helps(run_cli, project, music, tmp_path):
    folder = shutil.copytree(music, tmp_path / "copy")
    (folder / "Bubble Bay" / "words.flac").write_text("not music")
    shutil.copy(folder / "Bubble Bay" / "01 tune.flac", folder / "Bubble Bay" / "09 again.flac")
    outcome = run_cli("dataset", "scan", folder, "--project", project)
    assert outcome.code == 0
    assert "1 not used: unreadable" in outcome.stdout
    assert "Bubble Bay/words.flac: unreadable: " in outcome.stdout
    assert "1 not used: duplicate" in outcome.stdout


def test_remembers_the_folder_it_was_given(run_cli, project, music):
    inside = project / "tracks"
    shutil.copytree(music, inside)
    outcome = run_cli("dataset", "scan", inside, "--project", project)
    assert outcome.code == 0
    assert "dualdiff.toml: dataset.folder is now tracks" in outcome.stderr
    assert open_project(project).settings.dataset.folder == "tracks"
    run_cli("dataset", "scan", music, "--project", project)
    assert open_project(project).settings.dataset.folder == music.as_posix()
    again = run_cli("dataset", "scan", music, "--project", project)
    assert "is now" not in again.stderr


@pytest.mark.parametrize("make", [False, True])
def test_a_missing_or_empty_folder_changes_nothing(run_cli, project, tmp_path, make):
    run_cli("dataset", "scan", "--project", project)
    before = (project / "dataset.jsonl").read_bytes(), (project / "dualdiff.toml").read_bytes()
    if make:
        (tmp_path / "nowhere").mkdir()
    outcome = run_cli("dataset", "scan", tmp_path / "nowhere", "--project", project)
    assert outcome.code == 3
    assert "nowhere" in outcome.stderr
    assert ((project / "dataset.jsonl").read_bytes(), (project / "dualdiff.toml").read_bytes()) == before


def test_a_setting_can_be_changed_for_one_scan(run_cli, project):
    outcome = run_cli("dataset", "scan", "--project", project, "--set", "dataset.min_duration_s=60")
    assert outcome.code == 3
    assert "too short" in outcome.stderr
    outcome = run_cli("dataset", "scan", "--project", project, "--set", "dataset.min_duration=60")
    assert outcome.code == 4
    assert 'did you mean "min_duration_s"?' in outcome.stderr
