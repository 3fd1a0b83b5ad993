"""Make a trained model small enough to travel with the package: python ship.py MODEL MUSIC FOLDER.

    python examples/free-music/ship.py free-music/models/unet free-music/music dualdiff/assets/nano

The project above MODEL says which tracks it was trained on: their fingerprints go with the model, so that clips can be
compared with its training music. With --fingerprints-only, FOLDER is shipped already and they are added to it.

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
from dualdiff.data.fingerprint_store import prints_path, read_prints
from dualdiff.data.manifest import LEDGER_NAME, read_ledger, used
from dualdiff.evaluation.training_fingerprints import save_fingerprints
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


def add_fingerprints(project: Path, folder: Path) -> int:
    """Add the fingerprints of a project's tracks of the model's games to a shipped model; returns how many tracks.

    Tracks that were held out are among them: a clip that comes near one did not learn it, but is worth a look.

    Raises:
        DataError: the project is not scanned.
    """
    games = set(load_model(folder).games)
    rows = [row for row in used(read_ledger(project / LEDGER_NAME)) if row.game in games]
    return save_fingerprints(folder, rows, read_prints(prints_path(project)))


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
    add_fingerprints(model.parent.parent, folder)
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
    parser.add_argument("--fingerprints-only", action="store_true", help="add them to FOLDER, which is shipped already")
    options = parser.parse_args()
    torch.set_grad_enabled(False)
    try:
        if options.fingerprints_only:
            tracks = add_fingerprints(options.model.parent.parent, options.folder)
            print(f"{options.folder}: fingerprints of {tracks} tracks")
            return 0
        size = ship(options.model, options.music, options.folder)
    except DualdiffError as error:
        print(f"error: {error.message}\n  {error.hint}", file=sys.stderr)
        return error.exit_code
    print(f"{options.folder}: {size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
