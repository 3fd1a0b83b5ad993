"""What a path is, and what is known of it: project, ledger, latents, run, model, clip. What `inspect` shows."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dualdiff import audio
from dualdiff.core.errors import DataError, UsageError, did_you_mean
from dualdiff.core.files import has_key, size_of
from dualdiff.core.progress import Progress, silent
from dualdiff.data.latent_dataset import INDEX_NAME
from dualdiff.data.manifest import LEDGER_NAME, read_ledger
from dualdiff.generation.parse import parse_average
from dualdiff.inspection.audio import clips_in, inspect_audio, inspect_clips, row_pairs
from dualdiff.inspection.dataset import inspect_dataset
from dualdiff.inspection.ema import inspect_average
from dualdiff.inspection.latents import inspect_latent_file, inspect_latents
from dualdiff.inspection.model import inspect_model
from dualdiff.inspection.project_context import SETTINGS_NAME, ProjectContext
from dualdiff.inspection.report_data import Report, ReportTable
from dualdiff.inspection.run import inspect_run
from dualdiff.model_store.components import read_model_json
from dualdiff.model_store.location import named_model


@dataclass(frozen=True)
class InspectOptions:
    """What is asked about a path besides the path itself."""

    project: Path | None = None
    """The project that it belongs to; None: the nearest one above it, or the one here."""
    model: Path | None = None
    """A model folder to judge clips by, besides those of the project."""
    row: str = ""
    """The track of a ledger that is asked about."""
    copies: bool | None = None
    """Whether to look for copies; None: of clips, but not of other audio."""
    part: str = ""
    """From when to when an audio file is listened to, START:END in seconds; empty: all of it."""
    ema: str | None = None
    """Of a run, an average of its weights, WIDTH or WIDTH@STEP; None: the run itself."""


def inspect(path: Path, asked: InspectOptions = InspectOptions(), progress: Progress = silent) -> Report:
    """Find out what `path` is.

    Raises:
        DataError: it does not exist, is nothing of dualdiff's and no audio, or is broken; or there is no such model.
        UsageError: what is asked of it is of another kind of thing.
    """
    if asked.ema is not None:
        return inspect_average(path, *parse_average(asked.ema))
    path = named_model(path)
    if not audio.file_of(path).exists():
        raise DataError(f"{path} does not exist", "check the path")
    around = ProjectContext.of(path, asked.project)
    if asked.model is not None:
        around = replace(around, model=around.model_named(asked.model))
    is_audio = audio.is_readable_name(path)
    if asked.row and path.suffix != ".jsonl":
        raise UsageError("--row names a track of a ledger", "inspect dataset.jsonl with it")
    if asked.part and not is_audio:
        raise UsageError("--part is of one audio file", "inspect that file with it")

    def listen(file: Path) -> Report:
        return inspect_audio(file, around, asked.copies, progress, asked.part)

    kinds: Sequence[tuple[bool, Callable[[Path], Report]]] = (
        (
            path.suffix == ".jsonl",
            lambda file: inspect_row(file, asked.row, around) if asked.row else inspect_dataset(file),
        ),
        (is_audio, listen),
        (path.suffix == ".safetensors", lambda file: inspect_latent_file(file)),
        (path.name == SETTINGS_NAME, lambda file: inspect_project(file.parent)),
        (
            has_key(path / "model.json", "dualdiff_model", True),
            lambda folder: inspect_model(folder, around, asked.copies, progress),
        ),
        (has_key(path / "state.json", "dualdiff_run", True), lambda folder: inspect_run(folder, around)),
        (has_key(path / INDEX_NAME, "dualdiff_latents", True), lambda folder: inspect_latents(folder, around)),
        ((path / SETTINGS_NAME).is_file(), inspect_project),
        (path.is_dir() and bool(clips_in(path)), lambda folder: inspect_clips(folder, around, asked.copies, progress)),
    )
    for matches, look in kinds:
        if matches:
            return look(path)
    what = "holds nothing" if path.is_dir() else "is nothing"
    raise DataError(
        f"{path} {what} that dualdiff knows",
        "inspect takes a project's folder, dataset.jsonl, latents/, runs/<name>, models/<name>, an audio file or a "
        "folder of clips",
    )


def inspect_project(folder: Path) -> Report:
    """A project: which stages are done, and its data set."""
    around = ProjectContext(folder)
    latents = {folder / around.setting("encode", "folder", "latents") / INDEX_NAME, *folder.glob(f"*/{INDEX_NAME}")}
    found = {
        "data set": sorted(folder.glob(LEDGER_NAME)),
        "runs": _with_key(folder.glob("runs/*/state.json"), "dualdiff_run"),
        "models": _with_key(folder.glob("models/*/model.json"), "dualdiff_model"),
        "latents": _with_key(latents, "dualdiff_latents"),
    }
    rows = [(kind, around.named(path), size_of(path)) for kind, paths in found.items() for path in paths]
    parts = [part for model in found["models"] for part in read_model_json(model)["parts"]]
    steps = (
        ("dualdiff dataset scan", bool(found["data set"])),
        ("dualdiff vae train", "vae" in parts),
        ("dualdiff encode", bool(found["latents"])),
        ("dualdiff unet train", "unet" in parts),
    )
    here = ReportTable(title="what is here", columns=("what", "where", "bytes"), rows=rows)
    data = inspect_dataset(folder / LEDGER_NAME) if found["data set"] else None
    return Report(
        kind="project",
        path=folder,
        facts={"stages done": sum(done for _, done in steps), "of": len(steps), **(data.facts if data else {})},
        notes=data.notes if data else (),
        sheets=[sheet for sheet in (here, *(data.sheets if data else ())) if sheet.rows],
        charts=data.charts if data else (),
        next=next((command for command, done in steps if not done), "dualdiff generate"),
    )


def _with_key(paths: Iterable[Path], key: str) -> list[Path]:
    """The folders of those JSON files that have a key: those that this program wrote."""
    return sorted(path.parent for path in paths if has_key(path, key))


def inspect_row(path: Path, track: str, around: ProjectContext) -> Report:
    """One file of a ledger: all that is known of it.

    Raises:
        DataError: the ledger cannot be read, or does not name it.
    """
    rows = {row.path: row for row in read_ledger(path)}
    if track not in rows:
        hint = did_you_mean(track, rows) or "name it as the ledger does, from the music folder: game/track"
        raise DataError(f"{path} names no file {track}", hint)
    row = rows[track]
    music = path.parent / (row.folder or around.setting("dataset", "folder", "music"))
    return Report(
        kind="row of a data set",
        path=path,
        facts=dict(row_pairs(row)),
        notes=[f"It is not used: {row.reason}."] if row.reason else (),
        next=f'dualdiff inspect "{music / row.source}"' if row.state == "used" else "dualdiff dataset scan",
    )
