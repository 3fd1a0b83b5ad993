"""A model that travels with the package: it plays where there is no project, and `inspect` knows it by its name."""

from pathlib import Path

import pytest
import torch

from dualdiff.evaluation.game_classifier import GameClassifier, game_classifier_part, pooled
from dualdiff.generation.recipe import read_recipe
from dualdiff.inspection.model_card import read_card
from dualdiff.model_store import location
from dualdiff.model_store.components import add_part
from dualdiff.model_store.location import named_model, shipped_model
from dualdiff.model_store.model import load_model
from tests.model_store.test_model import write_model

QUICK = ("--steps", 2, "--length", 0.6)


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package that a model travels with, and an empty folder to be in; the path of that model."""
    package, here = tmp_path / "package", tmp_path / "here"
    here.mkdir()
    made = write_model(tmp_path)
    (package / "assets").mkdir(parents=True)
    made.rename(package / "assets" / "nano")
    monkeypatch.setattr(location, "ASSETS", package / "assets")
    monkeypatch.chdir(here)
    return package / "assets" / "nano"


def test_without_a_project_it_plays(package, run_cli):
    outcome = run_cli("generate", "--game", "A", *QUICK)
    assert outcome.code == 0
    clip = Path(outcome.stdout.strip())
    assert clip.parent == Path("clips")
    assert read_recipe(clip)["model"] == load_model(package).unet_hash
    assert "the small model that travels with dualdiff plays" in outcome.stderr


def test_a_clip_of_it_is_inspected_with_it(package, run_cli):
    statistics = len(pooled(torch.zeros(4, 32, 4)))
    add_part(
        package,
        game_classifier_part(GameClassifier(("A", "B"), 4, torch.zeros(statistics, 2), torch.tensor([1.0, 0.0]), {})),
    )
    clip = run_cli("generate", "--game", "A", *QUICK).stdout.strip()
    shown = run_cli("inspect", clip)
    assert shown.code == 0
    assert "is like         73 % A, 27 % B" in shown.stdout


def test_it_is_known_by_its_name(package, run_cli):
    assert named_model(Path("nano")) == package
    assert run_cli("generate", "--model", "nano", *QUICK).code == 0
    shown = run_cli("inspect", "nano")
    assert shown.code == 0
    assert shown.stdout.startswith(f"model {package}")


def test_what_lies_here_comes_before_a_name(package):
    Path("nano").mkdir()
    assert named_model(Path("nano")) == Path("nano")
    assert named_model(Path("models/nano")) == Path("models/nano")


def test_a_project_plays_its_own_model(package, run_cli):
    assert run_cli("init", "--preset", "nano").code == 0
    outcome = run_cli("generate", *QUICK)
    assert outcome.code == 3
    assert "models/unet" in outcome.stderr
    assert "--model nano plays the small one" in outcome.stderr
    assert run_cli("generate", "--set", "generate.model=nano", "--guide", "nano", *QUICK).code == 0


def test_a_model_named_by_set_is_not_replaced(package, run_cli):
    outcome = run_cli("generate", "--set", "generate.model=mine", *QUICK)
    assert outcome.code != 0
    assert "travels" not in outcome.stderr


def test_without_one_the_way_to_a_project_is_told(package, run_cli):
    (package / "model.json").unlink()
    assert shipped_model() is None
    outcome = run_cli("generate", *QUICK)
    assert outcome.code == 4
    assert "dualdiff init" in outcome.stderr
    assert run_cli("inspect", "nano").code == 3


def test_what_ships_is_whole():
    folder = shipped_model()
    if folder is not None:
        assert load_model(folder).games
        assert sum(path.stat().st_size for path in folder.iterdir()) <= 40e6


CARD = """# A model

Made with dualdiff.

| fact | value |
|---|---|
| steps | 3 |

## Trained on

| game | minutes |
|:--|--:|
| One \\| Two | 1.5 |

The licences of this music
decide.

## Weaknesses
It drones.
"""


def test_sentences_and_tables_of_a_card(tmp_path):
    (tmp_path / "README.md").write_text(CARD, encoding="utf-8")
    notes, sheets = read_card(tmp_path / "README.md")
    assert notes == ["The licences of this music decide.", "It drones."]
    assert [(sheet.title, sheet.columns, sheet.rows) for sheet in sheets] == [
        ("trained on", ["game", "minutes"], [["One | Two", "1.5"]])
    ]
    assert read_card(tmp_path / "none.md") == ([], [])


def test_the_card_of_a_model_is_shown(package, run_cli):
    (package / "README.md").write_text(CARD, encoding="utf-8")
    shown = run_cli("inspect", package).stdout
    assert "It drones." in shown
    assert "One | Two" in shown
