"""The settings file: presets, the example, opening a project."""

from pathlib import Path

import pytest

from dualdiff.errors import ConfigError, UsageError
from dualdiff.settings import PRESETS, Settings, example_toml, open_project, preset, project_toml


@pytest.mark.parametrize("name", PRESETS)
def test_a_new_project_reads_back_as_its_preset(name: str, tmp_path: Path) -> None:
    (tmp_path / "dualdiff.toml").write_text(project_toml(name, "my music"))
    project = open_project(tmp_path)
    assert project.settings.project.name == "my music"
    expected = preset(name)
    for section in ("format", "vae", "vae_train", "unet", "unet_train", "unet_noise", "encode", "generate"):
        assert getattr(project.settings, section) == getattr(expected, section)


def test_small_is_the_default_and_the_example_lists_it(tmp_path: Path) -> None:
    assert preset("small") == Settings()
    (tmp_path / "dualdiff.toml").write_text(example_toml())
    assert open_project(tmp_path).settings == Settings()


def test_sections_of_the_two_trainings_have_their_own_defaults() -> None:
    settings = Settings()
    assert settings.vae_train.run == "vae"
    assert settings.unet_train.run == "unet"
    assert settings.vae_train.crop_s < settings.unet_train.crop_s


def test_an_error_about_a_setting_names_file_line_and_key(tmp_path: Path) -> None:
    (tmp_path / "dualdiff.toml").write_text("[project]\nseed = 1\n\n[vae.train]\n\ncrop_s = 900\n")
    project = open_project(tmp_path)
    error = project.error("vae.train.crop_s", "is too long", "shorten it")
    assert error.message == "dualdiff.toml, line 6: vae.train.crop_s is too long"
    overridden = open_project(tmp_path, ["vae.train.crop_s=90"])
    assert overridden.settings.vae_train.crop_s == 90
    assert (
        overridden.error("vae.train.crop_s", "is too long").message
        == "--set vae.train.crop_s: vae.train.crop_s is too long"
    )


def test_no_settings_file_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no dualdiff.toml in") as raised:
        open_project(tmp_path)
    assert "dualdiff init" in raised.value.hint
    assert raised.value.exit_code == 4


def test_a_settings_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "dualdiff.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot be read"):
        open_project(tmp_path)


def test_an_unknown_format_or_preset_is_refused_with_what_there_is(tmp_path: Path) -> None:
    (tmp_path / "dualdiff.toml").write_text('[format]\nname = "male"\n')
    with pytest.raises(ConfigError, match='line 2: format.name = "male" is not known') as raised:
        open_project(tmp_path)
    assert "mel" in raised.value.hint
    with pytest.raises(UsageError, match='no preset "nan"') as usage:
        preset("nan")
    assert "nano" in usage.value.hint
