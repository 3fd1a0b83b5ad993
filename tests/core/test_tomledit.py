"""Changing one value of a TOML text leaves the rest of the text alone."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dualdiff.core.config import parse_toml
from dualdiff.core.errors import ConfigError
from dualdiff.core.tomledit import with_text


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (
            '[dataset]\nfolder = "music"  # where "it" is\nx = 1\n',
            '[dataset]\nfolder = "new"  # where "it" is\nx = 1\n',
        ),
        ("[dataset]\n  folder='a # b'\n", '[dataset]\n  folder="new"\n'),
        ("[dataset]  # all\nx = 1", '[dataset]  # all\nfolder = "new"\nx = 1\n'),
        ("[vae]\nfolder = 'mine'", "[vae]\nfolder = 'mine'\n\n[dataset]\nfolder = \"new\"\n"),
        ("", '\n[dataset]\nfolder = "new"\n'),
        ("dataset.folder = 'old'", 'dataset.folder = "new"\n'),
    ],
)
def test_changes_one_line(before, after):
    assert with_text(before, "dataset.folder", "new", "some.toml") == after


def test_refuses_what_it_cannot_change_safely():
    with pytest.raises(ConfigError, match=r"some\.toml, line 2: dataset\.folder cannot be set from here"):
        with_text('[dataset]\nfolder = ["""\na""",\n 1]', "dataset.folder", "new", "some.toml")


@given(st.text(st.characters(codec="utf-8", exclude_categories=("Cs",)), max_size=20))
def test_any_text_reads_back(value):
    changed = with_text('[dataset]\nfolder = "music"  # where\n', "dataset.folder", value, "some.toml")
    assert parse_toml(changed, "some.toml") == {"dataset": {"folder": value}}
