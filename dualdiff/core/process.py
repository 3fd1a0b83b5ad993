"""A process and its machine: threads that wait, freed memory, signals that stop it, and its rank among others.

The first two are measured on the training of a small UNet on two cores (benchmarks/train.md), and depend on the
platform: where the C library or the OpenMP runtime is another one, nothing changes.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Mapping

SPIN_COUNT = 2000
"""How often a thread looks whether the others are done before it sleeps. GNU's OpenMP looks 300 000 times, for
milliseconds: where another program has one of the cores, those who wait keep the one they wait for from running."""

MMAP_THRESHOLD, TRIM_THRESHOLD = 32 * 2**20, 2**31 - 1
"""Up to the first number of bytes, the most that the GNU C library takes, memory comes from the heap; only above the
second is free memory at its end given back, of which each step asks for the same again, page by page."""

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""What `mallopt` calls them (malloc.h)."""


STOP_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
"""Ctrl-C, the request of another program, and the end of the terminal: each asks for an orderly stop."""

ENV_RANK, ENV_WORLD = ("RANK", "LOCAL_RANK"), ("WORLD_SIZE", "LOCAL_WORLD_SIZE")
"""The variables by which torch's launcher numbers processes."""

MPI_WORLD = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE")
MPI_RANK = ("OMPI_COMM_WORLD_RANK", "PMI_RANK", "MV2_COMM_WORLD_RANK")
"""Those of Open MPI, of MPICH and Slurm, and of MVAPICH."""


def settle() -> None:
    """Set up this process, before torch is imported; what the user's environment says goes first."""
    if "OMP_WAIT_POLICY" not in os.environ:  # the standard's name for it, over which GNU's own would go
        os.environ.setdefault("GOMP_SPINCOUNT", str(SPIN_COUNT))
    asked = "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", "") or any(n.startswith("MALLOC_") for n in os.environ)
    if asked or not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # the C library of Alpine has none
        mallopt(M_MMAP_THRESHOLD, MMAP_THRESHOLD)
        mallopt(M_TRIM_THRESHOLD, TRIM_THRESHOLD)


def heeded(kind: signal.Signals) -> bool:
    """Return whether a stop signal counts: not where the process was started to ignore it, as `nohup` does."""
    return signal.getsignal(kind) is not signal.SIG_IGN


def ignore_terminal() -> None:
    """Ignore what a terminal sends to all processes of a command: for workers, which the main process ends."""
    for kind in STOP_SIGNALS:
        if kind != signal.SIGTERM:
            signal.signal(kind, signal.SIG_IGN)


def launched_rank(environment: Mapping[str, str] = os.environ) -> int | None:
    """Return the rank that a launcher of several processes gave this one; None where it was started alone.

    `WORLD_SIZE` and `RANK` by themselves prove nothing: shells on clusters export them. torchrun and `accelerate
    launch` leave `TORCHELASTIC_RUN_ID`, MPI leaves its own variables, and whoever starts the processes by hand must
    set all that torch needs to join them.
    """
    for size, rank in zip(MPI_WORLD, MPI_RANK, strict=True):
        if _number(environment, size) > 1:
            return _number(environment, rank)
    needed = (*ENV_RANK, "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    is_launched = "TORCHELASTIC_RUN_ID" in environment or all(name in environment for name in needed)
    return _number(environment, "RANK") if is_launched and _number(environment, "WORLD_SIZE") > 1 else None


def _number(environment: Mapping[str, str], name: str) -> int:
    text = environment.get(name, "")
    return int(text) if text.isdecimal() else 0


def forget_ranks() -> list[str]:
    """Remove rank variables that no launcher set, so that no library waits for other processes; returns their names."""
    found = [name for name in (*ENV_RANK, *ENV_WORLD) if name in os.environ]
    for name in found:
        del os.environ[name]
    return found


def launched_alone(environment: Mapping[str, str] = os.environ) -> bool:
    """Return whether `accelerate launch` was asked for several processes but started this one alone.

    Without `--multi_gpu` it starts one, and sets an address for the others, but no rank.
    """
    by_accelerate = "ACCELERATE_MIXED_PRECISION" in environment and "MASTER_ADDR" in environment
    return by_accelerate and "RANK" not in environment and launched_rank(environment) is None
