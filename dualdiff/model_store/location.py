"""Where model folders lie: those that travel with the package are known by name. Free of torch."""

from importlib import resources
from pathlib import Path

from dualdiff.core.files import restore_folder

ASSETS = Path(str(resources.files("dualdiff"))) / "assets"
"""Where what travels with the package lies."""


def shipped_model(name: str = "nano") -> Path | None:
    """The folder of a model that travels with the package; None where there is none of that name."""
    folder = ASSETS / name
    return folder if (folder / "model.json").is_file() else None


def named_model(path: Path) -> Path:
    """The folder that a path means: itself, or the model of that name that travels with the package."""
    restore_folder(path)
    is_name = len(path.parts) == 1 and not path.exists()
    return (shipped_model(path.name) if is_name else None) or path
