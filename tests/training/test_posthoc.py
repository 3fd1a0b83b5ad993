"""Playing and showing another average of a run's weights than the one that was exported."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from dualdiff.core.errors import DataError, UsageError
from dualdiff.core.tensors import load_tensors, tensors_of
from dualdiff.generation.parse import parse_average
from dualdiff.model_store.model import load_model
from dualdiff.training.ema.posthoc import run_of, with_average
from dualdiff.training.ema.snapshots import rebuild


def test_a_width_may_name_a_step() -> None:
    assert parse_average("0.07") == (0.07, None)
    assert parse_average("0.07@5000") == (0.07, 5000)
    for wrong in ("wide", "0.07@", "0.07@x", "0.07@0", "0.07@-5"):
        with pytest.raises(UsageError, match="is no width"):
            parse_average(wrong)


def test_the_exported_width_rebuilt_plays_the_exported_model(chain: Path) -> None:
    exported, model = (load_model(chain / "models" / "unet") for _ in range(2))
    averaged, how = with_average(model, run_of(model, chain), 0.1)
    assert how.step == 4
    assert averaged.unet_hash == f"{exported.unet_hash}+ema0.1@4"
    for name, tensor in tensors_of(exported.unet).items():
        assert torch.allclose(tensors_of(averaged.unet)[name], tensor, atol=1e-5), name


def test_another_width_plays_other_weights(chain: Path) -> None:
    model = load_model(chain / "models" / "unet")
    before = tensors_of(model.unet)["output.weight"].clone()
    with_average(model, run_of(model, chain), 0.2)
    assert not torch.equal(tensors_of(model.unet)["output.weight"], before)
    _, weights = rebuild(chain / "runs" / "unet", 0.2)
    stored = load_tensors(chain / "models" / "unet" / "unet.safetensors")
    assert weights.keys() <= stored.keys()


def test_generate_plays_it_and_its_recipe_says_so(chain: Path, tmp_path: Path, run_cli: Callable[..., object]) -> None:
    quick = ["--length", 0.5, "--steps", 2, "--project", chain, "--set", "format.phase_iterations=1", "--seed", 1]
    outcome = run_cli("generate", "--ema", "0.2", "--out", tmp_path, "--sidecar", *quick)
    assert outcome.code == 0, outcome.stderr  # type: ignore[attr-defined]
    assert "averaged over a relative width of 0.2 at step 4" in outcome.stderr  # type: ignore[attr-defined]
    sidecar = json.loads(next(tmp_path.glob("*.json")).read_text())
    assert "+ema0.2@4" in json.dumps(sidecar)
    clip = next(tmp_path.glob("*.flac"))
    again = ["generate", "--from", clip, "--project", chain, "--out", tmp_path / "again"]
    refused = run_cli(*again).stderr  # type: ignore[attr-defined]
    assert "with its weights averaged over 0.2@4, this is the model" in refused
    assert "hint: say --ema 0.2@4" in refused
    same = run_cli(*again, "--ema", "0.2@4", "--set", "format.phase_iterations=1")
    assert "the audio is the same" in same.stderr  # type: ignore[attr-defined]
    shown = run_cli("inspect", clip, "--project", chain, "--no-copies", "--json").stdout  # type: ignore[attr-defined]
    assert [row["now"] for row in json.loads(shown)["came from"]] == ["as it was"]


def test_a_model_whose_run_is_elsewhere_is_refused(chain: Path, tmp_path: Path) -> None:
    shutil.copytree(chain / "models" / "unet", tmp_path / "models" / "foreign")
    model = load_model(tmp_path / "models" / "foreign")
    with pytest.raises(DataError, match="the run that trained .*foreign is not here"):
        run_of(model, tmp_path)
    assert run_of(model, chain) == chain / "runs" / "unet"
    shutil.copytree(chain / "runs" / "unet", tmp_path / "runs" / "unet")
    state = json.loads((tmp_path / "runs" / "unet" / "state.json").read_text())
    state["identity"]["games"] = ["Another"]
    (tmp_path / "runs" / "unet" / "state.json").write_text(json.dumps(state))
    with pytest.raises(DataError, match="is not the run that trained .*: its games is another"):
        run_of(model, tmp_path)


def test_inspect_shows_how_an_average_is_rebuilt(chain: Path, tmp_path: Path, run_cli: Callable[..., object]) -> None:
    run = chain / "runs" / "unet"
    found = json.loads(run_cli("inspect", run, "--ema", 0.07, "--json").stdout)  # type: ignore[attr-defined]
    assert found["kind"] == "weight average"
    assert found["facts"]["at step"] == 4
    assert sum(row["share"] for row in found["shares"]) == pytest.approx(1)
    assert found["next"] == "dualdiff generate --ema 0.07"
    page = tmp_path / "page.html"
    assert run_cli("inspect", run, "--ema", "0.07", "--html", page).code == 0  # type: ignore[attr-defined]
    assert "profile over the steps" in page.read_text()
    outcome = run_cli("inspect", run, "--ema", "0.5")
    assert outcome.code == 3  # type: ignore[attr-defined]
    assert "choose one from 0.015 to 0.25" in outcome.stderr  # type: ignore[attr-defined]


def test_inspect_shows_costs_and_noise_of_a_run(chain: Path, tmp_path: Path, run_cli: Callable[..., object]) -> None:
    run = chain / "runs" / "unet"
    measures = json.loads(run_cli("inspect", run, "--json").stdout)["measures"]  # type: ignore[attr-defined]
    names = {row["measure"] for row in measures}
    assert {"step_s", "memory_mib", "learning_rate", "gradient_norm", "ema_beta/width_0.1"} <= names
    assert any(name.startswith("validation/held_out/game/") for name in names)
    page = tmp_path / "run.html"
    assert run_cli("inspect", run, "--html", page).code == 0  # type: ignore[attr-defined]
    assert {title for title in ("noise law over ln sigma", "u over ln sigma") if title in page.read_text()} == {
        "noise law over ln sigma",
        "u over ln sigma",
    }
