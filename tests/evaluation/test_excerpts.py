"""Excerpts: games and tracks take turns, nothing overlaps, and what is too short is refused by name."""

from itertools import pairwise

import pytest
import torch

from dualdiff import audio
from dualdiff.core.errors import DataError
from dualdiff.data.manifest import Row
from dualdiff.evaluation.excerpts import places, read_excerpts


def row(path, duration_s):
    return Row(path=path, game=path.split("/")[0], state="used", duration_s=duration_s)


ROWS = [row("A/1", 30.0), row("A/2", 10.0), row("B/1", 25.0)]


def test_games_take_turns_and_tracks_their_middles_first():
    found = [(one.path, start_s) for one, start_s in places(ROWS, 10.0, 4)]
    assert found == [("A/1", 10.0), ("B/1", 2.5), ("A/2", 0.0), ("B/1", 12.5)]


def test_there_are_as_many_as_the_tracks_have_and_none_overlap():
    found = places(ROWS, 10.0, 99)
    assert len(found) == 3 + 1 + 2
    starts_s = sorted(start_s for one, start_s in found if one.path == "A/1")
    assert all(later - earlier >= 10 for earlier, later in pairwise(starts_s))


def test_excerpts_are_as_long_as_asked_for(tmp_path):
    (tmp_path / "A").mkdir()
    audio.write(tmp_path / "A" / "1.wav", torch.randn(2, 3 * 16000) * 0.1, 16000)
    rows = [row("A/1.wav", 3.0)]
    found = list(read_excerpts(rows, tmp_path, sample_rate=8000, length_s=1.0, count=2))
    assert [(one.waveform.shape, one.sample_rate, one.game) for one in found] == [((2, 8000), 8000, "A")] * 2


def test_tracks_that_are_all_too_short_are_refused():
    with pytest.raises(DataError, match="no track of 3 is as long as 40 s"):
        list(read_excerpts(ROWS, None, sample_rate=8000, length_s=40.0, count=2))
