"""Recipes in the tags of every kind of file, read back by other programs' means than those that wrote them."""

import json
import struct

import mutagen
import pytest
import torch

from dualdiff.core.errors import DataError
from dualdiff.generation.output import write_clip
from dualdiff.generation.pipeline import Clip
from dualdiff.generation.recipe import LONGEST, read_recipe, sealed

GAMES = {'Déjà Vu, the "Game"': 0.7, "ゼルダの伝説 🎮": -0.3}


def clip(games=GAMES):
    facts = {"dualdiff": "0.1.0", "model": "abc", "games": games, "length_s": 0.1, "seed": 7, "steps": 9}
    return Clip(torch.randn(2, 3200).mul(0.1).clamp(-1, 1), 32000, sealed(facts))


def info_chunks(path):
    """The texts of LIST INFO of a WAV file, by a parser of its own: RIFF is names, sizes and contents."""
    content = path.read_bytes()
    assert content[:4] == b"RIFF"
    assert content[8:12] == b"WAVE"
    assert struct.unpack("<I", content[4:8])[0] == len(content) - 8
    position, texts = 12, {}
    while position < len(content):
        name, size = struct.unpack_from("<4sI", content, position)
        if name == b"LIST" and content[position + 8 :][:4] == b"INFO":
            inner = position + 12
            while inner < position + 8 + size:
                key, length = struct.unpack_from("<4sI", content, inner)
                texts[key.decode()] = content[inner + 8 : inner + 8 + length].rstrip(b"\0").decode()
                inner += 8 + length + length % 2
        position += 8 + size + size % 2
    assert position == len(content)
    return texts


def comment(path):
    if path.suffix == ".wav":
        return info_chunks(path)["ICMT"]
    tags = mutagen.File(path).tags
    return tags.getall("COMM")[0].text[0] if path.suffix == ".mp3" else tags["comment"][0]


@pytest.mark.parametrize("suffix", ["flac", "ogg", "mp3", "wav"])
def test_other_readers_find_the_whole_recipe(tmp_path, suffix):
    path = tmp_path / f"clip.{suffix}"
    written = clip()
    write_clip(path, written)
    assert json.loads(comment(path)) == written.recipe == read_recipe(path)


@pytest.mark.parametrize("suffix", ["flac", "ogg", "mp3", "wav"])
def test_a_recipe_of_more_than_64_kib_is_whole_too(tmp_path, suffix):
    path = tmp_path / f"clip.{suffix}"
    written = clip({f"game number {number} of a large collection": 1 / (number + 1) for number in range(2500)})
    assert len(json.dumps(written.recipe)) > 1 << 17
    write_clip(path, written)
    assert json.loads(comment(path)) == written.recipe == read_recipe(path)


def test_tags_that_are_too_long_for_a_recipe_are_refused_in_one_line(tmp_path):
    path = tmp_path / "clip.flac"
    write_clip(path, clip())
    file = mutagen.File(path)
    file.tags["comment"] = json.dumps(sealed({**clip().recipe, "padding": "x" * LONGEST}))
    file.save()
    with pytest.raises(DataError, match="holds no recipe"):
        read_recipe(path)


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "[]", "null", '{"seed": 1}', "\u0000", "NaN"])
def test_comments_of_other_programs_are_no_recipes(tmp_path, text):
    path = tmp_path / "clip.flac"
    write_clip(path, clip())
    file = mutagen.File(path)
    file.tags["comment"] = text
    file.save()
    with pytest.raises(DataError, match="holds no recipe"):
        read_recipe(path)
