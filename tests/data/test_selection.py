"""Which of the same music is used, on which side of the split it is, what names a game, what a track counts for."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dualdiff import audio
from dualdiff.core.errors import DataError
from dualdiff.core.files import hash_of
from dualdiff.data import labels
from dualdiff.data.analysis import Facts
from dualdiff.data.fingerprint_store import read_prints, write_prints
from dualdiff.data.manifest import DatasetConfig, Row, used
from dualdiff.data.scan import scan
from dualdiff.data.selection import judge, with_splits
from dualdiff.data.waveform_dataset import TrackCrops

RATE = 16000
CONFIG = DatasetConfig(min_duration_s=1.0, validation_share=0.3)


def facts(path: str, **values: object) -> Facts:
    own = {
        "bytes": 1,
        "mtime_ns": 1,
        "sha256": hash_of(path),
        "duration_s": 60.0,
        "loudness_lufs": -20.0,
        "unique_s": 60.0,
    }
    return Facts(path=path, **{**own, **values})  # type: ignore[arg-type]


def judged(*files: Facts, **settings: object) -> dict[str, Row]:
    rows = judge(files, replace(CONFIG, **settings), labels.by_folder)  # type: ignore[arg-type]
    return {row.path: row for row in rows}


def tune(seed: int, duration_s: float) -> torch.Tensor:
    """Chords that change four times a second, each with its own decay, and no two parts alike, (2, T)."""
    draw = np.random.default_rng(seed)
    length = RATE // 4
    time_s = np.arange(length) / RATE
    parts = []
    for _ in range(round(4 * duration_s)):
        pitches_hz = 220 * 2 ** (draw.integers(0, 30, 3) / 12)
        tones = [np.sin(2 * np.pi * hz * k * time_s) / k for hz in pitches_hz for k in (1, 2, 3, 4)]
        parts.append(np.sum(tones, 0) * np.exp(-time_s * draw.uniform(2, 9)))
    one = torch.from_numpy(np.concatenate(parts)).float() * 0.05
    return torch.stack([one, 0.9 * one])


def write(project: Path, path: str, waveform: torch.Tensor, rate: int = RATE) -> None:
    (project / "music" / path).parent.mkdir(parents=True, exist_ok=True)
    audio.write(project / "music" / path, waveform, rate)


# The same music


def test_of_the_same_music_the_best_is_used_and_named() -> None:
    rows = judged(
        facts("A/1", group="g", bandwidth_hz=11000.0),
        facts("A/2", group="g", bandwidth_hz=15900.0),
        facts("B/3", group="g", bandwidth_hz=16100.0, duration_s=90.0),
        facts("B/4", group="h"),
        facts("B/5"),
    )
    assert [path for path, row in rows.items() if row.state == "used"] == ["B/3", "B/4", "B/5"]
    assert rows["A/1"].reason == "near-duplicate: the same music as B/3"
    assert (rows["A/2"].state, rows["A/2"].duplicate_of) == ("skipped", "B/3")


def test_only_what_could_be_used_stands_for_the_same_music() -> None:
    rows = judged(facts("A/1", group="g"), facts("A/2", group="g", bandwidth_hz=16000.0, loudness_lufs=-70.0))
    assert (rows["A/1"].state, rows["A/2"].reason.partition(":")[0]) == ("used", "silent")


def test_all_of_the_same_music_is_used_if_so_set() -> None:
    rows = judged(facts("A/1", group="g"), facts("A/2", group="g"), near_duplicates="keep")
    assert {row.state for row in rows.values()} == {"used"}


def test_the_same_music_is_on_one_side_of_the_split() -> None:
    files = [facts(f"{game}/{number}", group=f"g{number // 3}") for game in "AB" for number in range(60)]
    rows = with_splits(list(judged(*files, near_duplicates="keep").values()), [], 0.4)
    sides = {group: {row.split for row in rows if row.group == group} for group in {row.group for row in rows}}
    assert all(len(side) == 1 for side in sides.values())
    assert 4 <= sum(side == {"validation"} for side in sides.values()) <= 12


def test_music_keeps_its_split_when_a_better_recording_of_it_is_added() -> None:
    files = [facts(f"A/{number}") for number in range(40)]
    before = with_splits(list(judged(*files).values()), [], 0.3)
    better = [
        twin
        for own in files
        for twin in (replace(own, group=own.path), facts(f"B/{own.path}", group=own.path, bandwidth_hz=20000.0))
    ]
    after = with_splits(list(judged(*better).values()), before, 0.3)
    assert {row.path for row in used(after)} == {f"B/{own.path}" for own in files}
    assert {row.path.removeprefix("B/"): row.split for row in used(after)} == {row.path: row.split for row in before}


def test_music_that_was_on_both_sides_has_been_trained_on() -> None:
    rows = list(judged(facts("A/1"), facts("A/2"), facts("A/3"), facts("A/4"), facts("A/5")).values())
    before = [replace(row, split="validation" if row.path == "A/1" else "train") for row in rows]
    both = [replace(row, group="g") if row.path in ("A/1", "A/2") else row for row in rows]
    for order in (both, both[::-1]):
        splits = {row.path: row.split for row in with_splits(order, before, 0.01)}
        assert (splits["A/1"], splits["A/2"]) == ("train", "train")


def test_a_scan_finds_the_same_music_at_another_gain_rate_codec_and_start(tmp_path: Path) -> None:
    music = tune(1, 40.0)
    write(tmp_path, "A/original.flac", music)
    write(tmp_path, "A/other.flac", tune(2, 40.0))
    write(tmp_path, "B/another.flac", tune(3, 40.0))
    first = scan(tmp_path, CONFIG, processes=1)
    assert {row.state for row in first.rows} == {"used"}
    assert not any(row.group for row in first.rows)
    write(tmp_path, "B/quiet, late.mp3", 0.3 * music[:, round(3.7 * RATE) :])
    write(tmp_path, "B/low.ogg", audio.resample(music, RATE, 11025), 11025)
    again = scan(tmp_path, CONFIG, processes=1)
    assert again.measured == 2
    rows = {row.path: row for row in again.rows}
    assert rows["B/quiet, late.mp3"].reason == "near-duplicate: the same music as A/original.flac"
    assert rows["B/low.ogg"].duplicate_of == "A/original.flac"
    assert {row.group for row in again.rows} == {"", rows["A/original.flac"].group}
    splits = {row.path: row.split for row in used(first.rows)}
    assert {row.path: row.split for row in used(again.rows)} == splits
    assert scan(tmp_path, CONFIG, processes=1).rows == again.rows


# Loops


def test_a_track_counts_for_its_unique_music_once_or_for_all_it_plays() -> None:
    looped = facts("A/1", duration_s=100.0, unique_s=20.0, loop_s=18.0)
    assert judged(looped)["A/1"].weight_s == 20.0
    assert judged(looped, repeats="all")["A/1"].weight_s == 100.0


def test_a_track_that_plays_its_loop_again_is_drawn_by_its_unique_length(tmp_path: Path) -> None:
    loop = tune(1, 12.0)
    write(tmp_path, "A/looped.flac", torch.cat([tune(9, 4.0), *[loop] * 5], dim=1))
    write(tmp_path, "B/straight.flac", tune(2, 64.0))
    rows = {row.path: row for row in scan(tmp_path, CONFIG, processes=1).rows}
    looped, straight = rows["A/looped.flac"], rows["B/straight.flac"]
    assert looped.loop_s == pytest.approx(12.0, abs=0.1)
    assert looped.weight_s == pytest.approx(16.0, abs=0.5)
    assert (straight.loop_s, straight.weight_s) == (0.0, 64.0)
    frames = type("Frames", (), {})()
    frames.sample_rate, frames.num_samples = RATE, lambda count: count
    frames.config = type("Config", (), {"loudness_lufs": -20.0})()
    crops = TrackCrops(list(rows.values()), tmp_path / "music", frames, 100, seed=1)
    names = crops.examples(0, 400).names
    share = sum(name.startswith("A/") for name in names) / len(names)
    assert share == pytest.approx(16 / 80, abs=0.06)


# Labels


def table(folder: Path, text: str) -> labels.Table:
    (folder / "labels.csv").write_text(text, encoding="utf-8-sig")
    return labels.Table(folder / "labels.csv", folder / "music")


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_a_table_names_games_by_file_or_folder(tmp_path: Path, separator: str) -> None:
    lines = [
        "Path,Year,Game",
        "A,1990,Alpha",
        "A/B/,1991,Beta",
        './A/B/1.flac,1992,"Gam|ma"',
        "x.nsf,,Nes",
        "x.nsf#02,,Two",
    ]
    label = table(tmp_path, "\n".join(lines).replace(",", separator).replace("|", separator) + "\n")
    wanted = {
        "A/1.flac": "Alpha",
        "A/C/1.flac": "Alpha",
        "A/B/2.flac": "Beta",
        "A/B/1.flac": f"Gam{separator}ma".replace("\t", " "),
        "x.nsf#01": "Nes",
        "x.nsf#02": "Two",
        "other/1.flac": "",
        "AB/1.flac": "",
    }
    assert {path: label(facts(path)) for path in wanted} == wanted
    assert label.unmatched(["A/1.flac", "x.nsf#01"]) == ["A/B", "A/B/1.flac", "x.nsf#02"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_a_table_as_a_spreadsheet_writes_it_with_paths_from_anywhere(tmp_path: Path, encoding: str) -> None:
    music = tmp_path / "my music"
    text = f"sep=;\r\nGAME;PATH\r\nPokémon;{music}/A/1.flac\r\nBeta;my music/B\r\nC;{tmp_path}/elsewhere/2.flac\r\n"
    (tmp_path / "labels.csv").write_bytes(text.encode(encoding))
    label = labels.Table(tmp_path / "labels.csv", music)
    assert [label(facts(path)) for path in ("A/1.flac", "B/x/2.flac", "2.flac")] == ["Pokémon", "Beta", ""]
    assert label.unmatched(["A/1.flac", "B/x/2.flac", "2.flac"]) == [f"{tmp_path}/elsewhere/2.flac"]


def test_a_game_folder_that_is_called_as_the_music_folder_goes_first(tmp_path: Path) -> None:
    label = table(tmp_path, "path,game\nmusic/a,Long\na,Short\n")
    assert (label(facts("music/a/1.flac")), label(facts("a/1.flac"))) == ("Long", "Short")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("file,game\na,b\n", "has no column path"),
        ("path,title\na,b\n", "has no column game"),
        ("", "has no column game"),
        ("path,game\nA,one\nA/,two\n", 'line 3 of .* names "A" again'),
    ],
)
def test_a_table_that_makes_no_sense_is_refused(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(DataError, match=words) as caught:
        table(tmp_path, text)
    assert caught.value.hint


def test_a_scan_labels_by_a_table_and_says_what_it_does_not_name(tmp_path: Path) -> None:
    write(tmp_path, "1.flac", tune(1, 2.0))
    write(tmp_path, "sub/2.flac", tune(2, 2.0))
    config = replace(CONFIG, labels="csv")
    with pytest.raises(DataError, match="there is no table of labels"):
        scan(tmp_path, config)
    (tmp_path / "labels.csv").write_text("path,game\n1.flac,Alpha\nelsewhere,Beta\n")
    done = scan(tmp_path, config, processes=1)
    assert [(row.game, row.reason.partition(":")[0]) for row in done.rows] == [("Alpha", ""), ("", "no label")]
    assert done.unmatched == ["elsewhere"]
    assert scan(tmp_path, CONFIG, processes=1).measured == 0


def test_the_game_tag_comes_before_the_album() -> None:
    assert labels.by_tag(facts("A/1", album=" Zelda  II ")) == "Zelda II"


# Fingerprints on disk


def test_fingerprints_come_back(tmp_path: Path) -> None:
    prints = {hash_of(name): np.arange(name, dtype=np.uint32) for name in (3, 0, 7)}
    write_prints(tmp_path / "prints", prints)
    again = read_prints(tmp_path / "prints")
    assert {key: value.tolist() for key, value in again.items()} == {
        key: value.tolist() for key, value in prints.items()
    }
    write_prints(tmp_path / "prints", {})
    assert read_prints(tmp_path / "prints") == {}
    assert read_prints(tmp_path / "nowhere") == {}
