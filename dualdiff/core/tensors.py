"""Named tensors: out of a module, into a module, and on disk as safetensors."""

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from dualdiff.core.errors import DataError
from dualdiff.core.files import write_bytes_atomically


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """A module's parameters and persistent buffers by name, contiguous, on the CPU."""
    return {name: tensor.detach().cpu().contiguous() for name, tensor in module.state_dict().items()}


def load_into(module: nn.Module, tensors: Mapping[str, Tensor], what: str) -> None:
    """Copy named tensors into a module, keeping its memory layout.

    Raises:
        DataError: names or shapes differ.
    """
    own = module.state_dict()
    missing = sorted(own.keys() ^ tensors.keys())
    if missing:
        raise DataError(
            f"{what} does not fit its architecture: {missing[0]} is only on one side", "it belongs to another model"
        )
    for name, tensor in own.items():
        if tensor.shape != tensors[name].shape:
            raise DataError(
                f"{what} does not fit its architecture: {name} has shape {tuple(tensors[name].shape)}",
                "it belongs to another model",
            )
        tensor.copy_(tensors[name])


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write named tensors as safetensors, atomically."""
    write_bytes_atomically(path, save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}))


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Read named tensors.

    Raises:
        DataError: the file is missing or is not safetensors.
    """
    try:
        tensors: dict[str, Tensor] = load(path.read_bytes())
        return tensors
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing", "the folder is not whole: make or copy it again") from error
    except (OSError, SafetensorError) as error:
        raise DataError(f"{path} cannot be read as safetensors: {error}", "make or copy it again") from error
