"""How long work tells of its progress, without knowing who shows it."""

from typing import Protocol


class Progress(Protocol):
    """Called now and then with how much is done, of how much in all, and a short note ("loss 0.52")."""

    def __call__(self, done: float, total: float, note: str = "") -> None:
        """Tell that `done` of `total` is done."""


def silent(done: float, total: float, note: str = "") -> None:
    """Tell nobody."""
