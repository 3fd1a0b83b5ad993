"""How this process shares the machine: threads that wait, and memory that is free for a moment.

Measured on the training of a small UNet on two cores (benchmarks/train.md). Both are the platform's affair: where the C
library or the OpenMP runtime is another one, nothing changes.
"""

import ctypes
import os
import sys

SPIN_COUNT = 2000
"""How often a thread looks whether the others are done before it sleeps. GNU's OpenMP looks 300 000 times, for
milliseconds: where another program has one of the cores, those who wait keep the one they wait for from running."""

MMAP_THRESHOLD, TRIM_THRESHOLD = 32 * 2**20, 2**31 - 1
"""Up to the first number of bytes, the most that the GNU C library takes, memory comes from the heap; only above the
second is free memory at its end given back, of which each step asks for the same again, page by page."""

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""What `mallopt` calls them (malloc.h)."""


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
