"""Before the first step: each seeded fault has its own message, and leaves no run behind."""

import json
import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from dualdiff import audio
from dualdiff.core.errors import ConfigError, DataError
from dualdiff.core.files import sha256_of
from dualdiff.data.latent_dataset import LatentIndex
from dualdiff.data.loader import Batch
from dualdiff.data.manifest import read_ledger, used
from dualdiff.evaluation.vae_reconstruction import fidelity, require_fidelity
from dualdiff.model_store.location import shipped_model
from dualdiff.model_store.model import load_vae
from dualdiff.models.vae import VAE
from dualdiff.project.settings import Project, open_project
from dualdiff.tasks.train import train
from dualdiff.tasks.vae import training_rows
from dualdiff.training import preflight
from dualdiff.training.config import TrainConfig
from dualdiff.training.latent_statistics import run_statistics
from dualdiff.training.preflight import (
    Costs,
    require_design,
    require_hashes,
    require_same_music,
    require_scale,
    require_sound,
    span,
)
from tests.conftest import TINY

MUSIC = Path(__file__).parents[2] / "examples" / "music"


@pytest.fixture
def trained(chain: Path, tmp_path: Path) -> Path:
    """A copy of the tiny project with a trained VAE and latents, without the run of its UNet."""
    for name in ("dualdiff.toml", "dataset.jsonl", "latents", "models"):
        source = chain / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, tmp_path / name)
    return tmp_path


def opened(folder: Path, *overrides: str) -> Project:
    return open_project(folder, [*TINY, *overrides])


def edit_index(folder: Path, change: Callable[[dict[str, object]], None]) -> None:
    path = folder / "latents" / "index.json"
    table = json.loads(path.read_text())
    change(table)
    path.write_text(json.dumps(table))


def test_an_absurd_learning_rate_is_refused_by_its_line(trained: Path) -> None:
    for rate, words in (("0.4", "throws every weight over"), ("1e-9", "moves next to nothing")):
        with pytest.raises(ConfigError, match=rf"unet.train.learning_rate = .* is absurd: it {words}"):
            train(opened(trained, f"unet.train.learning_rate={rate}"), "unet")
    with pytest.raises(ConfigError, match="0.08 is too high for a warm-up of 0 steps") as raised:
        train(opened(trained, "unet.train.learning_rate=0.08", "unet.train.warmup_steps=0"), "unet")
    assert "warmup_steps = 3 or more" in raised.value.hint
    assert not list((trained / "runs").glob("*/state.json")), "there is no run yet"


def test_statistics_of_another_scale_are_refused_and_mending_them_is_enough(trained: Path) -> None:
    before = (trained / "latents" / "index.json").read_text()
    edit_index(trained, lambda table: table.update(std=[0.25 * value for value in table["std"]]))  # type: ignore[attr-defined]
    with pytest.raises(DataError, match="wrong scale: the latents in .* come out with RMS") as raised:
        train(opened(trained), "unet")
    assert "dualdiff encode" in raised.value.hint
    assert not list((trained / "runs").glob("*/state.json")), "there is no run yet"
    (trained / "latents" / "index.json").write_text(before)
    assert train(opened(trained, "unet.train.steps=1"), "unet", force=True).steps == 1


def test_latents_far_from_the_design_of_their_vae_are_refused(chain: Path, caplog: pytest.LogCaptureFixture) -> None:
    vae = load_vae(chain / "models" / "vae").vae
    index = LatentIndex.open(chain / "latents")
    for factor in (9.0, 0.1):
        with pytest.raises(DataError, match=r"have RMS .*, their VAE is designed for 0.99"):
            require_design(replace(index, mean=(0.0,) * 4, std=(factor,) * 4), vae)
    with caplog.at_level(logging.WARNING):
        require_design(replace(index, mean=(0.0,) * 4, std=(1.0,) * 4), vae)
        assert not caplog.records
        require_design(replace(index, mean=(0.0,) * 4, std=(2.0,) * 4), vae)
    assert "may be undertrained" in caplog.text


def test_silent_music_is_refused(chain: Path) -> None:
    quiet = Batch({"waveform": 1e-6 * torch.randn(2, 2, 1000)}, ["A/1.flac@0.000s", "A/2.flac@0.000s"])
    with pytest.raises(DataError, match="the first 2 crops are silent: the loudest has -1[12][0-9] dB"):
        require_sound(quiet)
    require_sound(Batch({"waveform": 1e-2 * torch.randn(2, 2, 1000)}, ["a", "b"]))
    index = LatentIndex.open(chain / "latents")
    still = Batch({"latents": 0.5 * torch.randn(2, 4, 8, 1).expand(2, 4, 8, 16)}, ["a", "b"])
    with pytest.raises(DataError, match="the first 2 crops of latents are silent"):
        require_scale(still, index)
    require_scale(Batch({"latents": 0.5 * torch.randn(2, 4, 8, 16)}, ["a", "b"]), index)


def test_music_that_has_changed_since_the_scan_is_refused_before_the_vae_is_trained(
    chain: Path, tmp_path: Path
) -> None:
    music = tmp_path / "music"
    shutil.copytree(open_project(chain).path(open_project(chain).settings.dataset.folder), music)
    rows = training_rows(open_project(chain, TINY))[0]
    require_same_music(rows, music)
    shutil.copy(chain / "dualdiff.toml", tmp_path)
    shutil.copy(chain / "dataset.jsonl", tmp_path)
    path = music / rows[0].source
    path.write_bytes(path.read_bytes() + b"\0")
    project = opened(tmp_path, f'dataset.folder="{music}"')
    with pytest.raises(DataError, match="has changed since it was scanned") as raised:
        train(project, "vae")
    assert "dataset scan" in raised.value.hint
    path.unlink()
    with pytest.raises(DataError, match="is missing"):
        train(project, "vae")
    assert not list((tmp_path / "runs").glob("*/state.json")), "there is no run yet"


def test_every_track_is_compared_with_the_manifest_by_size_and_time_and_by_hash_where_these_differ(
    chain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    music = tmp_path / "music"
    shutil.copytree(open_project(chain).path(open_project(chain).settings.dataset.folder), music)
    rows = used(read_ledger(chain / "dataset.jsonl"))
    hashed: list[Path] = []
    monkeypatch.setattr(preflight, "sha256_of", lambda path: hashed.append(path) or sha256_of(path))  # type: ignore[func-returns-value]
    require_same_music(rows, music)
    assert not hashed
    (music / rows[1].source).touch()
    require_same_music(rows, music)
    assert hashed == [music / rows[1].source]
    for row in rows:  # whichever it is, it is noticed
        path = music / row.source
        good = path.read_bytes()
        path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
        with pytest.raises(DataError, match="has changed since it was scanned"):
            require_same_music(rows, music)
        path.write_bytes(good)
    for row in rows[-2:]:
        (music / row.source).unlink()
    with pytest.raises(DataError, match=rf"is missing \(and 1 more of {len(rows)} tracks\)"):
        require_same_music(rows, music)


def test_files_that_are_not_the_ones_of_the_index_are_refused(trained: Path) -> None:
    index = LatentIndex.open(trained / "latents")
    for track in index.tracks:
        path = trained / "latents" / track.files[0].name
        good = path.read_bytes()
        path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
        with pytest.raises(DataError, match=f"{path.name}.* is not what was written") as raised:
            require_hashes(index)
        path.write_bytes(good)
    assert "encode --repair" in raised.value.hint
    require_hashes(index)
    path.unlink()
    with pytest.raises(DataError, match="is missing"):
        train(opened(trained), "unet")


def test_latents_of_another_vae_are_refused_by_name(trained: Path) -> None:
    edit_index(trained, lambda table: table.update(vae_hash="0" * 64))
    with pytest.raises(DataError, match="were made with another VAE"):
        train(opened(trained), "unet")


def test_a_vae_that_reconstructs_no_music_is_refused_unless_forced(trained: Path, chain: Path) -> None:
    (trained / "music").symlink_to(chain / "music")
    with pytest.raises(DataError, match="a UNet would learn noise") as raised:  # its VAE has taken four steps
        train(opened(trained), "unet")
    assert "--force" in raised.value.hint
    assert not list((trained / "runs").glob("*/state.json")), "there is no run yet"
    assert train(opened(trained, "unet.train.steps=1"), "unet", force=True).steps == 1


def test_a_vae_is_measured_against_the_round_trip_of_its_format(caplog: pytest.LogCaptureFixture) -> None:
    folder = shipped_model()
    assert folder is not None
    model = load_vae(folder)
    made = model.format
    waveform = audio.read(MUSIC / "Freedoom" / "E1M1.ogg", sample_rate=made.sample_rate, start_s=10, duration_s=1)
    lufs = audio.loudness_lufs(waveform, made.sample_rate)
    waveform = audio.gain_to(waveform, lufs, made.config.loudness_lufs)[None, :, : made.num_samples(64)]
    torch.manual_seed(0)
    fresh = VAE(model.vae.config, channels=2, frequencies=made.frequencies()).eval()
    perfect = SimpleNamespace(
        encode=lambda sample: sample, decode=lambda latents: latents, positions=model.vae.positions
    )
    found = {
        name: fidelity(replace(model, vae=vae), waveform)  # type: ignore[arg-type]
        for name, vae in {"untrained": fresh, "shipped": model.vae, "perfect": perfect}.items()
    }
    assert found["untrained"].share < 0 < 0.4 < found["shipped"].share < found["perfect"].share == pytest.approx(1)
    with caplog.at_level(logging.WARNING):
        require_fidelity(found["shipped"], folder)
    assert not caplog.records
    with pytest.raises(DataError, match="dB from the music"):
        require_fidelity(found["untrained"], folder)


def test_a_network_too_large_for_the_memory_is_refused_before_it_is_built(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match=r"\[unet\] makes a network of .* million parameters, which takes"):
        train(opened(trained, "unet.base_channels=8192"), "unet")
    monkeypatch.setattr("dualdiff.training.memory.free_bytes", lambda: 10_000)
    with pytest.raises(ConfigError, match=r"\[vae\] makes a network of") as raised:
        train(opened(trained), "vae")
    assert "vae.base_channels" in raised.value.hint


def test_costs_are_said_in_plain_words() -> None:
    config = TrainConfig(batch_size=8, grad_accum_steps=2)
    words = Costs(0.5, 730_000_000, 183_400_000, 61_000_000_000).words(config, 1000)
    assert words == (
        "1,000 steps of about 0.5 s take about 8 min; a step computes 8 examples, in 2 micro-batches one after the "
        "other; memory: 730 MB; disk: 183 MB at most, 61 GB are free"
    )


def test_a_run_goes_on_with_its_own_statistics_when_tracks_were_added(
    trained: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = train(opened(trained, "unet.train.steps=1"), "unet", force=True)
    began_with = json.loads((first.run / "latents.json").read_text())
    edit_index(trained, lambda table: table.update(std=[1.05 * value for value in table["std"]]))  # type: ignore[attr-defined]
    with caplog.at_level(logging.INFO):
        assert train(opened(trained, "unet.train.steps=2"), "unet", force=True).steps == 2
    assert "goes on with the latent statistics that it began with" in caplog.text
    facts = json.loads((first.model / "unet.json").read_text())["facts"]
    assert facts["latent_std"] == began_with["std"]
    edit_index(trained, lambda table: table.update(std=[4.0 * value for value in table["std"]]))  # type: ignore[attr-defined]
    with pytest.raises(DataError, match="have changed too much since") as raised:
        train(opened(trained, "unet.train.steps=3"), "unet", force=True)
    assert "unet.train.run" in raised.value.hint


def test_statistics_that_cannot_be_read_are_named(chain: Path, tmp_path: Path) -> None:
    index = LatentIndex.open(chain / "latents")
    assert run_statistics(tmp_path, index) is index
    (tmp_path / "latents.json").write_text('{"mean": 1}')
    with pytest.raises(DataError, match=r"latents.json does not hold mean and std"):
        run_statistics(tmp_path, index)


def test_lengths_of_time_are_said_in_words() -> None:
    assert [span(5), span(600), span(9000)] == ["5 s", "10 min", "2.5 h"]


def test_facts_of_each_game_go_into_the_model(chain: Path) -> None:
    facts = json.loads((chain / "models" / "unet" / "unet.json").read_text())["facts"]
    per_game = facts["per_game"]
    assert list(per_game) == facts["games"]
    assert sum(own["share"] for own in per_game.values()) == pytest.approx(1, abs=1e-4)
    assert sum(own["tracks"] for own in per_game.values()) == 4
    measured = [own["held_out_loss"] for own in per_game.values() if own["held_out_loss"] is not None]
    assert measured
    assert all(0 < loss < 100 for loss in measured)
    lines = [json.loads(line) for line in (chain / "runs" / "unet" / "metrics.jsonl").read_text().splitlines()]
    assert any(name.startswith("denoising/sigma_") for line in lines for name in line)
    assert len(lines[-1]["noise/u"]) == len(lines[-1]["noise/noise_density"]) == len(lines[-1]["noise/log_sigma"])
    demos = {path.name for path in (chain / "runs" / "unet" / "demos").iterdir()}
    seeds = {f"00000004-seed{seed}.{kind}" for seed in (0, 1) for kind in ("flac", "png")}
    assert {*seeds, "00000004.txt"} <= demos
    assert "dualdiff unet train --preview 4" in (chain / "runs" / "unet" / "demos" / "00000004.txt").read_text()


@pytest.mark.parametrize("network", ["vae", "unet"])
def test_a_preview_is_made_again_by_its_command(chain: Path, run_cli: Callable[..., object], network: str) -> None:
    demos = chain / "runs" / network / "demos"
    before = {path.name: path.read_bytes() for path in demos.glob("00000004*.flac")}
    assert before
    for path in demos.glob("00000004*"):
        path.unlink()
    music = open_project(chain).path(open_project(chain).settings.dataset.folder)
    sets = [part for override in [*TINY, f'dataset.folder="{music}"'] for part in ("--set", override)]
    outcome = run_cli(network, "train", "--preview", 4, "--project", chain, *sets)
    assert outcome.code == 0, outcome.stderr  # type: ignore[attr-defined]
    assert {path.name: path.read_bytes() for path in demos.glob("00000004*.flac")} == before
