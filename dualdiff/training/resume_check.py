"""The proof that a training resumes exactly, on the user's own settings: straight against stopped and resumed."""

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from dualdiff.core.progress import Progress, silent
from dualdiff.core.tensors import load_tensors
from dualdiff.data.loader import Batch
from dualdiff.training.objective import BatchPosition, Loss, Objective, Validation
from dualdiff.training.run_folder import RECORD_NAME
from dualdiff.training.session import TrainingSession, with_micro_batch

SECONDS = 40.0
"""What the steps of a proof may take in all, about."""

FEWEST, MOST = 2, 20
"""Steps of a proof."""


@dataclass(frozen=True)
class ResumeCheck:
    """What came of it: the steps straight, those before the stop, and what differed (nothing, if all is well)."""

    steps: int
    stopped_after: int
    compared: tuple[str, ...]
    differences: tuple[str, ...]


class WithoutPreviews:
    """An objective without its previews: the rest is compared, and they take long."""

    def __init__(self, objective: Objective) -> None:
        self._objective = objective

    @property
    def model(self) -> nn.Module:
        """What is optimized."""
        return self._objective.model

    def loss(self, batch: Batch, place: BatchPosition) -> Loss:
        """See `Objective`."""
        return self._objective.loss(batch, place)

    def stretch(self, factor: float) -> None:
        """See `Objective`."""
        self._objective.stretch(factor)

    def validate(self) -> Validation:
        """See `Objective`."""
        return self._objective.validate()

    def curves(self, step: int) -> dict[str, list[float]]:
        """See `Objective`."""
        return self._objective.curves(step)

    def preview(self, folder: Path, name: str) -> list[Path]:
        """Nothing."""
        return []


def compare_resumed(
    make: Callable[[Path], TrainingSession], progress: Progress = silent, steps: int | None = None
) -> ResumeCheck:
    """Train N steps straight, then k steps and the other N - k after a resume, and compare every byte.

    `make` builds the training afresh, as a new process would, with its run in the folder given. N is as many steps as
    take well under a minute, unless said.
    """
    with tempfile.TemporaryDirectory(prefix="dualdiff-resume-") as temporary:
        straight, resumed = Path(temporary) / "straight", Path(temporary) / "resumed"
        accum, started_s = _fit(make(straight), 1, 1, 0)
        total = steps or max(FEWEST, min(MOST, int(SECONDS / 2 / max(time.perf_counter() - started_s, 1e-3))))
        stop = max(1, total // 2)
        for number, (folder, until) in enumerate(((straight, total), (resumed, stop), (resumed, total)), start=1):
            if folder == straight:
                folder = Path(temporary) / "whole"
            _fit(make(folder), until, total, accum)
            progress(number, 3, f"{until} steps")
        return ResumeCheck(total, stop, *_compare(Path(temporary) / "whole", resumed, total))


def _fit(job: TrainingSession, until: int, total: int, accum: int) -> tuple[int, float]:
    """Train to a step; returns the micro-batches it took and when the training itself began."""
    job = replace(job, objective=WithoutPreviews(job.objective))
    job.run.open()
    config = job.config if accum == 0 else replace(job.config, grad_accum_steps=accum)
    config = with_micro_batch(replace(job, config=config))
    half = max(1, total // 2)
    config = replace(config, steps=until, report_every=1, validate_every=half, save_every=half, keep_checkpoints=9)
    started_s = time.perf_counter()
    job.loop(config).fit()
    return config.grad_accum_steps, started_s


def _compare(one: Path, other: Path, step: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What was compared, and what differed, in words."""
    differences = []
    groups = ("model", "optimizer", "ema")
    for group in groups:
        paths = [folder / "checkpoints" / f"{step:08d}" / f"{group}.safetensors" for folder in (one, other)]
        if paths[0].read_bytes() != paths[1].read_bytes():
            differences += _tensor_differences(group, *paths)
    records = [(folder / RECORD_NAME).read_bytes() for folder in (one, other)]
    if records[0] != records[1]:
        lines = zip(*(record.splitlines() for record in records), strict=False)
        where = next((number for number, (a, b) in enumerate(lines, start=1) if a != b), 0)
        differences.append(f"{RECORD_NAME} from line {where} on")
    return (*groups, RECORD_NAME), tuple(differences)


def _tensor_differences(group: str, one: Path, other: Path) -> list[str]:
    mine, yours = load_tensors(one), load_tensors(other)
    found = []
    for name, tensor in mine.items():
        if name not in yours:
            found.append(f"{group}: {name} is missing")
        elif not torch.equal(tensor, yours[name]):
            most = float((tensor.double() - yours[name].double()).abs().max())
            found.append(f"{group}: {name} by up to {most:.2g}")
    return found or [f"{group}: the file, not its numbers"]
