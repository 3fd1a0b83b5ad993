"""`dualdiff encode`: the stage of the project, and the check of what it left."""

from pathlib import Path

import pytest
import torch

from dualdiff.core.tensors import tensors_of
from dualdiff.data.latent_dataset import LatentIndex
from dualdiff.formats.mel import MelFormat
from dualdiff.model_store.model import save_vae
from dualdiff.models.config import VAEConfig
from dualdiff.models.vae import VAE


@pytest.fixture
def ready(project: Path, run_cli) -> Path:
    """A scanned project with a tiny VAE that was not trained."""
    assert run_cli("dataset", "scan", "--project", project).code == 0
    torch.manual_seed(0)
    made = MelFormat()
    config = VAEConfig(base_channels=4, channel_mults=(1, 1, 1, 1), encoder_blocks=1, decoder_blocks=1)
    vae = VAE(config, channels=2, frequencies=made.frequencies())
    save_vae(project / "models" / "vae", made, vae, tensors_of(vae), {"steps": 0}, "# a card\n")
    return project


def test_tracks_are_encoded_once_and_checked(ready: Path, run_cli) -> None:
    outcome = run_cli("encode", "--project", ready)
    assert outcome.code == 0
    assert outcome.stdout.strip() == str(ready / "latents")
    assert "encoded 8 of 8 tracks" in outcome.stderr
    assert "encoded 0 of 8 tracks; 8 were there" in run_cli("encode", "--project", ready).stderr

    fine = run_cli("encode", "--check", "--project", ready)
    assert fine.code == 0
    assert "all 8 files, of 8 tracks, are as written" in fine.stdout

    index = LatentIndex.open(ready / "latents")
    path = ready / "latents" / index.tracks[3].files[0].name
    good = path.read_bytes()
    path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    broken = run_cli("encode", "--check", "--project", ready)
    assert broken.code == 3
    assert path.name in broken.stderr
    assert index.tracks[3].path in broken.stderr
    assert "--repair" in broken.stderr
    repaired = run_cli("encode", "--repair", "--project", ready)
    assert repaired.code == 0
    assert "encoded 1 of 8 tracks; 7 were there" in repaired.stderr
    assert path.read_bytes() == good
    assert run_cli("encode", "--check", "--project", ready).code == 0


def another_vae(project: Path) -> None:
    torch.manual_seed(1)
    made = MelFormat()
    config = VAEConfig(base_channels=4, channel_mults=(1, 1, 1, 1), encoder_blocks=1, decoder_blocks=1)
    vae = VAE(config, channels=2, frequencies=made.frequencies())
    save_vae(project / "models" / "vae", made, vae, tensors_of(vae), {"steps": 0}, "# a card\n")


def test_a_check_compares_the_vae_and_the_settings_and_a_repair_makes_stale_latents_again(ready: Path, run_cli) -> None:
    assert run_cli("encode", "--project", ready).code == 0
    other = run_cli("encode", "--check", "--project", ready, "--set", "encode.offsets=3")
    assert other.code == 3
    assert "other settings than those of [encode]" in other.stderr
    another_vae(ready)
    stale = run_cli("encode", "--check", "--project", ready)
    assert stale.code == 3
    assert "another VAE" in stale.stderr
    assert run_cli("encode", "--repair", "--project", ready).code == 0
    assert run_cli("encode", "--check", "--project", ready).code == 0


def test_the_model_that_travels_with_the_package_encodes(project: Path, run_cli) -> None:
    assert run_cli("dataset", "scan", "--project", project).code == 0
    short = ("--project", project, "--set", 'encode.vae="nano"', "--set", "encode.offsets=1")
    assert run_cli("encode", *short).code == 0
    assert run_cli("encode", "--check", *short).code == 0


def test_a_check_says_what_is_not_encoded_yet(ready: Path, run_cli) -> None:
    ledger = ready / "dataset.jsonl"
    everything = ledger.read_text(encoding="utf-8")
    ledger.write_text("".join(everything.splitlines(keepends=True)[:5]), encoding="utf-8")
    assert run_cli("encode", "--project", ready).code == 0
    ledger.write_text(everything, encoding="utf-8")
    outcome = run_cli("encode", "--check", "--project", ready)
    assert outcome.code == 0
    assert "3 of the 8 tracks of the manifest are not encoded yet" in outcome.stderr


def test_without_latents_there_is_nothing_to_check(project: Path, run_cli) -> None:
    outcome = run_cli("encode", "--check", "--project", project)
    assert outcome.code == 3
    assert "there are no latents" in outcome.stderr
