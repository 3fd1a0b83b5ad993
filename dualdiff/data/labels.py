"""Which game each file belongs to: by its folder, its tags, or a table."""

import unicodedata
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import TypeAlias

from dualdiff.core.errors import DataError
from dualdiff.core.table import read_rows, read_text
from dualdiff.data.analysis import Facts, tidy

Label: TypeAlias = Callable[[Facts], str]
"""Gives the name of a file's game, empty where nothing names it."""


def by_folder(facts: Facts) -> str:
    """The game that the outermost folder is named for."""
    return tidy(facts.path.rpartition("/")[0].partition("/")[0])


def by_tag(facts: Facts) -> str:
    """The game tag, or else the album tag."""
    return tidy(facts.album)


class Table:
    """Games from a CSV file with the columns `path` (of a file or a folder, from the music folder) and `game`.

    A path may also be absolute, or begin with the music folder. Of several lines for a file, the one with the longest
    path counts: its own before its folder's.
    """

    def __init__(self, path: Path, folder: Path) -> None:
        """Read the file `path`, with commas, semicolons or tabs, for the music in `folder`.

        Raises:
            DataError: it is missing, not text, lacks a column, or names a path twice with different games.
        """
        self.path = path
        self._games: dict[str, str] = {}
        self._read_as: dict[str, set[str]] = {}
        places = [(number, _place(line["path"]), tidy(line["game"])) for number, line in self._lines()]
        for number, place, game in places:
            self._note(place, place, game, number)
        exact = set(self._games)
        for number, place, game in places:
            for within in _within(place, folder) - exact:
                self._note(place, within, game, number)

    def _note(self, written: str, place: str, game: str, number: int) -> None:
        if self._games.setdefault(place, game) != game:
            problem = f'line {number} of {self.path} names "{place}" again, with another game'
            raise DataError(problem, "keep one of the lines")
        self._read_as.setdefault(written, set()).add(place)

    def __call__(self, facts: Facts) -> str:
        """The game of a file."""
        return next((self._games[place] for place in _places(facts.path) if place in self._games), "")

    def unmatched(self, paths: Iterable[str]) -> list[str]:
        """The paths in the table that are neither a file nor a folder of those that `paths` lists."""
        known = {place for path in paths for place in _places(path)}
        return sorted(written for written, places in self._read_as.items() if not places & known)

    def _lines(self) -> Iterator[tuple[int, dict[str, str]]]:
        hint = "write it with the columns path and game, or set dataset.labels to folder or tag"
        try:
            rows, _ = read_rows(read_text(self.path))
        except FileNotFoundError as error:
            raise DataError(f"there is no table of labels {self.path} (dataset.labels_csv)", hint) from error
        except (OSError, ValueError) as error:
            raise DataError(f"the table of labels {self.path} cannot be read: {error}", hint) from error
        names = [name.casefold() for name in rows[0][1]] if rows else []
        if missing := {"path", "game"} - set(names):
            raise DataError(f"the table of labels {self.path} has no column {min(missing)}", hint)
        for number, cells in rows[1:]:
            yield number, dict.fromkeys(names, "") | dict(zip(names, cells, strict=False))


def _within(place: str, folder: Path) -> set[str]:
    """What a path is from the music folder, if it is absolute or begins with that folder or its name."""
    whole = {folder.absolute().as_posix(), folder.resolve().as_posix()}
    parts = folder.resolve().parts
    names = {PurePosixPath(*parts[first:]).as_posix() for first in range(1, len(parts))}
    heads = {_place(head) for head in whole | names}
    return {place[len(head) + 1 :] for head in heads if place.startswith(f"{head}/")}


def _place(path: str) -> str:
    """A path as the table is asked for it: no matter how slashes, accents and the end are written."""
    return unicodedata.normalize("NFC", path.strip().replace("\\", "/").removeprefix("./").rstrip("/"))


def _places(path: str) -> list[str]:
    """Where a file's game may be written: at its tune, at the file, at its folders from the innermost one."""
    place = PurePosixPath(_place(path))
    tune = [place.name.rpartition("#")[0]] if "#" in place.name else []
    return [str(place), *(str(place.with_name(name)) for name in tune if name), *map(str, list(place.parents)[:-1])]
