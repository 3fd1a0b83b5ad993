"""What `inspect` finds out of each kind of thing."""

import json

import pytest
import torch

from dualdiff.core.errors import DataError
from dualdiff.core.files import sha256_of
from dualdiff.core.tensors import save_tensors
from dualdiff.data.config import Variant
from dualdiff.data.latent_dataset import LatentFile, LatentIndex, LatentTrack
from dualdiff.data.manifest import Row, write_ledger
from dualdiff.inspection.dispatch import InspectOptions, inspect
from dualdiff.inspection.model import parameters_in
from dualdiff.inspection.run import curves
from dualdiff.model_store.model import load_model
from dualdiff.training.run_folder import Checkpoint, Run
from tests.model_store.test_model import write_model


def test_a_ledger(tmp_path):
    path = tmp_path / "dataset.jsonl"
    rows = [
        Row(path="A/1.flac", game="A", state="used", split="train", duration_s=90.0, sha256="1"),
        Row(path="A/2.flac", game="A", state="used", split="validation", duration_s=30.0, sha256="2"),
        Row(path="B/1.flac", game="B", state="failed", reason="unreadable: it is a text"),
    ]
    write_ledger(path, rows)
    found = inspect(path)
    assert found.kind == "data set"
    assert found.facts | {"files": 3, "used": 2, "to validate": 1, "failed": 1, "seconds": 120.0} == found.facts
    assert found.facts["sha256"] == sha256_of(path)
    sheets = {sheet.title: sheet for sheet in found.sheets}
    assert sheets["games"].rows[0] == ("A", 2, 1, 120.0, 1.0, 0, 0)
    assert sheets["not used"].rows == [("B/1.flac", "failed", "unreadable: it is a text")]
    assert sheets["why files are not used"].rows[0][:2] == ("unreadable", 1)
    assert sheets["spread"].rows[0] == ("length, s", 30.0, 33.0, 60.0, 87.0, 90.0)
    assert [chart.title for chart in found.charts] == [
        "music by game", "length of tracks", "files not used, by reason",
    ]  # fmt: skip


def make_latents(folder):
    save_tensors(folder / "one.safetensors", {"latents": torch.zeros(2, 10, 4, 32)})
    track = LatentTrack(
        path="A/1.flac", game="A", split="train", columns=10, weight_s=0.6, audio_sha256="f",
        files=(LatentFile("one.safetensors", sha256_of(folder / "one.safetensors")),),
    )  # fmt: skip
    index = LatentIndex(
        folder=folder, vae="models/vae", vae_hash="v" * 64, format_hash="f" * 64, offsets=2,
        variants=(Variant(),), frame_s=0.008, frames_per_column=8, mean=(0.0,), std=(1.0,),
        games=("A",), tracks=(track,),
    )  # fmt: skip
    index.write()
    return folder


def test_latents(tmp_path):
    found = inspect(make_latents(tmp_path))
    assert found.kind == "latents"
    wanted = {"tracks": 1, "variants": 2, "made by the VAE": "v" * 64, "mean": [0.0], "pitches, semitones": [0]}
    assert found.facts | wanted == found.facts
    assert found.sheets[0].rows == [("A", 1, 0, 0.6)]
    assert found.next == "dualdiff unet train"


def test_missing_latents_are_named_and_reading_them_all_is_left_to_the_check(tmp_path):
    make_latents(tmp_path)
    save_tensors(tmp_path / "one.safetensors", {"latents": torch.ones(2, 10, 4, 32)})
    assert inspect(tmp_path).kind == "latents"
    (tmp_path / "one.safetensors").unlink()
    with pytest.raises(DataError, match=r"one\.safetensors is missing"):
        inspect(tmp_path)


def make_run(folder, steps=20):
    run = Run(folder, {"network": "vae", "config": {"base_channels": 8}, "seed": 3}, f"[vae.train]\nsteps = {steps}\n")
    run.open()
    run.save(Checkpoint(10, {"model": {"w": torch.zeros(3)}}, {}), keep=2)
    for step, loss in ((5, 0.9), (10, 0.5), (15, 0.7)):
        run.record(step, {"loss": loss})
    return folder


def test_a_run(tmp_path):
    found = inspect(make_run(tmp_path / "vae"))
    assert found.kind == "run"
    wanted = {"trains": "vae", "steps done": 10, "steps planned": 20, "checkpoints": [10], "seed": 3}
    assert found.facts | wanted == found.facts
    measures, settings = found.sheets
    assert measures.rows == [("loss", 0.9, 0.5, 0.7, 15)]
    assert settings.rows == [("base_channels", 8)]
    assert found.next == "dualdiff vae train"
    (loss,) = found.charts
    assert loss.series == {"training": [(5, 0.9), (10, 0.5), (15, 0.7)]}


def test_a_measure_and_its_validations_share_a_chart():
    points = [(1, 0.5)]
    names = ("denoising", "validation/denoising/sigma_0.2", "validation/denoising/sigma_3", "gradient_norm")
    charts = curves(dict.fromkeys(names, points))
    assert [(chart.title, list(chart.series)) for chart in charts] == [
        ("denoising", ["training", "validation, sigma 0.2", "validation, sigma 3"]),
        ("gradient norm", ["training"]),
    ]


def test_a_finished_run_names_the_next_stage(tmp_path):
    assert inspect(make_run(tmp_path / "vae", steps=10)).next == "dualdiff encode"


def test_what_comes_next_can_be_run(tmp_path):
    """Of a run, of a folder whose name has a space, of a track."""
    own = Run(tmp_path / "own", {"network": "vae", "config": {}, "seed": 3}, "[vae.train]\nsteps = 20\n")
    own.open()
    own.save(Checkpoint(10, {"model": {"w": torch.zeros(3)}}, {}), keep=2)
    assert inspect(own.folder).next == "dualdiff vae train"
    model = write_model(tmp_path / "my models")
    assert inspect(model).next == f'dualdiff generate --model "{model}"'
    write_ledger(tmp_path / "dataset.jsonl", [Row(path="A/1.flac", game="A", state="used", split="train")])
    track = inspect(tmp_path / "dataset.jsonl", InspectOptions(row="A/1.flac"))
    assert track.next == f'dualdiff inspect "{tmp_path / "music" / "A" / "1.flac"}"'


@pytest.mark.parametrize(
    ("line", "problem"),
    [('{"step": 20, "lo', "is not JSON"), ("[20]", "is no record"), ('{"loss": 1}', "is no record")],
)
def test_a_broken_record_is_named_by_line(tmp_path, line, problem):
    folder = make_run(tmp_path / "vae")
    with open(folder / "metrics.jsonl", "a") as file:
        file.write(line)
    assert inspect(folder).sheets[0].rows == [("loss", 0.9, 0.5, 0.7, 15)], "what is being written is not there yet"
    with open(folder / "metrics.jsonl", "a") as file:
        file.write("\n")
    with pytest.raises(DataError, match=rf"metrics\.jsonl, line 4 {problem}"):
        inspect(folder)


def test_a_run_by_hours_tells_the_steps_that_are_planned(tmp_path):
    folder = make_run(tmp_path / "vae", steps=1000)
    Run(folder, {}, "").update_plan({"steps": 10, "spent_s": 3.0})
    found = inspect(folder)
    assert found.facts["steps planned"] == 10
    assert found.next == "dualdiff encode"


def test_a_copy_of_a_checkpoint_beside_the_others_is_left_out(tmp_path):
    folder = make_run(tmp_path / "vae")
    (folder / "checkpoints" / "00000010 copy").mkdir()
    assert inspect(folder).facts["checkpoints"] == [10]


def test_audio_has_its_measures(music):
    path = music / "Bubble Bay" / "01 tune.flac"
    found = inspect(path)
    assert found.kind == "audio"
    wanted = {"format": "flac", "seconds": 4.0, "sample rate": 32000, "channels": 2, "tag title": "Tune 1"}
    assert found.facts | wanted == found.facts
    assert -40 < found.facts["loudness, LUFS"] < 0
    assert found.facts["sha256"] == sha256_of(path)


def test_a_project_names_what_comes_next(project):
    assert inspect(project).next == "dualdiff dataset scan"
    write_ledger(project / "dataset.jsonl", [Row(path="A/1.flac", game="A", state="used", split="train")])
    found = inspect(project)
    assert found.next == "dualdiff vae train"
    assert found.facts | {"stages done": 1, "of": 4, "used": 1} == found.facts
    assert "games" in [sheet.title for sheet in found.sheets]
    assert inspect(project / "dualdiff.toml").kind == "project"
    make_run(project / "runs" / "vae")
    assert ("runs", "runs/vae") in [row[:2] for row in inspect(project).sheets[0].rows]


@pytest.mark.parametrize("name", ["nothing", "folder", "file.txt"])
def test_what_is_unknown_is_refused(tmp_path, name):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file.txt").write_text("")
    with pytest.raises(DataError, match=name):
        inspect(tmp_path / name)


def test_another_programs_state_is_no_run(tmp_path):
    (tmp_path / "state.json").write_text("{}")
    with pytest.raises(DataError, match="holds nothing that dualdiff knows"):
        inspect(tmp_path)


@pytest.mark.parametrize("name", ["index.json", "state.json", "model.json"])
def test_a_project_counts_no_files_of_other_programs(project, name):
    for place in ("docs", "runs/other", "models/other"):
        (project / place).mkdir(parents=True)
        (project / place / name).write_text('{"pages": []}')
    (project / name).write_text('{"pages": []}')
    found = inspect(project)
    assert found.kind == "project"
    assert found.facts["stages done"] == 0
    with pytest.raises(DataError, match="holds nothing that dualdiff knows"):
        inspect(project / "docs")


def test_parameters_are_counted_without_reading_them(tmp_path):
    save_tensors(tmp_path / "w.safetensors", {"a": torch.zeros(3, 4), "b": torch.zeros(())})
    assert parameters_in(tmp_path / "w.safetensors") == 13
    (tmp_path / "w.safetensors").write_bytes(b"none")
    with pytest.raises(DataError, match="cannot be read as safetensors"):
        parameters_in(tmp_path / "w.safetensors")


def test_json_says_the_same(run_cli, music):
    path = music / "Bubble Bay" / "01 tune.flac"
    outcome = run_cli("inspect", path, "--json")
    found = json.loads(outcome.stdout)
    assert found["kind"] == "audio"
    assert found["facts"]["seconds"] == 4.0
    shown = run_cli("inspect", path)
    assert shown.stdout.startswith(f"audio {path}")
    assert "32000" in shown.stdout
    assert "format roundtrip" in shown.stderr


def test_a_model_and_its_clip(tmp_path, run_cli, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = write_model(tmp_path / "models")
    found = inspect(folder)
    assert found.kind == "model"
    assert [row[0] for row in found.sheets[0].rows] == ["format", "vae", "unet"]
    parts = {part: (digest, parameters) for part, digest, parameters, _ in found.sheets[0].rows}
    model = load_model(folder)
    assert parts["unet"] == (model.unet_hash, sum(tensor.numel() for tensor in model.unet.state_dict().values()))
    assert parts["format"][1] is None
    assert found.facts["games"] == ["A", "B"]
    assert any(row == ("base_channels", 8) for row in found.sheets[-1].rows)
    assert inspect(folder.parent / "vae").next == "dualdiff encode"

    place = ["--model", folder, "--out", tmp_path, "--steps", 1, "--length", 0.6]
    clip = run_cli("generate", "--game", "A", *place).stdout.strip()
    outcome = run_cli("inspect", clip, "--json")
    recipe = {row["key"]: row["value"] for row in json.loads(outcome.stdout)["recipe"]}
    assert recipe["model"] == model.unet_hash
    assert recipe["games"] == {"A": 1.0}
    assert f'--from "{clip}"' in run_cli("inspect", clip).stderr
    assert run_cli("inspect", folder).code == 0
