"""What a data set is like, and what it is enough for."""

import math
from dataclasses import replace

import pytest
import torch

from dualdiff.data.manifest import Row, write_ledger
from dualdiff.inspection.dataset import (
    BITS_PER_HOUR,
    EPOCHS_PER_BIT,
    PRESETS,
    allowances,
    effective_number,
    inspect_dataset,
    round_to_two,
)
from dualdiff.models.unet import UNet
from dualdiff.project.settings import preset


def rows(hours_of_game):
    return [
        Row(path=f"{game}/1.flac", game=game, state="used", split="train", duration_s=3600 * hours, loudness_lufs=-18.0)
        for game, hours in hours_of_game.items()
    ]


@pytest.mark.parametrize("size", PRESETS, ids=lambda size: size.name)
def test_the_rule_knows_the_presets_as_they_are(size):
    settings = preset(size.name)
    assert size.step_s == pytest.approx(settings.unet_train.crop_s * settings.unet_train.batch_size)
    frequencies = torch.linspace(20, 16000, 32)
    with torch.device("meta"):
        unet = UNet(settings.unet, channels=settings.vae.latent_channels, games=4, frequencies=frequencies)
    assert sum(parameter.numel() for parameter in unet.parameters()) == pytest.approx(size.parameters, rel=0.02)


def test_copying_comes_after_100_epochs_for_each_bit_per_parameter():
    nano, small, seed = allowances(4.0)
    bits = 4 * 2000 * 4 * 3600 / small_parameters()
    assert small.epochs == round_to_two(EPOCHS_PER_BIT * bits)
    assert small.steps == round_to_two(small.epochs * 4 * 3600 / (32 * 40.96))
    assert (nano.suits, small.suits, seed.suits) == (True, True, False)
    assert nano.epochs > small.epochs > seed.epochs >= 1


def small_parameters():
    return next(size.parameters for size in PRESETS if size.name == "small")


def test_a_preset_suits_from_one_bit_per_parameter_and_the_smallest_always():
    edge = small_parameters() / BITS_PER_HOUR
    assert not allowances(0.99 * edge)[1].suits
    assert allowances(1.01 * edge)[1].suits
    assert allowances(0.001)[0].suits


@pytest.mark.parametrize(("value", "rounded"), [(0, 0), (0.4, 0), (7.4, 7), (38.2, 38), (384, 380), (12345, 12000)])
def test_two_figures_are_kept(value, rounded):
    assert round_to_two(value) == rounded


def test_games_of_equal_size_count_in_full_and_small_ones_hardly():
    assert effective_number([0.25] * 4) == pytest.approx(4)
    assert effective_number([1.0]) == 1
    assert effective_number([0.5, 0.5, 0.0]) == pytest.approx(2)
    shares = [0.9, 0.1]
    assert effective_number(shares) == pytest.approx(math.exp(-0.9 * math.log(0.9) - 0.1 * math.log(0.1)))


def test_the_notes_say_what_the_music_allows_and_which_game_rules(tmp_path):
    write_ledger(tmp_path / "dataset.jsonl", rows({"A": 3.5, "B": 0.2, "C": 0.2, "D": 0.1}))
    found = inspect_dataset(tmp_path / "dataset.jsonl")
    allowed, uneven = found.notes
    assert allowed.startswith("4.0 hours of music, 4 games: preset nano or small; expect copying beyond ")
    assert "rule of thumb" in allowed
    assert uneven.startswith("A has 88% of the music")
    assert found.facts["effective games"] < 2
    write_ledger(tmp_path / "dataset.jsonl", rows({"A": 0.5, "B": 0.5}))
    assert len(inspect_dataset(tmp_path / "dataset.jsonl").notes) == 1


def test_a_ledger_without_used_tracks_is_told(tmp_path):
    failed = Row(path="A/1.flac", game="A", state="failed", reason="unreadable: it is a text")
    write_ledger(tmp_path / "dataset.jsonl", [failed])
    found = inspect_dataset(tmp_path / "dataset.jsonl")
    assert "nothing to learn from" in found.notes[0]
    assert found.next == "dualdiff dataset scan"
    assert [chart.title for chart in found.charts] == ["files not used, by reason"]


def test_repeats_are_no_more_music(tmp_path):
    looped = [replace(row, unique_s=row.duration_s / 4, bandwidth_hz=8000.0, dual_mono=True) for row in rows({"A": 4})]
    write_ledger(tmp_path / "dataset.jsonl", looped)
    found = inspect_dataset(tmp_path / "dataset.jsonl")
    assert found.facts | {"hours": 4.0, "hours without repeats": 1.0, "dual mono": 1} == found.facts
    assert found.notes[0].startswith("1.0 hours of music, 1 game")
    spread = next(sheet for sheet in found.sheets if sheet.title == "spread")
    assert ("bandwidth, Hz", *[8000.0] * 5) in spread.rows
