"""A pipeline that is loaded when it is first needed, so that a wrong flag is refused at once, without torch."""

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from dualdiff.core.errors import DataError
from dualdiff.core.files import read_json

if TYPE_CHECKING:
    from dualdiff.generation.pipeline import Pipeline


class LazyPipeline:
    """Stands in for a `Pipeline`: knows the games from the model folder, and loads the rest on first use."""

    def __init__(self, folder: Path, load: "Callable[[], Pipeline]") -> None:
        self._folder, self._load = folder, load

    @cached_property
    def games(self) -> tuple[str, ...]:
        """The names of the games that the model knows.

        Raises:
            DataError: the folder holds no whole model.
        """
        try:
            found = read_json(self._folder / "labels.json")
        except DataError:
            found = None
        if isinstance(found, list) and all(isinstance(name, str) for name in found):
            return tuple(found)
        return self.loaded.games  # or the error that says what is wrong with the folder

    @cached_property
    def loaded(self) -> "Pipeline":
        """The pipeline itself.

        Raises:
            DataError, UsageError: see `Pipeline.load`.
        """
        return self._load()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loaded, name)


def lazily(folder: Path, load: "Callable[[], Pipeline]") -> "Pipeline":
    """Return the pipeline of a model folder, loaded by `load` when more than the names of its games is needed."""
    return cast("Pipeline", LazyPipeline(folder, load))
