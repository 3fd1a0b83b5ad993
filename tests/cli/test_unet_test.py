"""`dualdiff unet test`: the table, the page, the JSON, and one clear line where there is nothing to measure."""

import json
import shutil

import pytest

from tests.conftest import tiny_settings


def unet_test(run_cli, project, *more):
    return run_cli("unet", "test", "--project", project, *tiny_settings(), *more)


@pytest.fixture(scope="module")
def tested(chain, tmp_path_factory):
    """What one run of the command says and writes."""
    import contextlib
    import io

    from dualdiff import cli

    page = tmp_path_factory.mktemp("page") / "test.html"
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        code = cli.run(
            ["unet", "test", "--project", str(chain), *tiny_settings(), "-n4", "--length=3", "--json", f"--html={page}"]
        )
    return code, json.loads(out.getvalue()), page.read_text(encoding="utf-8")


def test_the_table_goes_from_real_music_to_noise(tested):
    code, found, _ = tested
    assert code == 0
    names = [row["name"] for row in found["music"]]
    assert names[0] == "held-out music"
    assert names[-1] == "white noise"
    assert {"through the format", "through format and VAE", "clips of the model"} < set(names)
    clips = next(row for row in found["music"] if row["name"] == "clips of the model")
    assert clips["excerpts"] == 4
    assert {"beat_strength_4s", "recurrence_4_beats", "key_clarity", "diversity"} <= set(clips["measures"])
    assert set(clips["measures"]["key_clarity"]) == {"value", "low", "high"}


def test_the_ladder_and_mixes_are_there(tested):
    _, found, _ = tested
    assert [rung["name"] for rung in found["ladder"]] == ["format", "VAE", "0.5", "1", "2", "4", "8", "noise"]
    assert 0 <= found["label_adherence"]["right"] <= 1
    assert any(len(row["requested"]) == 2 for row in found["mixes"])
    assert found["memorization"] is None
    assert any("needs clips of 8 s or more" in note for note in found["notes"])
    assert found["facts"]["clips"] == 4


def test_the_page_plays_and_shows_it(tested):
    _, _, page = tested
    assert "denoising ladder" in page
    assert page.count("<audio") >= 10
    assert "clips of the model" in page


def test_without_clips_the_ladder_alone_is_shown(run_cli, chain):
    outcome = unet_test(run_cli, chain, "-n", 0, "--length", 3)
    assert outcome.code == 0, outcome.stderr
    assert "denoised from sigma 8" in outcome.stdout
    assert "key clarity" not in outcome.stdout


def one_line(outcome, code):
    assert outcome.code == code
    assert outcome.stdout == ""
    error, hint = [line for line in outcome.stderr.splitlines() if line.startswith(("error: ", "hint: "))]
    return error, hint


def changed_manifest(chain, tmp_path, change):
    folder = tmp_path / "project"
    shutil.copytree(chain, folder, ignore=shutil.ignore_patterns("runs", "latents"))
    path = folder / "dataset.jsonl"
    rows = [change(json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


def test_a_model_without_held_out_music_is_refused(run_cli, chain, tmp_path):
    folder = changed_manifest(chain, tmp_path, lambda row: {**row, "split": row["split"] and "train"})
    error, hint = one_line(unet_test(run_cli, folder, "-n", 1, "--length", 2), 3)
    assert "holds out no track of Bubble Bay" in error
    assert "dataset.validation_share" in hint


def test_a_model_whose_games_the_project_lacks_is_refused(run_cli, chain, tmp_path):
    folder = changed_manifest(chain, tmp_path, lambda row: {**row, "game": f"Another {row['game']}"})
    error, hint = one_line(unet_test(run_cli, folder, "-n", 1, "--length", 2), 3)
    assert "has no track of them" in error
    assert "--project" in hint


def test_clips_longer_than_the_tracks_are_refused(run_cli, chain):
    error, _ = one_line(unet_test(run_cli, chain, "-n", 1, "--length", 60), 3)
    assert "is as long as 60 s" in error


def test_a_page_that_is_there_is_not_overwritten(run_cli, chain, tmp_path):
    page = tmp_path / "page.html"
    page.write_text("mine", encoding="utf-8")
    outcome = unet_test(run_cli, chain, "-n", 0, "--html", page)
    assert outcome.code == 2
    assert page.read_text(encoding="utf-8") == "mine"


def test_a_folder_without_a_model_is_refused(run_cli, chain, tmp_path):
    error, _ = one_line(unet_test(run_cli, chain, tmp_path / "nowhere"), 3)
    assert "nowhere" in error
