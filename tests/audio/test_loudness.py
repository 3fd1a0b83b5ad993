"""What one pass over a track measures: the same levels as the exact measures, clipping, silence, bandwidth, DC."""

import math

import numpy as np
import pytest
import torch
import torchaudio

from dualdiff import audio
from dualdiff.audio import loudness
from dualdiff.audio.loudness import BLOCK, SILENCE_DB, SILENCE_LUFS, Levels, Meter

RATE = 32000
TIME_S = np.arange(6 * RATE) / RATE


def measured(waveform: np.ndarray, rate: int = RATE, block: int = BLOCK) -> Levels:
    meter = Meter(rate)
    for first in range(0, waveform.shape[1], block):
        meter.update(waveform[:, first : first + block].astype(np.float32))
    return meter.levels()


def exact_lufs(waveform: torch.Tensor, rate: int) -> float:
    """The same by torchaudio's filters, in float64."""
    weighted = waveform.double()
    for b, a in loudness.k_weighting(rate):
        coefficients = torch.tensor([a, b], dtype=torch.float64)
        weighted = torchaudio.functional.lfilter(weighted, *coefficients, clamp=False)
    step = min(loudness.loudness_step(rate), waveform.shape[-1])
    steps = weighted[:, : weighted.shape[-1] // step * step].reshape(len(weighted), -1, step)
    return loudness.gated_lufs(steps.square().mean(-1).sum(0))


def exact_peak_db(waveform: torch.Tensor) -> float:
    """The same by oversampling all of it."""
    return 20 * math.log10(audio.resample(waveform, 1, 4).abs().max())


def noise(gain: float = 0.1, seed: int = 1, length: int = len(TIME_S)) -> np.ndarray:
    return gain * np.random.default_rng(seed).standard_normal((2, length)).clip(-3, 3)


def sine(hz: float, phase: float = 0.0) -> np.ndarray:
    return np.stack([np.sin(2 * np.pi * hz * TIME_S + phase)] * 2)


CASES = {
    "noise": noise(),
    "a swelling": noise() * np.linspace(1e-4, 1, len(TIME_S)) ** 3,
    "squares": 0.6 * np.sign(sine(441.3)) * [[1.0], [0.5]],
    "between samples": 0.5 * sine(RATE / 4, math.pi / 4),
    "near the top": 0.5 * sine(0.45 * RATE),
    "a click": noise(1e-3) + np.eye(1, len(TIME_S), 50_000),
    "loud, then nearly nothing": np.concatenate([noise(0.3, 2, 3 * RATE), noise(1e-4, 3, 3 * RATE)], axis=1),
}


@pytest.mark.parametrize("name", CASES)
def test_levels_are_those_of_the_exact_measures(name: str) -> None:
    waveform = torch.from_numpy(CASES[name]).float()
    own = measured(CASES[name])
    assert own.loudness_lufs == pytest.approx(exact_lufs(waveform, RATE), abs=0.01)
    assert own.true_peak_db == pytest.approx(exact_peak_db(waveform), abs=0.02)


def test_a_waveform_has_the_levels_of_its_track() -> None:
    waveform = torch.from_numpy(CASES["a swelling"]).float()
    assert audio.loudness_lufs(waveform, RATE) == pytest.approx(exact_lufs(waveform, RATE), abs=0.01)
    assert audio.loudness_lufs(waveform[:1], RATE) == pytest.approx(exact_lufs(waveform[:1], RATE), abs=0.01)
    assert audio.true_peak_db(waveform, RATE) == pytest.approx(exact_peak_db(waveform), abs=0.02)
    assert audio.true_peak_db(waveform[1:], RATE) == pytest.approx(exact_peak_db(waveform[1:]), abs=0.02)


def test_the_size_of_the_blocks_makes_no_difference() -> None:
    whole, pieces = measured(noise()), measured(noise(), block=1000)
    assert (whole.loudness_lufs, whole.true_peak_db) == (pieces.loudness_lufs, pieces.true_peak_db)
    assert (whole.clipped_share, whole.silence_share) == (pieces.clipped_share, pieces.silence_share)


@pytest.mark.parametrize("length", [1, 50, 1000])
def test_the_shortest_tracks_have_levels(length: int) -> None:
    waveform = noise(length=length)
    own = measured(waveform)
    assert own.true_peak_db == pytest.approx(exact_peak_db(torch.from_numpy(waveform).float()), abs=0.02)
    assert own.loudness_lufs == pytest.approx(exact_lufs(torch.from_numpy(waveform).float(), RATE), abs=0.01)


@pytest.mark.parametrize("rate", [1000, 3300, 8000, 192000])
def test_every_sample_rate_is_measured(rate: int) -> None:
    own = measured(noise(length=rate), rate)
    assert -60 < own.loudness_lufs < 0
    assert own.loudness_lufs == pytest.approx(exact_lufs(torch.from_numpy(noise(length=rate)), rate), abs=0.01)


def test_silence_has_a_name_for_everything() -> None:
    own = measured(np.zeros((2, RATE)))
    assert (own.loudness_lufs, own.true_peak_db) == (SILENCE_LUFS, SILENCE_DB)
    assert (own.clipped_share, own.silence_share, own.bandwidth_hz, own.dc) == (0.0, 1.0, 0.0, 0.0)


def test_samples_at_full_scale_are_counted() -> None:
    waveform = (sine(440) * 1.2).clip(-1, 1)
    share = np.mean(np.abs(waveform) >= loudness.FULL_SCALE)
    assert measured(waveform).clipped_share == pytest.approx(share, rel=0.01)
    assert measured(waveform * 0.99).clipped_share == 0.0


def test_silence_is_counted_in_time() -> None:
    waveform = noise()
    waveform[:, : 2 * RATE] = 0
    assert measured(waveform).silence_share == pytest.approx(1 / 3, abs=0.02)


@pytest.mark.parametrize("cutoff_hz", [3000, 8000, 15999])
def test_bandwidth_ends_where_the_spectrum_does(cutoff_hz: int) -> None:
    spectrum = np.fft.rfft(noise())
    spectrum[:, round(cutoff_hz * len(TIME_S) / RATE) :] = 0
    assert measured(np.fft.irfft(spectrum)).bandwidth_hz == pytest.approx(cutoff_hz, abs=100)


def test_dual_mono_is_stereo_without_a_difference() -> None:
    one, other = noise()[:1], noise(seed=2)[:1]
    assert measured(np.concatenate([one, one])).dual_mono
    assert measured(np.concatenate([one, one + 1e-4 * other])).dual_mono, "a codec leaves a little"
    assert not measured(np.concatenate([one, one + 0.02 * other])).dual_mono


def test_dc_is_the_mean_of_the_worse_channel() -> None:
    assert measured(noise() + np.array([[0.01], [-0.05]])).dc == pytest.approx(-0.05, abs=2e-3)
    assert abs(measured(noise()).dc) < 2e-3


def test_the_loops_compiled_are_the_loops_as_written(monkeypatch: pytest.MonkeyPatch) -> None:
    short = noise(length=600)
    compiled = measured(short)
    monkeypatch.setattr(loudness, "_survey", lambda: loudness.survey)
    monkeypatch.setattr(loudness, "_peak", lambda: loudness.raise_peak)
    assert measured(short) == compiled
