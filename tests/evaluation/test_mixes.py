"""Mixes: what was requested against what a classifier measures."""

import pytest

from dualdiff.evaluation.mixes import MixedClip, adherence, misplaced

GAMES = ("A", "B", "C")


def test_clips_of_one_game_are_right_where_it_is_the_largest_share():
    clips = [
        MixedClip({"A": 1.0}, {"A": 0.8, "B": 0.1, "C": 0.1}),
        MixedClip({"A": 1.0}, {"A": 0.3, "B": 0.6, "C": 0.1}),
        MixedClip({"A": 0.5, "B": 0.5}, {"A": 0.7, "B": 0.3, "C": 0.0}),
        MixedClip({"A": 0.5, "B": 0.5}, {"A": 0.98, "B": 0.02, "C": 0.0}),
    ]
    found = adherence(clips, GAMES)
    assert found.right == 0.5
    assert found.chance == pytest.approx(1 / 3)
    single, pair = found.rows
    assert (single.clips, single.has_both) == (2, None)
    assert (pair.clips, pair.has_both) == (2, 0.5)
    assert pair.measured == pytest.approx({"A": 0.84, "B": 0.16, "C": 0.0})


def test_the_misplaced_share_is_half_the_difference_whatever_the_weights_sum_to():
    assert misplaced(MixedClip({"A": 2.0, "B": 2.0}, {"A": 0.5, "B": 0.5})) == 0
    assert misplaced(MixedClip({"A": 1.0}, {"C": 1.0})) == 1
    assert misplaced(MixedClip({"A": 1.0}, {"A": 0.75, "B": 0.25})) == 0.25
