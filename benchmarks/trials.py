"""What the studies of design choices share: trials in folders of their own, and a file of results to resume from.

A trial is one training with some settings and one seed. Each that is finished is a line of a JSONL file; a study that
is stopped, however, goes on with the trials that have no line yet, and a training with the step it has saved.
"""

import json
import statistics
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from dualdiff.data.scan import scan
from dualdiff.project.settings import Project, open_project, project_toml

MUSIC = Path(__file__).resolve().parents[1] / "examples" / "music"


@dataclass(frozen=True)
class Trial:
    """One training: what it stands for in a table, its seed, and the settings that differ from the preset nano."""

    variant: str
    seed: int
    settings: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """As a name of a folder."""
        return f"{self.variant}-{self.seed}".replace(" ", "-").replace("=", "")


def project_at(folder: Path, overrides: Iterable[str] = ()) -> Project:
    """A scanned project of the preset nano on examples/music; a quarter of the tracks is kept to measure on."""
    settings = [f'dataset.folder="{MUSIC.as_posix()}"', "dataset.validation_share=0.25", *overrides]
    if not (folder / "dualdiff.toml").exists():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "dualdiff.toml").write_text(project_toml("nano", "study"), encoding="utf-8")
    project = open_project(folder, settings)
    if not project.ledger.exists():
        scan(folder, project.settings.dataset)
    return project


class Results:
    """The finished trials of a study, by variant and seed, with what was measured of each."""

    def __init__(self, path: Path) -> None:
        self.path = path
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        self.rows = [json.loads(line) for line in lines if line.strip()]

    def run(self, trials: Sequence[Trial], measure: Callable[[Trial], Mapping[str, float]]) -> None:
        """Do the trials that have no line yet, one after the other."""
        done = {(row["variant"], row["seed"], tuple(row["settings"])) for row in self.rows}
        for number, trial in enumerate(trials, start=1):
            if (trial.variant, trial.seed, trial.settings) not in done:
                row = {**asdict(trial), "measured": dict(measure(trial))}
                self.rows.append(row)
                with open(self.path, "a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")
            print(f"{number}/{len(trials)} {trial.name}", file=sys.stderr, flush=True)

    def values(self, variant: str, measure: str) -> list[float]:
        """What was measured of a variant, a value a seed."""
        return [
            row["measured"][measure] for row in self.rows if row["variant"] == variant and measure in row["measured"]
        ]

    def cell(self, variant: str, measure: str, digits: int = 3) -> str:
        """The median over seeds, and the range where there are several; empty where nothing was measured."""
        values = self.values(variant, measure)
        if not values:
            return ""
        middle = f"{statistics.median(values):.{digits}f}"
        spread = f" ({min(values):.{digits}f} to {max(values):.{digits}f})" if len(values) > 1 else ""
        return middle + spread
