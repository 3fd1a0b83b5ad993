"""A folder of faults: whatever is wrong with a file, the ledger says so, no other file suffers, nothing is changed."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from dualdiff import audio
from dualdiff.audio import ffmpeg
from dualdiff.audio.cache import Cache
from dualdiff.audio.ffmpeg import Rendering
from dualdiff.audio.notes import Renderer
from dualdiff.core.errors import DataError
from dualdiff.core.files import sha256_of
from dualdiff.data.analysis import Found, measure
from dualdiff.data.manifest import DatasetConfig, Row, read_ledger
from dualdiff.data.scan import scan
from tests import tunes

RATE = 8000
CONFIG = DatasetConfig(min_duration_s=6.0, max_duration_s=3600.0, validation_share=0.2)
NOBODY = 65534


def wave(seed: int, duration_s: float = 7.0, rate: int = RATE, channels: int = 2) -> np.ndarray:
    return 0.1 * np.random.default_rng(seed).standard_normal((round(duration_s * rate), channels)).clip(-3, 3)


def write(path: Path, waveform: np.ndarray, rate: int = RATE, subtype: str | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with soundfile.SoundFile(path, "w", rate, waveform.shape[1], subtype) as file:
        for first in range(0, len(waveform), 1 << 16):  # in one piece, the Vorbis encoder overflows its stack
            file.write(waveform[first:][: 1 << 16])
    return path


@pytest.fixture
def project() -> Iterator[Path]:
    """An empty project where any user may look, so that one may be kept from reading a file."""
    folder = Path(tempfile.mkdtemp(prefix="faults-"))
    folder.chmod(0o777)
    (folder / "music/Game").mkdir(parents=True)
    yield folder
    shutil.rmtree(folder)


def scanned(project: Path, config: DatasetConfig = CONFIG) -> dict[str, Row]:
    """The ledger's rows by the file's path below `Game/`."""
    scan(project, config, processes=1)
    return {row.path.removeprefix("Game/"): row for row in read_ledger(project / "dataset.jsonl")}


def broken_files(game: Path) -> dict[str, str]:
    """Write the files that are not used, with the reason for each."""
    (game / "zero bytes.flac").touch()
    for name in ("cut.ogg", "cut.wav", "cut.flac"):
        path = write(game / name, wave(1))
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    (game / "a picture.flac").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(500))
    (game / "text.wav").write_text("La la la\n" * 100)
    write(game / "silence.flac", np.zeros((7 * RATE, 2)))
    numbers = wave(2)
    numbers[5000] = np.nan
    write(game / "nan.wav", numbers, subtype="FLOAT")
    write(game / "5 s.flac", wave(3, 5.0))
    write(game / "two hours.flac", wave(4, 7200.0, 1000, 1), 1000)
    (game / "loop.flac").symlink_to("loop.flac")
    (game / "gone.flac").symlink_to("nowhere.flac")
    (game / "again").symlink_to(game)
    os.mkfifo(game / "pipe.wav")
    write(game / "not readable.flac", wave(5)).chmod(0)
    bytes_name = os.fsencode(game) + b"/not \xff\xfe utf-8.wav"
    shutil.copy(write(game / "x.wav", wave(6)), bytes_name)
    (game / "x.wav").unlink()
    unknown = "unreadable: it is not audio in a known format, whatever its name says, or its start is damaged"
    return {
        "zero bytes.flac": "unreadable: it is empty (0 bytes)",
        "cut.ogg": "unreadable: it is cut off: it ends in the middle of a page",
        "cut.wav": "unreadable: it is cut off: 112022 bytes of its audio are missing",
        "cut.flac": "unreadable: it cannot be decoded: its audio is damaged or cut off",
        "a picture.flac": unknown,
        "text.wav": unknown,
        "silence.flac": "silent: -70.0 LUFS, not above -60 LUFS",
        "nan.wav": "unreadable: it holds samples that are not finite numbers (NaN or infinity)",
        "5 s.flac": "too short: 5.00 s of at least 6 s",
        "two hours.flac": "too long: 7200 s of at most 3600 s",
        "loop.flac": "unreadable: Too many levels of symbolic links",
        "gone.flac": "unreadable: No such file or directory",
        "again": "link: it leads to a folder read already",
        "pipe.wav": "unreadable: it is not a regular file",
        "not readable.flac": "unreadable: Permission denied",
        "not \\xff\\xfe utf-8.wav": "unreadable: its name is not valid UTF-8; rename it",
    }


def odd_files(game: Path) -> list[str]:
    """Write files that are odd but fine; their names."""
    write(game / "mono.flac", wave(10, channels=1))
    write(game / "8 bit.wav", wave(11), subtype="PCM_U8")
    write(game / "24 bit.wav", wave(12), subtype="PCM_24")
    write(game / "96 kHz.flac", wave(13, rate=96000), 96000)
    shutil.copy(write(game / "x.flac", wave(14)), game / "flac inside.wav")
    (game / "x.flac").unlink()
    names = ["with  spaces .flac", "\"quotes\" and 'more'.flac", "😀 emoji.flac", "#1, 50%; a:b.flac"]
    names += ["CASE.flac", "case.flac"]
    for seed, name in enumerate(names, start=15):
        write(game / name, wave(seed))
    tone = torch.from_numpy(wave(30).T).float()
    audio.write(game / "tag.wav", tone, RATE, title="A\x07 bell,\na line\x1b[31m", album="\x01\x02")
    return ["mono.flac", "8 bit.wav", "24 bit.wav", "96 kHz.flac", "flac inside.wav", "tag.wav", *names]


def state_of(folder: Path) -> dict[str, tuple[object, ...]]:
    """All that could be changed of the user's files, but for when they were read."""
    found = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        is_readable = path.is_file() and not path.is_symlink() and os.access(path, os.R_OK)
        target = os.readlink(path) if path.is_symlink() else sha256_of(path) if is_readable else ""
        times = status.st_mtime_ns, status.st_ctime_ns
        found[os.fsdecode(path)] = (*times, status.st_mode, status.st_size, target)
    return found


@contextmanager
def as_nobody() -> Iterator[None]:
    """Without the right of root to read everything."""
    own = os.geteuid()
    if own == 0:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(own)


def test_every_fault_has_its_own_reason_and_nothing_is_changed(project: Path) -> None:
    game = project / "music" / "Game"
    reasons, fine = broken_files(game), odd_files(game)
    before = state_of(project / "music")
    cache = project / "cache"
    known = Found(path="mono.flac"), Cache(cache), Rendering(), Renderer(cache=cache)
    measure(game, *known)  # loads and compiles what another user might not be allowed to
    with as_nobody():
        rows = scanned(project)
    assert {name: row.reason for name, row in rows.items() if row.state != "used"} == reasons
    assert sorted(name for name, row in rows.items() if row.state == "used") == sorted(fine)
    assert state_of(project / "music") == before
    assert {row.state for row in rows.values() if row.reason.startswith("unreadable")} == {"failed"}
    assert (rows["mono.flac"].channels, rows["96 kHz.flac"].sample_rate) == (1, 96000)
    assert rows["tag.wav"].title == "A bell, a line [31m"
    assert rows["tag.wav"].album == ""


def test_games_that_differ_only_in_case_are_one(project: Path) -> None:
    write(project / "music/game/1.flac", wave(1))
    write(project / "music/Game/2.flac", wave(2))
    assert {row.game for row in scanned(project).values()} == {"Game"}


@pytest.mark.parametrize(
    ("files", "reason", "remedy"),
    [
        ({"a.flac": "short", "b.flac": "short", "c.flac": "text"}, "too short", "dataset.min_duration_s"),
        ({"a.flac": "silent", "b.flac": "silent", "c.flac": "short"}, "silent", "dataset.min_loudness_lufs"),
        (
            {"a.flac": "text", "b.flac": "text", "c.flac": "short"},
            "not audio in a known format",
            "convert them to FLAC",
        ),
        ({"../a.flac": "fine", "../b.flac": "fine", "c.flac": "short"}, "no game folder", "dataset.labels"),
    ],
)
def test_a_folder_with_nothing_usable_names_what_would_help(
    project: Path, files: dict[str, str], reason: str, remedy: str
) -> None:
    for seed, (name, kind) in enumerate(files.items()):
        path = project / "music" / "Game" / name
        if kind == "text":
            path.write_text(f"no music {seed}")
        else:
            write(path, wave(seed, 2.0 if kind == "short" else 7.0) * (0 if kind == "silent" else 1))
    with pytest.raises(DataError) as caught:
        scanned(project)
    assert caught.value.exit_code == 3
    assert "none of the 3 audio files" in caught.value.message
    assert "for 2 of them" in caught.value.message
    assert reason in caught.value.message
    assert remedy in caught.value.hint
    assert not (project / "dataset.jsonl").exists()


def test_without_ffmpeg_its_files_wait_for_it(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    game = project / "music" / "Game"
    write(game / "a.flac", wave(1))
    (game / "b.spc").write_bytes(tunes.spc(7))
    (game / "c.mod").write_bytes(tunes.module())
    with monkeypatch.context() as patch:
        patch.setenv("PATH", "")
        rows = scanned(project)
        assert rows["a.flac"].state == "used"
        assert (rows["b.spc"].state, rows["b.spc"].reason) == ("skipped", "needs ffmpeg: only ffmpeg plays spc files")
        (game / "a.flac").unlink()
        with pytest.raises(DataError, match="for 2 of them the reason is: needs ffmpeg") as caught:
            scanned(project)
        assert "apt install ffmpeg" in caught.value.hint


@pytest.mark.skipif(not ffmpeg.has_ffmpeg(), reason="needs ffmpeg")
def test_with_ffmpeg_they_are_tracks_like_others(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    game = project / "music" / "Game"
    (game / "b.spc").write_bytes(tunes.spc(7))
    (game / "c.mod").write_bytes(tunes.module(rows=64))
    (game / "d.nsf").write_bytes(tunes.nsf(2))
    (game / "e.spc").write_bytes(b"no music")
    config = replace(CONFIG, render_length_s=8.0, render_fade_s=0.5)
    before = state_of(project / "music")
    rows = scanned(project, config)
    assert [(name, row.state) for name, row in rows.items() if row.state != "used"] == [("e.spc", "failed")]
    assert "cannot be played by ffmpeg as spc" in rows["e.spc"].reason
    assert (rows["b.spc"].title, rows["b.spc"].album, rows["b.spc"].duration_s) == ("The Title", "The Game", 7.5)
    assert rows["d.nsf#01"].title == "d 01"
    assert rows["d.nsf#02"].duration_s == pytest.approx(8.5, abs=0.01)
    assert audio.probe(project / "music" / rows["b.spc"].source).duration_s == 7.5
    assert '"rendered": ".dualdiff/audio-cache/' in (project / "dataset.jsonl").read_text()
    assert scan(project, config, processes=1).measured == 1, "the broken one"
    changed = scan(project, replace(config, render_length_s=9.0), processes=1)
    assert changed.measured == 4, "and console music"
    assert len(list((project / ".dualdiff/audio-cache").glob("*.flac"))) == 4
    Path(changed.rows[0].rendered).unlink()
    with monkeypatch.context() as patch:
        patch.setenv("PATH", "")
        later = scanned(project, replace(config, render_length_s=9.0))
    assert (later["b.spc"].state, later["c.mod"].state) == ("skipped", "used"), "what is rendered needs no ffmpeg"
    assert state_of(project / "music") == before
