"""Make a trained model small enough to travel with the package: python ship.py MODEL MUSIC FOLDER.

    python examples/free-music/ship.py free-music/models/unet free-music/music dualdiff/assets/nano

Weights become bfloat16, which halves them; MUSIC/LICENSES, the notices that must travel with what was learned from the
music, become NOTICES.txt beside them. The card stays as it is: add figures and known weaknesses by hand.
"""

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from dualdiff.core.errors import DataError, DualdiffError
from dualdiff.core.files import write_text_atomically
from dualdiff.model_store.components import Part, add_part, read_model_json, read_part
from dualdiff.model_store.model import load_model, load_vae, save_unet, save_vae

LARGEST_BYTES = 40_000_000
"""What a package can carry without being a burden."""


def halved(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Matrices and filters in bfloat16; the few numbers besides as they are."""
    return {name: tensor.bfloat16() if tensor.ndim > 1 else tensor for name, tensor in weights.items()}


def notices(folder: Path) -> str:
    """All notices of a music folder, one after the other.

    Raises:
        DataError: there are none.
    """
    files = sorted(folder.glob("*.txt"))
    if not files:
        raise DataError(
            f"there are no notices in {folder}", "fetch.py writes them; a model without them cannot be shipped"
        )
    return "\n\n".join(f"{'=' * 80}\n{file.stem}\n{'=' * 80}\n{file.read_text(encoding='utf-8')}" for file in files)


def ship(model: Path, music: Path, folder: Path) -> int:
    """Write the model into `folder`; returns its size in bytes.

    Raises:
        DataError: it is no whole model, there are no notices, or it stays too large.
    """
    text, card = notices(music / "LICENSES"), (model / "README.md").read_text(encoding="utf-8")
    whole = load_model(model)
    description, weights = read_part(model, "vae")
    save_vae(folder, whole.vae_model.format, whole.vae_model.vae, halved(weights), description["facts"], card)
    description, weights = read_part(model, "unet")
    save_unet(folder, load_vae(folder), whole.unet, halved(weights), description["facts"], card)
    for part in read_model_json(model)["parts"].keys() - {"format", "vae", "unet"}:
        description, tensors = read_part(model, part)
        added = Part(part, description["config"], tensors, list(description["parents"]), description["facts"])
        add_part(folder, added)
    write_text_atomically(folder / "NOTICES.txt", text)
    size = sum(path.stat().st_size for path in folder.iterdir())
    if size > LARGEST_BYTES:
        raise DataError(
            f"{folder} takes {size / 1e6:.0f} MB, more than {LARGEST_BYTES / 1e6:.0f}", "train a smaller one"
        )
    return size


def main() -> int:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("model", "music", "folder"):
        parser.add_argument(name, type=Path)
    options = parser.parse_args()
    torch.set_grad_enabled(False)
    try:
        size = ship(options.model, options.music, options.folder)
    except DualdiffError as error:
        print(f"error: {error.message}\n  {error.hint}", file=sys.stderr)
        return error.exit_code
    print(f"{options.folder}: {size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
