"""`dualdiff dataset scan`: the table, the ledger, and what bad input comes to."""

import shutil

import pytest

from dualdiff import audio
from dualdiff.core.files import own_folder
from dualdiff.data.manifest import music_folder, read_ledger
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
    settings = project / "dualdiff.toml"
    content = b"\xef\xbb\xbf" + settings.read_bytes().replace(b"\n", b"\r\n")
    real = project / "real settings.toml"
    settings.unlink()
    real.write_bytes(content)
    real.chmod(0o600)
    settings.symlink_to(real)
    outcome = run_cli("dataset", "scan", inside, "--project", project)
    assert outcome.code == 0, outcome.stderr
    assert "the music is in tracks, as the ledger now says" in outcome.stderr
    assert 'dualdiff.toml, line 11: [dataset] folder = "tracks"' in outcome.stderr
    assert settings.is_symlink()
    assert real.read_bytes() == content, "the user's settings stay as they are, to the last byte"
    assert real.stat().st_mode & 0o777 == 0o600
    rows = read_ledger(project / "dataset.jsonl")
    assert {row.folder for row in rows} == {"tracks"}
    assert music_folder(project, open_project(project).settings.dataset, rows) == inside
    again = run_cli("dataset", "scan", music, "--project", project)
    assert "as the ledger now says" not in again.stderr, "it is the folder of the settings"
    assert {row.folder for row in read_ledger(project / "dataset.jsonl")} == {""}


def test_scans_the_folder_that_it_remembers_where_that_of_the_settings_is_missing(run_cli, project, music):
    inside = shutil.copytree(music, project / "tracks")
    elsewhere = ("--set", "dataset.folder=nowhere", "--project", project)
    assert run_cli("dataset", "scan", inside, *elsewhere).code == 0
    for more in ([], ["--rebuild"]):
        outcome = run_cli("dataset", "scan", *more, *elsewhere)
        assert outcome.code == 0, outcome.stderr
        assert {row.folder for row in read_ledger(project / "dataset.jsonl")} == {"tracks"}


def test_the_music_in_a_folder_called_as_the_cache_was_stays(run_cli, project, music):
    flat = project / "rendered"
    flat.mkdir()
    for number, path in enumerate(sorted(music.rglob("*.flac"))):
        shutil.copy(path, flat / f"{number}.flac")
    before = sorted(path.name for path in flat.iterdir())
    labels = ("--set", "dataset.labels=tag", "--project", project)
    assert run_cli("dataset", "scan", flat, *labels).code == 3, "these tracks name no game"
    assert run_cli("dataset", "scan", "--project", project).code == 0
    assert sorted(path.name for path in flat.iterdir()) == before


def test_what_dualdiff_wrote_is_no_music(run_cli, project, music):
    for game in music.iterdir():
        shutil.copytree(game, project / game.name)
    clip = music / "Bubble Bay" / "01 tune.flac"
    own = project / "takes"
    own_folder(own, "clips")
    shutil.copy(clip, own / "clip.flac")
    run = project / "runs" / "unet"  # of a version that did not mark its folders
    (run / "demos").mkdir(parents=True)
    (run / "state.json").write_text('{"dualdiff_run": 1}')
    shutil.copy(clip, run / "demos" / "demo.flac")
    old = project / "rendered"
    old.mkdir()
    shutil.copy(clip, old / f"{'0' * 32}.120+8s.flac")
    waveform = audio.read(clip, sample_rate=32000)
    audio.write(project / "Bubble Bay" / "clip.flac", waveform, 32000, comment='{"dualdiff": "0.1", "seed": 1}')
    outcome = run_cli("dataset", "scan", project, "--project", project)
    assert outcome.code == 0, outcome.stderr
    assert "left out, since dualdiff wrote them: rendered, runs/unet, takes" in outcome.stdout
    rows = read_ledger(project / "dataset.jsonl")
    assert {row.path.split("/")[0] for row in rows} == {"Bubble Bay", "Crystal Caves", "Déjà Vu, the Game"}
    assert [row.path for row in rows if row.reason.startswith("generated")] == ["Bubble Bay/clip.flac"]
    assert run_cli("dataset", "scan", own, "--project", project).code == 3


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
