"""Files that readers get wrong, through every command that takes a file: the same outcome everywhere."""

import json
import shutil
import struct
import subprocess
from pathlib import Path

import pytest
import soundfile
import torch

from dualdiff import audio
from dualdiff.audio import ffmpeg, midi
from dualdiff.cli.dataset import SHOWN_FAILURES
from dualdiff.data.manifest import DatasetConfig, read_ledger
from dualdiff.data.scan import scan
from tests import tunes
from tests.conftest import melody
from tests.model_store.test_model import write_model

HARD = Path(__file__).parents[1] / "hard"
BROKEN = ("wav-info-subchunk-hangs.wav", "wav-rate-8.wav")
TOO_SHORT = ("mp3-xing-says-1e12-frames.mp3",)
FILES = sorted(path.name for path in HARD.iterdir() if path.suffix != ".md")

pytestmark = pytest.mark.skipif(not ffmpeg.has_ffmpeg(), reason="needs ffmpeg")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("models"))


@pytest.fixture
def hard(tmp_path):
    """Copies of the files, as a game of a music folder."""
    folder = tmp_path / "music" / "A Game"
    folder.mkdir(parents=True)
    for name in FILES:
        shutil.copy(HARD / name, folder)
    return folder


def rows_of(project):
    return {row.path.removeprefix("A Game/"): row for row in read_ledger(project / "dataset.jsonl")}


def test_a_scan_reads_the_good_ones_and_names_the_broken_ones(run_cli, project, hard):
    outcome = run_cli("dataset", "scan", hard.parent, "--project", project, "--set", "dataset.near_duplicates='keep'")
    assert outcome.code == 0, outcome.stderr
    rows = rows_of(project)
    assert {name for name, row in rows.items() if row.state == "failed"} == set(BROKEN)
    for name in BROKEN:
        assert rows[name].reason.startswith("unreadable: ")
        assert f"A Game/{name}: unreadable" in outcome.stdout
    assert rows[TOO_SHORT[0]].reason.startswith("too short: 0.4")
    assert rows["clip-copied-by-ffmpeg.ogg"].state == "skipped", "it is a clip of dualdiff's own"
    assert (rows["two-songs.mod#01"].state, rows["two-songs.mod#02"].state) == ("used", "used")
    for name, row in rows.items():
        if row.state == "used":
            assert row.duration_s == pytest.approx(audio.probe(hard / name).duration_s)
            assert audio.read_own(project / row.source if row.rendered else hard / name, sample_rate=8000).numel()


@pytest.mark.parametrize("name", FILES)
def test_inspect_and_roundtrip(run_cli, tmp_path, hard, name):
    for command in (["inspect", "--json"], ["format", "roundtrip", "--json", "--no-baselines", "--seconds", 0.4]):
        outcome = run_cli(*command, hard / name)
        if name in BROKEN:
            assert outcome.code == 3
            assert str(hard / name) in outcome.stderr
            continue
        assert outcome.code == 0, outcome.stderr
        assert json.loads(outcome.stdout)


@pytest.mark.parametrize("name", FILES)
def test_generate_from_a_file(run_cli, tmp_path, hard, model, name):
    commands = [
        ["--init", hard / name, "--length", 0.6],
        ["--extend", hard / name, 0.5],
        ["--inpaint", hard / name, "0:0.2"],
    ]
    for number, command in enumerate(commands):
        outcome = run_cli("generate", "--model", model, "--steps", 2, "--out", tmp_path / f"clips{number}", *command)
        if name in BROKEN:
            assert outcome.code == 3, outcome.stderr
            assert str(hard / name) in outcome.stderr
            continue
        assert outcome.code == 0, outcome.stderr
        (clip,) = (tmp_path / f"clips{number}").glob("*.flac")
        lasts_s = audio.probe(hard / name).duration_s
        wanted_s = (0.6, lasts_s + 0.5, lasts_s)[number]
        assert audio.probe(clip).duration_s == pytest.approx(wanted_s, abs=0.05)


def test_one_tune_of_a_module_by_its_number(run_cli, tmp_path, hard, model):
    outcome = run_cli("inspect", f"{hard / 'two-songs.mod'}#02", "--json")
    assert outcome.code == 0, outcome.stderr
    first = run_cli("inspect", hard / "two-songs.mod")
    assert "It holds 2 tunes" in first.stdout
    again = run_cli("generate", "--model", model, "--steps", 2, "--out", tmp_path / "clips", "--length", 0.6)
    assert again.code == 0
    made = run_cli(
        "generate",
        "--model",
        model,
        "--steps",
        2,
        "--out",
        tmp_path,
        "--init",
        f"{hard / 'two-songs.mod'}#02",
        "--length",
        0.6,
    )
    assert made.code == 0, made.stderr
    (clip,) = tmp_path.glob("*.flac")
    shutil.copy(hard / "two-songs.mod", tmp_path)
    assert run_cli("generate", "--model", model, "--from", clip, "--out", tmp_path / "again").code == 0


def test_two_modules_with_a_song_in_common_are_four_tracks(run_cli, project, hard):
    other = bytearray((hard / "two-songs.mod").read_bytes())
    other[:4] = b"xxxx"
    for path in hard.iterdir():
        if path.name != "two-songs.mod":
            path.unlink()
    (hard / "other.mod").write_bytes(other)
    outcome = run_cli("dataset", "scan", hard.parent, "--project", project)
    assert outcome.code == 0, outcome.stderr
    rows = rows_of(project)
    assert set(rows) == {"other.mod#01", "other.mod#02", "two-songs.mod#01", "two-songs.mod#02"}
    assert not any("the same bytes" in row.reason for row in rows.values())
    before = (project / "dataset.jsonl").read_bytes()
    assert run_cli("dataset", "scan", hard.parent, "--project", project, "-v").code == 0
    assert (project / "dataset.jsonl").read_bytes() == before


@pytest.mark.parametrize("suffix", [".ogg", ".mp3", ".m4a", ".flac", ".wav"])
def test_a_clip_that_ffmpeg_has_copied_or_converted_keeps_its_recipe(run_cli, tmp_path, model, suffix):
    assert (
        run_cli("generate", "--model", model, "--steps", 2, "--length", 0.6, "--out", tmp_path, "--name", "a").code == 0
    )
    source = tmp_path / "a.flac"
    if suffix in (".ogg", ".mp3"):
        waveform, comment = audio.read(source, sample_rate=32000), audio.probe(source).tags["comment"]
        source = tmp_path / f"a{suffix}"
        audio.write(source, waveform, 32000, comment=comment, title="T")
    copy = tmp_path / f"copy{suffix}"
    arguments = ["-c", "copy"] if suffix == source.suffix else []
    subprocess.run(["ffmpeg", "-v", "error", "-i", source, *arguments, copy], check=True)
    found = run_cli("inspect", copy, "--json")
    assert json.loads(found.stdout)["kind"] == "clip"
    again = run_cli("generate", "--model", model, "--from", copy, "--out", tmp_path / "again")
    assert again.code == 0, again.stderr
    assert "the audio is the same" in again.stderr


def test_the_copied_clip_holds_a_recipe(run_cli, hard):
    assert json.loads(run_cli("inspect", hard / "clip-copied-by-ffmpeg.ogg", "--json").stdout)["kind"] == "clip"


def test_a_rate_that_the_format_cannot_hold_is_refused_before_the_rendering(run_cli, tmp_path, model):
    path = tmp_path / "a.flac"
    audio.write(path, 0.1 * torch.randn(2, 96000 * 2, generator=torch.Generator().manual_seed(0)), 96000)
    for command in (["--extend", path, 5], ["--inpaint", path, "0:1"]):
        outcome = run_cli("generate", "--model", model, "--format", "mp3", "--out", tmp_path / "clips", *command)
        assert outcome.code == 2
        assert "mp3 files cannot hold 96000 Hz, the rate of a.flac" in outcome.stderr
        assert "clip 1" not in outcome.stderr


def test_other_suffixes_and_failures_are_counted(run_cli, project, tmp_path):
    game = tmp_path / "music" / "A Game"
    game.mkdir(parents=True)
    audio.write(game / "good.flac", melody(220.0, 1), 32000, title="T" * 5000, album="A" * 100_000)
    for number in range(SHOWN_FAILURES + 3):
        (game / f"broken {number}.wav").write_text("not audio")
    for name in ("a.webm", "b.mp4", "c.psf", "d.psf", "e.mp2", "f.mka", "cover.jpg", "notes.txt"):
        (game / name).touch()
    outcome = run_cli("dataset", "scan", game.parent, "--project", project)
    assert outcome.code == 0, outcome.stderr
    (line,) = [line for line in outcome.stdout.splitlines() if line.startswith("not read, by suffix: ")]
    assert "2 .psf" in line
    for suffix in (".webm", ".mp4", ".mp2", ".mka"):
        assert f"1 {suffix}" in line
    assert ".jpg" not in line
    assert "and 3 more: all are in" in outcome.stdout
    assert "dataset.jsonl" in outcome.stdout
    rows = rows_of(project)
    assert sum(row.state == "failed" for row in rows.values()) == SHOWN_FAILURES + 3
    assert len(rows["good.flac"].title) <= 200
    by_tag = run_cli("dataset", "scan", game.parent, "--project", project, "--set", "dataset.labels='tag'")
    assert by_tag.code == 0
    assert len(by_tag.stdout) < 5000


def test_one_unexpected_failure_never_ends_a_scan(run_cli, project, music, monkeypatch):
    from dualdiff.data import analysis

    real = analysis.loop_of

    def fails_once(bands, failed=[]):  # noqa: B006
        if not failed:
            failed.append(1)
            raise IndexError("of the third kind")
        return real(bands)

    monkeypatch.setattr(analysis, "loop_of", fails_once)
    outcome = run_cli("dataset", "scan", "--project", project)
    assert outcome.code == 0, outcome.stderr
    (failed,) = [row for row in read_ledger(project / "dataset.jsonl") if row.state == "failed"]
    assert failed.reason == "unreadable: an unexpected IndexError: of the third kind"


def test_progress_names_the_file_in_hand(project, music, monkeypatch):
    from dualdiff.data import scan as scanning
    from dualdiff.project.settings import open_project

    heard = []
    real = scanning.measure

    def measure(folder, file, **options):
        assert heard[-1] == file.path
        return real(folder, file, **options)

    monkeypatch.setattr(scanning, "measure", measure)
    config = open_project(project, ()).settings.dataset
    scanning.scan(project, config, progress=lambda done, total, note="": heard.append(note), processes=1)
    assert len([note for note in heard if note and not note.startswith("beats of ")]) == 8


def tunes_of_midi():
    notes = [message for pitch in (60, 64, 67) for message in (note(pitch, 90, 0), note(pitch, 0, 96))]
    track = b"".join(notes) + b"\0\xff\x2f\0"
    return b"MThd" + struct.pack(">IHHH", 6, 0, 1, 96) + b"MTrk" + struct.pack(">I", len(track)) + track


def note(pitch, velocity, ticks):
    return bytes([ticks, 0x90, pitch, velocity])


@pytest.mark.parametrize("name", ["a.spc", "b.mod", "c.nsf", "d.m4a", "e.wv", "f.mid"])
def test_every_kind_that_a_scan_takes_is_taken_by_other_commands(run_cli, tmp_path, model, name):
    path = tmp_path / name
    content = {".spc": tunes.spc(1), ".mod": tunes.module(rows=16), ".nsf": tunes.nsf(1), ".mid": tunes_of_midi()}.get(
        path.suffix
    )
    if path.suffix == ".mid" and not (midi.has_fluidsynth() and midi.find_soundfont()):
        pytest.skip("needs fluidsynth and a soundfont")
    if content is None:
        soundfile.write(tmp_path / "a.wav", melody(220.0, 1, 2.0).T.numpy(), 32000)
        subprocess.run(["ffmpeg", "-v", "error", "-i", tmp_path / "a.wav", path], check=True)
    else:
        path.write_bytes(content)
    assert run_cli("inspect", path).code == 0
    assert run_cli("format", "roundtrip", "--no-baselines", "--seconds", 0.4, path).code == 0
    if path.suffix != ".nsf":  # its two minutes would be kept
        generated = run_cli(
            "generate", "--model", model, "--steps", 2, "--out", tmp_path / "clips", "--extend", path, 0.5
        )
        assert generated.code == 0, generated.stderr


def test_warnings_of_decoders_are_notes_of_their_file(tmp_path, capfd):
    game = tmp_path / "music" / "A Game"
    game.mkdir(parents=True)
    content = (HARD / "vbr-without-xing.mp3").read_bytes()
    (game / "a.mp3").write_bytes(content[:5000] + content[5400:])
    scan(tmp_path, DatasetConfig(), processes=1)
    assert capfd.readouterr() == ("", "")
    (row,) = read_ledger(tmp_path / "dataset.jsonl")
    assert row.state == "used"
    assert row.note
