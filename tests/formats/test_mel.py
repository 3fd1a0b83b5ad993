"""The mel format: what a sample is, and that the fast way to it is the plain one."""

import math
import warnings
from pathlib import Path

import pytest
import torch
import torchaudio

from dualdiff import audio
from dualdiff.core.config import build
from dualdiff.core.errors import ConfigError
from dualdiff.formats.base import FORMATS
from dualdiff.formats.config import MelConfig
from dualdiff.formats.filterbank import filters_on, mel_filters, mel_inverse
from dualdiff.formats.mel import MelFormat, filters_of
from dualdiff.formats.stft import Stft, cut, hann_power_window, magnitude, reflected, with_magnitude

MUSIC = sorted((Path(__file__).parents[2] / "examples" / "music").glob("*/*.ogg"))
CONFIG = MelConfig()


def excerpt(path: Path, duration_s: float = 4.0, start_s: float = 20.0) -> torch.Tensor:
    """A piece of music at about the format's loudness, (2, T)."""
    waveform = audio.read(path, sample_rate=32000, start_s=start_s, duration_s=duration_s)
    return audio.gain_to(waveform, audio.loudness_lufs(waveform, 32000), -20.0)


def plain_sample(waveform: torch.Tensor) -> torch.Tensor:
    """The definition: 6400 points, Hann to the 32nd, 256 HTK mel bands of the magnitude, to the power 1/4."""
    window = (torch.hann_window(6400, dtype=torch.float64) ** 32).float()
    spectra = torch.stft(waveform, 6400, 256, window=window, return_complex=True)
    filters = torchaudio.functional.melscale_fbanks(3201, 20.0, 16000.0, 256, 32000, None, "htk")
    powered = (spectra.abs().transpose(-1, -2) @ filters).transpose(-1, -2) ** 0.25
    return (powered - CONFIG.mean) / CONFIG.scale


@pytest.mark.parametrize("path", MUSIC[::5], ids=lambda path: path.stem)
def test_encoding_equals_the_definition(path):
    waveform = excerpt(path)
    sample, plain = MelFormat().encode(waveform[None])[0], plain_sample(waveform)
    assert sample.shape == plain.shape == (2, 256, 501)
    assert (sample - plain).norm() < 1e-3 * plain.norm()


def test_samples_of_music_have_mean_0_and_variance_1():
    excerpts = torch.stack([excerpt(path, 6.0, 10.0) for path in MUSIC])
    samples = MelFormat().encode(excerpts)
    assert samples.mean().item() == pytest.approx(0, abs=0.1)
    assert samples.var().item() == pytest.approx(1, abs=0.15)


def test_an_item_is_encoded_alike_alone_and_in_a_batch_and_in_any_pieces(monkeypatch):
    waveforms = torch.randn(3, 2, 40_000) * 0.1
    together = MelFormat().encode(waveforms)
    monkeypatch.setattr("dualdiff.formats.mel.CHUNK_FRAMES", 14)
    assert torch.allclose(MelFormat().encode(waveforms[1:2])[0], together[1], atol=1e-4)


@pytest.mark.parametrize("length", [1, 2, 100, 255, 256, 1500, 3200, 3201])
def test_any_length_is_encoded(length):
    made = MelFormat()
    sample = made.encode(torch.randn(1, 2, length))
    assert sample.shape == (1, 2, 256, length // 256 + 1) == (1, 2, 256, made.num_frames(length))
    assert torch.isfinite(sample).all()


def test_frames_and_samples_count_each_other():
    made = FORMATS["mel"](MelConfig())
    assert (made.num_samples(5568), made.num_frames(1_425_152)) == (5567 * 256, 5568)
    assert [made.num_samples(frames) for frames in (0, 1, 2)] == [0, 0, 256]
    for frames in (1, 64, 65):
        assert made.num_frames(made.num_samples(frames)) == frames


def test_frequencies_are_where_tones_are_loudest():
    made = MelFormat()
    time = torch.arange(16000, dtype=torch.float64) / 32000
    frequencies = made.frequencies()
    assert frequencies.shape == (256,)
    for band in (40, 128, 250):
        tone = torch.sin(2 * math.pi * frequencies[band].item() * time).float().expand(1, 2, -1)
        assert made.encode(tone)[0, 0, :, 31].argmax().item() == band


def test_the_window_is_nearly_a_gaussian():
    assert CONFIG.window_std == pytest.approx(6400 / (8 * math.pi))
    place = torch.arange(6400, dtype=torch.float64) - 3200
    gaussian = torch.exp(-((place / CONFIG.window_std) ** 2) / 2)
    assert (hann_power_window(6400, 32) - gaussian).abs().max() < 5e-3
    assert cut(hann_power_window(6400, 32), 1024).sum() / hann_power_window(6400, 32).sum() == pytest.approx(
        1, abs=1e-4
    )


def test_the_way_back_from_mel_is_least_squares():
    filters = filters_of(CONFIG, 6400, 0.0)
    mel = torch.rand(3, 256)
    assert torch.allclose(mel @ mel_inverse(filters, 6400) @ filters, mel, atol=1e-4)
    coarse, fine = mel @ mel_inverse(filters, 3200), mel @ mel_inverse(filters, 6400)
    assert torch.allclose(coarse, fine[:, ::2], atol=1e-5)


@pytest.mark.parametrize(("n_fft", "ratio"), [(6400, 1.0), (2048, 1.0), (6400, 2 ** (1 / 12)), (9600, 2 ** (-5 / 12))])
def test_filters_are_those_of_torchaudio(n_fft, ratio):
    rate = 32000 * ratio if ratio != 1 else 32000
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="At least one mel filterbank has all zero values")
        expected = torchaudio.functional.melscale_fbanks(n_fft // 2 + 1, 20.0, 16000.0, 256, rate, None, "htk")
    assert torch.equal(mel_filters(n_fft, 32000, 20.0, 16000.0, 256, ratio), expected)


def test_filters_on_fewer_bins_see_what_they_see_between_them():
    filters = filters_of(CONFIG, 6400, 0.0)
    fine = torch.stack([torch.linspace(1, 3, 3201), torch.ones(3201)])
    coarse = torch.stack([torch.linspace(1, 3, 1025), torch.ones(1025)])
    assert torch.allclose(coarse @ filters_on(filters, 2048), fine @ filters, rtol=1e-4)


@pytest.mark.parametrize(("length", "hop"), [(2048, 256), (2000, 300)])
def test_the_transform_is_torchs_and_its_inverse_undoes_it(length, hop):
    window = cut(hann_power_window(6400, 32), length // 2)
    stft = Stft(window, length, hop)
    waveform = torch.randn(2, 20 * hop)
    spectra = stft.spectra(reflected(waveform, stft.half), 0, 21)
    plain = torch.stft(waveform, length, hop, window=window.float(), return_complex=True).transpose(-1, -2)
    assert torch.allclose(spectra, plain, atol=1e-3)
    buffer = stft.empty(2, 21)
    stft.add(buffer, spectra[:, :8], 0)
    stft.add(buffer, spectra[:, 8:], 8)
    assert torch.allclose(stft.finished(buffer, stft.envelope(21)), waveform, atol=1e-3)


def test_reflection_repeats_where_a_waveform_is_short():
    short = torch.arange(3.0)[None]
    assert reflected(short, 5)[0].tolist() == [1, 0, 1, 2, 1, 0, 1, 2, 1, 0, 1, 2, 1]
    assert reflected(torch.ones(1, 1), 4).tolist() == [[1.0] * 9]
    assert torch.equal(reflected(torch.arange(9.0)[None], 3)[0, :3], torch.tensor([3.0, 2.0, 1.0]))


def test_magnitude_and_unit():
    spectra = torch.randn(4, 5, dtype=torch.complex64)
    spectra[0, 0] = 0
    assert torch.allclose(magnitude(spectra.clone()), spectra.abs())
    unit = with_magnitude(spectra.clone())
    assert torch.allclose(unit[1:].abs(), torch.ones(3, 5))
    assert torch.allclose(unit * spectra.abs(), spectra, atol=1e-6)
    assert unit[0, 0] == 0


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"n_fft": 6401}, "n_fft = 6401 is odd"),
        ({"f_max": 17000.0}, "do not rise within half the sample rate"),
        ({"f_min": 16000.0}, "do not rise"),
        ({"hop_length": 1024}, "gaps between windows: at most 509"),
        ({"phase": "pgi"}, 'did you mean "pghi"'),
    ],
)
def test_settings_that_cannot_be_are_refused(table, words):
    with pytest.raises(ConfigError, match=words):
        build(MelConfig, table, prefix="format")


@pytest.mark.parametrize("semitones", [-5, 4, 12])
@pytest.mark.parametrize("tone_hz", [150.0, 400.0, 1100.0, 5000.0])
def test_transposed_music_is_the_higher_music_at_the_same_speed(semitones, tone_hz):
    time_s = torch.arange(32000) / 32000
    swell = 0.2 * torch.sin(3 * time_s).square()

    def tone(frequency_hz: float) -> torch.Tensor:
        return (swell * torch.sin(2 * torch.pi * frequency_hz * time_s)).expand(1, 2, -1)

    made = MelFormat()
    found = made.mel(made.transposed(semitones).encode(tone(tone_hz)))[0, 0]
    wanted = made.mel(made.encode(tone(tone_hz * 2 ** (semitones / 12))))[0, 0]
    assert abs(int(found.mean(1).argmax()) - int(wanted.mean(1).argmax())) <= 1
    assert torch.allclose(found.sum(0) / found.sum(), wanted.sum(0) / wanted.sum(), atol=1e-3)
    assert torch.equal(made.transposed(0).encode(tone(tone_hz)), made.encode(tone(tone_hz)))


def test_music_made_lower_has_empty_bands_above_what_there_was():
    noise = torch.randn(1, 2, 32000, generator=torch.Generator().manual_seed(0))
    mel = MelFormat().mel(MelFormat().transposed(-12).encode(noise))[..., 20:-20]
    frequencies = MelFormat().frequencies()
    assert mel[:, :, frequencies > 8400].max() < 1e-6
    assert mel[:, :, frequencies < 7600].mean() > 1
