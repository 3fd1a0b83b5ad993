"""Lists of clips to make: tables [[clip]] of a TOML file, or lines of a CSV file whose first line names the flags.

A row says what the flags of the command say, by their names. Whatever is wrong with one names its file and line. Files
that a row names lie beside the list or below it, and it names no folder to write to: a list of unknown origin leads
nowhere else.
"""

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dualdiff.core.config import line_of, parse_toml
from dualdiff.core.errors import ConfigError, DataError, DualdiffError, did_you_mean
from dualdiff.core.files import is_file_name
from dualdiff.core.table import read_rows, read_text
from dualdiff.generation.config import GenerateConfig
from dualdiff.generation.output import Job
from dualdiff.generation.parse import SETTINGS, Order, jobs_of

if TYPE_CHECKING:
    from dualdiff.generation.pipeline import Pipeline

FILES = {"from": 1, "init": 1, "morph": 2, "extend": 1, "inpaint": 1}
"""Flags that name files, and how many."""

PAIRS = {"morph": "two files", "extend": "a file and seconds", "inpaint": "a file and START:END"}
"""Flags of two words: in TOML a list of both, in CSV one cell, in which a file name with spaces stands in quotes."""

NUMBERS = ("seed", "count", "strength", "intro", "bpm", "bars")
ROW = (*SETTINGS, "cfg-interval", "game", "sweep", "steps-between", "loop", *NUMBERS, *FILES, "name")
"""What a row may say."""

WHOLE = ("seed", "count", "steps", "steps-between", "bars")
REAL = ("length", "cfg", "loudness", "strength", "intro", "bpm")
"""Which words of a CSV file are numbers."""

YES_OR_NO = {"yes": True, "true": True, "1": True, "no": False, "false": False, "0": False}
"""What a CSV file says for a flag that is there or not."""


@dataclass(frozen=True)
class Row:
    """A row of a list: what it says, and where each of its words stands."""

    order: Order
    where: Callable[[str], str]


def read_list(path: Path) -> list[Row]:
    """The rows of a list.

    Raises:
        DataError: the file cannot be read, is neither, or says what no flag says.
    """
    try:
        text = read_text(path) if path.suffix.lower() == ".csv" else path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise DataError(f"{path} cannot be read: {reason}", "a list is a .toml or a .csv file") from error
    rows = {".toml": _toml_rows, ".csv": _csv_rows}.get(path.suffix.lower())
    if rows is None:
        raise DataError(f"{path} is not a list: its name ends in neither .toml nor .csv", "name it for what it is")
    found = rows(text, path)
    if not found:
        raise DataError(f"{path} holds no clip", "each is a table [[clip]] of TOML, or a line of CSV under its heading")
    return [Row(_checked_row(row, path.parent), row.where) for row in found]


def _checked_row(row: Row, folder: Path) -> dict[str, Any]:
    order = dict(row.order)
    for flag, value in order.items():
        if flag not in ROW:
            hint = did_you_mean(flag, ROW) or f"a row may say {', '.join(ROW)}"
            raise DataError(f'{row.where(flag)}: there is no "{flag}" in a list', hint)
        if flag in FILES:
            order[flag] = _named(flag, value, folder, row.where(flag))
    if not isinstance(order.get("loop", False), bool):
        raise DataError(f"{row.where('loop')}: loop is neither true nor false", "leave it out where a clip is no loop")
    games = order.get("game", [])
    order["game"] = [games] if isinstance(games, str) else games
    if not isinstance(order["game"], list) or not all(isinstance(game, str) for game in order["game"]):
        raise DataError(f"{row.where('game')}: game is not a text or a list of texts", 'such as game = "A:0.7,B:0.3"')
    return order if "game" in row.order else {flag: value for flag, value in order.items() if flag != "game"}


def _named(flag: str, value: Any, folder: Path, where: str) -> Any:
    """The file of a flag, or the two words of one that has two, its files below a folder."""
    if flag not in PAIRS:
        return _below(folder, str(value), where)
    first, second = value if isinstance(value, list) and len(value) == 2 else (None, None)
    kinds = (int, float) if flag == "extend" else (str,)
    if not isinstance(first, str) or not isinstance(second, kinds) or isinstance(second, bool):
        example = {"morph": '["a.flac", "b.flac"]', "extend": '["a.flac", 30]', "inpaint": '["a.flac", "10:15"]'}[flag]
        raise DataError(f"{where}: {flag} is not {PAIRS[flag]}", f"such as {flag} = {example}; in CSV without marks")
    place = _below(folder, first, where)
    return place, _below(folder, str(second), where) if FILES[flag] == 2 else second


def _below(folder: Path, text: str, where: str) -> Path:
    if not all(is_file_name(part) for part in text.split("/")):
        raise DataError(
            f'{where}: "{text}" leads out of the folder of the list', "a list names files beside it or below it"
        )
    return folder / text


def _toml_rows(text: str, path: Path) -> list[Row]:
    try:
        table = parse_toml(text, str(path))
    except ConfigError as error:
        raise DataError(error.message, error.hint) from error
    clips = table.get("clip", [])
    strangers = [key for key in table if key != "clip"]
    if strangers or not isinstance(clips, list) or not all(isinstance(row, dict) for row in clips):
        line = line_of(text, strangers[0] if strangers else "clip")
        raise DataError(f"{path}, line {line}: not a table [[clip]]", "above the flags of each clip stands [[clip]]")
    lines = text.splitlines(keepends=True)
    starts = [number for number, line in enumerate(lines) if line.split("#")[0].replace(" ", "").strip() == "[[clip]]"]

    def located(index: int) -> Callable[[str], str]:
        start = starts[index] if index < len(starts) else 0

        def where(flag: str) -> str:
            after = starts[index + 1] if index + 1 < len(starts) else len(lines)
            inside = line_of("".join(lines[start + 1 : after]), flag)
            return f"{path}, line {start + 1 + inside}"

        return where

    return [Row(row, located(index)) for index, row in enumerate(clips)]


def _csv_rows(text: str, path: Path) -> list[Row]:
    hint = 'a text with commas needs quotes, such as "A:0.7,B:0.3"'
    try:
        filled, delimiter = read_rows(text)
    except ValueError as error:
        raise DataError(f"{path}, {error}", hint) from error
    if not filled:
        return []
    flags = [_flag(heading) for heading in filled[0][1]]
    found = []
    for line, cells in filled[1:]:
        if any(cells[len(flags) :]):
            raise DataError(f"{path}, line {line}: {len(cells)} cells under {len(flags)} headings", hint)
        named = zip(flags, cells, strict=False)
        order = {flag: _number(flag, cell, delimiter != ",") for flag, cell in named if cell}
        found.append(Row(order, lambda flag, line=line: f"{path}, line {line}"))  # type: ignore[misc]
    return found


def _flag(heading: str) -> str:
    """The flag that a heading names, also in capitals, with dashes before it or with `_` or spaces in it."""
    return heading.casefold().lstrip("-").replace("_", "-").replace(" ", "-")


def _number(flag: str, cell: str, decimal_comma: bool) -> Any:
    """A cell as TOML would hold it; what is none stays a text, which is refused where it is used.

    Where commas do not part the cells, a number may have one for its decimal point.
    """
    try:
        if flag in PAIRS:
            first, second = shlex.split(cell)
            return [first, _real(second, decimal_comma) if flag == "extend" else second]
        if flag == "loop":
            return YES_OR_NO.get(cell.casefold(), cell)
        if flag in WHOLE:
            return int(cell)
        return _real(cell, decimal_comma) if flag in REAL else cell
    except ValueError:
        return cell


def _real(cell: str, decimal_comma: bool) -> float:
    return float(cell.replace(",", ".") if decimal_comma else cell)


def jobs_of_list(
    rows: Sequence[Row], order: Order, pipeline: "Pipeline", config: GenerateConfig, changed: Mapping[str, Any]
) -> list[Job]:
    """The clips of all rows, in order; flags of the command hold where a row says nothing.

    Raises:
        DataError: a row asks for what cannot be; the error names its line.
    """
    jobs: list[Job] = []
    for row in rows:
        try:
            made = jobs_of({**order, **row.order}, pipeline, config, changed)
        except DualdiffError as error:
            flag, colon, rest = error.message.removeprefix("--").partition(": ")
            about = flag if error.message.startswith("--") and colon and flag in row.order else ""
            message = rest if about else error.message
            raise DataError(f"{row.where(about)}: {message}", error.hint) from error
        own = "name" in row.order
        jobs += (
            made
            if own
            else [replace(job, stem=f"{len(jobs) + index:03d}-{job.stem}") for index, job in enumerate(made)]
        )
    return jobs
