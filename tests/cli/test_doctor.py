"""`dualdiff doctor`: what is here, what is missing, and how to get it."""

import json

import pytest
import torch

from dualdiff.inspection import doctor


def test_a_whole_machine_passes(run_cli, tmp_path):
    outcome = run_cli("doctor", "--project", tmp_path)
    assert outcome.code == 0
    for name in ("python", "torch", "torchaudio", "device", "precision", "threads", "codecs", "disk", "torch.compile"):
        assert name in outcome.stdout
    assert "flac wav ogg mp3" in outcome.stdout
    assert "all that is needed is here" in outcome.stdout


def test_json_holds_every_check(run_cli, tmp_path):
    found = json.loads(run_cli("doctor", "--json", "--project", tmp_path).stdout)
    assert found["ok"] is True
    by_name = {check["name"]: check for check in found["checks"]}
    assert by_name["torch"]["found"] == torch.__version__
    assert {check["state"] for check in found["checks"]} <= {"ok", "note"}


def test_what_is_missing_fails_with_a_way_to_get_it(run_cli, tmp_path):
    (tmp_path / "file").write_text("")
    outcome = run_cli("doctor", "--project", tmp_path / "file")
    assert outcome.code == 1
    assert "missing" in outcome.stdout
    assert "name one with --project" in outcome.stdout


@pytest.mark.parametrize(("check", "hint"), [(doctor.check_ffmpeg, "flac"), (doctor.check_compile, "C++ compiler")])
def test_what_is_optional_is_a_note(monkeypatch, check, hint):
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    monkeypatch.setattr(doctor.torch.cuda, "is_available", lambda: False)
    assert check().state == "note"
    assert hint in check().hint
    monkeypatch.setattr(doctor.shutil, "which", lambda name: f"/bin/{name}")
    assert check().state == "ok"


def test_an_old_python_is_missing(monkeypatch):
    monkeypatch.setattr(doctor.sys, "version_info", (3, 9, 1))
    assert doctor.check_python().state == "missing"


def test_a_full_disk_is_told(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 2**30})())
    found = doctor.check_disk(tmp_path / "not made yet")
    assert (found.state, found.found.split(" at ")[0]) == ("note", "1 GiB free")


@pytest.mark.parametrize(
    ("fast", "seconds", "state"),
    [
        (True, {torch.float32: 2.0, torch.bfloat16: 1.0}, "ok"),
        (True, {torch.float32: 1.0, torch.bfloat16: 25.0}, "note"),
        (False, {torch.float32: 1.0, torch.bfloat16: 1.0}, "ok"),
        (False, {torch.float32: 2.0, torch.bfloat16: 1.0}, "note"),
    ],
)
def test_a_clock_that_disagrees_with_the_processor_is_reported(monkeypatch, fast, seconds, state):
    monkeypatch.setattr(doctor, "has_fast_bfloat16", lambda device: fast)
    monkeypatch.setattr(doctor, "convolution_s", lambda dtype, device: seconds[dtype])
    check = doctor.check_precision()
    assert check.state == state
    assert check.found.startswith("bfloat16" if fast else "float32")
    assert ("set project.precision" in check.hint) == (state == "note")


def test_a_convolution_takes_time():
    assert 0 < doctor.convolution_s(torch.float32, torch.device("cpu")) < 10
