"""A file of latents: safetensors, written piece by piece and read by the slice: no track is too long for the memory.

It holds "latents" (V, N, C, F) in float16: V time shifts, N columns of time, C channels, F rows; and of each channel
the sums over all of it. Written by hand, as the description of safetensors has it: the length of the header, the
header, the numbers; for its library writes only what is in memory as a whole.
"""

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from dualdiff.core.errors import DualdiffError
from dualdiff.core.files import replacing

TENSOR = "latents"
METADATA = "dualdiff"
ALIGNMENT = 8
"""Bytes that a safetensors header is filled up to a multiple of."""


class Spool:
    """The latents of one track on their way into a file: pieces of V time shifts, in any order of the shifts."""

    def __init__(self, file: BinaryIO, folder: Path, shifts: int) -> None:
        self._file, self._folder = file, folder
        self._pieces: list[list[tuple[int, tuple[int, ...]]]] = [[] for _ in range(shifts)]

    def append(self, shift: int, columns: Tensor) -> None:
        """Add columns (n, C, F) to the end of a time shift.

        Raises:
            DualdiffError: the disk is full.
        """
        self._pieces[shift].append((self._file.tell(), tuple(columns.shape)))
        try:
            self._file.write(columns.cpu().numpy().astype("<f2").tobytes())
            self._file.flush()
        except OSError as error:
            raise _unwritable(self._folder, error) from error

    @property
    def columns(self) -> int:
        """N: as many as all shifts have; the shift by more frames may have one less."""
        return min(sum(shape[0] for _, shape in pieces) for pieces in self._pieces)

    def write(self, path: Path) -> bool:
        """Write the file, atomically; False, and no file, if some of the numbers are not finite.

        Raises:
            DualdiffError: the folder cannot be written to, or the disk is full.
        """
        channels, rows = self._pieces[0][0][1][1:]
        shape = (len(self._pieces), self.columns, channels, rows)
        total, total_of_squares = torch.zeros(channels, dtype=torch.float64), torch.zeros(channels, dtype=torch.float64)
        for piece in self._in_order():
            values = torch.from_numpy(piece.astype(np.float64))
            if not torch.isfinite(values).all():
                return False
            total += values.sum(dim=(0, 2))
            total_of_squares += values.square().sum(dim=(0, 2))
        facts = {
            "columns": shape[1],
            "count": shape[0] * shape[1] * rows,
            "sum": total.tolist(),
            "sum_of_squares": total_of_squares.tolist(),
        }
        with replacing(path) as file:
            file.write(_header(shape, facts))
            for piece in self._in_order():
                file.write(piece.tobytes())
        return True

    def _in_order(self) -> Iterator[np.ndarray[Any, Any]]:
        """The pieces, shift after shift, without the columns that not all shifts have."""
        columns = self.columns
        for pieces in self._pieces:
            left = columns
            for place, shape in pieces:
                self._file.seek(place)
                values = np.frombuffer(self._file.read(2 * int(np.prod(shape))), dtype="<f2").reshape(shape)
                yield values[:left]
                left -= len(values[:left])


def _header(shape: tuple[int, ...], facts: dict[str, Any]) -> bytes:
    size = 2 * int(np.prod(shape))
    entry = {"dtype": "F16", "shape": list(shape), "data_offsets": [0, size]}
    text = json.dumps({"__metadata__": {METADATA: json.dumps(facts)}, TENSOR: entry}, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


@contextmanager
def spool(folder: Path, shifts: int) -> Iterator[Spool]:
    """A spool on the disk of `folder`, without a name: it is gone with the process, however that ends.

    Raises:
        DualdiffError: the folder cannot be written to, or the disk is full.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - the errors inside the block are not of opening it
    except OSError as error:
        raise _unwritable(folder, error) from error
    with file:
        yield Spool(cast(BinaryIO, file), folder, shifts)


def _unwritable(folder: Path, error: OSError) -> DualdiffError:
    reason = error.strerror or error
    return DualdiffError(f"{folder} cannot be written to: {reason}", "check space and permissions")


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
