"""The mel of two windows: what a sample is, its transform, and the start of its way back."""

import math
from pathlib import Path

import pytest
import torch
import torchaudio

from dualdiff import audio
from dualdiff.core.config import build
from dualdiff.core.errors import ConfigError
from dualdiff.formats.base import FORMATS, Continuing, Transposable
from dualdiff.formats.config import MultiMelConfig
from dualdiff.formats.dual_stft import SplitStft, decimation, low_pass
from dualdiff.formats.mel import MultiMelFormat
from dualdiff.formats.pghi import SplitStart
from dualdiff.formats.stft import Stft, hann_power_window

MUSIC = sorted((Path(__file__).parents[2] / "examples" / "music").glob("*/*.ogg"))
CONFIG = MultiMelConfig()


def excerpt(path: Path, duration_s: float = 4.0) -> torch.Tensor:
    """A piece of music at about the format's loudness, (2, T)."""
    waveform = audio.read(path, sample_rate=32000, start_s=20, duration_s=duration_s)
    return audio.gain_to(waveform, audio.loudness_lufs(waveform, 32000), -20.0)


def tone(frequency_hz: float, seconds: float = 1.0) -> torch.Tensor:
    """(2, T)"""
    time = torch.arange(round(32000 * seconds), dtype=torch.float64) / 32000
    return torch.sin(2 * math.pi * frequency_hz * time).float().expand(2, -1).clone()


def through(n_fft: int, waveform: torch.Tensor) -> torch.Tensor:
    """Mel magnitudes of one plain transform, whose window has the sum of the one of 6400 points."""
    window = torch.hann_window(n_fft, dtype=torch.float64) ** 32
    window *= (torch.hann_window(6400, dtype=torch.float64) ** 32).sum() / window.sum()
    spectra = torch.stft(waveform, n_fft, 256, window=window.float(), return_complex=True)
    filters = torchaudio.functional.melscale_fbanks(n_fft // 2 + 1, 20.0, 16000.0, 256, 32000, None, "htk")
    return (spectra.abs().transpose(-1, -2) @ filters).transpose(-1, -2)


@pytest.mark.parametrize("path", MUSIC[::5], ids=lambda path: path.stem)
def test_encoding_equals_the_definition(path):
    """Bands centred below 600 Hz from 9600 points, all others from 6400."""
    waveform = excerpt(path)
    below = (MultiMelFormat().frequencies() < 600)[:, None]
    plain = (torch.where(below, through(9600, waveform), through(6400, waveform)) ** 0.25 - CONFIG.mean) / CONFIG.scale
    sample = MultiMelFormat().encode(waveform[None])[0]
    assert sample.shape == plain.shape == (2, 256, 501)
    assert (sample - plain).norm() < 1e-3 * plain.norm()


@pytest.mark.parametrize("power", [4, 7, 32])
def test_the_way_back_is_no_longer_than_the_windows(power):
    """Of a low power, eight standard deviations are more than all of the window."""
    config = MultiMelConfig(window_power=power)
    made = MultiMelFormat(config)
    assert made._short.high.n_fft <= config.n_fft
    assert made._short.low.n_fft * made._short.factor <= config.bass_n_fft
    waveform = excerpt(MUSIC[0], 1.0)
    back = made.decode(made.encode(waveform[None]), quality="draft")
    error = made.encode(back) - made.encode(waveform[None])[..., : made.num_frames(back.shape[-1])]
    assert error.square().mean() < 0.1


def test_samples_of_music_have_mean_0_and_variance_1():
    samples = MultiMelFormat().encode(torch.stack([excerpt(path) for path in MUSIC]))
    assert samples.mean().item() == pytest.approx(0, abs=0.1)
    assert samples.var().item() == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize("length", [1, 2, 255, 256, 1500, 4800, 4801])
def test_any_length_is_encoded(length):
    sample = MultiMelFormat().encode(torch.randn(1, 2, length))
    assert sample.shape == (1, 2, 256, length // 256 + 1)
    assert torch.isfinite(sample).all()


def test_an_item_is_encoded_alike_alone_and_in_a_batch_and_in_any_pieces(monkeypatch):
    waveforms = torch.randn(3, 2, 40_000) * 0.1
    together = MultiMelFormat().encode(waveforms)
    monkeypatch.setattr("dualdiff.formats.mel.CHUNK_FRAMES", 14)
    assert torch.allclose(MultiMelFormat().encode(waveforms[1:2])[0], together[1], atol=1e-3)


@pytest.mark.parametrize("semitones", [-4.0, 3.0])
def test_a_transposed_format_sees_a_tone_in_the_band_of_the_higher_one(semitones):
    made = MultiMelFormat()
    assert isinstance(made, Transposable)
    for band in (25, 100):
        lower = tone(made.frequencies()[band].item() / 2 ** (semitones / 12))
        assert made.transposed(semitones).encode(lower[None])[0, 0, :, 60].argmax().item() == band


def test_close_bass_notes_stay_apart():
    """Two tones 40 Hz apart: between them the long window leaves a deeper valley than the short one."""
    both = tone(100) + tone(140)
    depths = []
    for made in (FORMATS["mel"](), MultiMelFormat()):
        mel = made.mel(made.encode(both[None]))[0, 0, :, 30:90].mean(1)
        places = [(made.frequencies() - hz).abs().argmin() for hz in (100, 120, 140)]
        depths.append((mel[places[1]] / torch.minimum(mel[places[0]], mel[places[2]])).item())
    assert depths[1] < 0.7 * depths[0]


def bass_of(waveform: torch.Tensor) -> torch.Tensor:
    """Magnitudes from 20 to 250 Hz, 2 Hz apart."""
    window = torch.hann_window(16384)
    return torch.stft(waveform, 16384, 4096, window=window, return_complex=True).abs()[:, 10:128]


def split_of(waveform: torch.Tensor) -> tuple[SplitStft, torch.Tensor]:
    """The transform of the way back, and the spectra of a waveform."""
    stft = MultiMelFormat()._short
    return stft, stft.spectra(stft.padded(waveform), 0, waveform.shape[-1] // 256 + 1)


@pytest.mark.parametrize("circular", [False, True])
def test_what_is_analysed_is_synthesised(circular):
    stft = MultiMelFormat()._short
    waveform = excerpt(MUSIC[0])[:, : 256 * 120]
    frames = 120 + (not circular)
    padded, buffer = stft.padded(waveform, circular), stft.empty(2, frames)
    for first, last in ((0, 50), (50, 51), (51, frames)):
        stft.add(buffer, stft.spectra(padded, first, last), first)
    again = stft.finished(buffer, stft.envelope(frames, circular), circular)
    assert (again - waveform).norm() < 3e-3 * waveform.norm()
    for end in (slice(0, 300), slice(-300, None)):
        assert (again - waveform)[:, end].norm() < 3e-3 * waveform.norm()


def test_the_bass_is_that_of_a_long_window_at_the_full_rate():
    waveform = excerpt(MUSIC[0])[:, : 256 * 100]
    stft, spectra = split_of(waveform)
    assert stft.factor == 8
    window = torch.zeros(4096, dtype=torch.float64)
    half = 8 * stft.low.half
    window[2048 - half : 2048 + half] = hann_power_window(9600, 32)[4800 - half : 4800 + half]
    full = Stft(window * (hann_power_window(6400, 32).sum() / window.sum()), 4096, 256)
    plain = full.spectra(full.padded(waveform), 0, 101)[..., : stft.low_bins].abs()
    assert (spectra[..., : stft.low_bins].abs() - plain).norm() < 1e-3 * plain.norm()


def test_the_filter_before_decimation_passes_the_bass_and_stops_what_would_fold():
    taps = low_pass(8, 32000, 800.0)
    response = torch.fft.rfft(taps, n=32000).abs()
    assert (response[:800] - 1).abs().max() < 1e-4
    assert response[3200:].max() < 1e-4
    assert low_pass(1, 32000, 800.0).tolist() == [1.0]


@pytest.mark.parametrize(
    ("rate", "highest", "window", "lengths", "factor"),
    [
        (32000, 750, 3072, (256, 4800), 8),
        (32000, 750, 3072, (36, 4800), 4),
        (32000, 750, 3064, (256, 4800), 4),
        (8000, 750, 3072, (256, 4800), 2),
        (8000, 3000, 3072, (256,), 1),
        (32000, 31, 3072, (256, 4096), 128),
        (32000, 31, 256, (256, 4096), 16),
    ],
)
def test_decimation_leaves_room_and_divides(rate, highest, window, lengths, factor):
    assert decimation(rate, highest, window, *lengths) == factor


@pytest.mark.parametrize("frequency_hz", [300.0, 560.0, 600.0, 640.0, 1000.0])
def test_the_start_gives_a_tone_one_phase_in_both_windows(frequency_hz):
    """From magnitudes alone: what the start says is the tone's own phase, but for a constant, in every loud cell."""
    waveform = tone(frequency_hz)[:, : 256 * 120]
    stft, spectra = split_of(waveform)
    start = SplitStart(stft, (382.0, 254.6))(spectra.abs(), {}, torch.Generator().manual_seed(0), False)[0]
    inside = slice(20, 100)  # away from the ends
    loud = spectra[0, inside].abs() > 0.3 * spectra.abs().max()
    turned = (start[inside] * spectra[0, inside].conj() / spectra[0, inside].abs())[loud]
    assert (turned.mean().abs()) > 0.98


def test_known_frames_keep_their_phase_and_the_others_go_on_from_it():
    waveform = tone(420.0)[:, : 256 * 120]
    stft, spectra = split_of(waveform)
    known = spectra[:1, :40]
    start = SplitStart(stft, (382.0, 254.6))(spectra.abs(), {0: known}, torch.Generator().manual_seed(0), False)[0]
    loud = spectra[0].abs() > 0.3 * spectra.abs().max()
    turned = start * spectra[0].conj() / spectra[0].abs()
    assert (turned[:40][loud[:40]] - 1).abs().max() < 1e-3
    assert turned[40:100][loud[40:100]].real.mean() > 0.98


def test_the_bass_is_nearer_than_with_one_window():
    """At the same iterations, what comes back has the magnitudes of low bands within half the error of `mel`'s."""
    waveform = excerpt(MUSIC[3])[:, : 256 * 400]
    errors = []
    for made in (FORMATS["mel"](), MultiMelFormat()):
        decoded = made.decode(made.encode(waveform[None]))[0]
        found, wanted = (bass_of(each) for each in (decoded, waveform))
        errors.append(((found - wanted).norm() / wanted.norm()).item())
    assert errors[1] < 0.8 * errors[0]


def test_what_goes_on_from_known_audio_meets_it():
    made, waveform = MultiMelFormat(), excerpt(MUSIC[0])[:, : 256 * 300]
    assert isinstance(made, Continuing)
    sample, start, stop = made.encode(waveform[None]), 256 * 100, 256 * 200
    result = made.go_on(sample, waveform, start, stop)
    reach = made._short.half
    assert torch.equal(result[:, : start - reach], waveform[:, : start - reach])
    assert torch.equal(result[:, stop + reach :], waveform[:, stop + reach :])
    around = slice(start - 256 * 4, start + 256 * 4)
    assert (result - waveform)[:, around].norm() < waveform[:, around].norm()
    assert (result[:, 1:] - result[:, :-1]).abs().max() < 1.5 * (waveform[:, 1:] - waveform[:, :-1]).abs().max()


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"bass_n_fft": 6000}, "bass_n_fft = 6000 must be even and at least n_fft = 6400"),
        ({"bass_n_fft": 9601}, "bass_n_fft = 9601 must be even"),
        ({"bass_hz": 9000.0}, "bass_hz = 9000 must lie between f_min = 20 and half of f_max = 16000"),
        ({"hop_length": 600}, "leaves gaps between windows"),
    ],
)
def test_settings_that_do_not_fit_are_refused(table, message):
    with pytest.raises(ConfigError, match=message):
        build(MultiMelConfig, table, prefix="format")


@pytest.mark.parametrize(
    "config",
    [
        MultiMelConfig(sample_rate=16000, f_max=8000.0, n_fft=3200, bass_n_fft=4800, hop_length=128),
        MultiMelConfig(hop_length=200, bass_n_fft=12800, bass_hz=300.0),
        MultiMelConfig(bass_hz=7000.0),
        MultiMelConfig(bass_hz=25.0),
    ],
)
def test_other_constants_go_there_and_back(config):
    made = MultiMelFormat(config)
    waveform = excerpt(MUSIC[0])[None, :, : 40 * config.hop_length * 4]
    sample = made.encode(waveform)
    decoded = made.decode(sample)
    assert decoded.shape == waveform.shape
    mel, again = made.mel(sample), made.mel(made.encode(decoded))
    assert (again - mel).norm() < 0.2 * mel.norm()
