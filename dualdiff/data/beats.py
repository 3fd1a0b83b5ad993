"""The beats of each track, in a small file next to the manifest: exact where a track is notes, else tracked.

A file is named by the hash of the track's audio, so one that is there is the right one. It holds null where no grid is
sure enough.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

from dualdiff import audio
from dualdiff.audio import beat_tracking, notes
from dualdiff.audio.beat_grid import BeatGrid
from dualdiff.core.errors import DataError
from dualdiff.core.files import read_json, write_json_atomically
from dualdiff.core.progress import Progress
from dualdiff.data.analysis import Facts, Found, measure_all
from dualdiff.data.manifest import CACHES, Row, used
from dualdiff.data.renders import file_of, tune_of

FOLDER = Path(CACHES) / "beats"
"""Where the files are, from the project's folder."""

VERSION = 1


def path_of(project: Path, row: Row) -> Path:
    """The file with the beats of a track."""
    return project / FOLDER / f"{row.sha256}.json"


def write_missing(
    project: Path, music: Path, rows: Iterable[Row], progress: Progress, processes: int | None = None
) -> int:
    """Write the beats of the used tracks that have no file yet; returns how many.

    Raises:
        DualdiffError: the project's folder cannot be written to.
    """
    missing = {row.path: row for row in used(rows) if not path_of(project, row).exists()}
    files = [Found(path=row.path, bytes=row.bytes, mtime_ns=row.mtime_ns) for row in missing.values()]
    done = measure_all(music, files, partial(_write, project=project, rows=missing), processes)
    for number, facts in enumerate(done, start=1):
        progress(number, len(files), f"beats of {facts.path}")
    return len(files)


def _write(music: Path, file: Found, project: Path, rows: Mapping[str, Row]) -> Facts:
    row = rows[file.path]
    facts = Facts(path=file.path, bytes=file.bytes, mtime_ns=file.mtime_ns)
    try:
        grid = find(music, row)
    except (DataError, OSError) as error:
        return Facts(path=file.path, bytes=file.bytes, mtime_ns=file.mtime_ns, error=str(error))
    table = {"dualdiff_beats": VERSION, "path": row.path, "grid": None if grid is None else grid.to_json()}
    write_json_atomically(path_of(project, row), table)
    return facts


def find(music: Path, row: Row) -> BeatGrid | None:
    """The beats of a track below the folder `music`; None where they are doubtful.

    Raises:
        DataError: the track cannot be read.
        OSError: its file is gone.
    """
    source = music / file_of(row.piece or row.path)
    if notes.has_exact_beats(source):
        return notes.beats(source, row.tempo, tune_of(row.piece or row.path))
    waveform = audio.read_own(music / row.source, sample_rate=beat_tracking.RATE, channels=1)
    return beat_tracking.grid_of(waveform, beat_tracking.RATE)


def read(project: Path, rows: Sequence[Row]) -> dict[str, BeatGrid]:
    """The grids of tracks, by path; those without a grid, or without a file, are left out.

    Raises:
        DataError: a file is broken.
    """
    grids = {}
    for row in rows:
        path = path_of(project, row)
        table = read_json(path) if path.exists() else {"grid": None}
        try:
            if table["grid"] is not None:
                grids[row.path] = BeatGrid.from_json(table["grid"])
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{path} does not hold beats: {error}", "delete it, then dualdiff dataset scan") from error
    return grids
