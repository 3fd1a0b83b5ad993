"""Model folders: what is written comes back; what does not belong together is refused by name."""

import json
import os
import shutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import pytest
import torch

from dualdiff.core.errors import DataError
from dualdiff.core.files import MARKER
from dualdiff.core.tensors import tensors_of
from dualdiff.formats.base import FORMATS
from dualdiff.formats.config import MelConfig
from dualdiff.model_store.components import EXPORTS, Part, model_with, read_model_json, read_part
from dualdiff.model_store.latent_space import LatentSpace
from dualdiff.model_store.model import format_hash, load_format, load_model, load_vae, save_unet, save_vae
from dualdiff.models.config import UNetConfig, VAEConfig
from dualdiff.models.unet import UNet
from dualdiff.models.vae import VAE
from tests.kills import CHANGES, killed_after

FACTS = {
    "games": ["A", "B"],
    "latent_mean": [0.1, 0, 0, 0],
    "latent_std": [1.1, 1, 1, 1],
    "sigma_min": 0.03,
    "steps": 7,
}


def write_model(folder: Path, seed: int = 0, facts: Mapping[str, object] = {}) -> Path:
    torch.manual_seed(seed)
    made = FORMATS["mel"](MelConfig())
    config = VAEConfig(base_channels=4, channel_mults=(1, 1, 1, 1), encoder_blocks=1, decoder_blocks=1)
    vae = VAE(config, channels=made.channels, frequencies=made.frequencies())
    save_vae(folder / "vae", made, vae, tensors_of(vae), {"steps": 5}, "# a card\n")
    unet_config = UNetConfig(
        base_channels=8, channel_mults=(1, 1), blocks=1, attention_levels=1, head_channels=8, embedding_channels=16
    )
    unet = UNet(unet_config, channels=4, games=2, frequencies=vae.latent_frequencies)
    for name, parameter in unet.named_parameters():
        if name.endswith("gain"):  # as if trained: these start at 0
            parameter.data.fill_(1)
    save_unet(folder / "unet", load_vae(folder / "vae"), unet, tensors_of(unet), {**FACTS, **facts}, "# a card\n")
    return folder / "unet"


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models"))


@pytest.fixture
def copy(model_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(model_folder, tmp_path / "copy"))


def test_a_model_comes_back_with_its_weights_games_and_hashes(model_folder: Path) -> None:
    model = load_model(model_folder)
    assert model.games == ("A", "B")
    assert model.space == LatentSpace(mean=(0.1, 0, 0, 0), std=(1.1, 1, 1, 1), sigma_min=0.03)
    parts = read_model_json(model_folder)["parts"]
    assert parts == {"format": model.vae_model.format_hash, "vae": model.vae_model.vae_hash, "unet": model.unet_hash}
    again = load_model(model_folder)
    inputs = torch.randn(1, 4, 32, 16), torch.zeros(1), torch.eye(2)[:1]
    assert torch.equal(model.unet(*inputs), again.unet(*inputs))
    names = "model.json format.json vae.json vae.safetensors unet.json unet.safetensors labels.json README.md"
    assert {path.name for path in model_folder.iterdir()} == {*names.split(), MARKER}


def test_normalising_latents_is_undone_exactly(model_folder: Path) -> None:
    space = load_model(model_folder).space
    latents = torch.randn(2, 4, 8, 8) * 1.1 + 0.1
    assert torch.allclose(space.restore(space.normalise(latents)), latents, atol=1e-6)
    assert space.normalise(latents)[:, 0].std().item() == pytest.approx(0.5, abs=0.1)


def test_hashes_name_weights_settings_and_ancestry(tmp_path: Path, model_folder: Path) -> None:
    other = write_model(tmp_path, seed=1)
    ours, theirs = (read_model_json(folder)["parts"] for folder in (model_folder, other))
    assert ours["format"] == theirs["format"]
    assert ours["vae"] != theirs["vae"]
    assert ours["unet"] != theirs["unet"]
    same = write_model(tmp_path / "again", seed=0)
    assert read_model_json(same)["parts"] == ours


def test_parts_of_two_models_are_refused_together(copy: Path, tmp_path: Path) -> None:
    other = write_model(tmp_path, seed=1)
    shutil.copy(other / "vae.safetensors", copy / "vae.safetensors")
    with pytest.raises(DataError, match="the vae in .*copy is not the one that its model.json names"):
        load_model(copy)


def test_a_whole_foreign_vae_is_refused_by_the_unet(copy: Path, tmp_path: Path) -> None:
    other = write_model(tmp_path, seed=1)
    for name in ("vae.safetensors", "vae.json"):
        shutil.copy(other / name, copy / name)
    description = read_model_json(copy)
    description["parts"]["vae"] = read_model_json(other)["parts"]["vae"]
    (copy / "model.json").write_text(json.dumps(description))
    with pytest.raises(DataError, match="the unet in .*copy was made with another vae"):
        load_model(copy)


def test_a_format_that_was_edited_is_refused(copy: Path) -> None:
    table = json.loads((copy / "format.json").read_text())
    table["hop_length"] = 128
    (copy / "format.json").write_text(json.dumps(table))
    with pytest.raises(DataError, match="the format in .*copy is not the one"):
        load_format(copy)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("format.json", "[]", 'names "nothing", which is not known here'),
        ("format.json", '{"name": "male"}', 'names "male", which is not known here'),
        ("format.json", '{"name": "mel", "hop": 3}', 'no setting "hop"'),
        ("labels.json", '["B", "A"]', "does not hold the games that the unet was trained on"),
        ("model.json", "[]", "does not describe a dualdiff model"),
    ],
)
def test_an_edited_file_is_named(copy: Path, name: str, text: str, message: str) -> None:
    (copy / name).write_text(text)
    with pytest.raises(DataError, match=message):
        load_model(copy)


@pytest.mark.parametrize("name", ["vae.safetensors", "unet.safetensors", "vae.json"])
def test_a_missing_or_cut_file_is_named(copy: Path, name: str) -> None:
    content = (copy / name).read_bytes()
    (copy / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=name):
        load_model(copy)
    (copy / name).unlink()
    with pytest.raises(DataError, match=f"{name} is missing"):
        load_model(copy)


def test_a_mel_format_that_once_had_a_network_for_its_phase_is_read(copy: Path) -> None:
    table = json.loads((copy / "format.json").read_text())
    (copy / "format.json").write_text(json.dumps({**table, "phase": "learned", "phase_model": "models/phase"}))
    assert load_format(copy).config.phase == "pghi"


def test_wrong_paths_and_newer_versions_are_refused(copy: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no folder"):
        load_model(tmp_path / "nowhere")
    with pytest.raises(DataError, match="there is no model"):
        load_model(tmp_path)
    write_model(tmp_path / "x")
    with pytest.raises(DataError, match="holds no unet"):
        load_model(tmp_path / "x" / "vae")
    for part, command in (("mix", "unet train"), ("unet", "unet train")):
        with pytest.raises(DataError) as missing:
            read_part(tmp_path / "x" / "vae", part)
        assert command in missing.value.hint
    description = read_model_json(copy)
    (copy / "model.json").write_text(json.dumps({**description, "dualdiff_model": 99}))
    with pytest.raises(DataError, match="model version 99"):
        load_model(copy)


def test_bfloat16_weights_are_baked_with_the_embedding_in_float32(model_folder: Path) -> None:
    model = load_model(model_folder, dtype=torch.bfloat16)
    assert model.unet.output.weight.dtype == torch.bfloat16
    assert model.unet.noise_embedding.weight.dtype == torch.float32
    inputs = torch.randn(1, 4, 32, 16), torch.zeros(1), torch.eye(2)[:1]
    expected = load_model(model_folder).unet(*inputs)
    assert (model.unet(*inputs) - expected).norm() / expected.norm() < 0.05


def test_how_a_format_decodes_is_not_part_of_its_name(copy: Path) -> None:
    named = load_format(copy)
    slow = FORMATS["mel"](MelConfig(phase="fgla", phase_iterations=7))
    assert format_hash(slow) == format_hash(named)
    assert format_hash(FORMATS["mel"](MelConfig(hop_length=128))) != format_hash(named)
    table = json.loads((copy / "format.json").read_text())
    (copy / "format.json").write_text(json.dumps({**table, "phase": "fgla"}))
    assert load_format(copy).config.phase == "fgla", "a model may be told to decode in another way"


def test_an_export_killed_at_every_change_leaves_the_old_or_the_new_model(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)  # a kill is no power cut
    vae_model, (description, weights) = load_vae(model_folder), read_part(model_folder, "unet")
    unet = load_model(model_folder).unet
    folder, keep = tmp_path / "models" / "again", tmp_path / "runs" / "again" / EXPORTS

    def export(scale: float) -> None:
        scaled = {name: tensor * scale for name, tensor in weights.items()}
        mix = Part("mix", {"name": "lda"}, {"weights": torch.full((3,), scale)}, ("format", "vae"), {})
        save_unet(folder, vae_model, unet, scaled, description["facts"], "card", extra=[mix], keep_in=keep)

    export(1.0)
    old = read_model_json(folder)["parts"]
    (folder / "NOTICES.txt").write_text("mine")
    seen, was_killed, number = [], True, 0
    while was_killed:
        number += 1
        was_killed = killed_after(number, partial(export, 2.0), CHANGES)
        found = read_model_json(folder)["parts"]
        assert {part: read_part(folder, part)[0] is not None for part in ("vae", "unet", "mix")}
        seen.append(found["unet"] == old["unet"])
        assert (folder / "NOTICES.txt").read_text() == "mine"
        if not seen[-1]:
            kept = model_with(tmp_path, "unet", old["unet"])
            export(1.0)  # what a kill left is put away by the next export
            assert kept is not None or was_killed
    assert set(seen) == {True, False}
    assert sorted(path.name for path in folder.parent.iterdir()) == ["again"]
    load_model(folder)


def test_the_model_before_is_kept_whole_and_shares_the_vae_with_its_own_folder(
    model_folder: Path, tmp_path: Path
) -> None:
    vae_model, (description, weights) = load_vae(model_folder), read_part(model_folder, "unet")
    unet = load_model(model_folder).unet
    folder, keep = tmp_path / "models" / "again", tmp_path / "runs" / "again" / EXPORTS
    digests = []
    for scale in (1.0, 1.0, 2.0):
        scaled = {name: tensor * scale for name, tensor in weights.items()}
        save_unet(folder, vae_model, unet, scaled, description["facts"], "card", keep_in=keep)
        digests.append(read_model_json(folder)["parts"]["unet"])
    digest = digests[0]
    assert [path.name for path in keep.iterdir()] == [digest[:12]], "the same model again replaces itself"
    kept = model_with(tmp_path, "unet", f"{digest}+ema0.1@5")
    assert kept == keep / digest[:12]
    assert load_model(kept).unet_hash == digest
    assert (folder / "vae.safetensors").samefile(kept / "vae.safetensors"), "it takes no space twice"


def test_a_model_is_not_written_over_files_of_others(model_folder: Path, tmp_path: Path) -> None:
    vae_model, (description, weights) = load_vae(model_folder), read_part(model_folder, "unet")
    (tmp_path / "model.json").write_text('{"of": "another program"}')
    with pytest.raises(DataError, match="holds files, and no model of dualdiff"):
        save_unet(tmp_path, vae_model, load_model(model_folder).unet, weights, description["facts"], "card")
    assert [path.name for path in tmp_path.iterdir()] == ["model.json"]
