"""The ledger: every file has a row with a state and a reason, splits hold still, and an interruption costs little."""

import dataclasses
import json
import math
import os
import shutil
from pathlib import Path

import pytest
import torch

from dualdiff import audio
from dualdiff.audio.cache import Cache
from dualdiff.audio.ffmpeg import Rendering
from dualdiff.audio.notes import Renderer
from dualdiff.core.config import build
from dualdiff.core.errors import ConfigError, DataError, DualdiffError
from dualdiff.core.files import hash_of
from dualdiff.data import analysis
from dualdiff.data.analysis import Facts, Found, find, measure_all
from dualdiff.data.labels import by_folder
from dualdiff.data.manifest import (
    DatasetConfig,
    Row,
    games_of,
    kind_of,
    read_ledger,
    row_of,
    summary,
    used,
    write_ledger,
)
from dualdiff.data.scan import Scan, scan
from dualdiff.data.selection import REMEDIES, judge, with_splits

RATE = 8000
CONFIG = DatasetConfig(min_duration_s=0.5, max_duration_s=3.0, validation_share=0.3)


def noise(seed: int, duration_s: float = 1.0, gain: float = 0.1) -> torch.Tensor:
    return gain * torch.randn(2, round(duration_s * RATE), generator=torch.Generator().manual_seed(seed)).clamp(-3, 3)


def tune(path: Path, seed: int, duration_s: float = 1.0, gain: float = 0.1, **tags: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    audio.write(path, noise(seed, duration_s, gain), RATE, **tags)
    return path


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with two games of two tracks each."""
    for number, path in enumerate(["A/1.flac", "A/2.wav", "B/disc 1/1.flac", "B/2.ogg"]):
        tune(tmp_path / "music" / path, number)
    return tmp_path


def rescan(project: Path, config: DatasetConfig = CONFIG, **options: object) -> Scan:
    return scan(project, config, **options)  # type: ignore[arg-type]


def by_path(rows: list[Row]) -> dict[str, Row]:
    return {row.path: row for row in rows}


def row(path: str, state: str = "used", **values: object) -> Row:
    return Row(path=path, state=state, game=path.partition("/")[0], sha256=hash_of(path), **values)  # type: ignore[arg-type]


# Facts


def test_facts_of_a_file(project: Path) -> None:
    path = tune(project / "music/A/3.flac", 7, 1.5, 0.05, title="The Third", album="Alpha")
    own = by_path(rescan(project).rows)["A/3.flac"]
    assert (own.state, own.reason, own.game, own.title, own.album) == ("used", "", "A", "The Third", "Alpha")
    assert (own.duration_s, own.sample_rate, own.channels) == (1.5, RATE, 2)
    assert (own.bytes, own.mtime_ns) == (path.stat().st_size, path.stat().st_mtime_ns)
    assert own.loudness_lufs == pytest.approx(audio.loudness_lufs(noise(7, 1.5, 0.05), RATE), abs=0.01)
    assert own.true_peak_db == pytest.approx(audio.true_peak_db(noise(7, 1.5, 0.05), RATE), abs=0.01)
    assert len(own.sha256) == 64
    assert own.duplicate_of == ""


def test_mono_is_measured_as_the_stereo_it_is_read_as(tmp_path: Path) -> None:
    one = noise(1)[:1]
    audio.write(tmp_path / "mono.flac", one, RATE)
    facts = measured(
        tmp_path,
        Found(
            path="mono.flac",
            bytes=(tmp_path / "mono.flac").stat().st_size,
            mtime_ns=(tmp_path / "mono.flac").stat().st_mtime_ns,
        ),
    )
    assert facts.loudness_lufs == pytest.approx(audio.loudness_lufs(one.expand(2, -1), RATE), abs=0.01)


def test_hidden_files_are_passed_over_and_other_files_counted(project: Path) -> None:
    music = project / "music"
    tune(music / "A/.hidden.flac", 8)
    tune(music / ".trash/x.flac", 9)
    for name in ("A/cover.jpg", "A/back.JPG", "B/notes.txt", "LICENSES/A.txt"):
        (music / name).parent.mkdir(exist_ok=True)
        (music / name).write_bytes(b"x")
    done = rescan(project)
    assert [row.path for row in done.rows] == ["A/1.flac", "A/2.wav", "B/2.ogg", "B/disc 1/1.flac"]
    assert done.ignored == {".jpg": 2, ".txt": 2}
    assert games_of(done.rows) == ["A", "B"]


def test_links_are_followed_but_never_in_circles(project: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    tune(elsewhere / "3.flac", 3)
    music = project / "music"
    (music / "A/loop").symlink_to(music)
    (music / "0 same as B").symlink_to(music / "B")
    (music / "C").symlink_to(elsewhere)
    (music / "C/gone.flac").symlink_to(elsewhere / "nowhere.flac")
    files, _, _ = find(music)
    assert [file.path for file in files if not file.problem] == [
        "A/1.flac",
        "A/2.wav",
        "B/2.ogg",
        "B/disc 1/1.flac",
        "C/3.flac",
    ]
    assert {file.path: file.problem for file in files if file.problem} == {
        "0 same as B": "link: it leads to a folder read already",
        "A/loop": "link: it leads to a folder read already",
        "C/gone.flac": "unreadable: No such file or directory",
    }


def test_odd_files_fail_with_a_reason_and_harm_no_other(project: Path) -> None:
    music = project / "music"
    (music / "A/text.flac").write_text("not audio at all")
    (music / "A/empty.wav").touch()
    (music / "B/cut.ogg").write_bytes((music / "B/2.ogg").read_bytes()[:2500])
    os.mkfifo(music / "B/pipe.wav")
    Path(os.fsdecode(os.fsencode(music / "B") + b"/\xff.wav")).touch()
    rows = by_path(rescan(project, processes=1).rows)
    failed = {path: row.reason for path, row in rows.items() if row.state == "failed"}
    assert set(failed) == {"A/text.flac", "A/empty.wav", "B/cut.ogg", "B/pipe.wav", "B/\\xff.wav"}
    assert all(reason.startswith("unreadable: ") for reason in failed.values())
    assert str(music) not in "".join(failed.values())
    assert "rename" in failed["B/\\xff.wav"]
    assert len(used(rows.values())) == 4


def measured(folder: Path, file: Found) -> Facts:
    return analysis.measure(
        folder, file, Cache(folder.parent / "cache"), Rendering(), Renderer(cache=folder.parent / "cache")
    )


def deadly(folder: Path, file: Found) -> Facts:
    """Measures, with one file standing for those that take their process with them."""
    if file.path == "deadly":
        os._exit(9)
    return measured(folder, file)


def test_processes_find_the_same_facts_and_survive_a_file_that_kills_one(project: Path) -> None:
    files, _, _ = find(project / "music")
    alone = {own.path: own for own in measure_all(project / "music", files[:2], measured, processes=1)}
    together = {
        own.path: own for own in measure_all(project / "music", [*files[:2], Found(path="deadly")], deadly, processes=2)
    }
    assert "process that read it died" in together.pop("deadly").error
    assert alone == together


# Verdicts


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"duration_s": 0.2}, "too short"),
        ({"duration_s": 9.0}, "too long"),
        ({"loudness_lufs": -60.0}, "silent"),
        ({"path": "1.flac"}, "no game folder"),
        ({"error": "unreadable: it is damaged"}, "unreadable"),
        ({"error": "needs ffmpeg: only ffmpeg plays spc files"}, "needs ffmpeg"),
    ],
)
def test_what_is_not_used_has_a_reason_and_a_remedy(change: dict[str, object], kind: str) -> None:
    facts = Facts(path="A/1.flac", bytes=1, mtime_ns=1, sha256="ab", duration_s=1.0, loudness_lufs=-20.0)
    assert judge([facts], CONFIG, by_folder)[0].state == "used"
    (judged,) = judge([dataclasses.replace(facts, **change)], CONFIG, by_folder)  # type: ignore[arg-type]
    assert judged.state == ("failed" if kind == "unreadable" else "skipped")
    assert judged.reason.partition(":")[0] == kind
    assert REMEDIES[kind]


def test_silence_is_skipped(project: Path) -> None:
    tune(project / "music/A/silence.wav", 0, gain=0.0)
    own = by_path(rescan(project, dataclasses.replace(CONFIG, min_loudness_lufs=-70.0)).rows)["A/silence.wav"]
    assert (own.state, own.loudness_lufs, own.true_peak_db) == ("skipped", -70.0, -150.0)
    assert own.reason.startswith("silent: ")


def test_the_same_bytes_are_used_once(project: Path) -> None:
    music = project / "music"
    shutil.copy(music / "A/1.flac", music / "0.flac")  # without a game, so that it is not the one to use
    shutil.copy(music / "A/1.flac", music / "B/copy.flac")
    rows = by_path(rescan(project).rows)
    assert rows["A/1.flac"].state == "used"
    assert (rows["B/copy.flac"].state, rows["B/copy.flac"].duplicate_of) == ("skipped", "A/1.flac")
    assert rows["B/copy.flac"].reason == "duplicate: the same bytes as A/1.flac"
    assert rows["0.flac"].reason.startswith("no game folder")
    assert {kind_of(own.reason) for own in rows.values()} - {""} <= REMEDIES.keys()


def test_games_come_from_tags_if_asked_without_measuring_again(project: Path) -> None:
    tune(project / "music/A/3.flac", 7, album=" Zelda:  A Link ")
    rescan(project)
    done = rescan(project, dataclasses.replace(CONFIG, labels="tag"))
    assert done.measured == 0
    assert by_path(done.rows)["A/3.flac"].game == "Zelda: A Link"
    assert by_path(done.rows)["A/1.flac"].reason == "no game tag: neither a game tag nor an album tag names its game"
    assert games_of(done.rows) == ["Zelda: A Link"]
    assert {kind_of(own.reason) for own in done.rows} == {"", "no game tag"} <= {"", *REMEDIES}


def test_a_game_is_named_alike_by_every_file_system() -> None:
    facts = Facts(path="Pokémon/1.flac", bytes=1, mtime_ns=1, sha256="ab", duration_s=1.0, loudness_lufs=-20.0)
    assert judge([facts], CONFIG, by_folder)[0].game == "Pok\u00e9mon"


# Splits


def split_of(rows: list[Row]) -> dict[str, str]:
    return {own.path: own.split for own in rows}


def test_the_share_that_validates_is_about_what_is_asked() -> None:
    rows = [row(f"{game}/{number}") for game in "AB" for number in range(500)]
    kept_out = sum(split == "validation" for split in split_of(with_splits(rows, [], 0.1)).values())
    assert abs(kept_out - 100) < 3 * math.sqrt(1000 * 0.1 * 0.9)


def test_added_tracks_move_no_other() -> None:
    rows = [row(f"{game}/{number}") for game in "ABC" for number in range(12)]
    few = with_splits(rows[::2], [], 0.2)
    more = split_of(with_splits(rows, few, 0.2))
    assert split_of(few).items() <= more.items()
    assert split_of(with_splits(rows, few, 0.9)).items() >= split_of(few).items()
    assert split_of(with_splits(rows, [], 0.2)) == split_of(with_splits(rows[::-1], [], 0.2))


def test_a_track_that_moved_or_was_retagged_keeps_its_split() -> None:
    before = with_splits([row(f"A/{number}") for number in range(20)], [], 0.3)
    moved = [dataclasses.replace(own, path=f"B/{own.path}", split="") for own in before]
    retagged = [dataclasses.replace(own, sha256=hash_of(own.path + "x"), split="") for own in before]
    for now in (moved, retagged):
        assert [own.split for own in with_splits(now, before, 0.3)] == [own.split for own in before]


def test_a_game_keeps_a_track_to_train_on() -> None:
    rows = [row(f"{game}/{number}") for game in "ABCDEF" for number in range(2)] + [row("G/1")]
    splits = split_of(with_splits(rows, [], 0.95))
    for game in "ABCDEFG":
        assert "train" in {split for path, split in splits.items() if path.startswith(game)}


def test_four_tracks_have_one_to_validate_on() -> None:
    rows = [row("A/1"), row("A/2"), row("A/3"), row("B/1")]
    for order in (rows, rows[::-1]):
        kept_out = [path for path, split in split_of(with_splits(order, [], 1e-9)).items() if split == "validation"]
        assert len(kept_out) == 1
        assert kept_out[0].startswith("A/"), "the only track of a game is for training"
    assert set(split_of(with_splits(rows[:3], [], 1e-9)).values()) == {"train"}
    assert set(split_of(with_splits(rows, [], 0.0)).values()) == {"train"}
    assert "validation" in split_of(with_splits([row(f"{game}/1") for game in "ABCD"], [], 1e-9)).values()


def test_every_game_of_four_tracks_or_more_has_one_held_out() -> None:
    rows = [
        row(f"{game}/{number}")
        for game, count in zip("ABCDE", (4, 7, 30, 3, 1), strict=True)
        for number in range(count)
    ]
    splits = split_of(with_splits(rows, [], 1e-9))
    held_out = sorted(path[0] for path, split in splits.items() if split == "validation")
    assert held_out == ["A", "B", "C"]
    assert split_of(with_splits(rows[::-1], [], 1e-9)) == splits
    lowest = min((own for own in rows if own.path.startswith("C")), key=lambda own: own.sha256)
    assert splits[lowest.path] == "validation", "chosen by the hash of the content alone"
    known = [dataclasses.replace(own, split="train") for own in rows]
    assert set(split_of(with_splits(rows, known, 1e-9)).values()) == {"train", "validation"}
    trained_on = split_of(with_splits(rows, known, 0.2))
    assert sum(split == "validation" for split in trained_on.values()) <= 1, "what was trained on stays trained on"


def test_only_used_tracks_have_a_split() -> None:
    rows = with_splits([row("A/1"), row("A/2", "skipped", reason="too short: 1 s"), row("A/3", "failed")], [], 0.1)
    assert [own.split for own in rows] == ["train", "", ""]


# Scans


def test_a_second_scan_reads_only_what_changed(project: Path) -> None:
    first = rescan(project)
    again = rescan(project)
    assert (first.measured, again.measured) == (4, 0)
    assert again.rows == first.rows
    tune(project / "music/A/2.wav", 99, 1.2)
    changed = rescan(project)
    assert changed.measured == 1
    assert by_path(changed.rows)["A/2.wav"].duration_s == 1.2
    assert by_path(changed.rows)["A/2.wav"].split == by_path(first.rows)["A/2.wav"].split
    (project / "music/A/2.wav").unlink()
    assert "A/2.wav" not in by_path(rescan(project).rows)
    assert rescan(project, rebuild=True).measured == 3


def test_what_failed_is_tried_again(project: Path) -> None:
    broken = project / "music/A/0.flac"
    broken.write_bytes(b"x")
    assert rescan(project).measured == 5
    assert rescan(project).measured == 1


def test_an_interrupted_scan_goes_on_where_it_was(project: Path) -> None:
    def stop_at_three(done: float, total: float, note: str = "") -> None:
        assert total == 4
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rescan(project, progress=stop_at_three)
    assert not (project / "dataset.jsonl").exists()
    with open(project / ".dualdiff" / "scan-journal.jsonl", "a") as journal:
        journal.write('{"path": "torn')
    done = rescan(project)
    assert done.measured == 1
    assert sorted(path.name for path in project.iterdir()) == [".dualdiff", "dataset.jsonl", "music"]
    assert not (project / ".dualdiff" / "scan-journal.jsonl").exists()
    assert done.rows == rescan(project, rebuild=True).rows


def test_a_scan_killed_while_it_ends_loses_nothing(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(path: Path, rows: list[Row]) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("dualdiff.data.scan.write_ledger", killed)
        with pytest.raises(KeyboardInterrupt):
            rescan(project)
    assert rescan(project).measured == 0


def test_lost_fingerprints_are_measured_again(project: Path) -> None:
    rescan(project)
    (project / ".dualdiff" / "fingerprints.safetensors").write_bytes(b"torn")
    assert rescan(project).measured == 4
    assert rescan(project).measured == 0
    shutil.rmtree(project / ".dualdiff")
    assert rescan(project).measured == 4


def test_fingerprints_where_an_older_version_kept_them_are_used(project: Path) -> None:
    rescan(project)
    (project / ".dualdiff" / "fingerprints.safetensors").rename(project / ".dataset.jsonl.fingerprints")
    assert rescan(project).measured == 0


def test_a_manifest_without_the_folder_is_read(project: Path) -> None:
    rescan(project)
    path = project / "dataset.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert {row.pop("folder") for row in rows} == {""}
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert rescan(project).measured == 0


def test_a_file_of_the_manifests_name_that_is_none_is_not_overwritten(project: Path) -> None:
    (project / "dataset.jsonl").write_text('{"text": "of a data set of another kind"}\n')
    for rebuild in (False, True):
        with pytest.raises(DataError):
            rescan(project, rebuild=rebuild)
    assert "of another kind" in (project / "dataset.jsonl").read_text()
    (project / "dataset.jsonl").write_text('{"version": 2, "sha256": "", "state": "torn\n')
    assert rescan(project, rebuild=True).measured == 4


def test_music_is_only_read(project: Path) -> None:
    def state() -> dict[str, tuple[bytes, int]]:
        files = [path for path in (project / "music").rglob("*") if path.is_file()]
        return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}

    before = state()
    rescan(project)
    assert state() == before


@pytest.mark.parametrize(
    ("folder", "words", "hint"),
    [
        ("nowhere", "there is no music folder", "dataset scan FOLDER"),
        ("music/A/1.flac", "is a file", "dataset.folder"),
        ("texts", "holds no audio: other files only (2 .txt)", "game/track"),
        ("empty", "holds no audio: no files", "game/track"),
        ("music/A", "no game folder: it lies in the music folder itself", 'dataset.labels = "tag"'),
        ("short", "for 2 of them the reason is: too short: 0.20 s of at least 0.5 s", "lower dataset.min_duration_s"),
    ],
)
def test_a_folder_without_music_is_refused_in_words(project: Path, folder: str, words: str, hint: str) -> None:
    for path in ("texts/A/1.txt", "texts/A/2.txt", "short/A/3.wav"):
        (project / path).parent.mkdir(parents=True, exist_ok=True)
        (project / path).write_text("text")
    (project / "empty").mkdir()
    tune(project / "short/A/1.flac", 1, 0.2)
    tune(project / "short/A/2.flac", 2, 0.2)
    rescan(project)
    ledger = (project / "dataset.jsonl").read_bytes()
    with pytest.raises(DataError) as caught:
        rescan(project, dataclasses.replace(CONFIG, folder=folder))
    assert words in caught.value.message
    assert hint in caught.value.hint
    assert caught.value.exit_code == 3
    assert (project / "dataset.jsonl").read_bytes() == ledger


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder that not even root can write to")
def test_a_folder_that_cannot_be_written_to_is_told(project: Path) -> None:
    with pytest.raises(DualdiffError, match="cannot be written"):
        scan(Path("/proc"), dataclasses.replace(CONFIG, folder=str(project / "music")))


def test_settings_that_exclude_each_other_are_refused() -> None:
    with pytest.raises(ConfigError, match="min_duration_s 20 is not below max_duration_s 10"):
        build(DatasetConfig, {"min_duration_s": 20, "max_duration_s": 10})


# The file


def test_the_file_gives_back_its_rows_one_a_line(project: Path) -> None:
    tune(project / "music/Ñandú, the game/1.flac", 11)
    rows = rescan(project).rows
    assert read_ledger(project / "dataset.jsonl") == rows
    lines = (project / "dataset.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) == len(rows) == 5
    keys = {tuple(json.loads(line)) for line in lines}
    assert len(keys) == 1, "every line has the same keys"
    promised = "path sha256 state reason game title duration_s sample_rate channels loudness_lufs true_peak_db"
    assert {*promised.split(), "duplicate_of", "split"} <= set(keys.pop())


def test_a_missing_ledger_names_the_command_that_makes_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no ledger") as caught:
        read_ledger(tmp_path / "dataset.jsonl")
    assert "dualdiff dataset scan" in caught.value.hint


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda line: line[:40], "line 2 of the ledger .* is broken: it is not JSON"),
        (lambda line: line.replace('"used"', '"usable"'), 'line 2 .* is broken: "state" is "usable"'),
        (lambda line: line.replace('"game": "B", ', ""), 'line 2 .* is broken: "game" is missing'),
        (lambda line: line.replace("}", ', "mood": "sad"}'), 'line 2 .* is broken: "mood" is not a key'),
        (lambda line: "[1, 2]", "line 2 .* is broken: it is not a JSON object"),
        (
            lambda line: line.replace('"version": 2', '"version": 3'),
            "line 2 .*: its version is 3, this dualdiff reads 2",
        ),
        (
            lambda line: line.replace('"version": 2', '"version": 1'),
            "line 2 .*: its version, 1, is older than this dualdiff's",
        ),
    ],
)
def test_a_broken_line_is_named(tmp_path: Path, spoil, words: str) -> None:
    path = tmp_path / "dataset.jsonl"
    write_ledger(path, [row("A/1"), row("B/1")])
    first, second = path.read_text().splitlines()
    path.write_text(f"{first}\n{spoil(second)}\n")
    with pytest.raises(DataError, match=words) as caught:
        read_ledger(path)
    assert caught.value.hint


def test_an_empty_ledger_is_refused(tmp_path: Path) -> None:
    (tmp_path / "dataset.jsonl").touch()
    with pytest.raises(DataError, match="is empty"):
        read_ledger(tmp_path / "dataset.jsonl")


def test_whole_numbers_pass_for_seconds() -> None:
    assert row_of({**dataclasses.asdict(row("A/1")), "duration_s": 60}).duration_s == 60


def test_the_summary_counts_hours_shares_and_reasons() -> None:
    rows = [
        row("A/1", duration_s=1800.0, split="train"),
        row("A/2", duration_s=3600.0, split="validation"),
        row("A/3", "skipped", reason="too short: 1 s", duration_s=1.0),
        row("B/1", duration_s=1800.0, split="train"),
        row("B/2", "failed", reason="unreadable: it is damaged"),
        row("B/3", "skipped", reason="too short: 2 s", duration_s=2.0),
        dataclasses.replace(row("x", "skipped", reason="no game folder: it lies"), game=""),
    ]
    whole = summary(rows)
    assert (whole.tracks, whole.validation, whole.hours, whole.skipped, whole.failed) == (3, 1, 2.0, 3, 1)
    assert whole.reasons == {"too short": 2, "unreadable": 1, "no game folder": 1}
    first, second = whole.games
    assert (first.game, first.tracks, first.validation, first.hours, first.share) == ("A", 2, 1, 1.5, 0.75)
    assert (first.skipped, first.failed, second.skipped, second.failed) == (1, 0, 1, 1)


def test_used_and_games_leave_out_the_rest() -> None:
    rows = [row("B/1", split="train"), row("A/1", split="validation"), row("C/1", "skipped")]
    assert [own.path for own in used(rows)] == ["B/1", "A/1"]
    assert [own.path for own in used(rows, "validation")] == ["A/1"]
    assert games_of(rows) == ["A", "B"]
