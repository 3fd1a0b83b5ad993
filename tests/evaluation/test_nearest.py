"""The nearest place of a passage: as a plain search finds it, at any offset, gain and mean, across blocks."""

import pytest
import torch

from dualdiff.evaluation import nearest as alike
from dualdiff.evaluation.nearest import nearest, passages_of

D, P = 3, 16


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def plainly(passage, series):
    """The same by definition: one place after the other."""
    best = (2.0, -1, 0)
    for number, values in series:
        for step in range(values.shape[1] - passage.shape[1] + 1):
            pair = [x - x.mean(dim=1, keepdim=True) for x in (passage, values[:, step : step + passage.shape[1]])]
            r = torch.nn.functional.cosine_similarity(pair[0].flatten(), pair[1].flatten(), dim=0)
            best = min(best, (float(1 - r), number, step))
    return best


@pytest.mark.parametrize("lengths", [(40, 100, 16, 15, 3, 200), (16,), (64, 64, 64)])
def test_it_finds_what_a_plain_search_finds(monkeypatch, lengths):
    monkeypatch.setattr(alike, "BLOCK", 64)
    monkeypatch.setattr(alike, "BLOCKS", 2)
    monkeypatch.setattr(alike, "PASSAGES", 3)
    series = [(10 * number, random(D, length, seed=number)) for number, length in enumerate(lengths)]
    passages = random(5, D, P, seed=99)
    found = nearest(passages, iter(series))
    for index, passage in enumerate(passages):
        distance, number, step = plainly(passage, series)
        assert float(found.distances[index]) == pytest.approx(distance, abs=1e-5)
        assert (int(found.series[index]), int(found.steps[index])) == (number, step)


def test_a_copy_is_found_where_it_is_whatever_its_gain_and_mean():
    series = [(number, random(D, 9000, seed=number)) for number in range(3)]
    place = 4090  # across the border of the first block
    copy = 0.01 * series[1][1][:, place : place + P] + torch.tensor([[5.0], [-3.0], [0.1]])
    found = nearest(copy[None], series)
    assert (int(found.series), int(found.steps)) == (1, place)
    assert float(found.distances) < 1e-3


def test_its_own_series_can_be_left_out():
    series = [(number, random(D, 100, seed=number)) for number in range(2)]
    own = torch.stack([series[0][1][:, 5 : 5 + P], series[1][1][:, 7 : 7 + P]])
    assert nearest(own, series).series.tolist() == [0, 1]
    assert nearest(own, series, torch.tensor([0, -1])).series.tolist() == [1, 1]
    assert nearest(own[:1], series[:1], torch.tensor([0])).series.tolist() == [-1]


def test_a_passage_does_not_match_across_two_series():
    whole = random(D, 60)
    found = nearest(whole[None, :, 22 : 22 + P], [(0, whole[:, :30]), (1, whole[:, 30:])])
    assert float(found.distances) > 0.3


def test_what_does_not_vary_is_like_nothing():
    steady = torch.ones(D, 50)
    assert float(nearest(random(1, D, P), [(0, steady)]).distances) == pytest.approx(1)
    both = nearest(torch.stack([steady[:, :P], random(D, P)]), [(0, random(D, 50, seed=4))])
    assert float(both.distances[0]) == pytest.approx(1)
    assert float(both.distances[1]) < 1


def test_passages_cover_a_series():
    values = random(D, 50)
    found, starts = passages_of(values, P, 8)
    assert starts.tolist() == [0, 8, 16, 24, 32]
    assert torch.equal(found[2], values[:, 16:32])
    assert len(passages_of(values[:, :10], P, 8)[0]) == 0
    assert len(nearest(found[:0], [(0, values)]).distances) == 0
