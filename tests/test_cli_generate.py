"""`dualdiff generate`: clips of a (random) model, their names, their recipes, and what is refused before any work."""

import json
from pathlib import Path

import pytest
import torch
from test_store import write_model

from dualdiff import audio
from dualdiff.recipe import read_recipe, sealed


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("models"))


@pytest.fixture
def generate(run_cli, model, tmp_path, monkeypatch):
    """Generate with the model into a new folder, quickly; there is no project, so settings are the defaults."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments, out="clips"):
        place = ["--model", model, "--out", tmp_path / out]
        quick = [] if "--from" in arguments else ["--steps", 2, "--length", 0.6]
        return run_cli("generate", *quick, *arguments, *place)

    return run


def same(one, two):
    return torch.equal(audio.read(one, sample_rate=32000), audio.read(two, sample_rate=32000))


def test_writes_a_clip_per_seed_and_says_where(generate, tmp_path):
    outcome = generate("--game", "a:0.7, B:0.3", "--seed", 3, "--count", 2)
    assert outcome.code == 0
    paths = [Path(line) for line in outcome.stdout.splitlines()]
    assert [path.name for path in paths] == ["a+b-seed3-00.flac", "a+b-seed4-01.flac"]
    assert audio.probe(paths[0]).duration_s == 0.6
    assert read_recipe(paths[0])["games"] == {"A": 0.7, "B": 0.3}
    alone = generate("--game", "A:0.7,B:0.3", "--seed", 4, out="alone").stdout.strip()
    assert same(paths[1], alone)
    assert "clip 1 of 2: " in outcome.stderr


def test_a_clip_renders_again_from_its_tags(generate, tmp_path):
    first = Path(generate("--game", "B", "--seed", 9, "--cfg", 1.5, "--sampler", "euler").stdout.strip())
    again = generate("--from", first)
    assert again.code == 0
    assert Path(again.stdout.strip()).name == "b-seed9-00-again.flac"
    assert same(first, again.stdout.strip())
    assert "the audio is the same, to the last bit" in again.stderr


def test_a_variation_renders_again_too(generate, music, tmp_path):
    source = tmp_path / "tune.flac"
    source.write_bytes((music / "Bubble Bay" / "01 tune.flac").read_bytes())
    first = Path(generate("--init", source, "--strength", 0.3).stdout.strip())
    assert read_recipe(first)["init"]["strength"] == 0.3
    assert same(first, generate("--from", first).stdout.strip())


def test_a_variation_lasts_as_long_as_its_source(run_cli, model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    audio.write(tmp_path / "short.wav", torch.randn(2, 16000) * 0.1, 32000)
    place = ["--model", model, "--out", tmp_path]
    outcome = run_cli("generate", "--init", tmp_path / "short.wav", "--steps", 1, *place)
    assert audio.probe(outcome.stdout.strip()).duration_s == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("kind", ["wav", "ogg", "mp3"])
def test_other_kinds_of_files(generate, kind):
    path = Path(generate("--format", kind).stdout.strip())
    assert path.name == f"any-seed0-00.{kind}"
    assert read_recipe(path)["seed"] == 0


def test_settings_of_a_project_hold_and_flags_go_over_them(run_cli, model, project):
    toml = project / "dualdiff.toml"
    text = toml.read_text().replace('model = "models/unet"', f"model = {json.dumps(model.as_posix())}")
    toml.write_text(text.replace("length_s = 45.0", "length_s = 0.7"))
    outcome = run_cli("generate", "--project", project, "--steps", 1, "--set", "generate.loudness_lufs=-30")
    path = Path(outcome.stdout.strip())
    assert path.parent == project / "clips"
    recipe = read_recipe(path)
    assert (recipe["length_s"], recipe["steps"], recipe["loudness_lufs"]) == (0.7, 1, -30)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--game", "C"], 2, '"C" is not a game of this model'),
        (["--game", "A:0"], 2, "weights of the games sum to zero"),
        (["--game", "A:0.3,B:-0.3"], 2, "weights of the games sum to zero"),
        (["--game", "A:1e999"], 2, 'the weight of "A" is inf'),
        (["--game", "A,B,a:2"], 2, '"A" is named twice'),
        (["--strength", "0.5"], 2, "a strength needs a clip to vary"),
        (["--init", "missing.flac"], 3, "missing.flac does not exist"),
        (["--init", __file__], 3, "is not audio"),
        (["--from", "missing.flac"], 3, "missing.flac does not exist"),
        (["--from", "x.flac", "--game", "A"], 2, "--game cannot change it"),
        (["--from", "x.flac", "--cfg", "2"], 2, "--cfg cannot change it"),
        (["--from", "x.flac", "--seed", "0"], 2, "--seed cannot change it"),
        (["--from", "x.flac", "--set", "generate.steps=3"], 2, "--set generate.steps=3 cannot change it"),
        (["--sampler", "eular"], 2, 'did you mean "euler"?'),
        (["--length", "0"], 2, "--length: "),
        (["--length", "-1"], 2, "--length: "),
        (["--length", "nan"], 2, "--length: "),
        (["--length", "1e9"], 2, "--length: "),
        (["--steps", "0"], 2, "--steps: "),
        (["--count", "0"], 2, "--count"),
        (["--seed", "-1"], 2, "--seed"),
        (["--loudness", "5"], 2, "--loudness: "),
        (["--format", "aac"], 2, "--format: "),
        (["--set", "generate.sampler=eular"], 4, "--set generate.sampler: "),
        (["--strength", "2", "--init", "SOURCE"], 2, "a strength of 2 cannot be"),
    ],
)
def test_refuses_what_cannot_be(generate, tmp_path, music, arguments, code, message):
    source = music / "Bubble Bay" / "01 tune.flac"
    outcome = generate(*[source if word == "SOURCE" else word for word in arguments])
    assert outcome.code == code
    assert message in outcome.stderr
    assert "hint: " in outcome.stderr or code == 3
    assert outcome.stdout == ""
    assert not list(tmp_path.rglob("*.flac"))


def test_nothing_is_overwritten_without_force(generate):
    path = Path(generate().stdout.strip())
    before = path.read_bytes()
    outcome = generate("--seed", 0, "--loudness", -40)
    assert outcome.code == 2
    assert "exists already" in outcome.stderr
    assert path.read_bytes() == before
    assert generate("--loudness", -40, "--force").code == 0
    assert path.read_bytes() != before


def test_a_folder_that_cannot_be_written_to_is_refused(generate, tmp_path):
    (tmp_path / "file").write_text("")
    outcome = generate(out="file")
    assert outcome.code == 1
    assert "cannot be written to" in outcome.stderr


def test_a_clip_of_another_model_is_refused(generate, run_cli, tmp_path):
    first = Path(generate().stdout.strip())
    other = write_model(tmp_path / "other", seed=5)
    outcome = run_cli("generate", "--from", first, "--model", other, "--out", tmp_path / "o")
    assert outcome.code == 3
    assert "was made with the model" in outcome.stderr


def test_without_a_model_the_way_to_one_is_told(run_cli, project, tmp_path):
    outcome = run_cli("generate", "--project", project)
    assert outcome.code == 3
    assert "models/unet" in outcome.stderr
    assert "dualdiff unet train" in outcome.stderr
    assert run_cli("generate", "--project", tmp_path).code == 4


def test_a_picture_lies_beside_its_clip(generate):
    path = Path(generate("--picture").stdout.strip())
    assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("change", [{"seed": 8}, {"check": None}, {"check": "0" * 16}, {"new": 1}])
def test_a_recipe_that_was_tampered_with_is_refused(generate, tmp_path, change):
    first = Path(generate("--game", "B", "--seed", 9).stdout.strip())
    changed = tmp_path / "changed.flac"
    comment = json.dumps({**read_recipe(first), **change})
    audio.write(changed, audio.read(first, sample_rate=32000), 32000, comment=comment)
    outcome = generate("--from", changed)
    assert outcome.code == 3
    assert "check sum is not that of what it says" in outcome.stderr


def test_a_recipe_that_was_made_up_is_refused_by_what_is_wrong(generate, tmp_path):
    first = Path(generate("--game", "B", "--seed", 9).stdout.strip())
    comment = json.dumps(sealed({**read_recipe(first), "steps": 0}))
    audio.write(tmp_path / "changed.flac", audio.read(first, sample_rate=32000), 32000, comment=comment)
    outcome = generate("--from", tmp_path / "changed.flac")
    assert outcome.code == 3
    assert "steps = 0 is out of range" in outcome.stderr
