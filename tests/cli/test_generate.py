"""`dualdiff generate`: clips of a (random) model, their names, their recipes, and what is refused before any work."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dualdiff import audio
from dualdiff.core.device import has_fast_bfloat16, select_device
from dualdiff.core.files import kind_of, sha256_of
from dualdiff.generation.config import GenerateConfig
from dualdiff.generation.pipeline import Pipeline
from dualdiff.generation.recipe import read_recipe, sealed
from dualdiff.generation.request import hash_of_samples
from dualdiff.model_store.components import EXPORTS, read_part
from dualdiff.model_store.model import load_model, save_unet
from tests.model_store.test_model import write_model


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


@pytest.mark.parametrize(
    ("flags", "name", "changed"),
    [
        (["--seed", 5], "b-seed9-00-seed5.flac", {"seed": 5}),
        (["--length", 0.8, "--cfg", 1], "b-seed9-00-length0-8-cfg1.flac", {"length_s": 0.8, "cfg_scale": 1.0}),
        (["--game", "A:2,B"], "b-seed9-00-gamea-2-b.flac", {"games": {"A": 2.0, "B": 1.0}}),
        (["--set", "generate.steps=3"], "b-seed9-00-steps3.flac", {"steps": 3}),
        (["--cfg-interval", "0.1:7"], "b-seed9-00-cfg-interval0-1-7.flac", {"cfg_sigma_min": 0.1, "cfg_sigma_max": 7}),
    ],
)
def test_other_flags_vary_a_recipe_and_change_nothing_else(generate, flags, name, changed):
    first = Path(generate("--game", "B", "--seed", 9, "--cfg", 1.5, "--sampler", "euler").stdout.strip())
    outcome = generate("--from", first, *flags)
    assert outcome.code == 0
    path = Path(outcome.stdout.strip())
    assert path.name == name
    hashes = ("waveform", "check")
    before, after = ({k: v for k, v in read_recipe(p).items() if k not in hashes} for p in (first, path))
    assert after == {**before, **changed}
    assert not same(first, path)
    assert "the audio is" not in outcome.stderr


def test_a_recipe_becomes_a_loop_and_a_loop_a_clip_again(generate):
    first = Path(generate("--game", "B", "--seed", 9, "--length", 1.2).stdout.strip())
    looped = Path(generate("--from", first, "--loop", "--intro", 0.4).stdout.strip())
    assert looped.name == "b-seed9-00-loop-intro0-4.flac"
    recipe = read_recipe(looped)
    assert (recipe["loop"], recipe["intro_s"], recipe["seed"], recipe["length_s"]) == (True, 0.4, 9, 1.2)
    bare = Path(generate("--from", looped, "--no-loop").stdout.strip())
    assert "loop" not in read_recipe(bare)
    assert same(bare, first)
    refused = generate("--from", first, "--intro", 0.4)
    assert (refused.code, "an intro leads into a loop" in refused.stderr) == (2, True)


def test_a_clip_renders_again_in_the_precision_of_its_recipe(generate):
    stored = {}
    for name in ("float32", "bfloat16"):
        first = Path(generate("--set", f'project.precision="{name}"', "--name", name).stdout.strip())
        assert read_recipe(first)["precision"] == name
        again = generate("--from", first, "--force")
        stored[name] = read_recipe(Path(again.stdout.strip()))["precision"]
        if name == "float32":
            assert "the audio is the same, to the last bit" in again.stderr
    fast = has_fast_bfloat16(select_device("auto"))
    assert stored == {"float32": "float32", "bfloat16": "bfloat16" if fast else "float32"}


def test_a_recipe_varied_by_count_starts_from_its_seed(generate):
    first = Path(generate("--game", "B", "--seed", 9).stdout.strip())
    paths = [Path(line) for line in generate("--from", first, "--count", 2).stdout.splitlines()]
    assert [read_recipe(path)["seed"] for path in paths] == [9, 10]
    assert same(first, paths[0])


def test_another_kind_of_file_holds_the_same_music(generate):
    first = Path(generate("--game", "B").stdout.strip())
    outcome = generate("--from", first, "--format", "wav")
    assert outcome.stdout.strip().endswith("b-seed0-00-again.wav")
    assert "the audio is the same, to the last bit" in outcome.stderr
    one, two = (audio.read(path, sample_rate=32000) for path in (first, outcome.stdout.strip()))
    assert (one - two).abs().max() < 2**-22  # the two codecs round to 24 bits each in its way


def test_a_sweep_goes_from_one_game_to_the_other_with_one_seed(generate):
    outcome = generate("--sweep", "a..B", "--steps-between", 3, "--seed", 4)
    recipes = [read_recipe(Path(line)) for line in outcome.stdout.splitlines()]
    assert [recipe["games"] for recipe in recipes] == [{"A": 1, "B": 0}, {"A": 0.5, "B": 0.5}, {"A": 0, "B": 1}]
    assert {recipe["seed"] for recipe in recipes} == {4}
    assert "asked for 50 % A, 50 % B; The model in" in outcome.stderr


def test_a_sidecar_says_what_the_tags_say_and_renders_again(generate):
    first = Path(generate("--game", "B", "--sidecar", "--name", "mine").stdout.strip())
    assert first.name == "mine.flac"
    beside = json.loads(first.with_suffix(".json").read_text())
    assert beside["recipe"] == read_recipe(first)
    assert (beside["file"], beside["duration_s"], beside["sha256"]) == ("mine.flac", 0.6, sha256_of(first))
    assert beside["loudness_lufs"] < 0
    outcome = generate("--from", first.with_suffix(".json"))
    assert same(first, outcome.stdout.strip())
    beside["recipe"]["seed"] = 1
    first.with_suffix(".json").write_text(json.dumps(beside))
    assert generate("--from", first.with_suffix(".json")).code == 3


def test_nothing_beside_a_clip_is_overwritten_either(generate, tmp_path):
    (tmp_path / "clips").mkdir()
    mine = tmp_path / "clips" / "mine.json"
    mine.write_text("mine")
    outcome = generate("--name", "mine", "--sidecar")
    assert outcome.code == 2
    assert "mine.json exists already" in outcome.stderr
    assert [path.name for path in (tmp_path / "clips").iterdir()] == ["mine.json"]
    assert mine.read_text() == "mine"


def test_a_guide_goes_into_the_recipe_and_is_needed_again(generate, model):
    first = Path(generate("--game", "B", "--guide", model).stdout.strip())
    assert read_recipe(first)["guide"] == read_recipe(first)["model"]
    outcome = generate("--from", first)
    assert outcome.code == 3
    assert "this is no guide" in outcome.stderr
    assert "the audio is the same" in generate("--from", first, "--guide", model).stderr


def test_a_list_makes_a_clip_for_each_row(generate, tmp_path):
    (tmp_path / "list.csv").write_text('game,seed,name,cfg\n"A:0.5,B:0.5",3,,\n\nB,,loud,1.5\n')
    outcome = generate("--list", tmp_path / "list.csv")
    paths = [Path(line) for line in outcome.stdout.splitlines()]
    assert [path.name for path in paths] == ["000-a+b-seed3-00.flac", "loud.flac"]
    assert read_recipe(paths[0])["games"] == {"A": 0.5, "B": 0.5}
    assert (read_recipe(paths[1])["cfg_scale"], read_recipe(paths[1])["length_s"]) == (1.5, 0.6)


def test_a_bad_row_stops_a_list_before_any_work(generate, tmp_path):
    (tmp_path / "list.csv").write_text("game,steps\nA,2\nC,2\n")
    outcome = generate("--list", tmp_path / "list.csv")
    assert outcome.code == 3
    assert f'{tmp_path / "list.csv"}, line 3: "C" is not a game of this model' in outcome.stderr
    assert not (tmp_path / "clips").exists()


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
        (["--game", "A:0"], 2, "the weights of all games are zero"),
        (["--game", "A:1e999"], 2, 'the weight of "A" is inf'),
        (["--game", "A,B,a:2"], 2, '"A" is named twice'),
        (["--strength", "0.5"], 2, "a strength needs a clip to vary"),
        (["--init", "missing.flac"], 3, "missing.flac does not exist"),
        (["--init", __file__], 3, "is not audio"),
        (["--from", "missing.flac"], 3, "missing.flac does not exist"),
        (["--from", "x.flac", "--init", "y.flac"], 2, "--from and --init cannot stand together"),
        (["--from", "x.flac", "--extend", "y.flac", "3"], 2, "to work on a clip: --extend"),
        (["--loop", "--inpaint", "y.flac", "1:2"], 2, "--loop and --inpaint cannot stand together"),
        (["--game", "A", "--sweep", "A..B"], 2, "--sweep and --game cannot stand together"),
        (["--sweep", "A"], 2, '--sweep: "A" does not name two games'),
        (["--sweep", "A..C"], 2, '--sweep: "C" is not a game of this model'),
        (["--sweep", "A..A"], 2, '--sweep: "A..A" does not name two games'),
        (["--sweep", "A..B", "--steps-between", "1"], 2, "--steps-between: "),
        (["--steps-between", "3"], 2, "--steps-between needs a sweep"),
        (["--cfg-interval", "3"], 2, '--cfg-interval: "3" is not LO:HI'),
        (["--cfg-interval", "x:3"], 2, '--cfg-interval: "x:3" is not LO:HI'),
        (["--cfg-interval", "nan:3"], 2, "--cfg-interval: "),
        (["--cfg-interval", "5:3"], 2, "--cfg-interval: cfg_sigma_min = 5 is not below cfg_sigma_max = 3"),
        (["--cfg-interval", "2000:"], 2, "--cfg-interval: cfg_sigma_min = 2000 is not below"),
        (["--name", "../../x"], 2, '--name: "../../x" is not a file name'),
        (["--name", "/tmp/x"], 2, '--name: "/tmp/x" is not a file name'),
        (["--name", "長" * 70], 2, "--name is longer than 200 bytes"),
        (["--guide", "nowhere"], 3, "nowhere"),
        (["--list", "nowhere.csv"], 3, "nowhere.csv cannot be read"),
        (["--sampler", "eular"], 2, 'did you mean "euler"?'),
        (["--length", "0"], 2, "--length: "),
        (["--length", "-1"], 2, "--length: "),
        (["--length", "nan"], 2, "--length: "),
        (["--length", "1e9"], 2, "--length: "),
        (["--steps", "0"], 2, "--steps: "),
        (["--steps", "100000000"], 2, "--steps: "),
        (["--count", "0"], 2, "--count"),
        (["--seed", "-1"], 2, "--seed"),
        (["--loudness", "5"], 2, "--loudness: "),
        (["--format", "aac"], 2, "--format: "),
        (["--set", "generate.sampler=eular"], 4, "--set generate.sampler: "),
        (["--strength", "2", "--init", "SOURCE"], 2, "--strength: "),
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
    outcome = generate(out="mine.flac")
    assert outcome.code == 2
    assert "name the file with --name" in outcome.stderr


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


def test_the_example_for_python_runs(model, tmp_path):
    example = Path(__file__).parents[2] / "examples" / "use_as_a_library.py"
    text = example.read_text(encoding="utf-8").replace("length_s=10", "length_s=0.6")
    (tmp_path / "short.py").write_text(text, encoding="utf-8")
    arguments = [sys.executable, tmp_path / "short.py", model, tmp_path / "clip.flac"]
    told = subprocess.run(arguments, capture_output=True, text=True, check=True, cwd=example.parent.parent).stdout
    assert "'A': 0.7, 'B': 0.3" in told
    assert audio.probe(tmp_path / "clip.flac").duration_s == 0.6


def test_the_library_does_what_the_command_does(generate, model):
    recipe = read_recipe(Path(generate("--game", "A:0.7,B:0.3", "--seed", 1).stdout.strip()))
    quick = GenerateConfig(steps=2)
    clip = Pipeline.load(model).generate(games={"A": 0.7, "B": 0.3}, length_s=0.6, seed=1, config=quick)
    assert clip.recipe == recipe
    assert recipe["waveform"] == hash_of_samples(clip.waveform)


def test_a_clip_renders_again_after_its_model_was_replaced(run_cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dualdiff.toml").write_text("[generate]\nsteps = 2\n")
    model = write_model(tmp_path / "models")
    clip = Path(run_cli("generate", "--game", "A", "--seed", 1, "--length", 0.6).stdout.strip())
    assert kind_of(clip.parent) == "clips", "no scan takes the folder for music"
    description, weights = read_part(model, "unet")
    longer = {name: tensor * 1.5 for name, tensor in weights.items()}
    keep = tmp_path / "runs" / "unet" / EXPORTS
    whole = load_model(model)
    save_unet(model, whole.vae_model, whole.unet, longer, description["facts"], "card", keep_in=keep)
    (kept,) = keep.iterdir()
    again = run_cli("generate", "--from", clip)
    assert again.code == 0, again.stderr
    assert "was made with an earlier model, which is kept: --model" in again.stderr
    assert same(clip, again.stdout.strip())
    refused = run_cli("generate", "--from", clip, "--model", model, "--name", "other")
    assert refused.code == 3
    assert f'it is kept in {kept}: --model "{kept}"' in refused.stderr.replace("\n", " ")
    named = run_cli("generate", "--from", clip, "--model", kept, "--name", "other")
    assert same(clip, named.stdout.strip())
