"""`dualdiff inspect`: to read, as JSON, and as a page."""

import json

from dualdiff.cli.inspect import SHOWN_ROWS
from dualdiff.data.manifest import Row, write_ledger


def ledger(folder, failed=0):
    used = [
        Row(path=f"{game}/1.flac", game=game, state="used", split="train", duration_s=3600.0, loudness_lufs=-18.0)
        for game in ("A", "B")
    ]
    broken = [
        Row(path=f"B/{number:03d}.ogg", game="B", state="failed", reason="unreadable: it is a text")
        for number in range(failed)
    ]
    write_ledger(folder / "dataset.jsonl", [*used, *broken])
    return folder / "dataset.jsonl"


def test_a_data_set_is_told_in_words_and_tables(tmp_path, run_cli):
    outcome = run_cli("inspect", ledger(tmp_path, failed=2))
    assert outcome.code == 0
    assert outcome.stdout.startswith("data set ")
    assert "2.0 hours of music, 2 games: preset nano" in outcome.stdout
    assert "see that these files play" in outcome.stdout
    assert "dualdiff vae train" in outcome.stderr


def test_json_has_notes_and_every_row(tmp_path, run_cli):
    found = json.loads(run_cli("inspect", ledger(tmp_path, failed=SHOWN_ROWS + 3), "--json").stdout)
    assert found["facts"]["hours"] == 2.0
    assert found["games"][0]["share"] == 0.5
    assert "expect copying beyond" in found["notes"][0]
    assert len(found["not used"]) == SHOWN_ROWS + 3


def test_long_tables_are_cut_on_the_terminal(tmp_path, run_cli):
    shown = run_cli("inspect", ledger(tmp_path, failed=SHOWN_ROWS + 3)).stdout
    assert f"B/{SHOWN_ROWS - 1:03d}.ogg" in shown
    assert f"B/{SHOWN_ROWS:03d}.ogg" not in shown
    assert "and 3 more" in shown


def test_a_page_is_written_once(tmp_path, run_cli):
    path, page = ledger(tmp_path), tmp_path / "report.html"
    outcome = run_cli("inspect", path, "--html", page)
    assert (outcome.code, outcome.stdout.strip()) == (0, str(page))
    assert "<svg" in page.read_text(encoding="utf-8")
    before = page.read_bytes()
    refused = run_cli("inspect", path, "--html", page)
    assert refused.code == 2
    assert "--force" in refused.stderr
    assert page.read_bytes() == before
    assert run_cli("inspect", path, "--html", page, "--force").code == 0


def test_a_page_of_audio_shows_its_spectrogram(tmp_path, music, run_cli):
    page = tmp_path / "report.html"
    assert run_cli("inspect", music / "Bubble Bay" / "01 tune.flac", "--html", page).code == 0
    assert "data:image/png;base64," in page.read_text(encoding="utf-8")


def test_a_model_that_is_not_there_is_refused_with_near_names(chain, music, run_cli):
    clip = music / "Bubble Bay" / "01 tune.flac"
    refused = run_cli("inspect", clip, "--project", chain, "--model", "umet")
    assert refused.code == 3
    assert "there is no model umet" in refused.stderr
    assert "models/unet" in refused.stderr
    for name in ("unet", "nano"):
        assert run_cli("inspect", clip, "--project", chain, "--model", name).code == 0
