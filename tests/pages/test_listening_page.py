"""The listening page: opened from disk, it plays, filters, compares blind, and asks the network for nothing."""

import json
import re

import pytest
import torch

from dualdiff import audio
from dualdiff.evaluation.memorization import Match, Memorization
from dualdiff.inspection.report_data import Report, ReportTable
from dualdiff.pages.listening_page import Entry, clip_page
from tests.browser import CHROMIUM, Browser
from tests.pages.test_page import EVIL, PNG, Elements

MODELS = ("a" * 64, "b" * 64)
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    """A second of sound in each kind of file that a page may hold."""
    folder = tmp_path_factory.mktemp("sounds")
    made = {}
    for suffix in (".flac", ".ogg", ".mp3", ".wav"):
        audio.write(folder / f"x{suffix}", 0.2 * torch.sin(torch.arange(32000) * 0.05).expand(2, -1), 32000)
        made[suffix] = (folder / f"x{suffix}").read_bytes()
    return made


def entry(sounds, game="Sonic", seed=1, model=MODELS[0], suffix=".flac", scaled=0.9, flagged=False, **more):
    match = Match(2.0, "latents", game, f"{game}/1.flac", 31.0, 0.2, scaled, 0.5)
    recipe = {"dualdiff": "0.1", "model": model, "games": {game: 1.0}, "seed": seed, "length_s": 1.0, **more}
    return Entry(
        name=f"{game}-{seed}-{model[:1]}{suffix}", sha256=f"{game}{seed}{model}"[:64], audio=sounds[suffix],
        suffix=suffix, picture=PNG, seconds=1.0, recipe=recipe, asked={game: 1.0}, shares={game: 0.6, "Other": 0.4},
        copies=Memorization(scaled, 0.5, 0.01, flagged, (match,), 19), details=recipe,
    )  # fmt: skip


def collection(sounds):
    games = ("Sonic", "Déjà Vu, the Game", "Zelda")
    clips = [entry(sounds, game, seed, model) for game in games for seed in (1, 2) for model in MODELS]
    return [
        *clips,
        entry(sounds, "Zelda", 3, suffix=".ogg", scaled=0.1, flagged=True),
        entry(sounds, seed=10, suffix=".mp3"),
    ]


def page(entries, tmp_path):
    sheets = [ReportTable(title="not readable", columns=("file", "why"), rows=[("broken.flac", EVIL)])]
    finding = Report(kind="clips", path=tmp_path / "clips", facts={"clips": len(entries)}, notes=[EVIL], sheets=sheets)
    return clip_page(finding, entries)


def test_only_what_was_asked_for_alike_is_compared(sounds):
    one, other = entry(sounds, rewrite={"file": "a.flac"}), entry(sounds, model=MODELS[1], rewrite={"file": "a.flac"})
    assert one.request == other.request
    for change in ({"rewrite": {"file": "b.flac"}}, {"morph": {"file": "a.flac"}}, {"intro_s": 2.0}):
        assert entry(sounds, **change).request != one.request


def test_a_page_needs_nothing_else_and_lets_no_text_be_more_than_text(sounds, tmp_path):
    evil = entry(sounds, EVIL, recipe_key=EVIL, note="x" * 100_000)
    text = page([evil], tmp_path)
    found = Elements(text)
    assert found.names.count("script") == 1
    assert not [name for name, _ in found.attributes if name.startswith("on")]
    assert {value.partition(";")[0] for name, value in found.attributes if name == "src"} == {
        "data:audio/flac", "data:image/png",
    }  # fmt: skip
    assert found.text.count("<script>fetch(") >= 5
    assert json.loads(dict(found.attributes)["data-games"]) == [EVIL]
    assert "x" * 500 not in text
    assert "connect-src" not in text
    assert "default-src 'none'" in text


@needs_browser
def test_a_browser_plays_filters_and_compares(sounds, tmp_path):
    path = tmp_path / "page.html"
    path.write_text(page([*collection(sounds), entry(sounds, seed=11, suffix=".wav")], tmp_path), encoding="utf-8")
    with Browser(tmp_path / "profile") as browser:
        browser.open(path)
        plays_every_kind(browser)
        filters(browser)
        compares(browser)
        kept = browser.run("JSON.parse(decodeURIComponent(document.getElementById('save').href.split(',')[1]))")
        browser.open(path)
        again = browser.run("JSON.parse(decodeURIComponent(document.getElementById('save').href.split(',')[1]))")
        assert again == kept, "the scores outlive the page where the browser lets it keep them"
        assert {url.partition(":")[0] for url in browser.requests} <= {"file", "data"}
        assert browser.run("fetch('http://127.0.0.1:9/x').then(() => 'got', (e) => 'barred')") == "barred"


def plays_every_kind(browser):
    for suffix in ("flac", "ogg", "mp3", "wav"):
        own = f"document.querySelector('[data-name$={suffix}] audio')"
        browser.run(f"{own}.play()")
        browser.until(f"{own}.readyState >= 3 && {own}.currentTime > 0")
    assert browser.run("[...document.querySelectorAll('.clip audio')].filter((one) => !one.paused).length") <= 1
    assert 0.9 < browser.run("document.querySelector('.clip audio').duration") < 1.1


def visible(browser):
    return browser.run("[...document.querySelectorAll('.clip:not([hidden])')].map((one) => one.dataset.name)")


def choose(browser, name, value):
    browser.run(
        f"(() => {{ const own = document.getElementById({name!r}); "
        f"own.type === 'checkbox' ? own.checked = {json.dumps(value)} : own.value = {json.dumps(value)};"
        "own.dispatchEvent(new Event('change', {bubbles: true})) })()"
    )


def filters(browser):
    assert len(visible(browser)) == 15
    choose(browser, "game", "Déjà Vu, the Game")
    assert {name.partition("-")[0] for name in visible(browser)} == {"Déjà Vu, the Game"}
    choose(browser, "seed", "2")
    assert len(visible(browser)) == 2
    assert browser.run("document.getElementById('count').value") == "2 of 15 clips"
    choose(browser, "model", "b" * 12)
    assert visible(browser) == ["Déjà Vu, the Game-2-b.flac"]
    choose(browser, "seed", "10")
    assert visible(browser) == []
    assert not browser.run("document.getElementById('none').hidden")
    for name in ("game", "seed", "model"):
        choose(browser, name, "")
    assert browser.run("[...document.getElementById('seed').options].map((o) => o.value)") == [
        "",
        *["1", "2", "3", "10", "11"],
    ]
    choose(browser, "order", "scaled")
    assert visible(browser)[0] == "Zelda-3-a.ogg"
    choose(browser, "flagged", True)
    assert visible(browser) == ["Zelda-3-a.ogg"]
    choose(browser, "flagged", False)


def compares(browser):
    """Always prefer the model b, wherever it plays: the page must know, and the listener must not see."""
    click = "document.querySelector({!r}).click()".format
    browser.run(click("#start"))
    assert browser.run("document.getElementById('pairs').value") == "6 pairs"
    trial = browser.run("document.getElementById('trial').textContent")
    assert not re.search("aaaa|bbbb", trial)
    source = "document.getElementById('x').src.length"
    assert browser.run(source) > 1000
    for _ in range(5):
        browser.run(click("[data-answer=x]"))
    browser.run(click("[data-answer=same]"))
    assert browser.run("document.getElementById('trial').hidden")
    told = browser.run("JSON.parse(decodeURIComponent(document.getElementById('save').href.split(',')[1]))")
    (score,) = told["scores"]
    assert score["same"] == 1
    assert score["wins"] + score["losses"] == 5
    assert len({own["request"] for own in told["answers"]}) == 6
    assert all({own["one"], own["other"]} == {"a" * 12, "b" * 12} for own in told["answers"])
    browser.run(click("#reveal"))
    assert "no difference" in browser.run("document.getElementById('scores').textContent")


@needs_browser
def test_one_model_alone_offers_no_comparison_and_one_clip_no_filters(sounds, tmp_path):
    path = tmp_path / "page.html"
    path.write_text(page([entry(sounds)], tmp_path), encoding="utf-8")
    with Browser(tmp_path / "profile") as browser:
        browser.open(path)
        assert browser.run("document.getElementById('compare').hidden && document.getElementById('filters').hidden")
        assert len(visible(browser)) == 1
