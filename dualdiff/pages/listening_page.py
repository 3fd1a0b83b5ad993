"""The listening page: one file with clips to play, filter and compare blind; it needs no other file and no network.

Without its script (`listening_page.js`) the page still plays and shows everything; the script adds filters, and
comparisons of two models by clips that were asked for alike. Its browser lets exactly that script run (see
`page.document`).
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from html import escape
from importlib.resources import files
from typing import Any

from dualdiff import __version__, audio
from dualdiff.core.files import hash_of
from dualdiff.evaluation.memorization import Memorization
from dualdiff.inspection.report_data import ClipSummary, Report
from dualdiff.pages.embed import data_uri, picture_of, playable, player
from dualdiff.pages.page import document, notes_box, shown, table, tiles

MODEL_LETTERS = 12
"""Of a model's hash, that name it on the page."""
LONGEST_VALUE = 400
"""Letters of a value of a recipe that are shown."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A clip on the page: the bytes of an audio file and of a PNG picture, and what is known of it."""

    name: str
    sha256: str
    audio: bytes
    suffix: str
    picture: bytes
    seconds: float
    recipe: Mapping[str, Any]
    asked: Mapping[str, float]
    shares: Mapping[str, float]
    copies: Memorization | None
    details: Mapping[str, Any]

    @property
    def model(self) -> str:
        """The model that wrote it, by the beginning of its hash; empty for other audio."""
        return str(self.recipe.get("model", ""))[:MODEL_LETTERS]

    @property
    def request(self) -> str:
        """What names all clips that were asked for alike, whatever the model; empty for other audio."""
        keys = ("games", "seed", "length_s", "init", "morph", "rewrite", "loop", "intro_s")
        return hash_of([self.recipe.get(key) for key in keys])[:MODEL_LETTERS] if self.recipe else ""


def entry_of(clip: ClipSummary) -> Entry:
    """A clip as the page has it. Its audio is read here, so that only one is in memory.

    Raises:
        DataError: the file can no longer be read.
    """
    rate = audio.probe(clip.path).sample_rate
    waveform = audio.read(clip.path, sample_rate=rate)
    content, suffix = playable(clip.path, waveform, rate)
    return Entry(
        name=clip.name,
        sha256=clip.sha256,
        audio=content,
        suffix=suffix,
        picture=picture_of(waveform, rate),
        seconds=clip.seconds,
        recipe=clip.recipe,
        asked=clip.asked,
        shares=clip.shares,
        copies=clip.copies,
        details=clip.details,
    )


def clip_page(finding: Report, entries: Iterable[Entry]) -> str:
    """The page of a folder of clips, as HTML."""
    cards, keys = [], []
    for entry in entries:
        cards.append(_card(entry))
        keys.append(entry.sha256)
    name = finding.path.resolve().name
    parts = [
        f"<header><p class=kind>listening page</p><h1>{shown(name)}</h1>"
        f"<p class=path>{shown(finding.path.resolve())}</p></header>",
        tiles(finding),
        notes_box(finding.notes),
        _FILTERS,
        _COMPARISON,
        f'<div id="clips" data-page="{hash_of(keys)[:MODEL_LETTERS]}">{"".join(cards)}</div>',
        '<p id="none" hidden>No clip is left: choose fewer filters.</p>',
        *(table(sheet) for sheet in finding.sheets if sheet.title != "clips"),
        f"<footer>dualdiff {__version__}</footer>",
    ]
    body = "\n".join(part for part in parts if part)
    return document(f"{name} · listening page", body, _resource("listening_page.css"), _resource("listening_page.js"))


@cache
def _resource(name: str) -> str:
    return files("dualdiff.pages").joinpath(name).read_text(encoding="utf-8")


_FILTERS = """<form id="filters" hidden aria-label="filters">
<label>game <select id="game"><option value="">all</option></select></label>
<label>seed <select id="seed"><option value="">all</option></select></label>
<label>model <select id="model"><option value="">all</option></select></label>
<label id="flagged-label"><input type="checkbox" id="flagged"> only what may be copied</label>
<label>order <select id="order"><option value="name">name</option><option value="seed">seed</option>
<option value="scaled">nearest to training</option></select></label>
<output id="count"></output></form>"""

_COMPARISON = """<section id="compare" hidden><h2>Which model is better?</h2>
<p class="lead">Clips that both models wrote for the same request, in random order, without their names.</p>
<div class="row"><label>one <select id="one"></select></label><label>the other <select id="other"></select></label>
<button type="button" id="start">start</button><output id="pairs"></output></div>
<div id="trial" hidden><p id="progress"></p>
<div class="pair"><div><h3>X</h3><audio id="x" controls preload="auto"></audio></div>
<div><h3>Y</h3><audio id="y" controls preload="auto"></audio></div></div>
<div class="row"><button type="button" data-answer="x">X is better</button>
<button type="button" data-answer="same">no difference</button>
<button type="button" data-answer="y">Y is better</button></div></div>
<div class="row"><button type="button" id="reveal">show the scores</button>
<button type="button" id="copy">copy as JSON</button><a id="save" download="comparisons.json">save as JSON</a>
<button type="button" id="forget">forget all</button><output id="told"></output></div>
<div id="scores" hidden></div></section>"""


def _card(entry: Entry) -> str:
    copies = entry.copies
    data = {
        "name": entry.name,
        "games": json.dumps([game for game, share in entry.asked.items() if share > 0], ensure_ascii=False),
        "seed": entry.recipe.get("seed", ""),
        "model": entry.model,
        "request": entry.request,
        "scaled": "" if copies is None else f"{copies.scaled:.4f}",
        "flagged": "yes" if copies and copies.flagged else "",
        "key": entry.sha256[:MODEL_LETTERS],
    }
    attributes = " ".join(f'data-{name}="{_text(value)}"' for name, value in data.items())
    title = _title(entry)
    picture = f'<img alt="spectrogram of {_text(entry.name)}" loading="lazy" src="{data_uri(entry.picture, ".png")}">'
    return (
        f'<article class="clip" {attributes}><header><h3>{title}</h3><p>{_facts(entry)}</p></header>'
        f"{player(entry.audio, entry.suffix, _clean(entry.name))}{picture}{_measures(entry)}{_details(entry)}</article>"
    )


def _title(entry: Entry) -> str:
    """The games that were asked for; of other audio, its name."""
    if not entry.recipe:
        return _text(entry.name)
    asked = [f"{share:.0%}".replace("%", " %") + f" {game}" for game, share in entry.asked.items()]
    return _text(" + ".join(asked) if len(asked) > 1 else next(iter(entry.asked), "any game"))


def _facts(entry: Entry) -> str:
    facts = [f"{entry.seconds:.1f} s"]
    if entry.recipe:
        facts = [f"seed {entry.recipe.get('seed')}", *facts, f"model {entry.model}"]
    return _text(" · ".join(facts))


def _measures(entry: Entry) -> str:
    """Bars of how much it is like each game, with what was asked; and what it may have copied."""
    bars = "".join(
        f"<li><span>{_text(game)}</span><meter min=0 max=1 value={share:.3f}></meter><b>{share:.0%}</b>"
        + (f"<small>asked {entry.asked[game]:.0%}</small>" if entry.asked.get(game) else "")
        + "</li>"
        for game, share in list(entry.shares.items())[:4]
    )
    heard = f'<div><h4>sounds like</h4><ul class="shares">{bars}</ul></div>' if bars else ""
    copies = entry.copies
    if copies is None or not copies.matches:
        return f'<div class="measures">{heard}</div>' if heard else ""
    nearest = copies.matches[0]
    word = '<b class="flag">may be a copy</b>' if copies.flagged else "not flagged"
    near = (
        f"<div><h4>nearest training passage</h4><p>{word}: {copies.scaled:.2f} of the usual distance, "
        f"rate {copies.rate:.1%}<br>{_text(nearest.track)} at {nearest.track_s:.0f} s</p></div>"
    )
    return f'<div class="measures">{heard}{near}</div>'


def _details(entry: Entry) -> str:
    rows = "".join(f"<tr><th>{_text(key)}</th><td>{_text(value)}</td></tr>" for key, value in entry.details.items())
    return f"<details><summary>recipe and measures</summary><table>{rows}</table></details>"


def _clean(value: Any) -> str:
    """A value as a text of bounded length that any file can hold."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    whole = text.encode("utf-8", "replace").decode("utf-8")
    return whole if len(whole) <= LONGEST_VALUE else whole[:LONGEST_VALUE] + "…"


def _text(value: Any) -> str:
    return escape(_clean(value))
