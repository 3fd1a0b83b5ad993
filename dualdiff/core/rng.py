"""Which random stream belongs to which (seed, step, micro-batch, purpose).

Nothing draws from a hidden global state: every draw names its place in the run, so that the draw is the same after a
resume, with any number of loader workers, and however a step's micro-batches are shared among processes.
"""

import hashlib
from dataclasses import dataclass, field

import numpy as np
import torch


def derive_seed(seed: int, *path: int | str) -> int:
    """A 63-bit seed for the place `path` under `seed`; different paths give independent seeds (BLAKE2b)."""
    text = "/".join([str(int(seed)), *map(_named, path)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def _named(part: int | str) -> str:
    """A part of a path with its kind, its slashes escaped: a bare one stands between parts only."""
    text = str(part).replace("\\", "\\\\").replace("/", "\\/")
    return f"{type(part).__name__[0]}{text}"


@dataclass(frozen=True)
class Stream:
    """A named place in a tree of random streams: `Stream(seed).at("unet", step, micro)`."""

    seed: int
    path: tuple[int | str, ...] = field(default=())

    def at(self, *path: int | str) -> "Stream":
        """The stream at a place below this one."""
        return Stream(self.seed, (*self.path, *path))

    def seed_for(self, purpose: str) -> int:
        """The integer seed of one purpose here."""
        return derive_seed(self.seed, *self.path, purpose)

    def torch(self, purpose: str, device: str | torch.device = "cpu") -> torch.Generator:
        """A fresh torch generator for one purpose here: the same call always gives the same numbers."""
        return torch.Generator(device).manual_seed(self.seed_for(purpose))

    def numpy(self, purpose: str) -> np.random.Generator:
        """A fresh numpy generator for one purpose here."""
        return np.random.default_rng(self.seed_for(purpose))
