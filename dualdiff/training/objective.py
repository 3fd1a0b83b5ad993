"""What the loop asks of an objective, and what it tells it: the border between them.

Every random draw of a training belongs to an example, by its number in the step, or to the step as a whole. So a step
is the same, to rounding, however its batch is cut into micro-batches and shared among processes.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from dualdiff.core.rng import Stream
from dualdiff.data.loader import Batch


@dataclass(frozen=True)
class BatchPosition:
    """Where a micro-batch stands: its step, and which examples of the step's batch it holds."""

    step: int
    first: int
    batch_size: int
    step_stream: Stream

    def example_stream(self, index: int) -> Stream:
        """The random stream of the micro-batch's example number `index`, whichever micro-batch it is in."""
        return self.step_stream.at("example", self.first + index)

    def normal(self, shape: Sequence[int], purpose: str) -> Tensor:
        """Standard normal numbers (B, ...), on the CPU, each example's from its own stream."""
        made = [
            torch.randn(*shape[1:], generator=self.example_stream(index).torch(purpose)) for index in range(shape[0])
        ]
        return torch.stack(made)

    def uniform(self, count: int, purpose: str) -> Tensor:
        """Uniform numbers in [0, 1), (B,), float64, on the CPU, each from its example's own stream."""
        streams = (self.example_stream(index) for index in range(count))
        return torch.tensor([stream.numpy(purpose).random() for stream in streams], dtype=torch.float64)


@dataclass(frozen=True)
class Loss:
    """A scalar to descend, and what is worth a line in the record (all detached).

    `terms` are scalars: means over the micro-batch. `sums` are pairs (2,) of a sum and of how many it is over, for
    measures that not every micro-batch has; the record holds the quotient of all of a report's sums and counts.
    """

    total: Tensor
    terms: Mapping[str, Tensor]
    sums: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Validation:
    """Measures on held-out data: by name, over all of it; and by name and game."""

    measures: Mapping[str, float] = field(default_factory=dict)
    by_game: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def named(self) -> dict[str, float]:
        """Return all measures by their names in the record."""
        of_games = {f"{name}/game/{game}": value for name, own in self.by_game.items() for game, value in own.items()}
        return {f"validation/{name}": value for name, value in {**self.measures, **of_games}.items()}


class Objective(Protocol):
    """What is trained, and for what. It never sees the loop."""

    @property
    def model(self) -> nn.Module:
        """What is optimized."""

    def loss(self, batch: Batch, place: BatchPosition) -> Loss:
        """The mean loss of a micro-batch."""

    def stretch(self, factor: float) -> None:
        """Let the objective's own schedules, in steps, take so many times as long as the settings say."""

    def validate(self) -> Validation:
        """Measures on held-out data, the same examples and draws each time."""

    def curves(self, step: int) -> dict[str, list[float]]:
        """What the objective knows as a curve at a step, such as a density over noise levels; may be empty."""

    def preview(self, folder: Path, name: str) -> list[Path]:
        """Write audio that shows the state of the training; returns the paths."""


class Watcher(Protocol):
    """Who is shown more than the record holds: TensorBoard."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Named numbers of a step."""

    def curves(self, step: int, values: Mapping[str, Sequence[float]]) -> None:
        """Named curves of a step."""

    def files(self, step: int, paths: Sequence[Path]) -> None:
        """Audio and pictures of a step."""


Picture = Callable[[Path], Path]
"""Draws the spectrogram of an audio file beside it, and returns the picture's path."""
