"""The whole chain, tiny: a folder of music to a clip, and each training resumed exactly."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from dualdiff import audio
from dualdiff.core.errors import ConfigError, DataError
from dualdiff.data.latent_dataset import LatentIndex
from dualdiff.model_store.model import load_model
from dualdiff.project.settings import open_project
from dualdiff.tasks.train import train
from tests.conftest import TINY, tiny_settings

GROUPS = ("model.safetensors", "optimizer.safetensors", "ema.safetensors")


def test_every_stage_leaves_its_files(chain: Path) -> None:
    assert sum(1 for _ in (chain / "dataset.jsonl").open()) == 8
    for run in ("vae", "unet"):
        folder = chain / "runs" / run
        assert {"config.toml", "state.json", "metrics.jsonl", "tb", "checkpoints", "demos"} <= {
            p.name for p in folder.iterdir()
        }
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        assert lines[-1]["step"] == 4
        assert any(key.startswith("validation/") for key in lines[-1])
        assert list((folder / "demos").glob("*.flac"))
    model = load_model(chain / "models" / "unet")
    assert model.games == ("Bubble Bay", "Crystal Caves", "Déjà Vu, the Game")
    card = (chain / "models" / "unet" / "README.md").read_text()
    assert "Déjà Vu, the Game" in card
    assert "licence" in card


def test_latents_are_of_unit_variance_and_know_their_vae(chain: Path) -> None:
    index = LatentIndex.open(chain / "latents")
    model = load_model(chain / "models" / "unet")
    index.require(vae_hash=model.vae_model.vae_hash, format_hash=model.vae_model.format_hash)
    with pytest.raises(DataError):
        index.require(vae_hash="0" * 64, format_hash=model.vae_model.format_hash)
    assert model.space.mean == pytest.approx(tuple(index.mean))


def test_vae_test_measures_held_out_tracks_without_and_with_the_vae(
    chain: Path, run_cli: Callable[..., object]
) -> None:
    quick = ["--seconds", 1, "--set", "format.phase_iterations=1", "--project", chain]
    outcome = run_cli("vae", "test", *quick, *tiny_settings())
    assert outcome.code == 0
    lines = outcome.stdout.splitlines()
    assert "held-out excerpts" in lines[0]
    assert lines[1].split() == ["measure", "best", "multimel", "multimel", "+", "VAE"]
    found = json.loads(run_cli("vae", "test", "-n", 1, "--json", *quick, *tiny_settings()).stdout)
    assert [(way["name"], way["files"]) for way in found] == [("multimel", 1), ("multimel + VAE", 1)]


def test_generate_writes_a_clip_for_a_mix(chain: Path, tmp_path: Path, run_cli: Callable[..., object]) -> None:
    mix = "bubble bay:0.7,Deja Vu, the Game:0.3"
    outcome = run_cli("generate", "--game", mix, "--length", 2, "--seed", 3, "--out", tmp_path, "--project", chain)
    assert outcome.code == 0, outcome.stderr  # type: ignore[attr-defined]
    path = Path(outcome.stdout.strip().splitlines()[-1])  # type: ignore[attr-defined]
    assert path.parent == tmp_path
    waveform = audio.read(path, sample_rate=32000)
    assert waveform.shape == (2, 64000)
    assert waveform.std() > 1e-4
    assert waveform.abs().max() < 1


@pytest.mark.parametrize("network", ["vae", "unet"])
def test_a_training_in_two_parts_equals_one_in_one_byte_for_byte(chain: Path, tmp_path: Path, network: str) -> None:
    for name in ("dualdiff.toml", "dataset.jsonl", "latents", "models"):
        source = chain / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, tmp_path / name)
    for steps in (2, 4):
        project = open_project(tmp_path, [*TINY, f"{network}.train.steps={steps}", *_folder_of(chain)])
        assert train(project, network, force=True).steps == steps
    for group in GROUPS:
        straight, resumed = (root / "runs" / network / "checkpoints" / "00000004" / group for root in (chain, tmp_path))
        assert straight.read_bytes() == resumed.read_bytes(), group


def _folder_of(chain: Path) -> list[str]:
    return [f'dataset.folder="{open_project(chain).path(open_project(chain).settings.dataset.folder)}"']


def test_a_finished_training_does_nothing_but_export_again(chain: Path, tmp_path: Path) -> None:
    before = (chain / "models" / "vae" / "model.json").read_bytes()
    assert train(open_project(chain, [*TINY, *_folder_of(chain)]), "vae").steps == 4
    assert (chain / "models" / "vae" / "model.json").read_bytes() == before


def test_losses_of_games_are_exported_again_without_the_log(chain: Path, tmp_path: Path) -> None:
    for name in ("dualdiff.toml", "dataset.jsonl", "latents", "models", "runs"):
        source = chain / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, tmp_path / name)

    def exported() -> dict[str, object]:
        facts = json.loads((tmp_path / "models" / "unet" / "unet.json").read_text(encoding="utf-8"))["facts"]
        return {game: own["held_out_loss"] for game, own in facts["per_game"].items()}

    before = exported()
    assert any(isinstance(loss, float) for loss in before.values())
    (tmp_path / "runs" / "unet" / "metrics.jsonl").write_text("")
    (tmp_path / "models" / "unet" / "unet.json").unlink()
    state_path = tmp_path / "runs" / "unet" / "checkpoints" / "00000004" / "state.json"
    for is_older in (False, True):  # an older version kept no validation in the state: the weights are validated again
        if is_older:
            state = json.loads(state_path.read_text())
            assert state.pop("validation")
            state_path.write_text(json.dumps(state))
        train(open_project(tmp_path, [*TINY, *_folder_of(chain)]), "unet")
        assert exported() == pytest.approx(before)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("vae.train.crop_s=60", "vae.train.crop_s = 60 is longer than every track: the longest lasts 4.0 s"),
        ("vae.train.crop_s=0.01", "vae.train.crop_s = 0.01 is too short"),
        ("vae.train.batch_size=4000", "vae.train.batch_size = 4000 is larger than the data set"),
        ("vae.channel_mults=[1,1,1,1,1,1,1,1,1,1]", "10 levels, but 256 rows cannot be halved 9 times"),
        ("vae.spectral.block_sizes=[8,128]", "holds 128, too large for crops of 256 bins and 32 frames"),
    ],
)
def test_settings_that_do_not_fit_the_data_are_refused_before_anything_runs(
    chain: Path, override: str, message: str
) -> None:
    project = open_project(chain, [*TINY, 'vae.train.run="never"', *_folder_of(chain), override])
    with pytest.raises(ConfigError, match=message):
        train(project, "vae")
    assert not (chain / "runs" / "never").exists()


def test_latents_of_another_vae_are_refused(chain: Path, tmp_path: Path) -> None:
    for name in ("dualdiff.toml", "dataset.jsonl", "latents"):
        source = chain / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, tmp_path / name)
    torch.manual_seed(0)
    train(open_project(tmp_path, [*TINY, "vae.train.steps=1", "project.seed=5", *_folder_of(chain)]), "vae")
    with pytest.raises(DataError, match="latents") as raised:
        train(open_project(tmp_path, TINY), "unet")
    assert "dualdiff encode" in raised.value.hint


def test_a_run_folder_of_another_model_is_refused(chain: Path) -> None:
    before = (chain / "runs" / "unet" / "state.json").read_bytes()
    with pytest.raises(DataError, match="run of another model: its config") as raised:
        train(open_project(chain, [*TINY, "unet.base_channels=16"]), "unet")
    assert "another name" in raised.value.hint
    assert (chain / "runs" / "unet" / "state.json").read_bytes() == before
