"""The spectral loss of waveforms: zero for equals, a term for level, a term for phase, a descent that ends in phase."""

import math

import pytest
import torch

from dualdiff.losses.config import SpectralLoss1dConfig
from dualdiff.losses.spectral_1d import SpectralLoss1d

RATE = 32000
LOSS = SpectralLoss1d(SpectralLoss1dConfig(block_sizes=(64, 512, 4096)), RATE)


def tone(frequency_hz: float, phase: float = 0.0, gain: float = 0.3, length: int = 16384) -> torch.Tensor:
    time = torch.arange(length) / RATE
    return (gain * torch.sin(2 * math.pi * frequency_hz * time + phase)).expand(1, 2, -1)


def noise(seed: int, gain: float = 0.1) -> torch.Tensor:
    return torch.randn(2, 2, 16384, generator=torch.Generator().manual_seed(seed)) * gain


def test_equal_waveforms_have_no_distance():
    terms = LOSS(noise(0), noise(0))
    assert float(terms["amplitude"]) == pytest.approx(0, abs=1e-5)
    assert float(terms["phase"]) == pytest.approx(0, abs=1e-5)


def test_a_change_of_level_is_all_amplitude_and_a_turn_is_all_phase():
    louder = LOSS(noise(0) * 2, noise(0))
    assert float(louder["amplitude"]) == pytest.approx(math.log(2), rel=1e-2)
    assert float(louder["phase"]) < 1e-3
    turned = LOSS(-noise(0), noise(0))
    assert float(turned["amplitude"]) < 1e-5
    half = LOSS(noise(1), noise(0))  # angles of other noise are pi/2 on average
    assert float(turned["phase"]) == pytest.approx(2 * float(half["phase"]), rel=0.05)


def test_the_phase_of_low_and_loud_tones_counts_most():
    low, high = (float(LOSS(tone(f, 1.0), tone(f))["phase"]) for f in (200, 8000))
    assert low > 1.5 * high
    quiet = float(LOSS(tone(200, 1.0, 0.003), tone(200, 0.0, 0.003))["phase"])
    assert low > 1.2 * quiet


def test_the_weight_of_the_phase_is_its_formula():
    """One block of noise, by the definition written out."""
    loss = SpectralLoss1d(SpectralLoss1dConfig(block_sizes=(256,), phase_weight=1.0), RATE)
    one, other = (torch.randn(1, 2, 256, generator=torch.Generator().manual_seed(seed)) * 0.1 for seed in (2, 3))
    window = torch.hann_window(256)
    window = window / window.square().sum().sqrt()
    expected = []
    for sign in (1, -1):
        g, f = (torch.fft.rfft((w[0, 0] + sign * w[0, 1]) / math.sqrt(2) * window) for w in (one, other))
        angle = (g / f).angle().abs()
        level = torch.log(f.abs().clamp_min(1e-4) / 1e-4)
        expected.append(angle / math.pi * level * 1127 / (700 + torch.linspace(0, 16000, 129)))
    assert float(loss(one, other)["phase"]) == pytest.approx(torch.cat(expected).mean().item(), rel=1e-2)


def test_blocks_longer_than_the_crop_are_left_out_and_none_left_is_refused():
    short = noise(0)[..., :1000]
    expected = SpectralLoss1d(SpectralLoss1dConfig(block_sizes=(64, 512)), RATE)(short * 2, short)
    assert LOSS(short * 2, short) == expected
    with pytest.raises(ValueError, match="cannot be compared"):
        LOSS(short[..., :32], short[..., :32])
    with pytest.raises(ValueError, match="cannot be compared"):
        LOSS(short, noise(0))


def test_offsets_are_drawn_from_the_generator_alone():
    pair = noise(0), noise(1)
    fixed, drawn, again, other = (
        float(LOSS(*pair, generator)["amplitude"])
        for generator in (None, *(torch.Generator().manual_seed(seed) for seed in (1, 1, 2)))
    )
    assert drawn == again
    assert len({fixed, drawn, other}) == 3


def test_descending_it_brings_noise_to_a_tone_in_phase():
    target = tone(700, length=2048)
    loss = SpectralLoss1d(SpectralLoss1dConfig(block_sizes=(64, 256, 1024), phase_weight=1.0), RATE)
    waveform = (noise(0)[:1, :, :2048] * 0.3).requires_grad_()
    optimizer = torch.optim.Adam([waveform], lr=0.02)
    start = loss(waveform.detach(), target)
    for step in range(150):
        optimizer.zero_grad()
        sum(loss(waveform, target, torch.Generator().manual_seed(step)).values()).backward()
        assert waveform.grad is not None
        assert waveform.grad.isfinite().all()
        optimizer.step()
    end = loss(waveform.detach(), target)
    assert float(end["phase"]) < 0.6 * float(start["phase"])
    correlation = torch.nn.functional.cosine_similarity(waveform.detach().flatten(), target.flatten(), dim=0)
    assert correlation > 0.5


def test_silence_on_either_side_has_finite_distances_and_gradients():
    waveform = torch.zeros(1, 2, 4096, requires_grad=True)
    sum(LOSS(waveform, tone(700, length=4096)).values()).backward()
    assert waveform.grad is not None
    assert waveform.grad.isfinite().all()
    terms = LOSS(tone(700, length=4096), torch.zeros(1, 2, 4096))
    assert all(value.isfinite() for value in terms.values())
