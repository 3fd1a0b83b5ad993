"""The beat: strong in music with one, weak in noise, lost where pieces are shuffled; the tempo is the right one."""

import pytest
import torch

from dualdiff.evaluation.rhythm import (
    HOP_S,
    autocorrelation,
    beat_strength,
    flux_of_magnitudes,
    spectral_flux,
    tempo_period_s,
    tempo_stability,
)
from dualdiff.evaluation.shuffling import noise_like, scrambled
from tests.songs import RATE, song


@pytest.fixture(scope="module")
def music():
    return song(bars=9, bpm=120)


def test_music_has_a_beat_and_noise_has_none(music):
    flux = spectral_flux(music, RATE)
    noise = spectral_flux(noise_like(music), RATE)
    for window_s, most in ((4, 0.3), (16, 0.15)):
        assert beat_strength(flux, HOP_S, window_s) > 0.6
        assert beat_strength(noise, HOP_S, window_s) < most


def test_scrambled_music_loses_its_beat(music):
    kept = beat_strength(spectral_flux(music, RATE), HOP_S, 16)
    lost = beat_strength(spectral_flux(scrambled(music, RATE), RATE), HOP_S, 16)
    assert lost < kept / 2


def test_level_and_width_do_not_count(music):
    plain = beat_strength(spectral_flux(music, RATE), HOP_S, 4)
    for changed in (music * 0.05, music.mean(0, keepdim=True)):
        assert beat_strength(spectral_flux(changed, RATE), HOP_S, 4) == pytest.approx(plain, abs=0.02)


@pytest.mark.parametrize("bpm", [90, 120, 150])
def test_the_tempo_is_measured_to_a_percent(bpm):
    flux = spectral_flux(song(bars=6, bpm=bpm), RATE)
    ratio = 60 / bpm / tempo_period_s(flux, HOP_S)
    assert min(abs(ratio / octave - 1) for octave in (0.5, 1, 2)) < 0.01


def test_a_steady_tempo_is_stable_and_a_changing_one_is_not():
    steady = song(bars=12, bpm=120)
    changing = torch.cat([song(bars=5, bpm=95), song(bars=5, bpm=123), song(bars=5, bpm=151)], dim=1)
    assert tempo_stability(spectral_flux(steady, RATE), HOP_S) == 1
    assert tempo_stability(spectral_flux(changing, RATE), HOP_S) < 0.8


def test_the_autocorrelation_is_unbiased():
    series = torch.cos(torch.arange(400) * 2 * torch.pi / 20)
    found = autocorrelation(series)
    assert found[0] == pytest.approx(1, abs=1e-6)
    assert found[300] == pytest.approx(1, abs=0.02)  # a biased one has a quarter
    assert found[310] == pytest.approx(-1, abs=0.02)


def test_flux_counts_rises_only():
    magnitudes = torch.tensor([[1.0, 2.0, 1.0, 1.0, 4.0]])
    rises = flux_of_magnitudes(magnitudes)
    assert rises[1] == rises[2] == 0
    assert rises[3] == pytest.approx(2 * float(rises[0]), rel=0.02)


@pytest.mark.parametrize("waveform", [torch.zeros(2, 5 * RATE), torch.zeros(2, 10)])
def test_silence_has_no_beat(waveform):
    flux = spectral_flux(waveform, RATE)
    assert beat_strength(flux, HOP_S, 4) == 0
    assert tempo_period_s(flux, HOP_S) == 0
    assert tempo_stability(flux, HOP_S) == 0
