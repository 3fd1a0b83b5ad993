"""Batches in the order asked for, made by any number of worker processes, with the same numbers for all.

A source makes example i as a pure function of (seed, i); so it does not matter which process makes it, nor when. The
loader only decides who does the work.
"""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from dualdiff.core.errors import DualdiffError
from dualdiff.core.process import ignore_terminal

Made = TypeVar("Made")

PREFETCH = 2
"""Batches that each worker may be ahead: what bounds the memory."""


@dataclass(frozen=True)
class Batch:
    """Examples stacked along the first dimension of each tensor, and where each comes from.

    A waveform batch holds "waveform" (B, 2, T); a latents batch holds "latents" (B, C, F, N) and "labels" (B, K).
    """

    tensors: dict[str, Tensor]
    names: list[str]

    def __len__(self) -> int:
        """How many examples there are (B)."""
        return len(self.names)

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch with its tensors on a device."""
        return Batch({key: tensor.to(device, non_blocking=True) for key, tensor in self.tensors.items()}, self.names)


class BatchSource(Protocol):
    """Endless examples, numbered from 0: example i is a pure function of the source's seed and of i."""

    def examples(self, first: int, count: int) -> Batch:
        """The examples `first` .. `first + count - 1`."""


class _Requests:
    """A source as the map-style data set that torch's loader asks, one (first, count) at a time.

    Errors for the user travel as values, because the loader would wrap an exception of a worker in its traceback.
    """

    def __init__(self, source: BatchSource) -> None:
        self.source = source

    def __getitem__(self, request: tuple[int, int]) -> Batch | DualdiffError:
        try:
            with _one_thread():
                return self.source.examples(*request)
        except DualdiffError as error:
            return error


def load(
    source: BatchSource,
    ranges: Iterable[tuple[int, int]],
    num_workers: int = 0,
    *,
    start_method: Literal["fork", "spawn", "forkserver"] | None = None,
) -> Iterator[Batch]:
    """Yield the batch of each (first, count) of `ranges`, in that order; `ranges` may be endless.

    Batches are equal, bit for bit, with any number of workers and any way of starting them (None: the platform's).
    Workers stop when the iterator is closed or forgotten. Nothing is drawn from torch's global generator.

    Raises:
        DualdiffError: what the source raised, or that a worker process died.
    """
    loader: DataLoader[Batch | DualdiffError] = DataLoader(
        _Requests(source),  # type: ignore[arg-type]
        batch_size=None,
        sampler=ranges,
        num_workers=num_workers,
        collate_fn=_unchanged,
        worker_init_fn=_leave_interrupts_to_the_main_process,
        multiprocessing_context=start_method if num_workers else None,
        prefetch_factor=PREFETCH if num_workers else None,
        generator=torch.Generator(),  # else the loader takes one number from the global generator
    )
    for made in _batches(loader):
        if isinstance(made, DualdiffError):
            raise made
        yield made


def _batches(loader: "DataLoader[Batch | DualdiffError]") -> Iterator[Batch | DualdiffError]:
    try:
        yield from _handed_over(iter(loader)) if loader.num_workers else loader
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        hint = "it may have run out of memory, or of shared memory (/dev/shm): use fewer workers or smaller batches"
        raise DualdiffError(f"a process that loads batches died: {error}", hint) from error


def _handed_over(batches: Iterator[Made]) -> Iterator[Made]:
    """The same batches, each taken from its worker by a thread while the one before is used.

    To take a batch from a busy worker needs milliseconds even when it is ready, for which a training need not wait.
    """
    with ThreadPoolExecutor(1, "batches") as thread:
        coming = thread.submit(next, batches, None)
        try:
            while (made := coming.result()) is not None:
                coming = thread.submit(next, batches, None)
                yield made
        finally:
            coming.cancel()


def _unchanged(made: Any) -> Any:
    return made


def _leave_interrupts_to_the_main_process(_worker: int) -> None:
    ignore_terminal()  # Ctrl-C and a closed terminal reach every process; the main one still needs its batches


@contextmanager
def _one_thread() -> Iterator[None]:
    """Compute with one torch thread, as workers do, so that no sum depends on who makes it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
