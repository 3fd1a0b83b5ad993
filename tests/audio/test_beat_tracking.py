"""Beats found in audio: tempo and phase of music made at known ones, and none where there are none."""

import numpy as np
import pytest
import torch

from dualdiff.audio import beat_tracking
from dualdiff.audio.beat_grid import BeatGrid

RATE = 32000


def music(bpm: float, start_s: float, seconds: float = 30.0, seed: int = 0) -> torch.Tensor:
    """Bass drums on the beat, snares on every second, hats on all eighths: louder between the beats."""
    generator = np.random.default_rng(seed)
    audio = 0.003 * generator.normal(size=(round(seconds * RATE)))
    time = np.arange(round(0.15 * RATE)) / RATE
    kick = np.sin(2 * np.pi * 55 * time) * np.exp(-25 * time)
    snare = generator.normal(size=len(time)) * np.exp(-30 * time) * 0.3
    hat = np.diff(generator.normal(size=len(time) + 1)) * np.exp(-80 * time) * 0.3
    for eighth in range(int((seconds - start_s - 0.2) * bpm / 30)):
        at = round((start_s + eighth * 30 / bpm) * RATE)
        sounds = [hat * (2 if eighth % 2 else 1)]
        sounds += [kick] if eighth % 2 == 0 else []
        sounds += [snare] if eighth % 4 == 2 else []
        for sound in sounds:
            audio[at : at + len(sound)] += 0.3 * sound
    return torch.from_numpy(np.stack([audio, audio])).float()


def beats_of(grid: BeatGrid, seconds: float = 28.0) -> np.ndarray:
    times = np.arange(2, seconds, 0.001)
    return times[1:][np.diff(np.floor(grid.phase(times))) > 0]


@pytest.mark.parametrize(("bpm", "start_s"), [(88.0, 0.31), (100.0, 0.0), (128.0, 0.2), (151.3, 0.17)])
def test_the_beats_of_drums(bpm: float, start_s: float) -> None:
    grid = beat_tracking.grid_of(music(bpm, start_s), RATE)
    assert grid is not None
    assert grid.source == "tracked"
    assert grid.bpm == pytest.approx(bpm, rel=0.003)
    assert len(grid.times_s) == 2, "one tempo"
    off = (beats_of(grid) - start_s) * bpm / 60
    assert np.abs(off - off.round()).max() * 60 / bpm < 0.03


def test_the_beats_are_brought_to_one_level() -> None:
    grid = beat_tracking.grid_of(music(172.0, 0.1), RATE)
    assert grid is not None
    assert grid.bpm == pytest.approx(86, rel=0.003)


def test_nothing_steady_gets_no_grid() -> None:
    noise = 0.1 * torch.randn(2, 20 * RATE, generator=torch.Generator().manual_seed(1))
    slow_swell = noise * torch.linspace(0, 1, 20 * RATE)
    assert beat_tracking.grid_of(noise, RATE) is None
    assert beat_tracking.grid_of(slow_swell, RATE) is None
    assert beat_tracking.grid_of(torch.zeros(2, 20 * RATE), RATE) is None
    assert beat_tracking.grid_of(music(120, 0, seconds=4.0), RATE) is None


def test_the_path_follows_a_tempo_that_changes() -> None:
    envelope = np.zeros(3000)
    beats = np.cumsum(np.linspace(40, 60, 55)).round().astype(int)
    envelope[beats] = 8.0
    path = beat_tracking.best_path(envelope, 50.0)
    assert len(set(path) & set(beats.tolist())) >= 53
