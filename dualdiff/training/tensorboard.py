"""TensorBoard: the record of a run, and what is too much or too fleeting for it."""

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from dualdiff import audio
from dualdiff.core.types import Waveform

log = logging.getLogger(__name__)

PREVIEWED = 2
"""Held-out tracks, or seeds, that each preview lets one hear."""


class TensorBoard:
    """Writes a run's `tb/`, which may be thrown away without loss: where it cannot be written, training goes on."""

    def __init__(self, folder: Path, done: int = 0) -> None:
        """`done` steps are kept of what is there; later ones are taken again."""
        self._folder = folder
        self._writer: SummaryWriter | None = SummaryWriter(str(folder), purge_step=done + 1)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Named numbers of a step."""
        for name, value in values.items():
            self._write("add_scalar", name, value, step)

    def curves(self, step: int, values: Mapping[str, Sequence[float]]) -> None:
        """Curves over ln sigma: the density of noise levels as a histogram, others as a scalar at a few levels."""
        points = list(values.get("noise/log_sigma", ()))
        for name, curve in values.items():
            if name == "noise/noise_density":
                self._write("add_histogram_raw", name, global_step=step, **_histogram(points, curve))
            elif name != "noise/log_sigma":
                few = range(0, len(curve), max(1, len(curve) // 8))
                self.scalars(step, {f"{name}/sigma_{math.exp(points[index]):.2g}": curve[index] for index in few})

    def files(self, step: int, paths: Sequence[Path]) -> None:
        """The audio and pictures of a step."""
        for path in paths:
            name = path.stem.partition("-")[2] or path.stem
            if path.suffix == ".png":
                picture = np.asarray(Image.open(path).convert("RGB"))
                self._write("add_image", f"{name}/spectrogram", picture, step, dataformats="HWC")
            else:
                rate = audio.probe(path).sample_rate
                mono = audio.read_own(path, sample_rate=rate).mean(0, keepdim=True)
                self._write("add_audio", name, mono, step, rate)

    def _write(self, what: str, *values: Any, **named: Any) -> None:
        if self._writer is None:
            return
        try:
            getattr(self._writer, what)(*values, **named)
        except (OSError, RuntimeError) as error:  # a full disk also comes out of the writer's thread
            log.warning("%s is not written any more: %s", self._folder, error)
            self._writer = None

    def close(self) -> None:
        """Write out what is left."""
        self._write("close")


def _histogram(points: Sequence[float], density: Sequence[float]) -> dict[str, Any]:
    """A density over points as TensorBoard's histogram: buckets end half way between the points."""
    masses = np.asarray(density) / max(sum(density), 1e-12)
    values = np.asarray(points)
    return {
        "min": float(values[0]),
        "max": float(values[-1]),
        "num": 1.0,
        "sum": float((masses * values).sum()),
        "sum_squares": float((masses * values**2).sum()),
        "bucket_limits": [*((values[:-1] + values[1:]) / 2).tolist(), float(values[-1])],
        "bucket_counts": masses.tolist(),
    }


def write_preview(path: Path, waveform: Waveform, sample_rate: int) -> Path:
    """Write a waveform (2, T) as a run's demo, scaled down where it would clip; returns the path."""
    audio.write(path, audio.below_full_scale(waveform), sample_rate)
    return path
