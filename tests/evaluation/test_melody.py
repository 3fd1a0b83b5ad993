"""Melodies: the skyline of notes, its intervals, range and repeated figures."""

import random

import pytest

from dualdiff.evaluation.melody import interval_distance, mean_intervals, melody_of, repeated_share, skyline
from dualdiff.evaluation.notes import Note


def tune(pitches, chord=()):
    return [
        Note(pitch + step, 0.5 * place, 0.5 * place + 0.4)
        for place, pitch in enumerate(pitches)
        for step in (0, *chord)
    ]


SCALE = [60, 62, 64, 65, 67]


def test_the_skyline_is_the_highest_of_what_starts_together():
    assert skyline(tune(SCALE, chord=(-12, -5))) == SCALE
    assert skyline([]) == []


def test_a_scale_that_comes_again():
    found = melody_of(tune(SCALE * 4), length_s=10.0)
    assert found.notes_per_s == 2.0
    assert found.range_semitones == 7
    assert found.step_share == pytest.approx(16 / 19)
    assert found.repeated_share == 1
    assert found.intervals == pytest.approx({-7: 3 / 19, 1: 4 / 19, 2: 12 / 19})


def test_pitches_at_random_repeat_less_and_leap_more():
    pitches = SCALE * 8
    shuffled = random.Random(0).choices(range(48, 84), k=len(pitches))
    assert melody_of(tune(shuffled), 20.0).repeated_share < 0.1
    assert melody_of(tune(shuffled), 20.0).step_share < melody_of(tune(pitches), 20.0).step_share / 2


def test_a_note_that_is_only_repeated_is_no_figure():
    assert repeated_share([0] * 20) == 0


def test_wide_leaps_count_as_an_octave():
    assert melody_of(tune([40, 80, 40]), 2.0).intervals == {-12: 0.5, 12: 0.5}


def test_no_notes_have_no_melody():
    found = melody_of([], 5.0)
    assert (found.notes_per_s, found.range_semitones, found.step_share, found.repeated_share) == (0, 0, 0, 0)
    assert found.intervals == {}


def test_interval_distances():
    one, other = {1: 0.5, 2: 0.5}, {7: 1.0}
    assert interval_distance(one, one) == 0
    assert interval_distance(one, other) == pytest.approx(1)
    assert 0 < interval_distance(one, {1: 0.6, 2: 0.4}) < 0.2
    assert interval_distance({}, one) == 1
    assert mean_intervals([one, other, {}]) == {1: 0.25, 2: 0.25, 7: 0.5}
