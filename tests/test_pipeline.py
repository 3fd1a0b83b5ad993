"""The pipeline: clips depend on the model and the arguments, and on nothing else."""

import pytest
import torch
from test_store import write_model

from dualdiff import audio
from dualdiff.errors import UsageError
from dualdiff.pipeline import GenerateConfig, Pipeline

QUICK = GenerateConfig(steps=2, cfg_scale=1.5)


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    return Pipeline.load(write_model(tmp_path_factory.mktemp("models")), device="cpu", precision="float32")


def test_a_clip_has_the_length_asked_for_and_is_sound(pipeline: Pipeline) -> None:
    clip = pipeline.generate({"A": 0.7, "B": 0.3}, length_s=1.3, seed=1, config=QUICK)
    assert clip.waveform.shape == (2, round(1.3 * 32000))
    assert clip.waveform.isfinite().all()
    assert clip.waveform.std() > 1e-4
    assert audio.true_peak_db(clip.waveform, clip.sample_rate) <= -0.9
    assert clip.recipe["games"] == {"A": 0.7, "B": 0.3}
    assert clip.recipe["seed"] == 1
    assert clip.recipe["model"] == pipeline.model.unet_hash


def test_the_same_arguments_give_the_same_clip_and_others_another(pipeline: Pipeline) -> None:
    torch.manual_seed(1)
    one = pipeline.generate({"A": 1}, length_s=0.6, seed=3, config=QUICK)
    torch.manual_seed(2)
    assert torch.equal(one.waveform, pipeline.generate({"A": 1}, length_s=0.6, seed=3, config=QUICK).waveform)
    assert not torch.equal(one.waveform, pipeline.generate({"A": 1}, length_s=0.6, seed=4, config=QUICK).waveform)
    assert not torch.equal(one.waveform, pipeline.generate({"B": 1}, length_s=0.6, seed=3, config=QUICK).waveform)


def test_only_the_ratio_of_the_weights_counts(pipeline: Pipeline) -> None:
    one = pipeline.generate({"A": 1, "B": 3}, length_s=0.6, config=QUICK)
    two = pipeline.generate({"A": 2, "B": 6}, length_s=0.6, config=QUICK)
    assert torch.allclose(one.waveform, two.waveform, atol=1e-3)


def test_a_weak_variation_stays_near_its_clip_and_a_strong_one_does_not(pipeline: Pipeline) -> None:
    time_s = torch.arange(32000) / 32000
    init = torch.stack([torch.sin(2 * torch.pi * 440 * time_s), torch.sin(2 * torch.pi * 660 * time_s)]) * 0.2
    known = pipeline.encode(init)
    errors = []
    for strength in (0.05, 1.0):
        sigmas = pipeline._sigmas(QUICK, strength)
        assert sigmas[-1].item() == pytest.approx(0.03)
        errors.append(sigmas[0].item())
    assert errors[0] < 0.1
    assert errors[1] == pytest.approx(QUICK.sigma_max)
    clip = pipeline.generate(None, length_s=1.0, init=init, strength=0.05, config=QUICK)
    assert clip.waveform.shape == (2, 32000)
    assert known.shape[1] == 4


@pytest.mark.parametrize("length_s", [0.0, -1.0, float("nan"), float("inf"), 1e9])
def test_impossible_lengths_are_refused(pipeline: Pipeline, length_s: float) -> None:
    with pytest.raises(UsageError, match="length"):
        pipeline.generate({"A": 1}, length_s=length_s)


def test_unknown_games_zero_weights_and_impossible_strengths_are_refused(pipeline: Pipeline) -> None:
    with pytest.raises(UsageError, match='no game "C"'):
        pipeline.generate({"C": 1.0})
    with pytest.raises(UsageError, match="sum to zero"):
        pipeline.generate({"A": 0.0})
    with pytest.raises(UsageError, match="strength"):
        pipeline.generate({"A": 1.0}, length_s=1, init=torch.zeros(2, 32000), strength=0.0)
