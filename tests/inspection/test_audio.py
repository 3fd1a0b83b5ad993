"""What inspect says of clips and folders of clips: recipe, games, copies; and of files that are no good."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dualdiff import audio
from dualdiff.core.errors import DataError, UsageError
from dualdiff.core.files import sha256_of
from dualdiff.core.tensors import save_tensors
from dualdiff.data.config import Variant
from dualdiff.data.latent_dataset import LatentFile, LatentIndex, LatentTrack
from dualdiff.data.manifest import Row, write_ledger
from dualdiff.evaluation.game_classifier import fit_game_classifier, game_classifier_part
from dualdiff.evaluation.memorization import Match, Memorization
from dualdiff.generation.recipe import sealed
from dualdiff.inspection.audio import memorization_notes
from dualdiff.inspection.dispatch import InspectOptions, inspect
from dualdiff.inspection.model import map_of_games
from dualdiff.model_store.components import add_part, read_model_json
from dualdiff.model_store.location import shipped_model
from dualdiff.model_store.model import load_model, load_vae
from tests.conftest import melody
from tests.model_store.test_model import write_model

RATE = 32000
MUSIC = Path(__file__).parents[2] / "examples" / "music"
TRACKS = [("A", 0), ("A", 1), ("A", 2), ("B", 3), ("B", 4), ("B", 5)]
EVIL = "<script>alert(1)</script>" * 50


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A project as its stages leave it: ledger, latents of six tracks of 8 s, a VAE and a whole model."""
    root = tmp_path_factory.mktemp("project")
    (root / "dualdiff.toml").write_text('[dataset]\nfolder = "music"\n')
    model = write_model(root / "models")
    vae = load_vae(model)
    rows, tracks = [], []
    (root / "latents").mkdir()
    for game, seed in TRACKS:
        path = root / "music" / game / f"{seed}.flac"
        waveform = melody(220.0 if game == "A" else 520.0, seed, 8.0)
        audio.write(path, waveform, RATE)
        lufs = audio.loudness_lufs(waveform, RATE)
        latents = vae.encode(
            vae.format.encode(audio.gain_to(waveform, lufs, -20.0)[None, :, : 8 * RATE // 2048 * 2048 - 256])
        )
        name = f"{seed:032x}.safetensors"
        columns = latents[0].permute(2, 0, 1).half()[None].contiguous()
        save_tensors(root / "latents" / name, {"latents": columns})
        digest = sha256_of(path)
        rows.append(
            Row(path=f"{game}/{seed}.flac", game=game, state="used", split="train", duration_s=8.0, sha256=digest)
        )
        files = (LatentFile(name, sha256_of(root / "latents" / name)),)
        tracks.append(
            LatentTrack(
                path=f"{game}/{seed}.flac", game=game, split="train", columns=columns.shape[1], weight_s=8.0,
                audio_sha256=digest, files=files,
            )
        )  # fmt: skip
    write_ledger(root / "dataset.jsonl", rows)
    index = LatentIndex(
        folder=root / "latents", vae="models/vae", vae_hash=vae.vae_hash, format_hash=vae.format_hash, offsets=1,
        variants=(Variant(),), frame_s=0.008, frames_per_column=8, mean=(0.1, 0, 0, 0), std=(1.1, 1, 1, 1),
        games=("A", "B"), tracks=tuple(tracks),
    )  # fmt: skip
    index.write()
    add_part(model, game_classifier_part(fit_game_classifier(index)))
    return root


def write_clip(root: Path, name: str, waveform: torch.Tensor, model: str = "", **changes: object) -> Path:
    digest = model or load_model(root / "models" / "unet").unet_hash
    recipe = {"dualdiff": "0.1", "model": digest, "games": {"A": 1.0}, "seed": 3, "length_s": 8.0, **changes}
    path = root / "clips" / name
    audio.write(path, waveform, RATE, title="A", comment=json.dumps(sealed(recipe)))
    return path


def sheet(finding, title):
    return {own.title: own for own in finding.sheets}[title]


def test_a_clip_tells_its_games_and_its_nearest_training_passage(project):
    copy = 0.3 * melody(220.0, 1, 8.0)[:, 1500:]
    found = inspect(write_clip(project, "copy.flac", copy))
    assert found.kind == "clip"
    assert found.facts["is like"].split(", ")[0].endswith("A")
    nearest = sheet(found, "nearest training passages")
    assert nearest.rows[0][1] == "A/1.flac"
    assert nearest.rows[0][5] < 0.2
    assert sheet(found, "games").rows[0][:2] == ("A", 1.0)
    assert sheet(found, "came from").rows[0][2:] == ("models/unet", "as it was")
    assert any("nearest training passage is in A/1.flac" in note for note in found.notes)
    few = next(note for note in found.notes if "hold more tracks out" in note)
    assert "no rate below" in few
    assert "5% takes 19 of them" in few
    assert [type(chart).__name__ for chart in found.charts] == ["Recording", "Bars"]
    assert (project / "latents" / "copies.json").is_file()


def test_a_part_of_a_clip_is_heard_alone(project):
    path = write_clip(project, "parts.flac", 0.3 * melody(220.0, 1, 8.0))
    whole, found = inspect(path), inspect(path, InspectOptions(part="2:7"))
    assert "heard, s" not in whole.facts
    assert (found.facts["heard, s"], found.facts["seconds"]) == ("2 to 7", 8.0)
    assert found.facts["loudness, LUFS"] != whole.facts["loudness, LUFS"]
    at_s, track, track_s = sheet(found, "nearest training passages").rows[0][:3]
    assert (at_s >= 2, track) == (True, "A/1.flac")
    assert track_s == pytest.approx(at_s, abs=0.3), "told from the start of the clip"
    for part in ("7:2", "2:9", "2", "x:3"):
        with pytest.raises(UsageError, match=f'--part: "{part}" is no range START:END'):
            inspect(path, InspectOptions(part=part))
    for asked in (InspectOptions(part="1:2"), InspectOptions(row="A/1.flac")):
        with pytest.raises(UsageError, match="--part is of one audio file|--row names a track"):
            inspect(project, asked)
    path.unlink()


def test_a_clip_names_what_it_was_made_from(project):
    made_from = {key: {"file": f"{key}.flac", "sha256": key} for key in ("init", "morph", "rewrite")}
    path = write_clip(project, "made.flac", melody(220.0, 1), **made_from)
    rows = sheet(inspect(path, InspectOptions(copies=False)), "came from").rows
    assert [row[:3] for row in rows[1:]] == [
        ("variation of", "init", "init.flac"),
        ("leads to", "morph", "morph.flac"),
        ("rewritten from", "rewrite", "rewrite.flac"),
    ]
    path.unlink()


def test_of_a_clip_too_long_to_tell_its_parts_are_inspected():
    match = Match(3.0, "audio", "A", "A/1.flac", 5.0, 0.2, 0.5, 1 / 41)
    long = Memorization(0.5, 12 / 41, 12 / 41, False, (match,), 40, 12, 104.0)
    told, why = memorization_notes(long)
    assert told.endswith("Whether that is chance cannot be told.")
    assert "12 times as long" in why
    assert "no passage told from chance; inspect parts of it: --part START:END, up to 104 s each." in why
    few = memorization_notes(replace(long, smallest_rate=0.1, tracks=9, parts=1))
    assert "hold more tracks out" in few[1], "there, the length is not the reason"
    assert few[0].endswith("It is not flagged.")


def test_a_clip_far_from_any_project_says_what_cannot_be_told(project, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = write_clip(tmp_path, "x.flac", melody(300.0, 9, 6.0), model="f" * 64)
    found = inspect(path)
    assert any("without the latents of a project" in note for note in found.notes)
    assert any("No model is at hand" in note for note in found.notes)
    assert sheet(found, "came from").rows[0][2:] == ("", "not here")
    judged = inspect(path, InspectOptions(model=project / "models" / "unet"))
    assert "A" in judged.facts["is like"], "a model without latents can tell games apart"
    assert "nearest training passages" not in [own.title for own in judged.sheets]


def test_a_recipe_that_was_changed_is_not_believed(project):
    path = project / "clips" / "changed.flac"
    recipe = {**sealed({"dualdiff": "0", "model": "m", "games": {}, "seed": 1, "length_s": 5.0}), "seed": 2}
    audio.write(path, melody(200.0, 1), RATE, comment=json.dumps(recipe))
    found = inspect(path)
    assert found.kind == "audio"
    assert any("was changed" in note for note in found.notes)
    path.unlink()


def test_a_track_of_the_music_folder_shows_its_row(project, run_cli):
    found = inspect(project / "music" / "A" / "1.flac")
    assert found.kind == "track"
    assert ("split", "train") in sheet(found, "in the ledger").rows
    again = inspect(project / "dataset.jsonl", InspectOptions(row="A/1.flac"))
    assert again.facts["sha256"] == sha256_of(project / "music" / "A" / "1.flac")
    outcome = run_cli("inspect", project / "dataset.jsonl", "--row", "A/11.flac")
    assert outcome.code == 3
    assert 'did you mean "A/1.flac"' in outcome.stderr


def test_a_folder_of_clips_names_what_cannot_be_read_and_the_share_that_is_flagged(project, tmp_path, run_cli):
    folder = tmp_path / "clips"
    write_clip(tmp_path, "one.flac", melody(250.0, 40, 8.0), model="a" * 64)
    write_clip(tmp_path, "sub/two.ogg", melody(250.0, 41, 8.0), model="b" * 64, games={EVIL: 1.0})
    (folder / "broken.flac").write_bytes(b"fLaC no more")
    (folder / "notes.txt").write_text("no audio")
    audio.write(folder / "other.wav", melody(250.0, 42), RATE, title=EVIL)
    found = json.loads(run_cli("inspect", folder, "--project", project, "--json").stdout)
    assert found["kind"] == "clips"
    assert found["facts"]["clips"] == 2
    assert found["facts"]["not readable"] == 1
    assert found["facts"]["flagged, share"] == 0
    assert [own["clip"] for own in found["clips"]] == ["one.flac", "other.wav", "sub/two.ogg"]
    assert found["not readable"][0]["file"] == "broken.flac"
    assert [own["clips"] for own in found["models"]] == [1, 1]
    page = tmp_path / "page.html"
    assert run_cli("inspect", folder, "--html", page, "--no-copies").code == 0
    text = page.read_text(encoding="utf-8")
    assert text.count("<article") == 3
    assert "<script>alert" not in text


def test_folders_without_anything_and_with_nothing_readable(tmp_path, run_cli):
    (tmp_path / "empty").mkdir()
    outcome = run_cli("inspect", tmp_path / "empty")
    assert outcome.code == 3
    assert "holds nothing that dualdiff knows" in outcome.stderr
    (tmp_path / "empty" / "x.flac").write_bytes(b"x")
    outcome = run_cli("inspect", tmp_path / "empty")
    assert outcome.code == 3
    assert "no audio that can be read" in outcome.stderr


def test_a_model_says_where_it_came_from_and_whether_that_is_still_there(project):
    found = inspect(project / "models" / "unet")
    origins = {row[0]: row[2:] for row in sheet(found, "came from").rows}
    assert origins["vae"] == ("models/vae", "as it was")
    assert origins["ledger"] == ("dataset.jsonl", "as it was")
    assert sheet(found, "games").rows[0][:2] == ("A", 3)
    assert [row[0] for row in sheet(found, "map of games").rows] == ["A", "B"]
    assert any(type(chart).__name__ == "Scatter" for chart in found.charts)


def test_the_map_of_games_keeps_what_is_near_near(tmp_path):
    vectors = torch.randn(64, 3, generator=torch.Generator().manual_seed(0))
    vectors[:, 1] = vectors[:, 0] + 0.1 * vectors[:, 1]
    save_tensors(tmp_path / "unet.safetensors", {"label_embedding.weight": vectors})
    places = map_of_games(tmp_path, ["a", "b", "c"])
    (ax, ay), (bx, by), (cx, cy) = places.values()
    assert (ax - bx) ** 2 + (ay - by) ** 2 < 0.1 * ((ax - cx) ** 2 + (ay - cy) ** 2)
    assert len(map_of_games(tmp_path, ["a", "b", "c"])) == 3
    with pytest.raises(DataError, match="knows 3 games"):
        map_of_games(tmp_path, ["a"])


def test_latents_say_whether_their_vae_and_ledger_are_still_those(project, tmp_path):
    found = inspect(project / "latents")
    assert {row[0]: row[3] for row in sheet(found, "came from").rows} == dict.fromkeys(
        ("vae", "format", "ledger"), "as it was"
    )
    (tmp_path / "dualdiff.toml").write_text("")
    lonely = inspect(project / "latents", InspectOptions(project=tmp_path))
    assert {row[3] for row in sheet(lonely, "came from").rows} == {"not here"}


def test_of_an_extended_clip_only_the_new_seconds_are_compared(project):
    kept, new = 0.3 * melody(220.0, 1, 8.0), 0.3 * melody(700.0, 99, 6.0)
    whole = torch.cat([kept, new], -1)
    rewrite = {"file": "kept.flac", "sha256": "0" * 64, "start_s": 8.0, "end_s": 14.0, "strength": 1.0}
    found = {
        name: sheet(inspect(write_clip(project, f"{name}.flac", whole, **changes)), "nearest training passages").rows
        for name, changes in {"all new": {}, "extended": {"rewrite": rewrite}}.items()
    }
    assert (found["all new"][0][0] < 4.5, found["all new"][0][1]) == (True, "A/1.flac")
    assert all(row[0] >= 8.0 for row in found["extended"])
    assert found["extended"][0][6] > found["all new"][0][6], "what was kept does not count"
    short = write_clip(project, "short.flac", whole, rewrite={**rewrite, "start_s": 11.0, "end_s": 13.0})
    assert any("the model wrote 2.0 s of it" in note for note in inspect(short).notes)
    for name in ("all new", "extended", "short"):
        (project / "clips" / f"{name}.flac").unlink()


def test_a_model_says_the_share_of_its_clips_that_is_flagged(project):
    text = (project / "dualdiff.toml").read_text()
    (project / "dualdiff.toml").write_text(text + '\n[generate]\nout = "own clips"\n')
    assert "clips here" not in inspect(project / "models" / "unet").facts
    for name, seed, model in (("a", 1, ""), ("b", 2, ""), ("c", 3, "f" * 64)):
        write_clip(project, f"../own clips/{name}.flac", 0.3 * melody(220.0, seed, 8.0), model)
    facts = inspect(project / "models" / "unet").facts
    assert facts["clips here"] == 2, "the third is of another model"
    assert inspect(project / "models" / "unet", InspectOptions(copies=False)).facts.get("clips here") is None
    (project / "dualdiff.toml").write_text(text)


def test_clips_of_the_model_that_ships_are_compared_with_its_training_music_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = shipped_model()
    assert sum(path.stat().st_size for path in folder.glob("fingerprints.*")) < 3_000_000
    track = MUSIC / "Noiz2sa" / "stg1.ogg"
    rate = audio.probe(track).sample_rate
    learned = audio.read(track, sample_rate=rate, start_s=20, duration_s=9)
    made = {"learned": (0.5 * learned, rate), "new": (melody(220.0, 5, 9.0), RATE)}
    digest = read_model_json(folder)["parts"]["unet"]
    for name, (waveform, sample_rate) in made.items():
        recipe = {"dualdiff": "0.1", "model": digest, "games": {"Noiz2sa": 1.0}, "seed": 3, "length_s": 9.0}
        path = tmp_path / "clips" / f"{name}.flac"
        audio.write(path, waveform, sample_rate, title="A", comment=json.dumps(sealed(recipe)))
    found = {name: inspect(tmp_path / "clips" / f"{name}.flac") for name in made}
    assert found["learned"].facts["may be copied"] is True
    assert "Noiz2sa" in sheet(found["learned"], "nearest training passages").rows[0][1]
    assert found["new"].facts["may be copied"] is False
    model = inspect(Path("nano")).facts
    assert model["fingerprints of training tracks"] == 96
    assert (model["clips here"], model["clips flagged"], model["clips flagged, share"]) == (2, 1, 0.5)
