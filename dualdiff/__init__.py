"""dualdiff turns a folder of game music into a model that writes new music for a weighted mix of those games.

`__all__` lists the public API. Its names are imported on first use (PEP 562), so that `import dualdiff` is instant.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dualdiff.audio import read as read_audio
    from dualdiff.audio import write as write_audio
    from dualdiff.generation.pipeline import Pipeline

__version__ = "0.1.0"
__all__ = ["Pipeline", "__version__", "read_audio", "write_audio"]

_HOMES = {
    "Pipeline": ("dualdiff.generation.pipeline", "Pipeline"),
    "read_audio": ("dualdiff.audio", "read"),
    "write_audio": ("dualdiff.audio", "write"),
}
"""The module of each public name, and its name there."""


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'dualdiff' has no attribute {name!r}")
    module, attribute = _HOMES[name]
    return getattr(import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
