"""The music tagger, against values that its original gives.

Those were computed once: with TensorFlow 2.21 from the original graph and weights (musicnn 0.1.0), and librosa 0.11.
"""

import math

import pytest
import torch

from dualdiff.core.errors import DataError
from dualdiff.evaluation import embedding
from dualdiff.evaluation.embedding import FEATURES, PATCH, RATE, embed, log_mel, tagger


def patches():
    """Two patterns (2, N, M) over frames n and bands b."""
    n, b = torch.arange(PATCH)[:, None].double(), torch.arange(96)[None].double()
    waves = 1.5 + (0.37 * n).sin() * (0.11 * b).cos() + 0.4 * (1.7 * n + 2.3 * b).sin()
    pulses = 2 * (-(((b - 20 - n / 4) / 9) ** 2)).exp() * (n % 23 < 9)
    return torch.stack([waves, pulses]).float()


def test_features_and_tags_are_those_of_the_original():
    features, logits = tagger()(patches())
    first = [-0.1771756, 0.1529467, -0.2848264, -0.2751210, -0.3531506, 1.9240330]
    second = [-0.1771756, -0.1270288, -0.2848264, -0.2751210, -0.3531506, -0.2400440]
    torch.testing.assert_close(features[:, :6], torch.tensor([first, second]), atol=2e-5, rtol=0)
    torch.testing.assert_close(features.sum(dim=1), torch.tensor([50.016335, 32.6812]), atol=1e-3, rtol=0)
    first = [-3.5678949, -2.9100196, -4.3561096, -5.3839459, -0.9970526, -3.6794018]
    second = [-3.0553741, -4.0153718, -3.0065267, -2.6122696, 0.0407369, -4.0160642]
    torch.testing.assert_close(logits[:, :6], torch.tensor([first, second]), atol=5e-5, rtol=0)
    torch.testing.assert_close(logits.sum(dim=1), torch.tensor([-258.42877, -235.0418]), atol=1e-3, rtol=0)


def test_the_spectrogram_is_that_of_the_original():
    t = torch.arange(8000).double() / RATE
    sound = 0.3 * (2 * math.pi * (200 * t + 2000 * t.square())).sin() + 0.05 * (2 * math.pi * 5000 * t).sin()
    frames = log_mel(sound.float().expand(2, -1), RATE)
    assert frames.shape == (32, 96)
    expected = [
        [4.87864, 3.19904, 1.68044, 0.09601, 0.7394],
        [0.07875, 2.52285, 0.60754, 0.0, 0.0],
        [1e-05, 2e-05, 0.00023, 0.00015, 0.0],
        [1.45775, 1.47263, 1.53115, 2.47866, 1.02423],
    ]
    found = frames[[0, 4, 16, 31]][:, [5, 10, 20, 50, 85]]
    torch.testing.assert_close(found, torch.tensor(expected), atol=2e-3, rtol=1e-3)


@pytest.mark.parametrize(("seconds", "rows"), [(1.0, 1), (3.0, 1), (6.1, 2), (40.0, 13)])
def test_each_three_seconds_are_a_row(seconds, rows):
    sound = torch.randn(2, int(seconds * 32000), generator=torch.Generator().manual_seed(0)) * 0.1
    features = embed(sound, 32000)
    assert features.shape == (rows, FEATURES)
    assert features.isfinite().all()


def test_silence_is_finite():
    assert embed(torch.zeros(2, 32000), 32000).isfinite().all()


def test_weights_that_are_missing_are_told(monkeypatch, tmp_path):
    monkeypatch.setattr(embedding, "WEIGHTS", tmp_path / "none.safetensors")
    tagger.cache_clear()
    with pytest.raises(DataError, match=r"none\.safetensors is missing"):
        tagger()
    tagger.cache_clear()


def test_the_weights_travel_with_their_licence():
    folder = embedding.WEIGHTS.parent
    assert "Music Technology Group" in (folder / "LICENSE").read_text(encoding="utf-8")
    assert "Changed" in (folder / "NOTICE").read_text(encoding="utf-8")
