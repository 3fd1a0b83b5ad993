"""Music made worse on purpose: what stays and what goes."""

import pytest
import torch

from dualdiff.evaluation.rhythm import HOP_S, beat_strength, spectral_flux
from dualdiff.evaluation.shuffling import bar_s, noise_like, scrambled, transposed, with_shuffled_bars
from tests.songs import RATE, song


@pytest.fixture(scope="module")
def music():
    return song(bars=8)


def test_a_bar_is_four_beats(music):
    assert bar_s(music, RATE) == pytest.approx(2.0, rel=0.01)
    assert bar_s(torch.zeros(2, 100), RATE) == 2.0


def test_shuffled_bars_keep_the_beat_and_the_length(music):
    changed = with_shuffled_bars(music, RATE, seed=1)
    assert not torch.equal(changed, music[:, : changed.shape[1]])
    assert music.shape[1] - changed.shape[1] < 2.1 * RATE
    assert beat_strength(spectral_flux(changed, RATE), HOP_S, 4) > 0.5


def test_transposing_moves_the_pitch_and_not_the_time():
    time_s = torch.arange(RATE) / RATE
    tone = torch.sin(2 * torch.pi * 440 * time_s).expand(2, -1)
    moved = transposed(tone, 7)
    assert moved.shape == tone.shape
    peak_hz = (
        torch.fft.rfft(moved[0, 4000:-4000] * torch.hann_window(RATE - 8000)).abs().argmax() * RATE / (RATE - 8000)
    )
    assert float(peak_hz) == pytest.approx(440 * 2 ** (7 / 12), rel=0.01)


def test_the_same_seed_gives_the_same_music(music):
    assert torch.equal(scrambled(music, RATE, 3), scrambled(music, RATE, 3))
    assert not torch.equal(scrambled(music, RATE, 3), scrambled(music, RATE, 4))
    assert noise_like(music).square().mean().sqrt() == pytest.approx(float(music.square().mean().sqrt()), rel=0.01)
