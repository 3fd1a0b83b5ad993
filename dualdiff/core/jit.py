"""Loops over samples as machine code: plain Python functions, compiled by numba once and kept on disk."""

from collections.abc import Callable
from typing import Any


def compiled(
    function: Callable[..., Any], signature: Any, fastmath: bool | set[str] = False, error_model: str = "python"
) -> Callable[..., Any]:
    """A function as machine code, kept for the next run where a folder for it can be written to.

    It runs without the interpreter's lock, so that threads can share its work.

    Args:
        function: what numba can compile.
        signature: of numba's types; the function is compiled at once, for these alone.
        fastmath: which liberties may be taken with the order and the rounding of sums.
        error_model: "numpy" divides by zero as numpy does; "python" raises, at the cost of a branch a division.
    """
    import numba

    options = {"nogil": True, "fastmath": fastmath, "error_model": error_model}
    try:
        fast: Callable[..., Any] = numba.njit(signature, cache=True, **options)(function)
    except (RuntimeError, OSError):  # numba finds no folder for its cache, or cannot write to it
        fast = numba.njit(signature, **options)(function)
    return fast
