"""Strict settings: what is refused, in which words, and that what is written reads back."""

import math
from dataclasses import dataclass
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dualdiff.core.config import (
    Source,
    build,
    line_of,
    merge,
    parse_override,
    parse_toml,
    plain,
    read,
    section,
    setting,
    write,
)
from dualdiff.core.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Train:
    steps: int = setting(100, "how long", minimum=1)
    rate: float = setting(0.5, "how fast", above=0, maximum=1)
    widths: tuple[float, ...] = setting((0.05, 0.1), "how smooth", above=0)
    compile: bool = setting(True, "whether to compile")
    law: Literal["learned", "log-normal"] = setting("learned", "which law")
    note: str = setting("", "anything")

    def __post_init__(self):
        if self.law == "learned" and self.steps > 1000:
            raise ValueError("learns in at most 1000 steps")


@dataclass(frozen=True, kw_only=True)
class Net:
    blocks: int = setting(3, "how deep")


@dataclass(frozen=True, kw_only=True)
class Mel:
    name: Literal["mel"] = setting("mel", "the format")
    bins: int = setting(256, "how fine", minimum=1)


@dataclass(frozen=True, kw_only=True)
class Wave:
    name: Literal["wave"] = setting("wave", "the format")
    blocks: int = setting(8, "how long")


@dataclass(frozen=True, kw_only=True)
class Settings:
    net: Net = section("net", Net, "the network")
    train: Train = section("net.train", Train, "its training", defaults={"note": "of the section"})
    format: object = section("format", {"mel": Mel, "wave": Wave}, "the format", default="mel")


GOOD = """\
[net]
blocks = 2

[net.train]
steps = 20
widths = [0.1, 0.2]

[format]
name = "wave"
"""


def refused(text, *overrides):
    with pytest.raises(ConfigError) as caught:
        read(Settings, text, "some.toml", overrides)
    return caught.value


def test_reads_sections_and_keeps_defaults():
    settings, _ = read(Settings, GOOD, "some.toml")
    assert settings.net == Net(blocks=2)
    assert settings.train == Train(steps=20, widths=(0.1, 0.2), note="of the section")
    assert settings.format == Wave()


def test_an_empty_file_is_all_defaults():
    assert read(Settings, "", "some.toml")[0] == Settings()


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("[net]\nblock = 2", 'some.toml, line 2: [net] has no setting "block"', 'did you mean "blocks"?'),
        ("[net]\nzzz = 2", "line 2: [net] has no setting", "the settings here are blocks"),
        ("[nett]\nblocks = 2", "line 1: [nett] is not a section", 'did you mean "net"?'),
        ("[net.trian]\nsteps = 2", "some.toml, line 1: [net.trian] is not a section", "net.train"),
        (
            "blocks = 2",
            "line 1: blocks stands outside of every section",
            "the sections are [net], [net.train], [format]",
        ),
        ("net = 2", "line 1: net is a section, not a value", "write [net] above"),
        ('[net]\nblocks = "2"', 'line 2: net.blocks = "2" is not a whole number', "how deep"),
        ("[net]\nblocks = 2.0", "net.blocks = 2.0 is not a whole number", ""),
        ("[net]\nblocks = true", "net.blocks = true is not a whole number", ""),
        ("[net.train]\ncompile = 1", "line 2: net.train.compile = 1 is not true or false", ""),
        ("[net.train]\nnote = 1", "net.train.note = 1 is not a text in quotes", ""),
        ("[net.train]\n\nsteps = 0", "line 3: net.train.steps = 0 is out of range: it must be at least 1", "how long"),
        ("[net.train]\nrate = 0", "rate = 0 is out of range: it must be above 0 and at most 1", ""),
        ("[net.train]\nrate = nan", "is not a finite number", ""),
        ("[net.train]\nwidths = []", "is not a list with at least one item", ""),
        ("[net.train]\nwidths = [0.1, 0]", "is out of range: it must be above 0", ""),
        ('[net.train]\nlaw = "log-norma"', 'it is one of "learned", "log-normal"; did you mean "log-normal"?', ""),
        ("[net.train]\nsteps = 2000", "line 1: [net.train] learns in at most 1000 steps", ""),
        ('[format]\nname = "well"', 'line 2: format.name = "well" is not known', 'did you mean "mel"?'),
        ('[format]\nname = "wave"\nbins = 3', 'line 3: [format] has no setting "bins"', ""),
        ("[net\nblocks = 2", "some.toml is not valid TOML", ""),
    ],
)
def test_refuses_by_line_and_key(text, message, hint):
    error = refused(text)
    assert message in error.message
    assert hint in error.hint
    assert error.exit_code == 4


def test_overrides_lie_on_top_and_are_named_in_errors():
    settings, _ = read(Settings, GOOD, "some.toml", ["net.train.steps=7", "net.train.law=log-normal", "net.blocks = 9"])
    assert (settings.train.steps, settings.train.law, settings.net.blocks) == (7, "log-normal", 9)
    assert refused(GOOD, "net.train.steps=0").message.startswith("--set net.train.steps: ")
    assert 'did you mean "steps"?' in refused("", "net.train.step=1").hint


@pytest.mark.parametrize("override", ["steps=3", "net.train.steps", "", "=3"])
def test_an_override_has_a_section_a_key_and_a_value(override):
    with pytest.raises(ConfigError, match=r"not of the form section\.key=value"):
        parse_override(override)


def test_an_override_is_toml_or_else_text():
    assert parse_override("a.b=3") == ("a.b", 3)
    assert parse_override("a.b=[1, 2]") == ("a.b", [1, 2])
    assert parse_override("a.b=/some/folder, here") == ("a.b", "/some/folder, here")


@pytest.mark.parametrize(
    ("key", "line"),
    [("net", 1), ("net.blocks", 2), ("net.train", 4), ("net.train.steps", 5), ("format.name", 9), ("other.key", 0)],
)
def test_a_key_has_a_line(key, line):
    assert line_of(GOOD, key) == line


def test_quoted_and_dotted_keys_have_lines():
    assert line_of('["net"]\n"blocks" = 2', "net.blocks") == 2
    assert line_of("net.blocks = 2", "net.blocks") == 1


def test_merge_leaves_its_arguments_alone():
    base = {"a": {"b": 1, "c": 2}}
    assert merge(base, {"a": {"b": 3}, "d": 4}) == {"a": {"b": 3, "c": 2}, "d": 4}
    assert base == {"a": {"b": 1, "c": 2}}


def test_what_is_written_says_all_and_reads_back():
    settings = Settings(
        net=Net(blocks=5), train=Train(rate=0.25, widths=(0.07,), note='quo"ted \\ über\n'), format=Wave()
    )
    text = write(settings, "a heading\n\nof some lines")
    assert text.startswith("# a heading\n#\n# of some lines\n")
    assert "# which law (learned | log-normal)" in text
    assert read(Settings, text, "written")[0] == settings


texts = st.text(st.characters(codec="utf-8", exclude_categories=("Cs",)), max_size=20)


@given(note=texts, rate=st.floats(0, 1, exclude_min=True), widths=st.lists(st.floats(1e-300, 1e300), min_size=1))
def test_any_settings_read_back(note, rate, widths):
    settings = Settings(train=Train(note=note, rate=rate, widths=tuple(widths)))
    assert read(Settings, write(settings), "written")[0] == settings


def test_a_plain_table_builds_the_config_again():
    config = Train(steps=3, widths=(0.3,))
    assert plain(config)["widths"] == [0.3]
    assert build(Train, plain(config)) == config


def test_source_without_a_line_is_the_file():
    assert Source("some.toml", "").where("net.blocks") == "some.toml"
    assert math.isfinite(Settings().train.rate)


@pytest.mark.parametrize("text", ["x = " + "[" * 2000, "[" * 5000, "x = " + "{a=" * 2000])
def test_brackets_without_end_are_refused_as_toml(text):
    with pytest.raises(ConfigError, match="not valid TOML"):
        parse_toml(text, "dualdiff.toml")
    assert parse_override("net.blocks=" + "[" * 2000) == ("net.blocks", "[" * 2000)


@pytest.mark.parametrize(("key", "reason"), [("rate", "is not a finite number"), ("steps", "must fit into 64 bits")])
def test_a_number_beyond_all_use_is_refused_in_a_short_line(key, reason):
    with pytest.raises(ConfigError, match=reason) as error:
        read(Settings, f"[net.train]\n{key} = {'9' * 400}\n", "dualdiff.toml")
    assert len(error.value.message) < 200
