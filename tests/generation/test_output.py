"""Clips as files: names, recipes in tags, and what is refused before any work is done."""

import json
from dataclasses import replace

import pytest
import torch

from dualdiff import audio
from dualdiff.core.errors import DataError, DualdiffError, UsageError
from dualdiff.generation.config import GenerateConfig
from dualdiff.generation.output import again, given, make_folders, named, require_free, slug, write_clip
from dualdiff.generation.pipeline import Clip, Pipeline
from dualdiff.generation.recipe import read_recipe, sealed
from dualdiff.generation.request import Request
from tests.model_store.test_model import write_model

REQUEST = Request(
    games={"Déjà Vu, the Game": 0.7, "Noiz2sa": 0.3}, length_s=1.5, seed=7, config=GenerateConfig(steps=9)
)
RECIPE = {
    "dualdiff": "0.1.0", "model": "abc", "games": REQUEST.games, "length_s": 1.5, "seed": 7, "steps": 9,
    "sampler": "heun", "cfg_scale": 3.0, "device": "cpu",
}  # fmt: skip


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    return Pipeline.load(write_model(tmp_path_factory.mktemp("models")), device="cpu", precision="float32")


def clip(**changes):
    return Clip(torch.randn(2, 4800).mul(0.1).clamp(-1, 1), 32000, sealed({**RECIPE, **changes}))


def test_names_tell_games_seed_and_index():
    assert [job.name for job in named([REQUEST, replace(REQUEST, seed=8)])] == [
        "déjà-vu-the-game+noiz2sa-seed7-00.flac",
        "déjà-vu-the-game+noiz2sa-seed8-01.flac",
    ]
    assert named([replace(REQUEST, games={})])[0].name == "any-seed7-00.flac"
    assert named([replace(REQUEST, games={"A": 1.0, "B": 0.0, "C": -0.5})])[0].name == "a-seed7-00.flac"
    assert len(named([replace(REQUEST, games={"../x" * 99: 1.0})])[0].name) < 120
    long = named([replace(REQUEST, games={"長い" * 99: 1.0, "名": 1.0})])[0].name
    assert len(long.encode()) < 200, "file systems count bytes"
    assert [job.name for job in named([REQUEST] * 2, "mine")] == ["mine-00.flac", "mine-01.flac"]
    assert named([replace(REQUEST, config=GenerateConfig(file_format="ogg"))], "mine")[0].name == "mine.ogg"
    assert slug("../../Étude: N° 5/..") == "étude-n-5"


@pytest.mark.parametrize("suffix", ["flac", "wav", "ogg", "mp3"])
def test_a_recipe_comes_back_from_the_tags(tmp_path, suffix, pipeline):
    path = tmp_path / "new folder" / f"clip.{suffix}"
    written = clip(model=pipeline.model.unet_hash)
    write_clip(path, written)
    assert read_recipe(path) == written.recipe
    assert audio.probe(path).tags["title"] == "Déjà Vu, the Game + Noiz2sa"
    job = again(path, pipeline)
    assert job.name == f"clip-again.{suffix}"
    assert job.recipe == written.recipe
    expected = GenerateConfig(steps=9, sampler="heun", cfg_scale=3.0, file_format=suffix)
    assert job.request == replace(REQUEST, config=expected)


def test_another_model_is_refused_by_name(tmp_path, pipeline):
    write_clip(tmp_path / "clip.flac", clip())
    here = pipeline.model.unet_hash[:12]
    with pytest.raises(DataError, match=f"made with the model abc, this is the model {here}"):
        again(tmp_path / "clip.flac", pipeline)
    write_clip(tmp_path / "guided.flac", clip(model=pipeline.model.unet_hash, guide="def"))
    with pytest.raises(DataError, match="made with the guide def, this is no guide"):
        again(tmp_path / "guided.flac", pipeline)


def test_audio_without_a_recipe_is_refused(tmp_path, music):
    with pytest.raises(DataError, match="no recipe"):
        read_recipe(music / "Bubble Bay" / "01 tune.flac")
    audio.write(tmp_path / "other.flac", torch.zeros(2, 3200), 32000, comment=json.dumps({"seed": 3}))
    with pytest.raises(DataError, match="no recipe"):
        read_recipe(tmp_path / "other.flac")


def test_a_variation_needs_the_same_file_again(tmp_path, music, pipeline, monkeypatch):
    source = given(music / "Bubble Bay" / "01 tune.flac", pipeline, length_s=1.5)
    varied = {"file": source.file, "sha256": source.sha256, "strength": 0.4}
    (tmp_path / source.file).write_bytes((music / "Bubble Bay" / "01 tune.flac").read_bytes())
    write_clip(tmp_path / "clip.flac", clip(model=pipeline.model.unet_hash, init=varied))
    request = again(tmp_path / "clip.flac", pipeline).request
    assert (request.init, request.strength) == (source, 0.4)
    assert torch.equal(request.init.waveform, source.waveform)
    write_clip(tmp_path / "clip.flac", clip(model=pipeline.model.unet_hash, init={**varied, "sha256": "0"}))
    with pytest.raises(DataError, match="has changed"):
        again(tmp_path / "clip.flac", pipeline)


@pytest.mark.parametrize("name", ["../{}", "/etc/hostname", "a/../../{}", "", "..", "..\\{}"])
def test_a_recipe_cannot_lead_out_of_its_folder(tmp_path, pipeline, music, name):
    source = music / "Bubble Bay" / "01 tune.flac"
    (tmp_path / source.name).write_bytes(source.read_bytes())
    varied = {"file": name.format(source.name), "sha256": given(source, pipeline).sha256, "strength": 0.4}
    write_clip(tmp_path / "below" / "clip.flac", clip(model=pipeline.model.unet_hash, init=varied))
    with pytest.raises(DataError, match="no file name"):
        again(tmp_path / "below" / "clip.flac", pipeline)


def test_a_silent_clip_cannot_be_varied(tmp_path, pipeline):
    audio.write(tmp_path / "silent.flac", torch.zeros(2, 32000), 32000)
    with pytest.raises(DataError, match="is silent"):
        given(tmp_path / "silent.flac", pipeline)


def test_a_strength_without_a_clip_to_vary_is_refused():
    with pytest.raises(UsageError, match="needs a clip"):
        replace(REQUEST, strength=0.5)


def test_existing_files_and_unwritable_folders_are_refused_beforehand(tmp_path):
    taken = tmp_path / "taken.flac"
    taken.write_text("mine")
    with pytest.raises(UsageError, match=r"two clips would be written to free\.flac"):
        require_free([tmp_path / "free.flac"] * 2, force=True)
    with pytest.raises(UsageError, match=r"taken\.flac exists already"):
        require_free([tmp_path / "free.flac", taken], force=False)
    require_free([taken], force=True)
    with pytest.raises(DualdiffError, match="cannot be written to"):
        make_folders([taken / "clip.flac"])
    assert taken.read_text() == "mine"
    assert sorted(tmp_path.iterdir()) == [taken]
