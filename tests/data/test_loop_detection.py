"""Loops: what a track repeats to its end is found, and what it repeats for a while is not."""

from pathlib import Path

import pytest
import torch

from dualdiff import audio
from dualdiff.core.types import Waveform
from dualdiff.data.fingerprint import BandMeter
from dualdiff.data.loop_detection import Loop, loop_of, unique_duration_s

RATE = 32000
MUSIC = sorted((Path(__file__).parents[2] / "examples/music").glob("*/*.ogg"))


def loop_in(mono: Waveform, sample_rate: int = RATE) -> Loop | None:
    meter = BandMeter(sample_rate)
    meter.add(mono)
    return loop_of(meter.finish())


def excerpt(track: int, start_s: float, end_s: float) -> Waveform:
    path = MUSIC[track]
    return audio.read(path, sample_rate=RATE, channels=1, start_s=start_s, duration_s=end_s - start_s)[0]


def looping(track: int, intro_s: float, period_s: float, plays: int, fade_s: float) -> Waveform:
    """An intro, a loop that plays some times, and a fade within the next time."""
    intro = excerpt(track, 0, 15)[: round(intro_s * RATE)]
    loop = excerpt(track, 20, 45)[: round(period_s * RATE)]
    fade = loop[: round(fade_s * RATE)]
    return torch.cat([intro, *[loop] * plays, fade * torch.linspace(1, 0, len(fade))])


CASES = [(1, 0.0, 12.34, 5, 8.0), (5, 7.77, 21.43, 2, 5.0), (10, 12.5, 24.9, 3, 6.0), (14, 3.21, 17.171, 4, 8.0)]


@pytest.mark.parametrize(("track", "intro_s", "period_s", "plays", "fade_s"), CASES)
def test_an_exact_loop(track: int, intro_s: float, period_s: float, plays: int, fade_s: float) -> None:
    music = looping(track, intro_s, period_s, plays, fade_s)
    loop = loop_in(torch.cat([torch.zeros(RATE), music, torch.zeros(2 * RATE)]))
    assert loop is not None
    assert loop.period_s == pytest.approx(period_s, abs=0.01)
    assert loop.start_s == pytest.approx(1 + intro_s, abs=0.6)
    assert loop.plays == pytest.approx(plays + fade_s / period_s, abs=0.1)
    assert loop.confidence > 0.95
    assert loop.unique_duration_s == pytest.approx(1 + intro_s + period_s, abs=0.6)


@pytest.mark.parametrize(("suffix", "rate"), [("mp3", 24000), ("opus", 48000)])
def test_a_loop_that_a_low_rate_codec_coded(suffix: str, rate: int, tmp_path: Path) -> None:
    path = tmp_path / f"track.{suffix}"
    music = looping(3, 5.5, 15.4321, 3, 5.0)
    audio.write(path, audio.resample(0.5 * music, RATE, rate).expand(2, -1), rate, bitrate_kbps=24)
    lossy, exact = loop_in(audio.read(path, sample_rate=rate, channels=1)[0], rate), loop_in(music)
    assert lossy is not None
    assert exact is not None
    assert lossy.period_s == pytest.approx(15.4321, abs=0.02)
    assert lossy.start_s == pytest.approx(5.5, abs=0.6)
    assert 0.8 < lossy.confidence < exact.confidence


@pytest.mark.parametrize("track", range(0, 16, 2))
def test_music_without_a_loop_has_none(track: int) -> None:
    assert loop_in(excerpt(track, 0, 60)) is None


@pytest.mark.parametrize("track", [2, 4, 14])
def test_a_riff_is_no_loop(track: int) -> None:
    riff, other = excerpt(track, 3, 7), excerpt(track, 20, 55)
    assert loop_in(torch.cat([riff.repeat(9), other])) is None
    assert loop_in(torch.cat([other, riff.repeat(6)])) is None
    assert loop_in(other + riff.repeat(9)[: len(other)]) is None


def test_a_reprise_is_no_loop() -> None:
    music = excerpt(13, 0, 50)
    assert loop_in(torch.cat([music, music[: 12 * RATE]])) is None
    assert loop_in(torch.cat([music, excerpt(12, 0, 12).repeat(2)])) is None  # comes too late


def test_a_short_riff_throughout_is_a_loop_of_several() -> None:
    loop = loop_in(excerpt(12, 3, 6).repeat(12))
    assert loop is not None
    assert loop.period_s == pytest.approx(9, abs=0.01)


def test_sounds_without_music_have_no_loop() -> None:
    time_s = torch.arange(40 * RATE) / RATE
    hiss = torch.randn(len(time_s), generator=torch.Generator().manual_seed(0)) * 0.1
    assert loop_in(torch.zeros(0)) is None
    assert loop_in(torch.zeros(len(time_s))) is None
    assert loop_in(torch.sin(2764 * time_s)) is None
    assert loop_in(torch.sin(2764 * time_s) + 0.01 * hiss) is None
    assert loop_in(torch.sin(1000 * time_s + 100 * time_s.square())) is None  # alike a little later, but not the same
    assert loop_in(hiss) is None
    assert loop_in(hiss[: 3 * RATE]) is None


def test_what_is_distinct_of_a_track() -> None:
    loop = Loop(start_s=5.0, period_s=40.0, plays=3.0, confidence=1.0)
    assert unique_duration_s(125.0, loop) == 45.0
    assert unique_duration_s(125.0, None) == 125.0
