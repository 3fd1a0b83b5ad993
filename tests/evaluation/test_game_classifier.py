"""The classifier of games: right on tracks it has not seen, as sure as it is right, and honest about mixtures."""

import json
import shutil

import pytest
import torch

from dualdiff.core.errors import DataError
from dualdiff.evaluation.game_classifier import fit_game_classifier, game_classifier_part, load_game_classifier, pooled
from dualdiff.model_store.components import add_part, read_model_json
from dualdiff.model_store.model import load_model
from tests.corpora import tune, write_latents
from tests.model_store.test_model import write_model

GAMES = ("A", "B", "C")


def collection(folder, colours, tracks=8, held_out=3):
    """Tracks of three games, with instruments by track: `colours(game, number)`."""
    return write_latents(
        folder,
        [
            (
                game,
                "validation" if number < held_out else "train",
                tune(100 * place + number, 200, colours(place, number)),
            )
            for place, game in enumerate(GAMES)
            for number in range(tracks + held_out)
        ],
    )


@pytest.fixture(scope="module")
def meter(tmp_path_factory):
    return fit_game_classifier(collection(tmp_path_factory.mktemp("latents"), lambda game, _: game))


def clip(seed, colour, columns=200):
    return tune(seed, columns, colour).permute(1, 2, 0)


def test_games_are_told_apart_on_tracks_it_has_not_seen(meter):
    assert meter.facts["held-out tracks"] == 9
    assert meter.facts["right, of held-out tracks"] == 1.0
    for number, game in enumerate(GAMES):
        shares = meter.shares(clip(9000 + number, number))
        assert next(iter(shares)) == game
        assert shares[game] > 0.9
        assert sum(shares.values()) == pytest.approx(1)


def test_a_clip_of_two_games_is_shared_between_them(meter):
    shares = meter.shares(torch.cat([clip(1, 0, 300), clip(2, 2, 100)], dim=-1))
    assert list(shares) == ["A", "C", "B"]
    assert shares["A"] == pytest.approx(0.75, abs=0.1)
    assert shares["C"] == pytest.approx(0.25, abs=0.1)


def test_it_is_as_sure_as_it_is_right_where_games_are_alike(tmp_path):
    alike = fit_game_classifier(collection(tmp_path, lambda game, number: 17 * number + 5, tracks=12))
    assert alike.facts["right, of held-out windows"] < 0.6
    assert alike.facts["sureness, of held-out windows"] < 0.5  # a third would be right by chance
    assert max(alike.shares(clip(5, 40)).values()) < 0.6


def test_the_same_latents_give_the_same_classifier_and_validation_tracks_do_not_count(tmp_path, meter):
    again = fit_game_classifier(collection(tmp_path / "again", lambda game, _: game))
    fewer = fit_game_classifier(
        collection(tmp_path / "fewer", lambda game, number: game if number >= 3 else 50 + number)
    )
    assert torch.equal(again.weights, meter.weights)
    assert torch.equal(fewer.weights, meter.weights)
    assert fewer.facts["right, of held-out tracks"] < 1


def test_one_track_a_game_is_fitted_but_not_called_calibrated(tmp_path):
    index = write_latents(tmp_path, [("A", "train", tune(1, 30, 0)), ("B", "train", tune(2, 200, 1))])
    found = fit_game_classifier(index)
    assert not found.facts["calibrated"]
    assert found.facts["held-out tracks"] == 0
    assert next(iter(found.shares(clip(3, 1)))) == "B"


def test_statistics_do_not_depend_on_where_a_steady_pattern_starts():
    pattern = torch.randn(2, 4, 8).repeat(1, 1, 20)
    assert torch.allclose(pooled(pattern), pooled(pattern.roll(3, -1)), atol=0.1)
    assert pooled(torch.zeros(2, 4, 1)).isfinite().all()


def test_it_travels_with_the_model(tmp_path, meter):
    folder = write_model(tmp_path)
    assert load_game_classifier(folder) is None
    before = load_model(folder).unet_hash
    add_part(folder, game_classifier_part(meter))
    add_part(folder, game_classifier_part(meter))  # to export again is to replace it
    found = load_game_classifier(folder)
    assert found.shares(clip(7, 1)) == meter.shares(clip(7, 1))
    assert json.loads(json.dumps(found.facts)) == found.facts
    assert load_model(folder).unet_hash == before, "the model is still called the same"
    assert list(read_model_json(folder)["parts"]) == ["format", "vae", "unet", "mix"]


def test_a_classifier_of_another_model_or_changed_is_refused(tmp_path, meter):
    one, other = write_model(tmp_path / "1"), write_model(tmp_path / "2", seed=9)
    add_part(one, game_classifier_part(meter))
    add_part(other, game_classifier_part(meter))
    shutil.copy(one / "mix.json", other)
    with pytest.raises(DataError, match="mix"):
        load_game_classifier(other)
    with pytest.raises(DataError, match="statistics"):
        meter.shares(torch.zeros(3, 4, 50))


def test_no_training_track_is_an_error(tmp_path):
    with pytest.raises(DataError, match="no track to train on"):
        fit_game_classifier(write_latents(tmp_path, [("A", "validation", tune(1, 100))]))
