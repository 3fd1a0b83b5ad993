"""Recipes: sealed, read back strictly, and compared."""

import pytest

from dualdiff.core.errors import DataError
from dualdiff.generation.recipe import differences, sealed, wanted

RECIPE = {
    "dualdiff": "0.1.0", "version": 2, "model": "abc", "games": {"A": 1, "B": -0.5}, "length_s": 1.5, "seed": 7,
    "steps": 9, "sampler": "heun", "device": "cpu", "waveform": "1234",
}  # fmt: skip


def test_the_seal_is_that_of_the_content_in_any_order():
    one = sealed(RECIPE)
    assert one == sealed(one) == sealed(dict(reversed(RECIPE.items())))
    assert one["check"] != sealed({**RECIPE, "seed": 8})["check"]


def test_what_a_recipe_wants():
    asked = wanted(RECIPE, "clip", "ogg")
    assert asked.games == {"A": 1, "B": -0.5}
    assert (asked.facts.seed, asked.facts.length_s, asked.facts.strength) == (7, 1.5, 1.0)
    assert (asked.config.steps, asked.config.sampler, asked.config.file_format) == (9, "heun", "ogg")
    assert asked.sources == {}
    varied = wanted({**RECIPE, "init": {"file": "x.flac", "sha256": "99", "strength": 0.25}}, "clip", "ogg")
    assert (varied.sources, varied.facts.strength) == ({"init": ("x.flac", "99")}, 0.25)
    part = {"file": "y.flac", "sha256": "7", "strength": 1.0, "start_s": 2.0, "end_s": 3.5}
    mended = wanted({**RECIPE, "rewrite": part}, "clip", "ogg")
    assert (mended.sources, mended.facts.start_s, mended.facts.end_s) == ({"rewrite": ("y.flac", "7")}, 2.0, 3.5)
    looped = wanted({**RECIPE, "loop": True, "intro_s": 2.0}, "clip", "ogg").facts
    assert (looped.loop, looped.intro_s) == (True, 2.0)


def test_a_recipe_cannot_set_where_files_go():
    asked = wanted({**RECIPE, "out": "/tmp", "model": "/etc"}, "clip", "ogg")
    assert (asked.config.out, asked.config.model) == ("clips", "models/unet")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": "x"}, 'seed = "x" is not a whole number'),
        ({"seed": -2}, "seed = -2 is out of range"),
        ({"seed": True}, "seed = true is not a whole number"),
        ({"length_s": 1e9}, "length_s = 1000000000.0 is out of range"),
        ({"games": ["A"]}, 'gives the game "" the weight nan'),
        ({"games": {"A": "much"}}, 'gives the game "A" the weight much'),
        ({"games": {"A": float("inf")}}, 'gives the game "A" the weight inf'),
        ({"steps": 0}, "steps = 0 is out of range"),
        ({"init": 3}, "strength = None is not a number"),
        ({"rewrite": {"file": "x", "strength": 1, "start_s": -1, "end_s": 2}}, "start_s = -1 is out of range"),
        ({"loop": "yes"}, "loop ="),
    ],
)
def test_what_cannot_be_is_refused(change, message):
    with pytest.raises(DataError, match="cannot be|gives the game") as caught:
        wanted({**RECIPE, **change}, "clip", "flac")
    assert message in caught.value.message


def test_a_second_rendering_is_the_same_or_says_what_differs():
    assert differences({}, RECIPE) == []
    assert differences(RECIPE, RECIPE) == ["the audio is the same, to the last bit"]
    assert differences(RECIPE, {**RECIPE, "device": "cuda", "new": 1}) == ["the audio is the same, to the last bit"]
    assert differences(RECIPE, {**RECIPE, "device": "cuda", "waveform": "5"}) == [
        "the audio is not the same: device was cpu, is cuda"
    ]
    assert differences(RECIPE, {**RECIPE, "waveform": "5"})[0].endswith("nothing that the recipe names has changed")


def test_a_second_rendering_says_what_changed_since_an_old_recipe_was_written():
    again = {**RECIPE, "waveform": "5"}
    old = {key: value for key, value in RECIPE.items() if key != "version"}
    assert differences(old, RECIPE) == ["the audio is the same, to the last bit"]
    assert differences(old, again) == [
        "the audio is not the same: since its recipe was written, guidance leads away from games of weights below 0, "
        "which were labels below 0 before"
    ]
    source = {"file": "x.flac", "sha256": "99", "strength": 0.25}
    assert "is encoded as the tracks" in differences({**old, "games": {"A": 1}, "init": source}, again)[0]
    assert differences({**old, "games": {"A": 1}}, again)[0].endswith("nothing that the recipe names has changed")
