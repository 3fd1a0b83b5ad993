"""Renders: what is played again and how, and that no render of a held-out piece is ever trained on."""

import dataclasses
import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile

from dualdiff.audio import midi, notes, openmpt
from dualdiff.audio.notes import Renderer, Variation
from dualdiff.core.errors import DataError
from dualdiff.data import renders
from dualdiff.data.manifest import LEDGER_NAME, DatasetConfig, Row, read_ledger, used, write_ledger
from dualdiff.data.renders import variations
from dualdiff.data.scan import scan
from dualdiff.data.selection import with_splits
from tests.module_files import mod, xm

needs_openmpt = pytest.mark.skipif(not openmpt.has_library(), reason="needs libopenmpt")
needs_midi = pytest.mark.skipif(
    not midi.has_fluidsynth() or midi.find_soundfont() is None, reason="needs fluidsynth and a soundfont"
)
CONFIG = DatasetConfig(min_duration_s=0.5, validation_share=0.3, renders=3)


def recording(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.random.default_rng(seed).normal(0, 0.1, (8000, 2)), 8000)


def module(path: Path, row: int) -> None:
    """A module like no other: its hits begin at another row."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = bytearray(mod())
    start = 1084 + row * 16
    content[start + 8 : start + 12] = bytes([428 >> 8, 428 & 0xFF, 2 << 4, 0])
    content[20 + 22 : 20 + 24] = (8 + row).to_bytes(2, "big")  # another tone
    path.write_bytes(content)


def row(path: str, split: str = "train", **values: object) -> Row:
    return Row(path=path, state="used", game="A", split=split, weight_s=12.0, sha256="ab" * 32, **values)  # type: ignore[arg-type]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Six modules and two recordings of two games."""
    for number in range(6):
        module(tmp_path / f"music/{'AB'[number % 2]}/{number}.mod", number)
    recording(tmp_path / "music/A/r1.flac", 1)
    recording(tmp_path / "music/B/r2.flac", 2)
    return tmp_path


def test_variations_depend_on_content_alone_and_differ() -> None:
    fonts = [Path("one.sf2"), Path("two.sf3")]
    found = variations("ab", 6, fonts)
    assert found == variations("ab", 6, fonts)
    assert found[:2] == variations("ab", 2, fonts)
    assert found != variations("cd", 6, fonts)
    assert {one.semitones for one in found} == {-3, -2, -1, 1, 2, 3}
    assert all(0.9 <= one.tempo <= 1.1 for one in found)
    assert Counter(one.soundfont for one in found) == {fonts[0]: 3, fonts[1]: 3}
    assert found[0].soundfont == fonts[1]


def test_only_pieces_to_train_on_are_rendered() -> None:
    rows = [row("a.mid"), row("held.mid", "validation"), row("b.flac"), row("a.mid@1", piece="a.mid")]
    rows.append(dataclasses.replace(row("c.mid"), state="skipped"))
    assert [one.path for one in renders.plan(rows, 3, [])] == ["a.mid@1", "a.mid@2"]
    assert renders.plan(rows, 1, []) == []


@needs_openmpt
def test_a_scan_plays_each_piece_again(project: Path) -> None:
    found = scan(project, CONFIG, processes=1)
    rows = {one.path: one for one in found.rows}
    pieces = [one for one in found.rows if not one.piece]
    assert len(pieces) == 8
    modules = [one for one in pieces if one.path.endswith(".mod")]
    trained = [one.path for one in modules if one.split == "train"]
    assert 0 < len(trained) < len(modules)
    assert {one.path for one in found.rows if one.piece} == {
        f"{path}@{number}" for path in trained for number in (1, 2)
    }
    for path in trained:
        piece, own = rows[path], [rows[f"{path}@{number}"] for number in (1, 2)]
        assert [one.piece for one in own] == [path, path]
        assert len({one.sha256 for one in [piece, *own]}) == 3
        assert [one.duration_s for one in own] == pytest.approx([piece.duration_s / one.tempo for one in own], rel=0.02)
        assert all(Path(one.rendered).is_file() and one.loudness_lufs is not None for one in own)
        assert [one.weight_s for one in own] == [piece.weight_s] * 2
        assert sum(one.weight_s for one in [piece, *own]) == pytest.approx(piece.unique_s)
    again = scan(project, CONFIG, processes=1)
    assert (again.measured, again.rows) == (0, found.rows)


@needs_openmpt
def test_no_render_of_a_held_out_piece_is_trained_on(project: Path) -> None:
    """Not even one that an earlier scan, or a hand, put into the manifest."""
    rows = scan(project, CONFIG, processes=1).rows
    held = next(one for one in rows if one.split == "validation" and one.path.endswith(".mod"))
    planted = dataclasses.replace(held, path=f"{held.path}@1", piece=held.path, split="train", sha256="cd" * 32)
    write_ledger(project / LEDGER_NAME, [*rows, planted])
    with pytest.raises(DataError, match=f'{planted.path} .* the split "train"'):
        read_ledger(project / LEDGER_NAME)
    lines = (project / LEDGER_NAME).read_text().splitlines()
    as_if_whole = [{**json.loads(line), "split": "train"} if held.path in line else json.loads(line) for line in lines]
    (project / LEDGER_NAME).write_text("".join(json.dumps(line) + "\n" for line in as_if_whole))
    original = [one if one.path != held.path else dataclasses.replace(one, split="validation") for one in rows]
    for found in (scan(project, CONFIG, rebuild=True, processes=1).rows,):
        assert {one.path: one.split for one in found} == {one.path: one.split for one in original}
        splits = {one.path: one.split for one in found if not one.piece}
        assert all(splits[one.piece] == "train" == one.split for one in found if one.piece)
        assert not any(one.piece == held.path for one in used(found, "train"))


def test_notes_in_place_of_their_recording_keep_its_split() -> None:
    before = [row(f"A/{number}.flac", "validation" if number == 3 else "train", duration_s=9) for number in range(8)]
    before = [dataclasses.replace(one, sha256=f"{index:02x}" * 32) for index, one in enumerate(before)]
    after = [
        dataclasses.replace(one, path=one.path.replace(".flac", ".mid"), sha256=f"{index + 100:02x}" * 32, split="")
        for index, one in enumerate(before)
    ]
    assert [one.split for one in with_splits(after, before, 0.3)] == [one.split for one in before]
    both = [*after, *(dataclasses.replace(one, split="") for one in before)]  # the recordings are there as well
    kept = {one.path: one.split for one in with_splits(both, before, 0.3)}
    assert [kept[one.path] for one in before] == [one.split for one in before]


@needs_midi
def test_midi_is_played_with_the_soundfont_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "music/A/tune.mid"
    path.parent.mkdir(parents=True)
    path.write_bytes(tiny_midi())
    soundfont = midi.find_soundfont()
    assert soundfont is not None
    config = dataclasses.replace(CONFIG, soundfonts=(str(soundfont),))
    found = {one.path: one for one in scan(tmp_path, config, processes=1).rows}
    assert set(found) == {"A/tune.mid", "A/tune.mid@1", "A/tune.mid@2"}
    assert found["A/tune.mid"].duration_s > 2
    assert found["A/tune.mid@1"].soundfont == soundfont.name


def tiny_midi() -> bytes:
    events = b"".join(bytes([0, 0x90, key, 100, 96, 0x80, key, 0]) for key in (60, 64, 67, 72)) + b"\0\xff\x2f\0"
    return b"MThd\0\0\0\6\0\0\0\1\0\x60MTrk" + len(events).to_bytes(4, "big") + events


def test_midi_without_a_soundfont_has_that_for_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recording(tmp_path / "music/A/r.flac", 1)
    (tmp_path / "music/A/tune.mid").write_bytes(tiny_midi())
    monkeypatch.setattr(midi, "find_soundfont", lambda: None)
    monkeypatch.setattr(midi, "has_fluidsynth", lambda: True)
    found = scan(tmp_path, DatasetConfig(min_duration_s=0.5), processes=1)
    own = next(one for one in found.rows if one.path.endswith(".mid"))
    assert (own.state, own.reason.partition(":")[0]) == ("skipped", "needs a soundfont")
    monkeypatch.setattr(midi, "has_fluidsynth", lambda: False)
    found = scan(tmp_path, DatasetConfig(min_duration_s=0.5), processes=1)
    own = next(one for one in found.rows if one.path.endswith(".mid"))
    assert (own.state, own.reason.partition(":")[0]) == ("skipped", "needs fluidsynth")


def test_a_soundfont_that_is_not_there_is_named(project: Path) -> None:
    with pytest.raises(DataError, match=r"no soundfont .*gone\.sf2"):
        scan(project, dataclasses.replace(CONFIG, soundfonts=("gone.sf2",)), processes=1)


def test_renders_of_recordings_alone_get_one_line(tmp_path: Path) -> None:
    recording(tmp_path / "music/A/r.flac", 1)
    found = scan(tmp_path, CONFIG, processes=1)
    assert found.remarks == [renders.remarks(found.rows, 3, [])[0]]
    assert "recordings" in found.remarks[0]
    assert [one.path for one in found.rows] == ["A/r.flac"]


@needs_openmpt
def test_a_render_that_fails_is_left_out_and_named(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Renderer, path: Path, variation: Variation, tune: int | None = None) -> Path:
        raise DataError(f"{path.name} does not play")

    monkeypatch.setattr(notes.Renderer, "render", fail)
    found = scan(project, CONFIG, processes=1)
    assert not any(one.piece for one in found.rows)
    assert "renders cannot be made" in found.remarks[0]
    assert "does not play" in found.remarks[0]


@needs_openmpt
def test_a_render_is_made_again_when_its_piece_changes(project: Path) -> None:
    before = {one.path: one for one in scan(project, CONFIG, processes=1).rows}
    path = next(one.piece for one in before.values() if one.piece)
    (project / "music" / path).write_bytes(xm())
    shutil.move(project / "music" / path, project / "music" / path.replace(".mod", ".xm"))
    after = {one.path: one for one in scan(project, CONFIG, processes=1).rows}
    renamed = path.replace(".mod", ".xm")
    assert after[renamed].split == "train"
    assert after[f"{renamed}@1"].sha256 != before[f"{path}@1"].sha256
    assert not Path(before[f"{path}@1"].rendered).exists()
