"""Key clarity: high for a scale, low for all pitch classes alike."""

import pytest
import torch

from dualdiff.evaluation.shuffling import noise_like, with_transposed_bars
from dualdiff.evaluation.tonality import MAJOR, key_clarity
from tests.songs import RATE, song


def chord(classes):
    time_s = torch.arange(2 * RATE) / RATE
    tones = [weight * torch.sin(2 * torch.pi * 261.63 * 2 ** (step / 12) * time_s) for step, weight in classes]
    return torch.stack(tones).sum(0).expand(2, -1)


def test_the_profile_of_a_key_is_clear_in_every_key():
    for tonic in (0, 5, 11):
        assert key_clarity(chord([((step + tonic) % 12, weight) for step, weight in enumerate(MAJOR)]), RATE) > 0.97


def test_all_pitch_classes_alike_are_in_no_key():
    assert key_clarity(chord([(step, 1.0) for step in range(12)]), RATE) < 0.5


def test_transposed_bars_and_noise_are_less_clear():
    music = song(bars=8, seed=1, drums=0.02)
    clear = key_clarity(music, RATE)
    assert key_clarity(with_transposed_bars(music, RATE, seed=2), RATE) < clear - 0.05
    assert key_clarity(noise_like(music), RATE) < 0.5


def test_silence_is_in_no_key():
    assert key_clarity(torch.zeros(2, RATE), RATE) == pytest.approx(0, abs=1e-6)
