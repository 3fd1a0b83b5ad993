"""The names and weights of `--game`."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dualdiff.core.errors import UsageError
from dualdiff.generation.label_weights import Mix, folded, parse_games, split

KNOWN = ["Chrono Trigger", "Ōkami", "Pekka Kana 2", "Streets, Rage & Co", "Zelda: A Link to the Past"]


@pytest.mark.parametrize(
    ("texts", "weights"),
    [
        ([], {}),
        (["Pekka Kana 2"], {"Pekka Kana 2": 1.0}),
        (["Pekka Kana 2:0.7, Chrono Trigger:0.3"], {"Pekka Kana 2": 0.7, "Chrono Trigger": 0.3}),
        (["Pekka Kana 2:7", "Chrono Trigger"], {"Pekka Kana 2": 7.0, "Chrono Trigger": 1.0}),
        (["Zelda: A Link to the Past:0.5"], {"Zelda: A Link to the Past": 0.5}),
        (["Zelda: A Link to the Past"], {"Zelda: A Link to the Past": 1.0}),
        (["Streets, Rage & Co:2,Ōkami"], {"Streets, Rage & Co": 2.0, "Ōkami": 1.0}),
        (["OKAMI: .5"], {"Ōkami": 0.5}),
        (["  chrono   trigger :1e-1 "], {"Chrono Trigger": 0.1}),
        (["Ōkami:-0.5,Pekka Kana 2"], {"Ōkami": -0.5, "Pekka Kana 2": 1.0}),
        (["Pekka Kana 2:0,Ōkami:1"], {"Pekka Kana 2": 0.0, "Ōkami": 1.0}),
    ],
)
def test_reads_names_and_weights(texts, weights):
    assert parse_games(texts, KNOWN) == weights


def test_a_comma_separates_where_the_text_before_it_is_a_name():
    known = ["Doom", "Quake", "Doom, Quake"]
    assert parse_games(["Doom, Quake"], known) == {"Doom": 1.0, "Quake": 1.0}


def test_a_comma_belongs_to_the_name_where_separating_leaves_no_name():
    assert parse_games(["Doom, the Return"], ["Doom", "Doom, the Return"]) == {"Doom, the Return": 1.0}


def test_a_name_that_ends_in_a_number_needs_no_weight():
    assert parse_games(["Fifa: 98"], ["Fifa: 98"]) == {"Fifa: 98": 1.0}
    assert parse_games(["Fifa: 98"], ["Fifa", "Fifa: 98"]) == {"Fifa": 98.0}


def test_an_exact_name_wins_over_one_that_differs_in_accents():
    assert parse_games(["Pokemon"], ["Pokemon", "Pokémon"]) == {"Pokemon": 1.0}
    with pytest.raises(UsageError, match='may mean "Pokemon" and "Pokémon"'):
        parse_games(["POKEMON"], ["Pokemon", "Pokémon"])


@pytest.mark.parametrize(
    ("texts", "message", "hint"),
    [
        (["Cron Trigger:0.5"], '"Cron Trigger" is not a game', '"Chrono Trigger"'),
        (["okami,Zelda: A Link to the Pas:1"], '"Zelda: A Link to the Pas"', '"Zelda: A Link to the Past"'),
        (["xyz"], '"xyz" is not a game', "the games are Chrono Trigger"),
        (["Ōkami:inf"], '"Ōkami:inf" is not a game', '"Ōkami"'),
        (["Ōkami,"], '"" is not a game', "the games are"),
        (["Ōkami:0"], "weights of all games are zero", "a weight"),
        (["Ōkami:1e999"], 'weight of "Ōkami" is inf', "finite"),
        (["Ōkami", "okami:2"], '"Ōkami" is named twice', "once"),
    ],
)
def test_refuses_what_cannot_be(texts, message, hint):
    with pytest.raises(UsageError) as caught:
        parse_games(texts, KNOWN)
    assert message in caught.value.message
    assert hint in caught.value.hint


def test_weights_are_split_by_sign_and_count_by_their_ratios():
    for size in (1.0, 1e39, 1e308, 1e-300):
        mix = split({"A": size, "B": -size / 2, "C": 0.0, "D": size / 4})
        assert 0.5 <= mix.towards["A"] < 1
        assert mix.towards == pytest.approx({"A": mix.towards["A"], "D": mix.towards["A"] / 4})
        assert mix.away == pytest.approx({"B": mix.towards["A"] / 2})
        assert mix.away_share == pytest.approx(0.4)
    assert split({"A": -0.2}).away_share == 1
    assert split({"A": 1.0}).away_share == 0
    assert split({}) == Mix({}, {})


def test_a_model_without_games_says_so():
    with pytest.raises(UsageError, match="knows no games"):
        parse_games(["Ōkami"], [])


names = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), min_size=1, max_size=12)


@given(known=st.lists(names.map(str.strip).filter(folded), min_size=1, max_size=4, unique_by=folded), data=st.data())
def test_every_known_name_with_a_weight_comes_back(known, data):
    game = data.draw(st.sampled_from(known))
    weight = data.draw(st.floats(1e-6, 1e6))
    found = parse_games([f"{game}:{weight!r}"], known)
    assert math.isclose(sum(found.values()), weight) or len(found) > 1  # "a,b:1" may also be the games "a" and "b"
    assert set(found) <= set(known)


@given(texts=st.lists(st.text(max_size=30), max_size=3))
def test_any_text_is_read_or_refused(texts):
    try:
        found = parse_games(texts, KNOWN)
    except UsageError:
        return
    assert set(found) <= set(KNOWN)


def test_many_commas_take_little_time():
    with pytest.raises(UsageError):
        parse_games(["a," * 200], ["a", "a,a", "a,a,b"])
