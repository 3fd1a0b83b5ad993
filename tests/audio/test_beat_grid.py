"""Beat grids: phases, tempos, bars, and the channels that a network is given."""

import json

import numpy as np
import pytest
import torch

from dualdiff.audio.beat_grid import BeatGrid, no_rhythm
from dualdiff.core.types import RHYTHM_CHANNELS


def test_the_phase_is_linear_between_knots_and_goes_on_at_the_median_tempo() -> None:
    grid = BeatGrid((1.0, 2.0, 6.0), (0.0, 1.0, 9.0))  # 60, then 120 a minute for four seconds
    assert grid.bpm == pytest.approx(120)
    times = np.array([0.0, 1.0, 1.5, 3.0, 6.0, 7.0])
    assert grid.phase(times) == pytest.approx([-2, 0, 0.5, 3, 9, 11])


def test_steady_beats_need_two_knots_and_wandering_ones_more() -> None:
    steady = BeatGrid.of_beats([0.25 + 0.5 * index for index in range(100)], 4, 2)
    assert len(steady.times_s) == 2
    assert (steady.bpm, steady.beats_per_bar, steady.first_bar) == (pytest.approx(120), 4, 2)
    wandering = np.cumsum(0.5 + 0.05 * np.sin(np.arange(100) / 8))
    grid = BeatGrid.of_beats(list(wandering))
    assert 2 < len(grid.times_s) < 80
    beats = grid.phase(wandering)
    assert np.abs(beats - np.arange(100)).max() < 0.02


@pytest.mark.parametrize(
    ("bpm", "level", "bar"), [(70, 140, 8), (100, 100, 4), (159, 159, 4), (160, 80, 2), (320, 80, 1)]
)
def test_grids_are_brought_to_one_level(bpm: float, level: float, bar: int) -> None:
    grid = BeatGrid.steady(bpm, 4).at_level()
    assert grid.bpm == pytest.approx(level)
    assert grid.beats_per_bar == bar
    seconds_per_bar = 4 * 60 / bpm
    assert grid.phase(np.array([seconds_per_bar])) == pytest.approx([grid.beats_per_bar])
    assert BeatGrid.steady(170, 3).at_level().beats_per_bar == 0  # a bar of one and a half is none


def test_channels_are_the_waves_of_beat_and_bar() -> None:
    grid = BeatGrid.steady(120, 4)
    times = (torch.arange(500).double().numpy() + 0.5) * 0.016
    channels = grid.channels(times)
    assert channels.shape == (RHYTHM_CHANNELS, 500)
    assert channels[:8].square().mean(1) == pytest.approx(torch.ones(8), abs=0.05)
    assert channels[0] == pytest.approx(torch.from_numpy(np.sqrt(2) * np.cos(2 * np.pi * times * 2)), abs=1e-5)
    assert channels[5] == pytest.approx(torch.from_numpy(np.sqrt(2) * np.sin(2 * np.pi * times / 2)), abs=1e-5)
    assert channels[8].eq(1).all()
    without_bars = BeatGrid.steady(120).channels(times)
    assert without_bars[:4].equal(channels[:4])
    assert without_bars[4:8].eq(0).all()
    assert no_rhythm(7).shape == (RHYTHM_CHANNELS, 7)


def test_a_grid_survives_json_and_moves() -> None:
    grid = BeatGrid.of_beats([0.1, 0.6, 1.1, 1.7], 3, 1, source="tracked", confidence=0.8)
    assert BeatGrid.from_json(json.loads(json.dumps(grid.to_json()))) == grid
    times = np.array([0.3, 0.9])
    assert grid.shifted(0.2).phase(times - 0.2) == pytest.approx(grid.phase(times))
    assert grid.moved(0.5).phase(times) == pytest.approx(grid.phase(times) - 0.5)


@pytest.mark.parametrize(
    "knots", [((0.0,), (0.0,)), ((0.0, 0.0), (0.0, 1.0)), ((0.0, 1.0), (1.0, 1.0)), ((0.0, 1.0), (1.0,))]
)
def test_what_is_no_grid_is_refused(knots: tuple[tuple[float, ...], tuple[float, ...]]) -> None:
    with pytest.raises(ValueError, match="knots"):
        BeatGrid(*knots)
