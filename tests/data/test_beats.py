"""The beats next to the manifest: exact ones of notes at each render's tempo, tracked ones of recordings."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from dualdiff.audio import notes, openmpt
from dualdiff.core.errors import DataError
from dualdiff.data import beats
from dualdiff.data.manifest import DatasetConfig
from dualdiff.data.scan import scan
from tests.module_files import MODULES

pytestmark = pytest.mark.skipif(not openmpt.has_library(), reason="needs libopenmpt")


@pytest.mark.parametrize("suffix", MODULES)
def test_the_exact_beats_of_a_module(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(MODULES[suffix]())
    grid = notes.beats(path)
    assert grid is not None
    assert (grid.source, grid.beats_per_bar) == ("exact", 4)
    assert grid.bpm == pytest.approx(125, rel=0.005)  # four rows of 0.12 s
    assert grid.phase(np.array([0.0, 0.48])) == pytest.approx([0, 1], abs=0.02)
    faster = notes.beats(path, 1.1)
    assert faster is not None
    assert faster.bpm == pytest.approx(137.5, rel=0.005)


@pytest.mark.parametrize(
    ("every", "row_s", "expected"), [(4, 0.12, 4), (3, 0.16, 3), (6, 0.08, 6), (8, 0.06, 8), (16, 0.03, 16)]
)
def test_rows_per_beat_follow_the_notes(every: int, row_s: float, expected: int) -> None:
    counts = [3 if row % every == 0 else row % every == every // 2 for row in range(256)]
    assert notes.rows_per_beat(counts, row_s) == expected


def test_a_scan_writes_the_beats_once(tmp_path: Path) -> None:
    (tmp_path / "music/A").mkdir(parents=True)
    (tmp_path / "music/A/a.mod").write_bytes(MODULES[".mod"]())
    noise = np.random.default_rng(0).normal(0, 0.1, (8 * 8000, 2))
    soundfile.write(tmp_path / "music/A/noise.flac", noise, 8000)
    config = DatasetConfig(min_duration_s=0.5, validation_share=0, renders=2)
    rows = scan(tmp_path, config, processes=1).rows
    files = {row.path: beats.path_of(tmp_path, row) for row in rows}
    assert set(files) == {"A/a.mod", "A/a.mod@1", "A/noise.flac"}
    assert all(path.is_file() for path in files.values())
    grids = beats.read(tmp_path, rows)
    assert set(grids) == {"A/a.mod", "A/a.mod@1"}, "noise has no beats"
    tempo = next(row.tempo for row in rows if row.piece)
    assert grids["A/a.mod@1"].bpm == pytest.approx(grids["A/a.mod"].bpm * tempo, rel=0.005)
    assert beats.write_missing(tmp_path, tmp_path / "music", rows, lambda *_: None, 1) == 0
    table = json.loads(files["A/a.mod"].read_text())
    files["A/a.mod"].write_text(json.dumps({**table, "grid": {**table["grid"], "beats": []}}))
    with pytest.raises(DataError, match="does not hold beats"):
        beats.read(tmp_path, rows)
