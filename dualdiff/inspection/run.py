"""A training run: how far it is, what it trains on, and how its measures went."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dualdiff.core.config import parse_toml
from dualdiff.core.errors import DataError
from dualdiff.core.files import hash_of, parse_json, read_json, size_of
from dualdiff.inspection.project_context import CHANGED, GONE, SAME, ProjectContext, ancestry
from dualdiff.inspection.report_data import Chart, Lines, Report, ReportTable
from dualdiff.training.run_folder import current_key


def inspect_run(folder: Path, around: ProjectContext) -> Report:
    """A training run: how far it is, and how its measures went."""
    state = read_json(folder / "state.json")
    if not isinstance(state, dict) or "dualdiff_run" not in state or not isinstance(state.get("identity"), dict):
        raise DataError(f"{folder} holds a state.json that is not of a dualdiff run", "check the path")
    network = state["identity"].get("network", "")
    steps = _planned_steps(folder, network)
    checkpoints = sorted(int(path.name) for path in folder.glob("checkpoints/*") if path.name.isdigit())
    done = max(checkpoints, default=0)
    facts = {
        "trains": network,
        "steps done": done,
        "steps planned": steps,
        "checkpoints": checkpoints,
        "weight averages": len(list(folder.glob("ema/*.safetensors"))),
        "bytes": size_of(folder),
        **{key: value for key, value in state["identity"].items() if key not in ("network", "config")},
    }
    series = read_measures(folder / "metrics.jsonl") | read_measures(folder / "costs.jsonl")
    identity = ReportTable(
        title="settings", columns=("setting", "value"), rows=list(state["identity"].get("config", {}).items())
    )
    measures = ReportTable(
        title="measures",
        columns=("measure", "first", "lowest", "last", "at step"),
        rows=[
            (name, points[0][1], min(value for _, value in points), points[-1][1], points[-1][0])
            for name, points in series.items()
        ],
    )
    done_next = {"vae": "dualdiff encode", "unet": "dualdiff generate"}
    return Report(
        kind="run",
        path=folder,
        facts=facts,
        sheets=[sheet for sheet in (measures, _run_origins(state["identity"], around), identity) if sheet.rows],
        charts=[*curves(series), *noise_charts(folder / "metrics.jsonl")],
        next=done_next.get(network, "") if done >= steps else f"dualdiff {network} train",
    )


def _run_origins(identity: Mapping[str, Any], around: ProjectContext) -> ReportTable:
    """What a run trains on, and whether that is still what lies in the project."""
    rows = [around.of_part("vae", str(identity["vae"]))] if "vae" in identity else []
    rows += [around.of_part("format", str(identity["format"]))] if "format" in identity else []
    index, digest = around.latents, str(identity.get("latent statistics", ""))
    if digest:
        now = GONE if index is None else SAME if hash_of([index.mean, index.std]) == digest else CHANGED
        rows.append(("latents", digest, around.named(index.folder) if index else "", now))
    return ancestry(rows)


def _planned_steps(folder: Path, network: str) -> int:
    """How many steps a run is to take: those that `--hours` has planned, else those of its settings."""
    path = folder / "plan.json"
    plan = read_json(path) if path.is_file() else {}
    if isinstance(plan, dict) and isinstance(plan.get("steps"), int):
        return int(plan["steps"])
    path = folder / "config.toml"
    table: Any = parse_toml(path.read_text(encoding="utf-8"), str(path)) if path.is_file() else {}
    return int(table.get(network, {}).get("train", {}).get("steps", 0))


def read_record(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a run's record; one that is being written, or that a kill cut short, is not there yet.

    Raises:
        DataError: a line is no record of a step.
    """
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    lines = text[: text.rfind("\n") + 1].splitlines()
    found = []
    for number, line in enumerate(lines, start=1):
        try:
            values = parse_json(line)
        except ValueError as error:
            raise DataError(f"{path}, line {number} is not JSON", "take the line out") from error
        if not isinstance(values, dict) or not isinstance(values.get("step"), int):
            raise DataError(f"{path}, line {number} is no record of a step", "take the line out")
        found.append(values)
    return found


def read_measures(path: Path) -> dict[str, list[tuple[int, float]]]:
    """The measures of a run, each as (step, value) in the order of the steps; none if there is no such file.

    Raises:
        DataError: see `read_record`.
    """
    series: dict[str, list[tuple[int, float]]] = {}
    for values in read_record(path):
        for name, value in values.items():
            if name != "step" and isinstance(value, int | float):
                series.setdefault(current_key(name), []).append((values["step"], float(value)))
    return series


VALIDATION = "validation/"


def curves(series: Mapping[str, Sequence[tuple[int, float]]]) -> list[Chart]:
    """A chart per measure, with its validation beside it, also where that is measured at several noise levels."""
    charts: dict[str, dict[str, Sequence[tuple[int, float]]]] = {}
    for name, points in series.items():
        measure, _, place = name.removeprefix(VALIDATION).partition("/")
        place = place.removeprefix("game/").replace("sigma_", "sigma ").replace("width_", "width ")
        label = "validation" if name.startswith(VALIDATION) else "training"
        charts.setdefault(measure, {})[f"{label}, {place}" if place else label] = points
    return [Lines(title=measure.replace("_", " "), series=own) for measure, own in charts.items()]


def noise_charts(path: Path) -> list[Chart]:
    """The noise law and u(sigma) over ln sigma, at the first, a middle and the last validation of a run."""
    known = [line for line in read_record(path) if "noise/log_sigma" in line]
    shown = [known[index] for index in sorted({0, len(known) // 2, len(known) - 1})] if known else []
    titles = {"noise/noise_density": "noise law over ln sigma", "noise/u": "u over ln sigma"}
    return [
        Lines(
            title=title,
            series={
                f"step {line['step']}": list(zip(line["noise/log_sigma"], line[name], strict=True)) for line in shown
            },
        )
        for name, title in titles.items()
        if shown
    ]
