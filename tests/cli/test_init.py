"""`dualdiff init` starts a project and never replaces one unasked."""

import pytest

from dualdiff.project.presets import PRESETS
from dualdiff.project.settings import open_project, preset


@pytest.mark.parametrize("name", PRESETS)
def test_writes_the_preset_and_says_what_comes_next(run_cli, tmp_path, name):
    outcome = run_cli("init", "--preset", name, "--project", tmp_path / "new project")
    assert outcome.code == 0
    assert str(tmp_path / "new project" / "dualdiff.toml") in outcome.stdout
    assert "dualdiff dataset scan" in outcome.stderr
    settings = open_project(tmp_path / "new project").settings
    assert settings.project.name == "new project"
    assert settings.unet == preset(name).unet


def test_small_is_the_default_and_the_name_can_be_given(run_cli, tmp_path):
    run_cli("init", "--project", tmp_path, "--name", 'Über "alles"')
    settings = open_project(tmp_path).settings
    assert settings.project.name == 'Über "alles"'
    assert settings.vae == preset("small").vae


def test_replaces_nothing_without_force(run_cli, tmp_path):
    path = tmp_path / "dualdiff.toml"
    path.write_text("mine")
    outcome = run_cli("init", "--project", tmp_path)
    assert outcome.code == 2
    assert "exists already" in outcome.stderr
    assert "--force" in outcome.stderr
    assert path.read_text() == "mine"
    assert run_cli("init", "--project", tmp_path, "--force").code == 0
    assert path.read_text() != "mine"


def test_an_unknown_preset_names_the_closest(run_cli, tmp_path):
    outcome = run_cli("init", "--preset", "nono", "--project", tmp_path)
    assert outcome.code == 2
    assert 'did you mean "nano"?' in outcome.stderr
    assert not (tmp_path / "dualdiff.toml").exists()


def test_a_place_that_cannot_be_written_to_is_named(run_cli, tmp_path):
    (tmp_path / "file").write_text("")
    outcome = run_cli("init", "--project", tmp_path / "file")
    assert outcome.code == 1
    assert str(tmp_path / "file") in outcome.stderr
    assert "bug" not in outcome.stderr
