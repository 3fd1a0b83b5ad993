"""Loops over samples as machine code: plain Python functions, compiled by numba once and kept on disk."""

from collections.abc import Callable
from typing import Any


def compiled(function: Callable[..., Any], signature: Any, fastmath: bool | set[str] = False) -> Callable[..., Any]:
    """A function as machine code, kept for the next run where a folder for it can be written to.

    Args:
        function: what numba can compile.
        signature: of numba's types; the function is compiled at once, for these alone.
        fastmath: which liberties may be taken with the order and the rounding of sums.
    """
    import numba

    try:
        fast: Callable[..., Any] = numba.njit(signature, cache=True, fastmath=fastmath)(function)
    except (RuntimeError, OSError):  # numba finds no folder for its cache, or cannot write to it
        fast = numba.njit(signature, fastmath=fastmath)(function)
    return fast
