"""The trainings by the name of the network: what a network adds to the steps that all trainings share."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from dualdiff.data.loader import BatchSource
from dualdiff.project.settings import Project
from dualdiff.tasks.unet import UNetTraining
from dualdiff.tasks.vae import VAETraining
from dualdiff.training.objective import Objective
from dualdiff.training.session import TrainedWeights


class Training(Protocol):
    """A network's part of its training; its constructor reads the data and checks the settings against them."""

    @property
    def source(self) -> BatchSource:
        """The examples."""

    @property
    def title(self) -> str:
        """The title of the model card."""

    @property
    def identity(self) -> Mapping[str, Any]:
        """What makes a run that of this network and no other, as JSON values."""

    @property
    def notes(self) -> Mapping[str, Any]:
        """JSON values by file name, which a run keeps as it was begun with them."""

    @property
    def tracks(self) -> Mapping[str, str]:
        """The game of each track that is trained on, by the SHA-256 of its audio."""

    @property
    def durations_s(self) -> Sequence[tuple[str, float]]:
        """The game and the length of each of these tracks, seconds."""

    def network(self, device: str | torch.device) -> nn.Module:
        """Make the network on a device, with new weights, in the precision of the run."""

    def compiled(self, network: Any) -> Sequence[nn.Module]:
        """Return the parts of the network to compile."""

    def objective(self, network: Any) -> Objective:
        """Return the objective that trains the network."""

    def check(self, count: int, force: bool) -> None:
        """Check the data before the first step of all, the first `count` examples among them.

        With `force`, what may be overruled is no error.

        Raises:
            DataError: a check fails.
        """

    def save(
        self, network: Any, trained: TrainedWeights, model: Path, run: Path, facts: Mapping[str, Any], card: str
    ) -> None:
        """Write the model folder of what a run has trained."""


TRAININGS: Mapping[str, Callable[[Project, torch.device, torch.dtype, int], Training]] = {
    "vae": VAETraining,
    "unet": UNetTraining,
}
