"""How an average of a run's weights is rebuilt from its snapshots: what `inspect RUN --ema 0.07` shows."""

from pathlib import Path

import numpy as np

from dualdiff.inspection.report_data import Bars, Lines, Report, ReportTable
from dualdiff.training.ema.ema import gamma_of
from dualdiff.training.ema.snapshots import plan

POINTS = 200
"""Of a profile's curve."""


def inspect_average(run: Path, width: float, step: int | None = None) -> Report:
    """The shares of the stored averages, and the profile that they add up to beside the one that is wanted.

    Raises:
        DataError: see `snapshots.plan`.
    """
    how = plan(run, width, step)
    times = np.arange(1, POINTS + 1) / POINTS * how.step

    def profile(at: int, of: float) -> "np.typing.NDArray[np.float64]":
        power = gamma_of(of)
        density: np.typing.NDArray[np.float64] = np.where(times <= at, (power + 1) / at * (times / at) ** power, 0.0)
        return density * how.step

    made = sum(share * profile(*place) for place, share in how.shares.items())
    curves = {"wanted": profile(how.step, width), "rebuilt": np.asarray(made)}
    rows = [(at, of, share) for (at, of), share in how.shares.items()]
    used = {f"{of:g} at step {at}": abs(share) for at, of, share in rows}
    lines = {name: list(zip(times.tolist(), curve.tolist(), strict=True)) for name, curve in curves.items()}
    return Report(
        kind="weight average",
        path=run,
        facts={
            "relative width": width,
            "at step": how.step,
            "rebuilt from": len(rows),
            "expected error of weights": how.error,
        },
        notes=("the error is relative to the size of weights that walk at random; those of a training do better",),
        sheets=[ReportTable(title="shares", columns=("step", "relative width", "share"), rows=rows)],
        charts=[
            Lines(title="profile over the steps", series=lines),
            Bars(title="size of the shares", unit="share", values=used),
        ],
        next=f"dualdiff generate --ema {width:g}" + (f"@{step}" if step else ""),
    )
