"""Metrics: zero or one for equals, in order for worse and worse, finite for anything."""

import dataclasses
import math
from pathlib import Path

import pytest
import torch

from dualdiff import audio
from dualdiff.evaluation import metrics
from dualdiff.evaluation.metrics import METRICS

RATE = 32000
BEST = {name: 1.0 if metric.higher_is_better else 0.0 for name, metric in METRICS.items()}


@pytest.fixture(scope="module")
def music() -> torch.Tensor:
    path = Path(__file__).parents[2] / "examples" / "music" / "Pekka Kana 2" / "song05.ogg"
    return audio.read(path, sample_rate=RATE, start_s=20, duration_s=3)


def tones(*frequencies: float, duration_s: float = 1.0) -> torch.Tensor:
    time = torch.arange(round(duration_s * RATE), dtype=torch.float64) / RATE
    return sum(0.2 * torch.sin(2 * math.pi * frequency * time) for frequency in frequencies).float().expand(2, -1)


def noise(shape: tuple[int, ...], level: float = 1.0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)) * level


@pytest.mark.parametrize("name", METRICS)
def test_equals_are_best_and_distance_grows_with_noise(name, music):
    metric = METRICS[name]
    assert metric.compute(music, music, RATE) == pytest.approx(BEST[name], abs=1e-4)
    off = [abs(metric.compute(music + noise(music.shape, level), music, RATE) - BEST[name]) for level in (0.03, 0.3)]
    assert off[1] > off[0] > 0


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_is_finite_for_silence_and_for_little(name, music):
    silence = torch.zeros_like(music)
    for estimate, target in ((silence, silence), (music, silence), (silence, music), (music[:, :100], music[:, :100])):
        assert math.isfinite(METRICS[name].compute(estimate, target, RATE))
    assert METRICS[name].compute(silence, silence, RATE) == BEST[name]


def test_a_tone_at_full_scale_has_magnitude_1():
    tone = torch.sin(2 * math.pi * 1000 / RATE * torch.arange(RATE))[None]
    assert metrics.spectrogram(tone, 2048, 512)[0, 64, 10:50].mean().item() == pytest.approx(1, abs=1e-3)


def test_half_the_level_is_half_off_and_6_db_away(music):
    assert metrics.spectral_convergence(music / 2, music, RATE) == pytest.approx(0.5, abs=1e-4)
    assert metrics.loudness_difference_lu(music / 2, music, RATE) == pytest.approx(-6.02, abs=0.01)
    white = noise((2, RATE))
    assert metrics.log_mel_distance(white / 2, white, RATE) == pytest.approx(6.02, abs=0.01)
    expected = 0.5 + math.log(2)
    assert metrics.multi_resolution_stft(white / 2, white, RATE) == pytest.approx(expected, abs=1e-3)


def test_chroma_hears_the_chord_whatever_its_octave():
    chord, octave_up, other = tones(220, 277.18), tones(440, 554.37), tones(246.94, 311.13)
    assert metrics.chroma_cosine(octave_up, chord, RATE) > 0.95
    assert metrics.chroma_cosine(other, chord, RATE) < 0.3


def test_onsets_hear_the_rhythm_whatever_the_pitch():
    pulse = (torch.arange(2 * RATE) % 8000 < 2000).float()
    offbeat = pulse.roll(4000)
    low, high = tones(300, duration_s=2), tones(2000, duration_s=2)
    assert metrics.onset_correlation(high * pulse, low * pulse, RATE) > 0.9
    assert metrics.onset_correlation(low * offbeat, low * pulse, RATE) < 0.2


def test_stereo_is_judged_by_coherence_and_by_level():
    independent, dual_mono = noise((2, 2 * RATE), 0.1), noise((1, 2 * RATE), 0.1).expand(2, -1)
    assert metrics.coherence_error(dual_mono, independent, RATE) > 0.7
    assert metrics.level_difference_error_db(dual_mono, independent, RATE) < 1.0
    panned = dual_mono * torch.tensor([[1.0], [0.5]])
    assert metrics.level_difference_error_db(dual_mono, panned, RATE) == pytest.approx(6.02, abs=0.01)
    assert metrics.coherence_error(dual_mono, panned, RATE) == pytest.approx(0, abs=1e-4)


def test_bandwidth_and_flatness_tell_tones_music_and_noise_apart(music):
    white, tone = noise((2, RATE)), tones(1000)
    assert metrics.bandwidth_hz(tone, RATE) == pytest.approx(1000, abs=40)
    assert metrics.bandwidth_hz(white, RATE) == pytest.approx(0.99 * 16000, rel=0.01)
    assert metrics.bandwidth_hz(torch.zeros(2, RATE), RATE) == 0
    assert metrics.spectral_flatness(white) > 0.9
    assert metrics.spectral_flatness(tone) < 1e-3
    assert metrics.spectral_flatness(music) < 0.3
    assert metrics.spectral_flatness(torch.zeros(2, RATE)) == 0


def test_what_is_not_available_is_left_out(monkeypatch, music):
    without = {**METRICS, "note_agreement": dataclasses.replace(METRICS["note_agreement"], is_available=lambda: False)}
    monkeypatch.setattr(metrics, "METRICS", without)
    assert list(metrics.measure(music, music, RATE)) == [name for name in METRICS if name != "note_agreement"]
    assert "dualdiff[eval]" in METRICS["note_agreement"].missing


def test_every_metric_says_what_it_is():
    assert all(len(metric.definition) > 20 and metric.best in ("low", "high", "near 0") for metric in METRICS.values())


def test_a_lowpass_shows_as_bandwidth():
    white = noise((2, RATE), 0.1)
    low = torch.fft.irfft(torch.fft.rfft(white) * (torch.arange(RATE // 2 + 1) < 8000))
    assert metrics.bandwidth_difference_hz(low, white, RATE) == pytest.approx(-8000, rel=0.02)


def test_measuring_in_pieces_is_the_mean_weighted_by_length(monkeypatch, music):
    other = music + noise(music.shape, 0.01)
    monkeypatch.setattr(metrics, "PIECE_S", 2.0)
    measured = metrics.measure(other, music, RATE)
    assert list(measured) == list(METRICS)
    first, last = slice(0, 2 * RATE), slice(2 * RATE, None)
    parts = [metrics.log_mel_distance(other[:, part], music[:, part], RATE) for part in (first, last)]
    assert measured["log_mel_distance"] == pytest.approx((2 * parts[0] + parts[1]) / 3)
    with pytest.raises(ValueError, match="finite"):
        metrics.measure(music * math.nan, music, RATE)
