"""Games as the user names them: `Zelda: A Link to the Past:0.5, Pekka Kana 2` becomes weights by known name."""

import math
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from dualdiff.core.errors import UsageError, closest

Weighted: TypeAlias = tuple[str, float]

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE)


def folded(name: str) -> str:
    """A name without case, accents and surplus spaces: what names are compared by."""
    bare = "".join(c for c in unicodedata.normalize("NFKD", name) if not unicodedata.combining(c))
    return " ".join(unicodedata.normalize("NFKC", bare).casefold().split())


def parse_games(texts: Iterable[str], known: Sequence[str]) -> dict[str, float]:
    """Weights by known game from the texts of `--game`: each is `NAME[:WEIGHT]`, or several separated by commas.

    The weight is what follows the last colon if it is a number, and 1 otherwise. A comma belongs to a name when the
    text before it is not a name and the longer text is. Case and accents do not matter. Weights are relative: they are
    returned as given, in the order given; guidance leads away from a game whose weight is below 0. No text gives no
    games, which means the unconditional model.

    Raises:
        UsageError: an unknown, ambiguous or twice named game, an infinite weight, or weights that are all zero.
    """
    weights: dict[str, float] = {}
    for text in texts:
        for name, weight in _parse_text(text, known):
            if name in weights:
                raise UsageError(f'--game: "{name}" is named twice', "give each game once, with its whole weight")
            weights[name] = weight
    refuse_weights(weights)
    return weights


def refuse_weights(weights: Mapping[str, float]) -> None:
    """Refuse weights that request nothing.

    Raises:
        UsageError: a weight that is not finite, or weights that are all zero.
    """
    for name, weight in weights.items():
        if not math.isfinite(weight):
            raise UsageError(f'the weight of "{name}" is {weight:g}', "a weight is a finite number")
    if weights and not any(weights.values()):
        raise UsageError("the weights of all games are zero", "give one of them a weight, or leave all games out")


@dataclass(frozen=True)
class Mix:
    """Weights of games, split: `towards` holds those above zero, `away` the sizes of those below, the largest below 1.

    `away_share` is the sum of those below zero over the sum of those above, or 1 where there are none above: how far
    the base of guidance moves from the unconditional model to the games led away from.
    """

    towards: Mapping[str, float]
    away: Mapping[str, float]

    @property
    def away_share(self) -> float:
        """See the class."""
        towards, away = math.fsum(self.towards.values()), math.fsum(self.away.values())
        return away / towards if towards else float(away > 0)


def split(weights: Mapping[str, float]) -> Mix:
    """Weights of games, checked by `refuse_weights`, as a `Mix`: only their ratios count, however large they are."""
    _, exponent = math.frexp(max(map(abs, weights.values()), default=1.0))
    scaled = {name: math.ldexp(weight, -exponent) for name, weight in weights.items()}  # exact: no digit changes
    return Mix(
        towards={name: weight for name, weight in scaled.items() if weight > 0},
        away={name: -weight for name, weight in scaled.items() if weight < 0},
    )


def _parse_text(text: str, known: Sequence[str]) -> list[Weighted]:
    pieces = text.split(",")
    found = _split(pieces, known)
    if found is None:
        raise _unknown(pieces, known)
    return found


def _split(pieces: Sequence[str], known: Sequence[str]) -> list[Weighted] | None:
    """The entries that the pieces between commas make up: the reading with the earliest comma that separates.

    Works from the back, so that a text of many commas takes quadratic, not exponential, time.
    """
    endings: list[list[Weighted] | None] = [None] * len(pieces) + [[]]
    for start in reversed(range(len(pieces))):
        for stop in range(start + 1, len(pieces) + 1):
            rest = endings[stop]
            entry = _entry(",".join(pieces[start:stop]), known) if rest is not None else None
            if entry is not None and rest is not None:
                endings[start] = [entry, *rest]
                break
    return endings[0]


def _entry(text: str, known: Sequence[str]) -> Weighted | None:
    """One `NAME[:WEIGHT]`, or None when it names no known game. A name may itself end in a colon and a number."""
    name, weight = _weighted(text)
    game = _lookup(name, known)
    if game is None:
        game, weight = _lookup(text, known), 1.0
    return None if game is None else (game, weight)


def _weighted(text: str) -> Weighted:
    name, colon, number = text.rpartition(":")
    if colon and _NUMBER.fullmatch(number.strip()):
        return name, float(number)
    return text, 1.0


def _lookup(name: str, known: Sequence[str]) -> str | None:
    if name.strip() in known:
        return name.strip()
    matches = [game for game in known if folded(game) == folded(name)]
    if len(matches) > 1:
        listed = " and ".join(f'"{game}"' for game in matches)
        raise UsageError(
            f'--game: "{name.strip()}" may mean {listed}', "write the name exactly as it is in the data set"
        )
    return matches[0] if matches else None


def _unknown(pieces: Sequence[str], known: Sequence[str]) -> UsageError:
    """The error for the first piece that is not a game and does not begin one that has commas in it."""
    unreadable = next((piece for piece in pieces if _entry(piece, known) is None), ",".join(pieces))
    name = _weighted(unreadable)[0].strip()
    if not known:
        return UsageError(f'--game: "{name}" cannot be asked for: this model knows no games', "leave --game out")
    by_folded = {folded(game): game for game in known}
    near = [by_folded[key] for key in closest(folded(name), by_folded)]
    if near:
        hint = f"did you mean {' or '.join(f'{game!r}' for game in near)}?".replace("'", '"')
    else:
        hint = f"the games are {', '.join(list(known)[:12])}{', ...' if len(known) > 12 else ''}"
    return UsageError(f'--game: "{name}" is not a game of this model', hint)
