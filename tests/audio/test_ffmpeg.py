"""Music that only ffmpeg plays: how long it lasts, how it ends, what it is called, what is refused."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from dualdiff import audio
from dualdiff.audio import chiptunes, ffmpeg
from dualdiff.audio.ffmpeg import Rendering
from dualdiff.core.errors import DataError
from tests import tunes

needs_ffmpeg = pytest.mark.skipif(not ffmpeg.has_ffmpeg(), reason="needs ffmpeg")


def played(path: Path, content: bytes, tune: int = 0, **options: float) -> tuple[np.ndarray, int, dict[str, str]]:
    """Write a file, play it; the left channel, the sample rate, the tags."""
    path.write_bytes(content)
    with ffmpeg.stream(path, tune, Rendering(**options)) as stream:
        return np.concatenate(list(stream.blocks))[:, 0], stream.sample_rate, stream.tags


def peak(waveform: np.ndarray, rate: int, at_s: float) -> float:
    return float(np.abs(waveform[round(at_s * rate) :][: rate // 20]).max())


def pitch_hz(waveform: np.ndarray, rate: int) -> float:
    """The strongest frequency of the first second."""
    return float(np.abs(np.fft.rfft(waveform[:rate] * np.hanning(rate))).argmax())


@needs_ffmpeg
def test_a_module_is_played_to_its_end(tmp_path: Path) -> None:
    waveform, rate, tags = played(tmp_path / "a.mod", tunes.module(rows=16))
    assert len(waveform) / rate == pytest.approx(16 * 0.12, abs=0.2)
    assert tags["title"] == "Rows of Squares"
    spectrum = np.abs(np.fft.rfft(waveform[: rate // 3] * np.hanning(rate // 3)))
    # Period 428 plays 8287 samples a second, of a wave of 32.
    assert spectrum.argmax() * rate / (rate // 3) == pytest.approx(8287 / 32, abs=4)


@needs_ffmpeg
@pytest.mark.parametrize("binary", [False, True])
def test_an_spc_file_lasts_and_fades_as_its_tag_says(tmp_path: Path, binary: bool) -> None:
    waveform, rate, tags = played(tmp_path / "a.spc", tunes.spc(2, 500, binary))
    assert (tags["title"], tags["game"]) == ("The Title", "The Game")
    assert rate == ffmpeg.SPC_RATE
    assert len(waveform) / rate == pytest.approx(2.5, abs=0.01)
    assert pitch_hz(waveform, rate) == pytest.approx(2000, abs=2)  # 32 kHz, through a loop of one block of 16 samples
    assert peak(waveform, rate, 1.9) == pytest.approx(peak(waveform, rate, 0.5), rel=0.01)
    assert peak(waveform, rate, 2.25) == pytest.approx(0.5 * peak(waveform, rate, 0.5), rel=0.15)
    assert peak(waveform, rate, 2.49) < 0.05 * peak(waveform, rate, 0.5)


@needs_ffmpeg
def test_an_spc_file_without_a_tag_lasts_as_set(tmp_path: Path) -> None:
    waveform, rate, _ = played(tmp_path / "a.spc", tunes.spc(None), length_s=3.0, fade_s=1.0)
    assert len(waveform) / rate == pytest.approx(4.0, abs=0.01)
    assert peak(waveform, rate, 2.9) == pytest.approx(peak(waveform, rate, 0.5), rel=0.01)
    assert peak(waveform, rate, 3.9) < 0.2 * peak(waveform, rate, 0.5)


@needs_ffmpeg
def test_every_tune_of_a_file_is_its_own(tmp_path: Path) -> None:
    (tmp_path / "a.nsf").write_bytes(tunes.nsf(3))
    assert chiptunes.count_tunes(tmp_path / "a.nsf") == 3
    heard = [played(tmp_path / "a.nsf", tunes.nsf(3), tune, length_s=1.0, fade_s=0.5) for tune in range(3)]
    pitches = [pitch_hz(waveform, rate) for waveform, rate, _ in heard]
    assert pitches[0] > pitches[1] > pitches[2]
    assert {tags["game"] for _, _, tags in heard} == {"The NES Game"}


@needs_ffmpeg
@pytest.mark.parametrize(("intro_s", "loop_s", "lasts_s"), [(1.0, 2.0, 6.0), (3.0, 0.0, 3.0)])
def test_a_vgm_loop_is_played_twice_then_fades(tmp_path: Path, intro_s: float, loop_s: float, lasts_s: float) -> None:
    waveform, rate, _ = played(tmp_path / "a.vgm", tunes.vgm(intro_s, loop_s), fade_s=1.0)
    assert len(waveform) / rate == pytest.approx(lasts_s, abs=0.05)
    fades = peak(waveform, rate, lasts_s - 0.1) < 0.5 * peak(waveform, rate, 1.0)
    assert fades == bool(loop_s)


@needs_ffmpeg
def test_coded_files_keep_their_audio(tmp_path: Path) -> None:
    tone = 0.5 * torch.sin(2 * torch.pi * 440 * torch.arange(44100) / 44100).expand(2, -1)
    audio.write(tmp_path / "tone.wav", tone, 44100)
    command = [shutil.which("ffmpeg"), "-v", "error", "-i", str(tmp_path / "tone.wav"), str(tmp_path / "tone.m4a")]
    subprocess.run(command, check=True)
    waveform, rate, _ = played(tmp_path / "tone.m4a", (tmp_path / "tone.m4a").read_bytes())
    assert rate == 44100
    assert len(waveform) / rate == pytest.approx(1.0, abs=0.1)
    assert pitch_hz(np.pad(waveform, (0, rate)), rate) == pytest.approx(440, abs=1)


@needs_ffmpeg
@pytest.mark.parametrize("name", ["a.spc", "a.mod", "a.m4a", "a.vgz"])
def test_what_cannot_be_played_is_told_and_leaves_nothing(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="cannot be played by ffmpeg as"):
        played(tmp_path / name, b"no music at all")
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.name != name]


@needs_ffmpeg
def test_a_playlist_that_passes_for_music_reaches_no_other_file(tmp_path: Path) -> None:
    audio.write(tmp_path / "secret.wav", torch.zeros(2, 8000), 8000)
    playlist = f"#EXTM3U\n#EXTINF:1,\nfile:{tmp_path / 'secret.wav'}\n"
    with pytest.raises(DataError):
        played(tmp_path / "a.m4a", playlist.encode())


def test_the_extended_tag_counts_loops(tmp_path: Path) -> None:
    def entry(key: int, value: int) -> bytes:
        return bytes([key, 4, 4, 0]) + value.to_bytes(4, "little")

    loops = entry(0x30, 64000) + entry(0x31, 2 * 64000) + bytes([0x35, 0, 3, 0]) + entry(0x33, 32000)
    (tmp_path / "a.spc").write_bytes(tunes.spc(99, 9000, extended=loops))
    assert chiptunes.playing_time(tmp_path / "a.spc") == chiptunes.PlayingTime(length_s=1 + 2 * 3, fade_s=0.5)


@pytest.mark.parametrize("content", [b"", b"SNES-SPC700", tunes.spc(0, 0), tunes.spc(None), b"\x1f\x8bbroken", b"Vgm "])
def test_files_that_do_not_say_how_long_they_are(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a").write_bytes(content)
    assert chiptunes.playing_time(tmp_path / "a") is None
    assert chiptunes.count_tunes(tmp_path / "a") == 1


@pytest.mark.parametrize(
    ("content", "tunes"),
    [
        (b"NESM\x1a\x01\x07\x01", 7),
        (b"GBS\x01\x0c", 12),
        (b"ZXAYEMUL" + bytes(8) + b"\x02", 3),
        (b"SAP\r\nSONGS 4\r\n", 4),
        (b"NESM\x1a\x01\x00\x01", 1),
    ],
)
def test_headers_say_how_many_tunes_there_are(tmp_path: Path, content: bytes, tunes: int) -> None:
    (tmp_path / "a").write_bytes(content)
    assert chiptunes.count_tunes(tmp_path / "a") == tunes
