"""Fingerprints: the same music is found whatever was done to it, and other music is not."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from dualdiff import audio
from dualdiff.core.errors import DataError
from dualdiff.core.types import Waveform
from dualdiff.data.fingerprint import (
    BANDS,
    FRAMES_PER_S,
    WORDS_PER_S,
    BandMeter,
    Bands,
    Fingerprint,
    fingerprint_of,
    from_text,
    groups,
    is_same,
    to_text,
)

RATE = 32000
MUSIC = sorted((Path(__file__).parents[2] / "examples/music").glob("*/*.ogg"))


def bands_of(mono: Waveform, sample_rate: int = RATE, block: int = 1 << 20) -> Bands:
    meter = BandMeter(sample_rate)
    for piece in mono.split(block):
        meter.add(piece)
    return meter.finish()


def print_of(mono: Waveform, sample_rate: int = RATE) -> Fingerprint:
    return fingerprint_of(bands_of(mono, sample_rate))


def noise(duration_s: float, sample_rate: int = RATE, seed: int = 0) -> Waveform:
    generator = torch.Generator().manual_seed(seed)
    return 0.1 * torch.randn(round(duration_s * sample_rate), generator=generator)


@pytest.fixture(scope="module")
def tracks() -> list[Waveform]:
    """The sixteen example tracks, mono, 60 s each."""
    return [audio.read(path, sample_rate=RATE, channels=1)[0] for path in MUSIC]


@pytest.fixture(scope="module")
def prints(tracks: list[Waveform]) -> list[Fingerprint]:
    return [print_of(track) for track in tracks]


# Bands


@pytest.mark.parametrize("sample_rate", [11025, 44100, 44056])
def test_blocks_of_any_size_give_the_same_bits(sample_rate: int) -> None:
    mono = noise(9.7, sample_rate)
    whole, pieces = bands_of(mono, sample_rate, len(mono)), bands_of(mono, sample_rate, 777)
    assert len(whole.power) == int(9.7 * FRAMES_PER_S)
    assert np.array_equal(whole.shape, pieces.shape)
    assert np.array_equal(whole.power, pieces.power)


@pytest.mark.parametrize("sample_rate", [8000, 22050, 44100, 96000])
def test_a_tone_lies_in_its_band_at_its_time_at_any_rate(sample_rate: int) -> None:
    time_s = torch.arange(8 * sample_rate) / sample_rate
    bands = bands_of(0.5 * torch.sin(2 * math.pi * 1000 * time_s) * (time_s >= 6), sample_rate)
    assert set(bands.shape[100:].argmax(1)) == {int(6 * math.log2(1000 / 150))}
    assert bands.power[100:120] == pytest.approx(0.125, rel=0.02)
    assert not bands.shape[: 6 * FRAMES_PER_S - 4].any()
    assert bands.sounding().tolist() == (bands.power > 1e-6 * 0.125).tolist()
    assert np.flatnonzero(bands.sounding())[0] == pytest.approx(6 * FRAMES_PER_S - 3, abs=1)


def test_gain_changes_power_only() -> None:
    loud, soft = bands_of(noise(3)), bands_of(0.01 * noise(3))
    assert np.allclose(loud.shape, soft.shape, atol=1e-4)
    assert np.allclose(loud.power, 1e4 * soft.power, rtol=1e-4)


# Words


def test_a_fingerprint_is_compact_and_text(prints: list[Fingerprint]) -> None:
    assert all(len(words) == pytest.approx(57.5 * WORDS_PER_S, abs=1) for words in prints)
    text = to_text(prints[0])
    assert text.isascii()
    assert len(text) < 3000
    assert np.array_equal(from_text(text), prints[0])


@pytest.mark.parametrize("text", ["AAAA", "no base64!", "é"])
def test_a_damaged_text_is_refused(text: str) -> None:
    with pytest.raises(DataError, match="damaged"):
        from_text(text)


def test_silence_steady_tones_and_blinks_say_nothing() -> None:
    tone = torch.sin(torch.arange(10 * RATE) * 0.2)
    assert not print_of(torch.zeros(10 * RATE)).any()
    assert not print_of(tone)[5:-5].any()
    assert len(print_of(noise(2))) == 0
    assert len(print_of(torch.zeros(0))) == 0
    assert groups([print_of(tone), print_of(tone), print_of(torch.zeros(0))]) == []


# The same music


def encoded(path: Path, mono: Waveform, sample_rate: int = RATE, bitrate_kbps: float | None = None) -> Fingerprint:
    """What is left of the audio, from a moment within a word on, after a way through a file."""
    wanted = audio.resample(mono[1000:], RATE, sample_rate).expand(2, -1)
    audio.write(path, wanted, sample_rate, bitrate_kbps=bitrate_kbps)
    return print_of(audio.read(path, sample_rate=sample_rate, channels=1)[0], sample_rate)


WAYS: list[Callable[[Path, Waveform], Fingerprint]] = [
    lambda folder, mono: encoded(folder / "a.mp3", 0.5 * mono, bitrate_kbps=32),
    lambda folder, mono: encoded(folder / "a.opus", mono, 24000, bitrate_kbps=16),
    lambda folder, mono: encoded(folder / "a.ogg", 0.1 * mono, 48000),
    lambda folder, mono: print_of(audio.resample(mono[777:], RATE, 8000).mul(64).round() / 64, 8000),  # 7 bits
    lambda folder, mono: print_of(torch.cat([torch.zeros(100_000), 0.02 * mono, torch.zeros(50_000)])),
    lambda folder, mono: print_of(audio.resample(mono[3000:], RATE, 96000), 96000),
]


def test_other_tracks_of_the_same_games_are_no_duplicates(prints: list[Fingerprint]) -> None:
    assert groups(prints) == []


@pytest.mark.parametrize("way", range(len(WAYS)))
def test_duplicates_are_found_whatever_was_done_to_them(
    way: int, tmp_path: Path, tracks: list[Waveform], prints: list[Fingerprint]
) -> None:
    whole, excerpt = (way * 5) % 16, (way * 5 + 2) % 16
    copies = [
        WAYS[way](tmp_path, tracks[whole]),
        WAYS[way](tmp_path, tracks[excerpt][23 * RATE :][: 20 * RATE]),
    ]
    assert groups([*prints, *copies]) == sorted([[whole, 16], [excerpt, 17]])


def test_common_drums_make_no_duplicates_however_loud(tracks: list[Waveform]) -> None:
    time_s = torch.arange(RATE // 4) / RATE
    kick = torch.sin(2 * math.pi * (60 * time_s - 15 * torch.exp(-30 * time_s))) * torch.exp(-14 * time_s)
    snare = (8 * noise(0.25) + torch.sin(2 * math.pi * 190 * time_s)) * torch.exp(-16 * time_s)
    rest = torch.zeros(RATE // 8)
    bar = torch.cat([kick, snare, rest, kick, kick, 0.7 * snare, rest, snare, kick[: RATE // 8]])
    drums = 6 * (bar / bar.std()).repeat(40)[: 59 * RATE]
    assert groups([print_of(track[: 59 * RATE] / track.std() + drums) for track in tracks]) == []


def test_a_group_is_a_chain_in_any_order(prints: list[Fingerprint]) -> None:
    words = prints[0]
    chain = [words[:200], words[100:300], words[200:400]]  # the outer two share nothing
    assert groups([chain[0], chain[2]]) == []
    assert groups([prints[3], *chain, prints[5], prints[5]]) == [[1, 2, 3], [4, 5]]
    assert groups([chain[2], prints[5], chain[0], prints[5], prints[3], chain[1]]) == [[0, 2, 5], [1, 3]]


def test_what_is_the_same() -> None:
    generator = np.random.default_rng(0)
    words = generator.integers(1, 1 << 32, 400, np.uint32)

    def spoilt(share: float) -> Fingerprint:
        bits = (generator.random((400, 32)) < share).astype(np.uint8)
        return words ^ np.packbits(bits, axis=1, bitorder="little").view("<u4")[:, 0].astype(np.uint32)

    assert is_same(words, spoilt(0.23), 0)
    assert not is_same(words, spoilt(0.27), 0)  # more than a quarter of the bits
    assert is_same(words[:60], spoilt(0.16)[:60], 0)
    assert not is_same(words[:60], spoilt(0.23)[:60], 0)  # not close enough for so few words
    assert not is_same(words[:20], words[:20], 0)  # too few to tell
    assert is_same(words, words[150:], -150)
    assert is_same(words[150:], words, 150)
    assert not is_same(words, words[150:], -149)
    assert not is_same(words[:250], words[150:], -150)  # too little of the shorter one
    assert not is_same(words, words, 400)
    gaps = np.where(np.arange(400) % 4, np.uint32(0), words)
    assert is_same(words, gaps, 0)  # what says nothing is not compared


def test_thousands_of_tracks_are_grouped() -> None:
    generator = np.random.default_rng(1)
    tracks = list(generator.integers(1, 1 << 32, (3000, 240), np.uint32))
    for track in tracks[::2]:
        track[::6] = 5  # a word that many have
    flips = np.packbits((generator.random((30, 200, 32)) < 0.12).astype(np.uint8), axis=2).view(np.uint32)[..., 0]
    copies = [tracks[61 * number][40:] ^ flips[number] for number in range(30)]
    assert groups(tracks + copies) == [[61 * number, 3000 + number] for number in range(30)]


def test_bands_are_few() -> None:
    assert bands_of(noise(1)).shape.shape == (FRAMES_PER_S, BANDS)
