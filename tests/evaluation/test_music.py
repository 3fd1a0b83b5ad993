"""The table of music: music is at no distance from itself, worse music is farther; gaps are left out."""

import pytest
import torch

from dualdiff.evaluation import notes
from dualdiff.evaluation.music import (
    MEASURES,
    MusicExcerpt,
    by_game,
    diversity,
    halves,
    measured,
    music_row,
    thinned,
)
from dualdiff.evaluation.shuffling import noise_like
from tests.songs import RATE, song


def excerpt(seed, bars=5, game="A"):
    return MusicExcerpt(song(bars=bars, seed=seed), RATE, f"track {seed}", game)


@pytest.fixture(scope="module")
def songs():
    return [measured(excerpt(seed, game="AB"[seed % 2])) for seed in range(6)]


@pytest.fixture(scope="module")
def noises():
    return [measured(MusicExcerpt(noise_like(song(bars=5), seed), RATE, f"noise {seed}")) for seed in range(6)]


def test_songs_are_nearer_to_songs_than_noise_is(songs, noises):
    first, second = halves(songs)
    like, unlike = music_row("songs", first * 2, second * 2), music_row("noise", noises, songs)
    for key in ("fad", "kad"):
        assert like.values[key].value < unlike.values[key].value / 2
    assert like.values["beat_strength_4s"].value > 2 * unlike.values["beat_strength_4s"].value
    assert like.values["recurrence_4_beats"].value > unlike.values["recurrence_4_beats"].value + 0.5


def test_a_set_is_at_no_distance_from_itself(songs):
    row = music_row("songs", songs, songs)
    assert row.values["fad"].value == pytest.approx(0, abs=1e-6)
    assert row.values["kad"].value <= 0.01
    assert row.excerpts == 6


def test_each_value_lies_in_its_interval(songs):
    for key, value in music_row("songs", songs, songs).values.items():
        if key not in ("fad", "kad"):
            assert value.low <= value.value <= value.high


def test_what_cannot_be_measured_is_left_out(songs, monkeypatch):
    assert "fad" not in music_row("few", songs[:2], songs).values  # 6 rows of features are too few
    assert "beat_strength_16s" not in songs[0].values  # of 10 s
    assert "beat_strength_16s" in measured(excerpt(0, bars=8)).values
    assert "interval_distance" not in music_row("alone", songs).values
    monkeypatch.setattr(notes, "is_available", lambda: False)
    assert "notes_per_s" not in measured(excerpt(0)).values


def test_the_level_does_not_count(songs):
    quiet = measured(MusicExcerpt(song(bars=5, seed=0) * 0.1, RATE, "quiet"))
    for key, value in songs[0].values.items():
        assert quiet.values[key] == pytest.approx(value, rel=0.05, abs=0.02), key


def test_every_measure_says_what_it_is():
    for key, measure in MEASURES.items():
        assert measure.definition.endswith("."), key
        assert measure.best in ("low", "high", "real")


def test_thinning_keeps_groups_in_proportion():
    kept = thinned([torch.arange(30.0)[:, None], torch.arange(10.0)[:, None]], 20)
    assert [len(group) for group in kept] == [15, 5]
    whole = [torch.zeros(3, 1)]
    assert thinned(whole, 5)[0] is whole[0]


def test_halves_share_no_track_and_one_track_is_cut_in_two(songs):
    one, other = halves([*songs, *songs])
    assert not {own.track for own in one} & {own.track for own in other}
    single = [songs[0]] * 5
    assert [len(side) for side in halves(single)] == [3, 2]


def test_diversity_is_of_tracks(songs):
    assert diversity(songs[:1] * 3) is None
    assert diversity(songs) > 0
    assert [own.game for own in by_game(songs, "A")] == ["A"] * 3
    assert [own.game for own in by_game(songs, "A", others=True)] == ["B"] * 3
