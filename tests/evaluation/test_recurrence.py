"""Recurrence: high where bars come again, low where they are shuffled, transposed or noise."""

import pytest
import torch

from dualdiff.evaluation.recurrence import recurrence, recurring_share
from dualdiff.evaluation.shuffling import noise_like, scrambled, with_transposed_bars
from tests.songs import RATE, song


@pytest.fixture(scope="module")
def music():
    return song(bars=10, seed=3)


@pytest.mark.parametrize("beats", [2, 4])
def test_bars_that_come_again_are_found(music, beats):
    assert recurrence(music, RATE, beats) > 0.8


@pytest.mark.parametrize("change", [with_transposed_bars, scrambled, lambda own, rate: noise_like(own)])
def test_music_made_worse_recurs_less(music, change):
    assert recurrence(change(music, RATE), RATE, 4) < recurrence(music, RATE, 4) - 0.4


def test_one_tune_after_another_does_not_recur():
    through_composed = torch.cat([song(bars=1, seed=seed, drums=0.05) for seed in range(10)], dim=1)
    assert recurrence(through_composed, RATE, 4) < 0.3


def test_the_share_is_that_of_patterns():
    generator = torch.Generator().manual_seed(0)
    bar, other = (torch.randn(3, 40, generator=generator) for _ in range(2))
    series = torch.cat([bar, bar, other], dim=1)  # 4 beats of 10 frames each: the first comes again
    assert recurring_share((series,), beat=10.0, beats=4) == pytest.approx(4 / 8)
    fresh = torch.randn(3, 120, generator=generator)
    assert recurring_share((fresh,), beat=10.0, beats=4) == 0


@pytest.mark.parametrize("waveform", [torch.zeros(2, 8 * RATE), torch.zeros(2, 100)])
def test_silence_does_not_recur(waveform):
    assert recurrence(waveform, RATE) == 0
