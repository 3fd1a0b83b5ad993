"""The settings file: presets, the example, opening a project."""

from pathlib import Path

import pytest

from dualdiff.core.errors import ConfigError, UsageError
from dualdiff.inspection.project_context import ProjectContext
from dualdiff.project.presets import PRESETS
from dualdiff.project.settings import Settings, example_toml, open_project, preset, project_toml


@pytest.mark.parametrize("name", PRESETS)
def test_a_new_project_reads_back_as_its_preset(name: str, tmp_path: Path) -> None:
    (tmp_path / "dualdiff.toml").write_text(project_toml(name, "my music"))
    project = open_project(tmp_path)
    assert project.settings.project.name == "my music"
    expected = preset(name)
    for section in ("format", "vae", "vae_train", "unet", "unet_train", "unet_noise", "encode", "generate"):
        assert getattr(project.settings, section) == getattr(expected, section)


def test_a_byte_order_mark_as_editors_on_windows_write_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "dualdiff.toml").write_text("[project]\nseed = 7\n[encode]\nfolder = 'mine'\n", encoding="utf-8-sig")
    assert open_project(tmp_path).settings.project.seed == 7
    assert ProjectContext(tmp_path).setting("encode", "folder", "") == "mine"


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
    assert error.message == f"{tmp_path / 'dualdiff.toml'}, line 6: vae.train.crop_s is too long"
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


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ('unet.train.run="../elsewhere"', "is not a name that a folder can have"),
        ('unet.train.run=""', "is not a name that a folder can have"),
        ("unet.train.grad_accum_steps=3", "does not split into grad_accum_steps = 3 equal parts"),
        ("unet.train.ema_widths=[0.1, 0.1001]", "names one width twice"),
        ("unet.train.ema_widths=[0.3]", "out of range: it must be above 0.01 and at most 0.25"),
    ],
)
def test_settings_that_cannot_work_are_refused_on_reading(tmp_path: Path, override: str, message: str) -> None:
    (tmp_path / "dualdiff.toml").write_text(example_toml())
    with pytest.raises(ConfigError, match=message):
        open_project(tmp_path, [override])


def test_the_place_of_an_error_is_where_its_value_came_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "dualdiff.toml").write_text("[vae.train]\nsteps = 3\n\n[vae.trian]\nsteps = 4\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"^dualdiff.toml, line 4: \[vae.trian\] is not a section") as raised:
        open_project(Path())
    assert raised.value.hint == 'did you mean "vae.train"?'
    (tmp_path / "dualdiff.toml").write_text("[vae.train]\nsteps = 3\n")
    with pytest.raises(ConfigError, match=r"^--set vae.train.run: \[vae.train\] run = "):
        open_project(Path(), ["vae.train.run=a/b"])
    with pytest.raises(ConfigError, match=r"ema_widths = \[0.1, \"a\"\] has an item that is not a number"):
        open_project(Path(), ['vae.train.ema_widths=[0.1, "a"]'])


def project_with(folder, text):
    (folder / "dualdiff.toml").write_text(text)
    return folder


def test_ablations_stand_in_a_section_of_their_own_or_in_that_of_their_subject(tmp_path):
    text = example_toml()
    assert text.index("[ablation]") > text.index("[generate]")
    assert "axes" not in text[: text.index("[ablation]")]
    for own in ('[ablation]\nunet.axes = "time"\n', '[unet]\naxes = "time"\n'):
        project = open_project(project_with(tmp_path, own))
        assert project.settings.unet.axes == "time"
        assert project.source.where("unet.axes") == f"{tmp_path / 'dualdiff.toml'}, line 2"
        overrides = ['ablation.unet.axes="plane"', 'unet.axes="plane"']
        assert [open_project(tmp_path, [one]).settings.unet.axes for one in overrides] == ["plane", "plane"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('[ablation]\nunet.axes = "space"\n', "line 2: unet.axes = "),
        ("[ablation]\nunet.blocks = 3\n", r'line 2: \[ablation\] has no setting "unet.blocks"'),
        ('[unet]\naxes = "time"\n[ablation]\nunet.axes = "time"\n', "is set twice"),
        ("ablation = 3\n", r"line 1: \[ablation\] has no setting"),
    ],
)
def test_wrong_ablations_are_refused(tmp_path, text, problem):
    with pytest.raises(ConfigError, match=problem):
        open_project(project_with(tmp_path, text))


def test_settings_of_earlier_versions_are_ignored_with_a_warning(tmp_path, caplog):
    text = (
        '[format]\nname = "mel"\nphase_model = "x"\n[phase]\nblocks = 3\n[phase.train]\nsteps = 5\n[unet]\nblocks = 2\n'
    )
    assert open_project(project_with(tmp_path, text)).settings.unet.blocks == 2
    assert [record.getMessage().rpartition(", ")[2] for record in caplog.records] == [
        "line 4: phase is no longer a setting: ignored",
        "line 3: format.phase_model is no longer a setting: ignored",
    ]
