"""TensorBoard: the record of a run, and what is too much or too fleeting for it."""

import time
from collections.abc import Mapping
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from dualdiff import audio
from dualdiff.types import Waveform


class TensorBoard:
    """Writes a run's `tb/`, which may be thrown away without loss."""

    def __init__(self, folder: Path) -> None:
        self._writer = SummaryWriter(str(folder))
        self._last = (0, time.perf_counter())

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Named numbers of a step, and the seconds that each step took since the last call."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        before, then = self._last
        now = time.perf_counter()
        if step > before > 0:
            self._writer.add_scalar("time/step_s", (now - then) / (step - before), step)
        self._last = (step, now)

    def files(self, step: int, paths: list[Path]) -> None:
        """The audio of a step."""
        for path in paths:
            info = audio.probe(path)
            waveform = audio.read(path, sample_rate=info.sample_rate)
            name = path.stem.partition("-")[2] or path.stem
            self._writer.add_audio(name, waveform.mean(0, keepdim=True), step, info.sample_rate)

    def close(self) -> None:
        """Write out what is left."""
        self._writer.close()


def write_preview(path: Path, waveform: Waveform, sample_rate: int) -> Path:
    """Write a waveform (2, T) as a run's demo, scaled down where it would clip; returns the path."""
    audio.write(path, audio.below_full_scale(waveform), sample_rate)
    return path
