"""What the phase network is trained for: the learned way back of the mel format."""

from pathlib import Path

import torch
from torch import Tensor

from dualdiff.data.loader import Batch
from dualdiff.formats.mel import MelFormat
from dualdiff.losses.edges import by_loudness, misses, von_mises_nll
from dualdiff.models.phase import PhaseNet
from dualdiff.training.objective import Loss, Place
from dualdiff.training.tensorboard import write_preview


class PhaseObjective:
    """Say how the phase changes from cell to cell, and how sure that is, from the magnitudes that a sample stands for.

    Loss: the negative log likelihood of the changes in the spectra of the original, along frames plus along bins, where
    loud edges count most. Half of the examples have left and right swapped.
    """

    def __init__(self, network: PhaseNet, format: MelFormat, held_out: Batch | None = None) -> None:
        self.model = network
        self.format = format
        self.held_out = held_out

    def loss(self, batch: Batch, place: Place) -> Loss:
        """The mean loss of waveforms (B, 2, T); see the class."""
        waveform = batch.tensors["waveform"]
        swap = place.uniform(len(waveform), "mirror") < 0.5
        waveform = torch.where(swap.to(waveform.device)[:, None, None], waveform.flip(1), waveform)
        cells, changes, magnitudes = self._lessons(waveform)
        beliefs = self.model(cells)
        along = by_loudness(von_mises_nll(beliefs, changes), magnitudes)
        terms = {"along_frames": along[0], "along_bins": along[1]}
        return Loss(along.sum(), {name: value.detach() for name, value in terms.items()})

    def _lessons(self, waveform: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Cells, changes and magnitudes of each example, stacked."""
        lessons = [self.format.lesson(item) for item in waveform]
        cells, changes, magnitudes = (torch.stack(parts) for parts in zip(*lessons, strict=True))
        return cells, changes, magnitudes

    def stretch(self, factor: float) -> None:
        """It has no schedule."""

    def validate(self) -> dict[str, float]:
        """On held-out crops: the loss, and how far the likeliest changes miss, beside those that pghi's rule gives."""
        if self.held_out is None:
            return {}
        cells, changes, magnitudes = self._lessons(self.held_out.tensors["waveform"])
        beliefs = self.model(cells)
        measures = {
            "loss": von_mises_nll(beliefs, changes),
            "miss": misses(beliefs, changes),
            "rule_miss": misses(cells[:, 2:], changes),
        }
        means = {name: by_loudness(values, magnitudes) for name, values in measures.items()}
        return {
            f"{name}_{way}": float(value)
            for name, pair in means.items()
            for way, value in zip(("along_frames", "along_bins"), pair, strict=True)
        }

    def curves(self, step: int) -> dict[str, list[float]]:
        """None."""
        return {}

    def preview(self, folder: Path, name: str) -> list[Path]:
        """One held-out crop: the original, and what comes back by the rule and by the network."""
        if self.held_out is None:
            return []
        waveform = self.held_out.tensors["waveform"][:1]
        sample = self.format.encode(waveform)
        ways = {
            "original": waveform,
            "learned": self.format.learned(self.model, self.model.context_frames).decode(sample),
        }
        return [
            write_preview(folder / f"{name}-{kind}.flac", audible[0].cpu(), self.format.sample_rate)
            for kind, audible in ways.items()
        ]
