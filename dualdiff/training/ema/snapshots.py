"""Snapshots of the weight averages, and any average rebuilt from them afterwards.

Averages of power functions look alike at every scale of time, so the snapshots lie at a fixed ratio of each other: the
older, the fewer. The newest checkpoint holds all averages of its step; of earlier steps the widest two are enough, four
snapshots at a ratio of 0.6: they rebuild each width from 0.015 to 0.25 at the newest checkpoint to better than 1e-3 of
the size of a random walk (measured in tests/training/test_snapshots.py). A snapshot also holds the exported average, so
that the model of its step can be used as it was.
That is why six widths are tracked and not two, as in the paper: with four it takes 16 snapshots of each, at a ratio of
0.9, with three 32, and with two more than 64, which lie on the disk; an average takes 4 bytes a parameter in memory.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from dualdiff.core.errors import DataError
from dualdiff.core.files import discard
from dualdiff.core.tensors import load_tensors, save_tensors
from dualdiff.training.ema.ema import gamma_of, post_hoc

RATIO = 0.6
"""Of the steps of one snapshot and the next."""

FIRST = 8
"""The first step with a snapshot: what comes before is soon a negligible part of any average."""

_NAME = re.compile(r"\d\.\d{3}-\d{8,}\.safetensors")
"""Of a snapshot: its width and its step."""

NARROWEST, WIDEST = 0.015, 0.25
"""The widths that can be rebuilt."""


def is_due(step: int) -> bool:
    """Whether a snapshot belongs to this step: the rounded powers of 1/0.6 from 8 up, 8, 13, 21, 36, ..."""
    if step < FIRST:
        return False
    power = round(np.log(step) / -np.log(RATIO))
    return any(step == round(RATIO**-near) for near in (power - 1, power, power + 1))


def stored_widths(widths: Sequence[float], exported: float) -> tuple[float, ...]:
    """The widths of a snapshot, of all that are tracked: the widest two, and the exported one."""
    return tuple(width for width in widths if width == exported or width in sorted(widths)[-2:])


def save(folder: Path, step: int, averages: Mapping[float, Mapping[str, Tensor]], keep: int) -> None:
    """Write the averages of one step into `ema/` of a run, one file a width; those of the newest `keep` steps stay."""
    for width, tensors in averages.items():
        save_tensors(_path(folder, step, width), tensors)
    steps = sorted({at for at, _, _ in _snapshots(folder)})[-keep:]
    discard(folder, _NAME, "ema", keep=[path.name for at, _, path in _snapshots(folder) if at in steps])


def rewind(folder: Path, step: int) -> None:
    """Drop snapshots of later steps than `step`: they will be written again, the same."""
    discard(folder, _NAME, "ema", keep=[path.name for at, _, path in _snapshots(folder) if at <= step])


@dataclass(frozen=True)
class RebuiltAverage:
    """How an average is put together: the share of each stored average, and how far its profile is from the wanted."""

    width: float
    step: int
    shares: Mapping[tuple[int, float], float]
    """By (step, width) of the stored average."""
    error: float
    """The expected error over the size of the weights, were these a random walk."""


def plan(folder: Path, width: float, step: int | None = None) -> RebuiltAverage:
    """How the average of a width (at a step: the newest there is) is rebuilt from what a run has stored.

    Raises:
        DataError: the folder is no run with averages, the width is out of range, or the step is not covered.
    """
    if not NARROWEST <= width <= WIDEST:
        raise DataError(
            f"an average of relative width {width:g} cannot be rebuilt",
            f"choose one from {NARROWEST:g} to {WIDEST:g}: 0.05 forgets fast, 0.2 slowly",
        )
    stored = sorted({(at, of) for at, of, _ in _stored(folder)})
    if not stored:
        raise DataError(f"{folder} holds no weight averages", "name the run folder of a training, as runs/unet")
    newest = stored[-1][0]
    target = newest if step is None else step
    if target > newest or target < stored[0][0]:
        raise DataError(
            f"{folder} has averages of steps {stored[0][0]} to {newest}, not of step {target}",
            "snapshots of earlier steps are gone: keep_ema_snapshots says how many stay",
        )
    used = [(at, of) for at, of in stored if at <= target] or stored
    shares = post_hoc(used, target, width)
    return RebuiltAverage(
        width, target, dict(zip(used, shares, strict=True)), profile_error(used, shares, target, width)
    )


def rebuild(folder: Path, width: float, step: int | None = None) -> tuple[RebuiltAverage, dict[str, Tensor]]:
    """The averaged weights of any width, by name; see `plan`.

    Raises:
        DataError: see `plan`; or a file is missing or broken.
    """
    how = plan(folder, width, step)
    total: dict[str, Tensor] = {}
    places = {(at, of): path for at, of, path in _stored(folder)}
    for place, share in how.shares.items():
        for name, tensor in _tensors(places[place], place[1]).items():
            part = tensor.double() * share
            total[name] = total[name] + part if name in total else part
    return how, {name: tensor.float() for name, tensor in total.items()}


def profile_error(snapshots: Sequence[tuple[int, float]], shares: Sequence[float], step: int, width: float) -> float:
    """The expected distance of the rebuilt average from the true one, over that of the weights from their start.

    For weights that walk at random: the root mean square difference of the two cumulative profiles over [0, step], by
    that of the walk itself, sqrt(1/2).
    """
    times = (np.arange(4000) + 0.5) / 4000

    def cumulative(at: int, of: float) -> "np.typing.NDArray[np.float64]":
        reached: np.typing.NDArray[np.float64] = np.minimum(times * step / at, 1.0) ** (gamma_of(of) + 1)
        return reached

    made = sum(share * cumulative(*snapshot) for share, snapshot in zip(shares, snapshots, strict=True))
    return float(np.sqrt(np.square(made - cumulative(step, width)).mean() / 0.5))


def _path(folder: Path, step: int, width: float) -> Path:
    return folder / "ema" / f"{width:.3f}-{step:08d}.safetensors"


def _snapshots(folder: Path) -> list[tuple[int, float, Path]]:
    """The snapshots of a run as (step, width, file), oldest first; files of other names are none of them."""
    paths = [path for path in (folder / "ema").glob("*.safetensors") if _NAME.fullmatch(path.name)]
    return sorted((int(path.stem[6:]), float(path.stem[:5]), path) for path in paths)


def _stored(folder: Path) -> Iterator[tuple[int, float, Path]]:
    """Each stored average as (step, width, file): the snapshots, and those of the newest checkpoint."""
    seen = set()
    for step, width, path in _snapshots(folder):
        seen.add((step, width))
        yield step, width, path
    steps = sorted(int(path.name) for path in (folder / "checkpoints").glob("[0-9]*") if path.name.isdigit())
    if steps:
        path = folder / "checkpoints" / f"{steps[-1]:08d}" / "ema.safetensors"
        for width in _widths_in(path):
            if (steps[-1], width) not in seen:
                yield steps[-1], width, path


def _widths_in(path: Path) -> list[float]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return sorted({float(name.partition("/")[0]) for name in file.keys()})  # noqa: SIM118 - no mapping
    except (OSError, SafetensorError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}", "remove its folder to use the checkpoint before") from error


def _tensors(path: Path, width: float) -> dict[str, Tensor]:
    """The average of one width in a snapshot, or among those of a checkpoint."""
    found = load_tensors(path)
    if path.parent.name == "ema":
        return found
    prefix = f"{width:.3f}/"
    return {name[len(prefix) :]: tensor for name, tensor in found.items() if name.startswith(prefix)}
