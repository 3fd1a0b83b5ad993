"""Bad input, from the command line: one line says what, where and why, one what to do; nothing on disk is lost."""

import shutil
from pathlib import Path

import pytest

from dualdiff.data.manifest import read_ledger
from tests.conftest import tiny_settings
from tests.model_store.test_model import write_model

SEALED = Path("/proc")
"""A folder that not even root can write to."""

needs_sealed = pytest.mark.skipif(not (SEALED / "self").exists(), reason="needs a folder that nobody can write to")


@pytest.fixture
def refused(run_cli, project):
    """Run a command line in the project; it must fail with a code, one line and one hint, and change no file."""

    def run(code, *arguments):
        before = contents(project)
        outcome = run_cli(*arguments)
        lines = [line for line in outcome.stderr.splitlines() if line.startswith(("error: ", "hint: ", "Traceback"))]
        assert outcome.code == code, outcome.stderr
        assert [line.partition(":")[0] for line in lines] == ["error", "hint"], outcome.stderr
        assert "bug" not in lines[0]
        assert outcome.stdout == ""
        assert before.items() <= contents(project).items()
        return lines[0]

    return run


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def scanned(run_cli, project):
    """The project after `dataset scan`."""
    assert run_cli("dataset", "scan", "--project", project).code == 0
    return project


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("models"))


@pytest.fixture
def broken(music, tmp_path):
    """A folder of one game: a text named .flac, and an OGG cut off in the middle of a page."""
    from dualdiff import audio

    folder = tmp_path / "broken" / "A Game"
    folder.mkdir(parents=True)
    (folder / "words.flac").write_text("not music")
    waveform = audio.read(music / "Bubble Bay" / "01 tune.flac", sample_rate=32000)
    audio.write(folder / "whole.ogg", waveform, 32000)
    whole = (folder / "whole.ogg").read_bytes()
    (folder / "cut.ogg").write_bytes(whole[: len(whole) * 2 // 3])
    return folder


@pytest.mark.parametrize("kind", ["missing", "empty", "a file"])
def test_a_music_folder_without_music(refused, scanned, tmp_path, kind):
    folder = tmp_path / "no music"
    if kind == "empty":
        folder.mkdir()
    elif kind == "a file":
        folder.write_text("")
    assert str(folder) in refused(3, "dataset", "scan", folder, "--project", scanned)


@pytest.mark.parametrize("name", ["words.flac", "cut.ogg"])
def test_a_file_that_is_not_whole_music(refused, broken, model, tmp_path, name):
    for command in (["format", "roundtrip"], ["inspect"], ["generate", "--model", model, "--init"]):
        assert str(broken / name) in refused(3, *command, broken / name)


def test_a_scan_passes_over_files_that_are_not_whole_music_and_says_so(run_cli, scanned, broken):
    before = contents(broken)
    outcome = run_cli("dataset", "scan", broken.parent, "--project", scanned)
    assert outcome.code == 0
    states = {row.path: (row.state, row.reason.partition(":")[0]) for row in read_ledger(scanned / "dataset.jsonl")}
    assert states == {
        "A Game/cut.ogg": ("failed", "unreadable"),
        "A Game/whole.ogg": ("used", ""),
        "A Game/words.flac": ("failed", "unreadable"),
    }
    assert "A Game/cut.ogg: unreadable: it is cut off" in outcome.stdout
    assert contents(broken) == before


def test_a_folder_of_nothing_but_broken_files(refused, scanned, broken):
    (broken / "whole.ogg").unlink()
    assert "none of the 2 audio files" in refused(3, "dataset", "scan", broken.parent, "--project", scanned)


def test_an_unknown_game(refused, model, tmp_path):
    out = tmp_path / "clips"
    line = refused(2, "generate", "--model", model, "--game", "A:0.7,Chrono Triger", "--out", out)
    assert '"Chrono Triger" is not a game of this model' in line
    assert not out.exists()


def test_a_run_folder_of_another_model(run_cli, refused, scanned):
    train = ["vae", "train", "--project", scanned, *tiny_settings(), "--set", "vae.train.steps=1"]
    assert run_cli(*train).code == 0
    line = refused(3, *train, "--set", "vae.base_channels=8")
    assert f"{scanned / 'runs' / 'vae'} is the run of another model" in line


@pytest.mark.parametrize(
    "command", [["dataset", "scan"], ["format", "test"], ["vae", "train"], ["encode"], ["unet", "train"], ["generate"]]
)
def test_no_dualdiff_toml(refused, tmp_path, command):
    folder = tmp_path / "not a project"
    folder.mkdir()
    assert f"there is no dualdiff.toml in {folder}" in refused(4, *command, "--project", folder)
    assert not list(folder.iterdir())


@needs_sealed
def test_a_read_only_folder_for_clips(refused, model):
    assert str(SEALED) in refused(1, "generate", "--model", model, "--out", SEALED / "clips")


@needs_sealed
def test_a_read_only_folder_for_a_round_trip(refused, music):
    track = music / "Bubble Bay" / "01 tune.flac"
    assert str(SEALED) in refused(1, "format", "roundtrip", track, "--seconds", 0.5, "--out", SEALED / "out")


@needs_sealed
def test_a_read_only_folder_for_a_project(refused):
    assert str(SEALED) in refused(1, "init", "--project", SEALED / "project")


@needs_sealed
def test_a_read_only_folder_for_a_run(refused, scanned):
    (scanned / "runs").symlink_to(SEALED)
    assert "cannot be written" in refused(1, "vae", "train", "--project", scanned, *tiny_settings())


@needs_sealed
def test_a_read_only_folder_for_latents(refused, scanned, model):
    places = ["--set", f'encode.vae="{model}"', "--set", f'encode.folder="{SEALED}/latents"']
    assert "cannot be written" in refused(1, "encode", "--project", scanned, *places)


@pytest.mark.parametrize("wrong", ["missing", "a file", "not whole"])
def test_a_wrong_model_folder_is_never_a_fresh_start(refused, model, tmp_path, wrong):
    folder = tmp_path / "models" / "unet"
    if wrong == "a file":
        folder.parent.mkdir()
        folder.write_text("")
    elif wrong == "not whole":
        shutil.copytree(model, folder)
        (folder / "unet.safetensors").write_bytes(b"cut")
    assert str(folder) in refused(3, "generate", "--model", folder, "--out", tmp_path / "clips")
    assert not (tmp_path / "clips").exists()
