"""The way back: the phase gradient's formula, its integration, and what the polish makes of it."""

import math
from pathlib import Path

import numba
import numpy as np
import pytest
import torch

from dualdiff import audio
from dualdiff.core.progress import silent
from dualdiff.formats import griffin_lim, pghi
from dualdiff.formats import phase_retrieval as phase
from dualdiff.formats.config import MelConfig, MultiMelConfig
from dualdiff.formats.mel import AbstractMel, MelFormat, MultiMelFormat
from dualdiff.formats.stft import Stft, cut, hann_power_window, reflected

MUSIC = Path(__file__).parents[2] / "examples" / "music"
CONFIG = MelConfig()
STFT = Stft(cut(hann_power_window(6400, 32), 1024), 2048, 256)


KINDS = [(name, phase) for name in ("mel", "multimel") for phase in ("pghi", "fgla")]


def made_as(name: str, phase: str = "pghi", iterations: int = -1) -> AbstractMel:
    """A mel format by name, with a way back."""
    if name == "mel":
        return MelFormat(MelConfig(phase=phase, phase_iterations=iterations))
    return MultiMelFormat(MultiMelConfig(phase=phase, phase_iterations=iterations))


def excerpt(duration_s: float = 1.5) -> torch.Tensor:
    """Stereo music at about the format's loudness, whole frames long, (1, 2, T)."""
    path = MUSIC / "Pekka Kana 2" / "song05.ogg"
    waveform = audio.read(path, sample_rate=32000, start_s=20, duration_s=duration_s)
    waveform = audio.gain_to(waveform, audio.loudness_lufs(waveform, 32000), -20.0)
    return waveform[None, :, : waveform.shape[-1] // 256 * 256]


def mel_error(made: AbstractMel, decoded: torch.Tensor, sample: torch.Tensor) -> float:
    """Spectral convergence of the mel magnitudes: |mel of the result - mel| / |mel|."""
    return _distance(made, made.encode(decoded), sample)


def wrapped(angle: torch.Tensor) -> torch.Tensor:
    """Angles as the equal ones from -pi to pi."""
    return torch.remainder(angle + math.pi, 2 * math.pi) - math.pi


@pytest.mark.parametrize("rate_hz_per_s", [0.0, 4000.0])
def test_the_gradient_is_that_of_a_tone_and_of_a_chirp(rate_hz_per_s):
    """With a Gaussian window, phases rise by the trapezoid of the gradients wherever the window's cut is not heard."""
    std = CONFIG.window_std
    place = torch.arange(-1024, 1024, dtype=torch.float64)
    stft = Stft(torch.exp(-(place**2) / (2 * std**2)), 2048, 256)
    time = torch.arange(32000, dtype=torch.float64) / 32000
    chirp = torch.sin(2 * math.pi * (3003.0 * time + rate_hz_per_s / 2 * time.square())).float()[None]
    spectra = stft.spectra(reflected(chirp, stft.half), 0, 126)[0][20:-20]
    loud = spectra.abs() > 0.1 * spectra.abs().max()
    loud[0] = loud[-1] = False  # one-sided differences are less exact
    per_frame, per_bin = pghi.phase_gradient(spectra.abs(), stft, std)
    for gradient, axis in ((per_frame, 0), (per_bin, 1)):
        length = spectra.shape[axis] - 1
        here, there = (part.narrow(axis, start, length) for part, start in ((spectra, 0), (spectra, 1)))
        both = loud.narrow(axis, 0, length) & loud.narrow(axis, 1, length)
        predicted = (gradient.narrow(axis, 0, length) + gradient.narrow(axis, 1, length)) / 2
        error = wrapped((there / here).angle() - predicted)[both]
        assert both.sum() > 100
        assert error.abs().max() < 0.01


NONE = np.zeros(12, dtype=bool)


def field(frames: int = 12, bins: int = 9) -> tuple[np.ndarray, ...]:
    """Magnitudes, two constant derivatives and the phase that they belong to."""
    magnitude = np.random.default_rng(0).random((frames, bins), dtype=np.float32) + 0.1
    per_frame, per_bin = (np.full_like(magnitude, slope) for slope in (0.3, -0.7))
    exact = 0.3 * np.arange(frames)[:, None] - 0.7 * np.arange(bins)[None]
    return magnitude, per_frame, per_bin, exact


def test_integration_is_exact_on_a_plane_and_starts_from_what_is_known():
    magnitude, per_frame, per_bin, exact = field()
    phases = np.zeros_like(exact)
    phases[:2] = exact[:2] + 5
    pghi.integrate(magnitude, per_frame, per_bin, phases, NONE | (np.arange(12) < 2), 1e-6)
    assert np.allclose(phases, exact + 5, atol=1e-5)


def test_integration_goes_on_from_both_sides():
    """What is known before and behind disagrees by a turn of 2: each side has its say up to the quiet in the middle."""
    magnitude, per_frame, per_bin, exact = field()
    magnitude[5:7] = 0.01
    phases = np.zeros_like(exact)
    phases[:2], phases[10:] = exact[:2] + 5, exact[10:] + 7
    pghi.integrate(magnitude, per_frame, per_bin, phases, np.isin(np.arange(12), [0, 1, 10, 11]), 0.1)
    assert np.allclose(phases[:5], exact[:5] + 5, atol=1e-5)
    assert np.allclose(phases[7:], exact[7:] + 7, atol=1e-5)


def test_what_does_not_fit_comes_to_lie_in_the_quietest_frame_of_a_gap():
    magnitude = torch.ones(20, 3)
    magnitude[3], magnitude[12] = 0.1, 0.5
    known = torch.tensor([True] * 2 + [False] * 16 + [True] * 2)
    assert pghi.apart(known, magnitude) == [slice(0, 12), slice(12, 20)], "not beside what is known"
    for one_sided in (known & (torch.arange(20) < 5), torch.zeros(20, dtype=torch.bool), torch.ones(20).bool()):
        assert pghi.apart(one_sided, magnitude) == [slice(0, 20)]


def test_what_is_known_keeps_its_phase_and_ends_with_the_music():
    one = torch.polar(torch.ones(1, 2, 2), torch.full((1, 2, 2), 1.5))
    phases, fixed = pghi.known_or_random(torch.ones(6, 2), {0: one, 5: one, 9: one}, torch.Generator().manual_seed(0))
    assert fixed.tolist() == [True, True, False, False, False, True]
    assert torch.allclose(phases[fixed], torch.tensor(1.5, dtype=torch.float64))
    assert phases[~fixed].unique().numel() == 6


def test_integration_leaves_quiet_cells_and_goes_around_them():
    magnitude, per_frame, per_bin, exact = field()
    magnitude[4:8, 3] = 0.01
    phases = np.full_like(exact, 100.0)
    pghi.integrate(magnitude, per_frame, per_bin, phases, NONE, 0.1)
    assert (phases[4:8, 3] == 100).all()
    difference = (phases - exact)[magnitude >= 0.1]
    assert np.allclose(difference, difference[0], atol=1e-5)
    assert 100.0 in phases[magnitude >= 0.1]  # the loudest cell keeps the phase it came with


def test_machine_code_does_what_the_python_says(monkeypatch):
    magnitude = field(20, 30)[0]
    slopes = np.random.default_rng(1).standard_normal((2, 20, 30), dtype=np.float32)
    compiled, plain = np.zeros((20, 30)), np.zeros((20, 30))
    pghi.integrate(magnitude, slopes[0], slopes[1], compiled, np.arange(20) < 3, 0.2)
    monkeypatch.setattr(pghi, "_compiled", lambda: pghi.spread)
    pghi.integrate(magnitude, slopes[0], slopes[1], plain, np.arange(20) < 3, 0.2)
    assert np.allclose(compiled, plain)


def test_a_package_folder_that_cannot_be_written_to_does_no_harm(monkeypatch):
    def njit(signature, cache=False, **_):
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return lambda function: function

    monkeypatch.setattr(numba, "njit", njit)
    pghi._compiled.cache_clear()
    try:
        assert pghi._compiled() is pghi.spread
    finally:
        pghi._compiled.cache_clear()


def test_magnitudes_with_a_phase_get_a_waveform_of_those_magnitudes():
    """A true spectrogram is consistent; most of it is found again from the magnitudes alone."""
    waveform = excerpt()[0]
    magnitudes = STFT.spectra(reflected(waveform, STFT.half), 0, waveform.shape[-1] // 256 + 1).abs()
    recovery = phase.Recovery(
        griffin_lim.Polish(STFT, 40, griffin_lim.ACCELERATED), pghi.Integrated(STFT, CONFIG.window_std)
    )
    result = phase.recover(
        lambda first, last: griffin_lim.Target(magnitudes[:, first:last]),
        magnitudes.shape[1],
        recovery,
        seed=0,
        progress=silent,
    )
    again = STFT.spectra(reflected(result, STFT.half), 0, magnitudes.shape[1]).abs()
    assert (again - magnitudes).norm() < 0.1 * magnitudes.norm()


@pytest.mark.parametrize("pace", [griffin_lim.FAST, griffin_lim.ACCELERATED])
def test_the_right_spectra_are_a_fixed_point(pace):
    waveform = excerpt()[0]
    frames = waveform.shape[-1] // 256 + 1
    mono = waveform[:1].expand(2, -1)
    spectra = STFT.spectra(reflected(mono, STFT.half), 0, frames)
    unit = (spectra / spectra.abs().clamp_min(1e-20))[:1]
    result = griffin_lim.Polish(STFT, 3, pace)(griffin_lim.Target(spectra.abs()), unit)
    assert (result - mono).norm() < 1e-2 * mono.norm()


@pytest.mark.parametrize(("kind", "few", "many", "bound"), [("pghi", 0, 40, 0.08), ("fgla", 2, 12, 0.2)])
@pytest.mark.parametrize("name", ["mel", "multimel"])
def test_iterations_bring_the_spectrogram_nearer(name, kind, few, many, bound):
    waveform = excerpt()
    errors = []
    for iterations in (few, many):
        made = made_as(name, kind, iterations)
        sample = made.encode(waveform)
        decoded = made.decode(sample)
        assert decoded.shape == waveform.shape
        errors.append(mel_error(made, decoded, sample))
    assert errors[1] < 0.7 * errors[0]
    assert errors[1] < bound


def test_an_integrated_start_is_nearer_than_a_random_one(monkeypatch):
    made = MelFormat(MelConfig(phase_iterations=2))
    sample = made.encode(excerpt())
    integrated = mel_error(made, made.decode(sample), sample)
    monkeypatch.setattr(pghi, "integrate", lambda *_: None)
    assert integrated < 0.8 * mel_error(made, made.decode(sample), sample)


def test_levels_are_preserved():
    made, waveform = MelFormat(), excerpt()
    decoded = made.decode(made.encode(waveform))
    assert audio.loudness_lufs(decoded[0], 32000) == pytest.approx(audio.loudness_lufs(waveform[0], 32000), abs=0.5)
    difference = 10 * (decoded.square().mean(-1) / waveform.square().mean(-1)).log10()
    assert difference.abs().max() < 0.5


def test_the_same_seed_gives_the_same_waveform_alone_or_in_a_batch():
    made = MelFormat(MelConfig(phase_iterations=3))
    sample = made.encode(torch.randn(2, 2, 256 * 20) * 0.1)
    both = made.decode(sample, seed=4)
    assert torch.equal(both, made.decode(sample, seed=4))
    assert torch.equal(both[1:], made.decode(sample[1:], seed=4))
    assert not torch.allclose(both, made.decode(sample, seed=5), atol=1e-3)


@pytest.mark.parametrize(("name", "kind"), KINDS)
@pytest.mark.parametrize("what", ["silence", "impulse", "constant", "noise beyond the scale"])
def test_odd_samples_give_finite_waveforms(name, kind, what):
    made = made_as(name, kind, 4)
    waveform = torch.zeros(1, 2, 256 * 30)
    if what == "impulse":
        waveform[..., 4000] = 1
    elif what == "constant":
        waveform += 0.5
    sample = made.encode(waveform)
    if what == "noise beyond the scale":
        sample = torch.randn(sample.shape, generator=torch.Generator().manual_seed(0)) * 5
    decoded = made.decode(sample)
    assert decoded.shape == waveform.shape
    assert torch.isfinite(decoded).all()
    if what == "silence":
        assert decoded.abs().max() == 0


@pytest.mark.parametrize(("name", "kind"), KINDS)
@pytest.mark.parametrize("frames", [1, 2, 5])
def test_the_shortest_samples_decode(name, kind, frames):
    made = made_as(name, kind, 3)
    decoded = made.decode(torch.randn(1, 2, 256, frames))
    assert decoded.shape == (1, 2, (frames - 1) * 256)
    assert torch.isfinite(decoded).all()


@pytest.mark.parametrize("name", ["mel", "multimel"])
def test_pieces_join_without_a_seam(monkeypatch, name):
    made, waveform = made_as(name), excerpt(3.2)
    sample = made.encode(waveform)
    inside = slice(20, 380)  # the reflected ends differ by chance
    whole = _error_in(made, made.decode(sample), sample, inside)
    monkeypatch.setattr(phase, "MAX_CELLS", 160 * 1025)
    decoded = made.decode(sample)
    assert decoded.shape == waveform.shape
    assert _error_in(made, decoded, sample, inside) < 1.1 * whole + 0.005
    for seam in range(60, 380, 40):
        assert _error_in(made, decoded, sample, slice(seam, seam + 40)) < 2 * whole


def _error_in(made: AbstractMel, decoded: torch.Tensor, sample: torch.Tensor, frames: slice) -> float:
    return _distance(made, made.encode(decoded)[..., frames], sample[..., frames])


def test_channels_share_their_magnitudes_for_two_thirds_and_end_with_their_own():
    weights = [griffin_lim.stereo_weight(iteration, 100, 0.67) for iteration in range(101)]
    assert weights[:68] == [0.0] * 68
    assert weights[100] == 1.0
    assert weights[83] == pytest.approx((0.83 - 0.67) / 0.33)
    assert griffin_lim.stereo_weight(0, 0, 0.67) == 1.0
    assert [griffin_lim.stereo_weight(i, 100, 0.67, 0.33) for i in (67, 100)] == pytest.approx([0, 0.33])


def test_the_reference_is_fast_griffin_lim_as_written():
    """y = iSTFT(P_i A_i), R_i = STFT(y), P_{i+1} = unit(R_i - a R_{i-1}), a = 0.99 / 1.99, with torch.stft."""
    window = hann_power_window(6400, 32).float()
    waveform = excerpt(0.5)[0]
    options = {"n_fft": 6400, "hop_length": 256, "window": window}
    magnitudes = torch.stft(waveform, return_complex=True, **options).abs()
    start = torch.exp(2j * math.pi * torch.rand(magnitudes.shape[1:], generator=torch.Generator().manual_seed(0)))
    phases, previous = start.expand(2, -1, -1), torch.zeros(1)
    for iteration in range(13):
        weight = min(max((iteration / 12 - 0.67) / 0.33, 0), 1)
        wanted = weight * magnitudes + (1 - weight) * magnitudes.mean(0)
        expected = torch.istft(phases * wanted, length=waveform.shape[-1], **options)
        spectra = torch.stft(expected, return_complex=True, **options)
        phases = torch.sgn(spectra - 0.99 / 1.99 * previous)
        previous = spectra
    made = griffin_lim.Polish(Stft(window, 6400, 256), 12)
    framed = [part.transpose(-1, -2).contiguous() for part in (magnitudes, start[None])]
    result = made(griffin_lim.Target(framed[0]), framed[1])
    assert (result - expected).norm() < 1e-2 * expected.norm()


def test_bands_make_the_mel_right_and_keep_the_shape_inside():
    filters = torch.zeros(40, 4)
    for band in range(4):
        filters[10 * band : 10 * band + 10, band] = 1.0
    bands = griffin_lim.Bands(filters, (torch.arange(40) >= 10).float())
    spectra = torch.rand(1, 3, 40, dtype=torch.complex64) + 0.1
    wanted = torch.tensor([3.0, 5.0, 0.0, 2.0]).expand(1, 3, 4)
    given = torch.full((1, 3, 40), 7.0)
    fitted = bands.fitted(spectra, given, wanted)
    assert (fitted[..., :10] == 7).all()
    assert torch.allclose((fitted @ filters)[..., 1:], wanted[..., 1:], atol=1e-5)
    inside = fitted[..., 10:20] / spectra.abs()[..., 10:20]
    assert torch.allclose(inside, inside[..., :1].expand_as(inside), rtol=1e-4)
    assert torch.isfinite(bands.fitted(torch.zeros_like(spectra), given, wanted)).all()


def test_free_bands_bring_the_mel_much_nearer(monkeypatch):
    made, waveform = MelFormat(), excerpt()
    sample = made.encode(waveform)
    free = mel_error(made, made.decode(sample), sample)
    monkeypatch.setattr("dualdiff.formats.mel.FREE_HZ", 15999.0)
    bound = MelFormat()
    assert free < 0.8 * mel_error(bound, bound.decode(sample), sample)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("circular", [False, True])
@pytest.mark.parametrize("name", ["mel", "multimel"])
def test_machine_code_iterates_as_torch_does(monkeypatch, name, circular, threads):
    made, waveform = made_as(name, iterations=9), excerpt(2.5)
    sample = made.encode(waveform)
    torch.set_num_threads(threads)
    try:
        fast = made.decode(sample, circular=circular)
        held = made.go_on(sample, waveform[0], 30000, 50000)
    finally:
        torch.set_num_threads(1)
    monkeypatch.setattr(griffin_lim.Bands, "table", lambda _: None)
    plain = made.decode(sample, circular=circular)
    assert (fast - plain).norm() < 1e-4 * plain.norm()
    assert not torch.equal(fast, plain)  # they are two ways
    assert (held - made.go_on(sample, waveform[0], 30000, 50000)).norm() < 1e-4 * held.norm()


def test_bins_in_many_bands_are_left_to_torch():
    filters = torch.eye(8).repeat_interleave(2, 1) + 0.1
    assert griffin_lim.Bands(filters, torch.ones(8)).table() is None
    assert griffin_lim.Bands(torch.eye(8), torch.ones(8)).table() is not None


def test_progress_is_told_over_all_of_a_batch():
    told = []
    made = MelFormat(MelConfig(phase_iterations=2))
    made.decode(torch.randn(2, 2, 256, 8), progress=lambda done, total, note="": told.append(done / total))
    assert told == pytest.approx([1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6, 1.0])


@pytest.mark.parametrize(
    ("name", "kind", "bound"), [("mel", "pghi", 0.05), ("mel", "fgla", 0.2), ("multimel", "pghi", 0.05)]
)
def test_a_loop_has_no_seam(name, kind, bound):
    """Decoded as a loop, the mel of the end run into the start is as near as elsewhere; decoded as not, it is not."""
    made = made_as(name, kind, 8)
    time_s = torch.arange(256 * 100) / 32000
    loop = torch.sin(2 * math.pi * 320 * time_s) * (1.2 + torch.cos(2 * math.pi * 2.5 * time_s)) * 0.2  # whole periods
    twice = made.encode(loop.expand(1, 2, -1).repeat(1, 1, 3))
    sample = twice[..., 100:200]
    errors = []
    for circular in (True, False):
        decoded = made.decode(sample, circular=circular)
        assert decoded.shape[-1] == (100 if circular else 99) * 256
        again = made.encode(torch.cat([decoded] * 3, -1))
        first = decoded.shape[-1] // 256
        place = torch.arange(first - 10, first + 10)
        errors.append(_distance(made, again[..., place], twice[..., 190:210]))
    assert errors[0] < bound
    assert errors[1] > 1.5 * errors[0]


@pytest.mark.parametrize("name", ["mel", "multimel"])
def test_a_long_loop_is_recovered_in_pieces_that_meet(monkeypatch, name):
    made = made_as(name, iterations=20)
    sample = made.encode(excerpt(3.2))
    whole = made.decode(sample, circular=True)
    monkeypatch.setattr(phase, "MAX_CELLS", 160 * 1025)
    decoded = made.decode(sample, circular=True)
    assert decoded.shape == whole.shape == (1, 2, sample.shape[-1] * 256)

    def seam(waveform: torch.Tensor) -> float:
        again = made.encode(torch.cat([waveform, waveform], -1))
        around = slice(sample.shape[-1], sample.shape[-1] + 40)
        return _distance(made, again[..., around], sample[..., :40])

    assert seam(decoded) < 1.3 * seam(whole) + 0.01


def _distance(made: AbstractMel, one: torch.Tensor, other: torch.Tensor) -> float:
    linear = [made.mel(values) for values in (one, other)]
    return ((linear[0] - linear[1]).norm() / linear[1].norm()).item()


def test_integration_goes_on_around_a_loop():
    magnitude, per_frame, per_bin, _ = field()
    magnitude[5:7] = 0.01  # silence in the middle: only around the ends do both parts meet
    phases = np.full(magnitude.shape, 100.0)
    pghi.integrate(magnitude, per_frame, per_bin, phases, NONE, 0.1, True)
    assert np.allclose(phases[0] - phases[-1], 0.3, atol=1e-5)


@pytest.mark.parametrize("name", ["mel", "multimel"])
def test_each_quality_is_nearer_than_the_one_below(name):
    made = made_as(name)
    sample = made.encode(excerpt())
    errors = [mel_error(made, made.decode(sample, quality=quality), sample) for quality in ("draft", "default", "high")]
    assert errors[0] > errors[1] > errors[2]
