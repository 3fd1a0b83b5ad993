"""Which game each file belongs to: by its folder, its tags, or a table."""

import csv
import unicodedata
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath
from typing import TypeAlias

from dualdiff.core.errors import DataError
from dualdiff.data.analysis import Facts, tidy

Label: TypeAlias = Callable[[Facts], str]
"""Gives the name of a file's game, empty where nothing names it."""

_DELIMITERS = ",;\t"


def by_folder(facts: Facts) -> str:
    """The game that the outermost folder is named for."""
    return tidy(facts.path.rpartition("/")[0].partition("/")[0])


def by_tag(facts: Facts) -> str:
    """The game tag, or else the album tag."""
    return tidy(facts.album)


class Table:
    """Games from a CSV file with the columns `path` (of a file or a folder, from the music folder) and `game`.

    Of several lines for a file, the one with the longest path counts: its own before its folder's.
    """

    def __init__(self, path: Path) -> None:
        """Read the file `path`, UTF-8, with commas, semicolons or tabs.

        Raises:
            DataError: it is missing, not text, lacks a column, or names a path twice with different games.
        """
        self.path = path
        self._games: dict[str, str] = {}
        for number, line in enumerate(self._lines(), start=2):
            place = _place(line.get("path") or "")
            game = tidy(line.get("game") or "")
            if self._games.setdefault(place, game) != game:
                raise DataError(
                    f'line {number} of {path} names "{place}" again, with another game', "keep one of the lines"
                )

    def __call__(self, facts: Facts) -> str:
        """The game of a file."""
        return next((self._games[place] for place in _places(facts.path) if place in self._games), "")

    def unmatched(self, paths: Iterable[str]) -> list[str]:
        """The paths in the table that are neither a file nor a folder of those that `paths` lists."""
        known = {place for path in paths for place in _places(path)}
        return sorted(set(self._games) - known)

    def _lines(self) -> list[dict[str, str]]:
        hint = "write it with the columns path and game, or set dataset.labels to folder or tag"
        try:
            text = self.path.read_text(encoding="utf-8-sig")
        except FileNotFoundError as error:
            raise DataError(f"there is no table of labels {self.path} (dataset.labels_csv)", hint) from error
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"the table of labels {self.path} cannot be read: {error}", hint) from error
        header = text.partition("\n")[0]
        reader = csv.DictReader(text.splitlines(), delimiter=max(_DELIMITERS, key=header.count))
        reader.fieldnames = [name.strip().lower() for name in reader.fieldnames or []]
        if missing := {"path", "game"} - set(reader.fieldnames):
            raise DataError(f"the table of labels {self.path} has no column {min(missing)}", hint)
        return list(reader)


def _place(path: str) -> str:
    """A path as the table is asked for it: no matter how slashes, accents and the end are written."""
    return unicodedata.normalize("NFC", path.strip().replace("\\", "/").removeprefix("./").rstrip("/"))


def _places(path: str) -> list[str]:
    """Where a file's game may be written: at its tune, at the file, at its folders from the innermost one."""
    place = PurePosixPath(_place(path))
    tune = [place.name.rpartition("#")[0]] if "#" in place.name else []
    return [str(place), *(str(place.with_name(name)) for name in tune if name), *map(str, list(place.parents)[:-1])]
