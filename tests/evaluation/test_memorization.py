"""Copies are found where they are, however weak they still stand out; music that is no copy is left alone."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from dualdiff.core.errors import DataError
from dualdiff.evaluation import memorization
from dualdiff.evaluation.feature_spaces import audio_space, bits_of, latent_space
from dualdiff.evaluation.memorization import CALIBRATION_NAME, LARGEST_RATE, MemorizationTest
from tests.corpora import tune, write_latents

COLUMN_S = 0.064
CLIP = 300  # columns, 19 s


def collection(folder, training=24, held_out=0, columns=700):
    made = [("A" if number % 2 else "B", "train", tune(number, columns)) for number in range(training)]
    made += [("A", "validation", tune(500 + number, columns)) for number in range(held_out)]
    return write_latents(folder, made, COLUMN_S)


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    return collection(tmp_path_factory.mktemp("latents"), held_out=2)


@pytest.fixture(scope="module")
def look(index):
    space, into = latent_space(index)
    finder = MemorizationTest(index, [space])

    def find(columns):
        """What a clip of latents (N, C, F) may have copied."""
        return finder.find({"latents": into(columns.permute(1, 2, 0))}, len(columns) * COLUMN_S)

    return find


@pytest.mark.parametrize("strength", [1.0, 0.8, 0.6])
@pytest.mark.parametrize(("track", "start"), [(3, 0), (10, 137), (23, 400)])
def test_a_planted_passage_is_found_where_it_is(look, index, track, start, strength):
    clip = tune(9000 + track, CLIP)
    copied = tune(track, 700)[start : start + 130]
    clip[80:210] = 0.5 * strength * copied + (1 - strength) * clip[80:210] + 3.0  # quieter, and over another ground
    found = look(clip)
    assert found.flagged
    assert found.rate == found.smallest_rate <= LARGEST_RATE
    nearest = found.matches[0]
    assert nearest.track == index.tracks[track].path
    assert nearest.game == index.tracks[track].game
    assert nearest.track_s - nearest.at_s == pytest.approx((start - 80) * COLUMN_S, abs=COLUMN_S / 2)
    assert nearest.scaled < 0.8
    assert list(found.matches) == sorted(found.matches, key=lambda match: match.scaled)


def test_new_music_is_flagged_as_rarely_as_is_said(look):
    found = [look(tune(2000 + number, CLIP)) for number in range(80)]
    stated = max(memorization.STATED_RATE, found[0].smallest_rate)
    flagged = sum(own.flagged for own in found)
    assert flagged <= 80 * stated + 3 * (80 * stated) ** 0.5
    rates = np.array([own.rate for own in found])
    for level in (0.1, 0.3, 0.5, 0.8):  # a p-value: at most so many are so small
        assert np.mean(rates <= level) <= level + 3 * np.sqrt(level * (1 - level) / 80) + 0.02
    assert np.mean(rates) < 0.75, "and not because all rates are high"


def test_tracks_are_what_is_counted_however_long_and_alike_their_passages(tmp_path):
    """The album's sister track: near to a training track throughout, it is one case, not as many as it has passages."""
    made = [("A", "train", tune(number, 700)) for number in range(4)]
    made += [("A", "validation", tune(500 + number, 400)) for number in range(18)]
    made += [("A", "validation", 0.8 * tune(1, 1400) + 0.2 * tune(600, 1400))]
    index = write_latents(tmp_path, made, COLUMN_S)
    space, into = latent_space(index)
    finder = MemorizationTest(index, [space])
    assert [own.held_out for own in finder.calibration.references] == [True] * 19
    sister = min(finder.calibration.closest)
    assert finder.calibration.rate(sister) == 2 / 20
    assert finder.calibration.rate(sister - 1e-6) == 1 / 20
    as_near = finder.find(
        {"latents": into((0.8 * tune(2, CLIP) + 0.2 * tune(601, CLIP)).permute(1, 2, 0))}, CLIP * COLUMN_S
    )
    assert as_near.scaled > sister
    assert (as_near.flagged, as_near.rate) == (False, 2 / 20), "no nearer than music that is no copy"
    copy = finder.find({"latents": into(tune(2, CLIP).permute(1, 2, 0))}, CLIP * COLUMN_S)
    assert (copy.flagged, copy.rate, copy.tracks) == (True, 1 / 20, 19)


def test_the_stated_rate_holds_for_whole_tracks_however_many_of_their_parts_are_listened_to(tmp_path):
    """Families of tracks that are alike within: parts of one are flagged together or not at all."""
    numbers = np.random.default_rng(3)
    themes = [tune(number, 700) for number in range(6)]

    def new(seed):
        share = numbers.beta(1, 4)  # of a theme that training has, too
        return share * themes[seed % 6][:400] + (1 - share) * tune(3000 + seed, 400)

    flagged_tracks, flagged_parts, rounds, tests = 0, 0, 6, 12
    for turn in range(rounds):
        made = [("A", "train", theme) for theme in themes]
        made += [("A", "validation", new(100 * turn + number)) for number in range(19)]
        index = write_latents(tmp_path / str(turn), made, COLUMN_S)
        space, into = latent_space(index)
        finder = MemorizationTest(index, [space])
        for number in range(tests):
            track = new(100 * turn + 50 + number)
            parts = [
                finder.find({"latents": into(part.permute(1, 2, 0))}, len(part) * COLUMN_S).flagged
                for part in track.split(100)
            ]
            flagged_tracks += any(parts)
            flagged_parts += sum(parts) / len(parts)
    count = rounds * tests
    assert flagged_tracks <= count * 0.05 + 3 * (count * 0.05) ** 0.5
    assert 0 < flagged_parts <= flagged_tracks


def test_held_out_tracks_that_are_few_are_joined_and_the_smallest_rate_is_told(tmp_path):
    index = collection(tmp_path, training=4, held_out=1)
    finder = MemorizationTest(index, [latent_space(index)[0]])
    assert [own.held_out for own in finder.calibration.references] == [True] + [False] * 4
    few = finder.find({"latents": torch.randn(8, CLIP)}, CLIP * COLUMN_S)
    assert (few.smallest_rate, few.tracks) == (1 / 6, 5)
    assert few.stated_rate == 0, "too large a rate to flag by"


def test_a_track_too_short_to_compare_with_does_not_count(tmp_path):
    made = [("A", "train", tune(number, 700)) for number in range(4)]
    short = [("A", "validation", tune(500, 50)), ("A", "train", tune(501, 50))]
    index = write_latents(tmp_path, made + short, COLUMN_S)
    finder = MemorizationTest(index, [latent_space(index)[0]])
    assert len(finder.calibration.references) == 4
    assert all(np.isfinite(finder.calibration.closest))


def test_of_many_long_tracks_the_middle_of_some_is_looked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(memorization, "MOST_TRACKS", 5)
    monkeypatch.setattr(memorization, "MOST_PASSAGES", 40)
    index = collection(tmp_path, training=8, held_out=2)
    found = MemorizationTest(index, [latent_space(index)[0]]).calibration.references
    assert [own.held_out for own in found] == [True] * 2 + [False] * 3
    for own in found:
        starts = own.passages["latents"].starts_s
        assert len(starts) == 8
        assert own.length_s == 9 * memorization.PASSAGE_S / 2
        assert (starts[0] + starts[-1] + memorization.PASSAGE_S) / 2 == pytest.approx(700 * COLUMN_S / 2, abs=0.2)


def test_nothing_is_flagged_where_no_rate_can_be_stated(tmp_path):
    index = collection(tmp_path, training=2)
    space, into = latent_space(index)
    copy = into(tune(1, 700)[:CLIP].permute(1, 2, 0))
    found = MemorizationTest(index, [space]).find({"latents": copy}, CLIP * COLUMN_S)
    assert found.matches[0].distance < 0.01
    assert found.smallest_rate > LARGEST_RATE
    assert not found.flagged


def test_a_clip_longer_than_the_tracks_has_more_chances(look):
    short, long = look(tune(7000, 600)), look(tune(7000, 2100))
    assert long.smallest_rate == pytest.approx(3 * short.smallest_rate)
    assert (short.parts, long.parts) == (1, 3)
    assert long.rate >= min(1.0, 3 * look(tune(7000, 700)).rate)


def test_a_calibration_is_kept_and_made_anew_for_other_latents(tmp_path, monkeypatch):
    index = collection(tmp_path, training=3)
    space, _ = latent_space(index)
    first = MemorizationTest(index, [space]).calibration
    made = []
    monkeypatch.setattr(memorization, "calibrate", lambda *given: made.append(given) or first)
    assert MemorizationTest(index, [space]).calibration == first
    assert not made
    dataclasses.replace(index, vae_hash="w" * 64).write()
    MemorizationTest(index, [space])
    assert len(made) == 1
    for broken in ("{", "[]", json.dumps({"key": "x"})):
        (tmp_path / CALIBRATION_NAME).write_text(broken)
        MemorizationTest(index, [space])
    assert len(made) == 4


def test_a_time_shift_between_columns_is_searched_as_well(tmp_path):
    fine = tune(1, 1400)  # two steps a column
    both = torch.stack([fine[0::2], fine[1::2]])
    index = write_latents(tmp_path, [("A", "train", both), ("A", "train", tune(2, 700))])
    space, into = latent_space(index)
    found = MemorizationTest(index, [space]).find({"latents": into(fine[201:801:2].permute(1, 2, 0))}, CLIP * COLUMN_S)
    assert found.matches[0].distance < 0.01


def test_fingerprints_find_what_the_latents_do_not(tmp_path):
    index = collection(tmp_path, training=12)
    words = np.random.default_rng(0)
    prints = {track.audio_sha256: words.integers(1, 2**32, 360, dtype=np.uint32) for track in index.tracks}
    latents, into = latent_space(index)
    audio = audio_space(index, prints)
    finder = MemorizationTest(index, [latents, audio])
    clip = words.integers(1, 2**32, 150, dtype=np.uint32)
    clip[40:90] = prints[index.tracks[5].audio_sha256][200:250]
    found = finder.find({"latents": into(tune(77, CLIP).permute(1, 2, 0)), "audio": bits_of(clip)}, CLIP * COLUMN_S)
    assert found.flagged
    assert (found.matches[0].space, found.matches[0].track) == ("audio", index.tracks[5].path)
    assert found.matches[0].track_s - found.matches[0].at_s == pytest.approx((200 - 40) / 8)
    assert audio_space(index, dict(list(prints.items())[1:])) is None


def test_bits_are_signs_and_silence_is_nothing():
    assert bits_of(np.array([0, 1, 0x80000000], np.uint32)).T.tolist() == [
        [0.0] * 32,
        [1.0] + [-1.0] * 31,
        [-1.0] * 31 + [1.0],
    ]


def test_what_cannot_be_compared_is_said(look, tmp_path):
    with pytest.raises(DataError, match="a passage to compare takes 4 s"):
        look(tune(1, 40))
    with pytest.raises(DataError, match="no training track"):
        latent_space(write_latents(tmp_path / "none", [("A", "validation", tune(1, 100))]))
    index = collection(tmp_path / "gone", training=2)
    (index.folder / index.tracks[0].files[0].name).unlink()
    with pytest.raises(DataError, match="cannot be read"):
        latent_space(index)
