"""A file of latents, safetensors that are read by the slice.

It holds "latents" (V, N, C, F) in float16: V time shifts, N columns of time, C channels, F rows; and in its metadata
the sums of each channel over all of it. The longest track that is allowed, an hour with 8 shifts, takes 115 MB.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from dualdiff.core.files import write_bytes_atomically

TENSOR = "latents"
METADATA = "dualdiff"


def write_latents(path: Path, shifts: Sequence[Sequence[Tensor]]) -> bool:
    """Write the latents of one track, atomically; return False, and write nothing, if some are not finite.

    Args:
        path: the file.
        shifts: for each time shift its pieces (n, C, F), float16, in order of time. A shift by more frames may have a
            column less than others: the file has the columns that all shifts have.

    Raises:
        DualdiffError: the folder cannot be written to, or the disk is full.
    """
    whole = [torch.cat(list(pieces)) for pieces in shifts]
    columns = min(map(len, whole))
    latents = torch.stack([shift[:columns] for shift in whole])
    sums, squares = torch.zeros(2, latents.shape[2], dtype=torch.float64)
    for shift in latents:
        values = shift.double()
        if not values.isfinite().all():
            return False
        sums += values.sum(dim=(0, 2))
        squares += values.square().sum(dim=(0, 2))
    facts = {
        "columns": columns,
        "count": latents.numel() // latents.shape[2],
        "sum": sums.tolist(),
        "sum_of_squares": squares.tolist(),
    }
    write_bytes_atomically(path, save({TENSOR: latents}, {METADATA: json.dumps(facts)}))
    return True


def facts_of(path: Path) -> dict[str, Any] | None:
    """What a file of latents says of itself: columns, count, sums. None if it is missing, broken or not one."""
    try:
        with safe_open(path, "pt") as file:
            facts: dict[str, Any] = json.loads(file.metadata()[METADATA])
            return facts
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return None


def read_columns(path: Path, shift: int, first: int, last: int) -> Tensor:
    """The columns first .. last - 1 of one time shift, (n, C, F), and nothing else of the file.

    Raises:
        OSError, SafetensorError: the file is missing or broken.
    """
    with safe_open(path, "pt") as file:
        columns: Tensor = file.get_slice(TENSOR)[shift, first:last]
        return columns
