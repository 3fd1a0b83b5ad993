"""The pipeline: clips depend on the model and the arguments, and on nothing else."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dualdiff import audio
from dualdiff.core.errors import DataError, UsageError
from dualdiff.diffusion.inpainting_guidance import Known
from dualdiff.generation.config import GenerateConfig
from dualdiff.generation.pipeline import Pipeline
from dualdiff.generation.request import Given, Request, hash_of_samples
from tests.model_store.test_model import write_model

QUICK = GenerateConfig(steps=2, cfg_scale=1.5)
EIGHT = [Request(games={"A": 1.0, "B": (k - 2) / 4}, length_s=0.6, seed=k, config=QUICK) for k in range(8)]


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


def test_the_last_of_eight_clips_is_the_same_alone(pipeline: Pipeline) -> None:
    batches = pipeline.batches(EIGHT)
    assert [request for batch in batches for request in batch] == EIGHT
    clips = [clip for batch in batches for clip in pipeline.render(batch)]
    alone = pipeline.generate({"A": 1.0, "B": 1.25}, length_s=0.6, seed=7, config=QUICK)
    assert torch.equal(clips[7].waveform, alone.waveform)
    assert clips[7].recipe == alone.recipe
    assert alone.recipe["waveform"] == hash_of_samples(alone.waveform)


def test_clips_sampled_as_one_batch_are_those_alone_to_rounding(pipeline: Pipeline) -> None:
    together = pipeline.sample(EIGHT)
    for latents, request in zip(together, EIGHT, strict=True):
        alone = pipeline.sample([request])[0]
        assert (latents - alone).norm() < 1e-3 * alone.norm()
    assert len(list(pipeline.render(EIGHT[:2]))) == 2


def test_a_gpu_gets_as_many_alike_as_have_room(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "_clips_at_once", lambda request: 3)
    louder = replace(EIGHT[2], config=replace(QUICK, loudness_lufs=-20.0))
    requests = [*EIGHT[:2], louder, EIGHT[3], replace(EIGHT[0], length_s=9), replace(EIGHT[0], config=GenerateConfig())]
    assert [len(batch) for batch in pipeline.batches(requests)] == [3, 1, 1, 1]
    assert [request for batch in pipeline.batches(requests) for request in batch] == requests
    with pytest.raises(ValueError, match="one kind"):
        next(pipeline.render(requests))


def test_a_weight_below_zero_leads_away_from_its_game(pipeline: Pipeline) -> None:
    towards = pipeline._labels([Request(games={"A": 1.0, "B": -0.5})])
    assert towards.tolist() == [[1.0, -0.5]]
    away = pipeline.generate({"A": 1.0, "B": -0.5}, length_s=0.6, config=QUICK)
    assert not torch.equal(away.waveform, pipeline.generate({"A": 1.0}, length_s=0.6, config=QUICK).waveform)


def test_known_latents_stay_where_they_are_kept(pipeline: Pipeline) -> None:
    request = Request(games={"A": 1.0}, length_s=2.0, config=GenerateConfig(steps=8))
    latents = torch.randn(1, *pipeline._shape(request)) * 0.5
    kept = torch.zeros(latents.shape[-1])
    kept[:8] = 1
    sampled = pipeline.sample([request], known=Known(latents, kept))
    error = sampled - latents
    assert error[..., :8].std().item() == pytest.approx(pipeline.model.space.sigma_min, rel=0.2)
    assert error[..., 8:].std() > 0.2


def test_what_is_longer_than_the_training_crops_goes_through_in_windows(pipeline: Pipeline, monkeypatch) -> None:
    request = replace(EIGHT[0], length_s=4.0)
    whole = pipeline.sample([request])
    sizes = []
    denoiser = pipeline._denoiser

    def watched(x, sigma, labels):
        sizes.append(x.shape[-1])
        return denoiser(x, sigma, labels)

    monkeypatch.setattr(pipeline, "_denoiser", watched)
    assert torch.equal(pipeline.sample([request]), whole)
    assert set(sizes) == {whole.shape[-1]}
    sizes.clear()
    monkeypatch.setattr(type(pipeline), "longest", 16)
    windows = pipeline.sample([request])
    assert set(sizes) == {16}
    assert windows.shape == whole.shape
    assert not torch.equal(windows, whole)
    assert torch.equal(pipeline.sample([request]), windows)


def test_a_model_that_guides_itself_changes_nothing_and_another_does(pipeline: Pipeline, tmp_path: Path) -> None:
    folder = pipeline.model.vae_model.folder
    itself = Pipeline.load(folder, device="cpu", precision="float32", guide=folder)
    guided = itself.generate({"A": 1.0}, length_s=0.6, config=replace(QUICK, cfg_scale=4.0))
    plain = pipeline.generate({"A": 1.0}, length_s=0.6, config=replace(QUICK, cfg_scale=1.0))
    assert torch.allclose(guided.waveform, plain.waveform, atol=1e-4)
    assert guided.recipe["guide"] == pipeline.model.unet_hash
    assert "guide" not in plain.recipe
    other = write_model(tmp_path, seed=3)
    with pytest.raises(DataError, match=r"cannot guide .*: its VAE is another"):
        Pipeline.load(folder, device="cpu", guide=other)


def test_progress_rises_to_its_end(pipeline: Pipeline) -> None:
    told = []
    list(pipeline.render(EIGHT[:2], lambda done, total, note="": told.append((done, total, note))))
    shares = [done / total for done, total, _ in told]
    assert shares == sorted(shares)
    assert shares[-1] == 1
    assert {note for *_, note in told} == {"sampling", "decoding"}


def test_audio_in_memory_is_named_by_its_samples() -> None:
    one, two = torch.zeros(2, 10), torch.ones(2, 10)
    assert Given.of(one) == Given.of(one.clone()) != Given.of(two)


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


def test_all_networks_that_play_are_compiled_where_there_is_a_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[torch.nn.Module] = []
    monkeypatch.setattr(
        "dualdiff.generation.pipeline.compile_in_place", lambda network, device: compiled.append(network)
    )
    made = Pipeline.load(write_model(tmp_path), device="cpu", compile=True)
    assert [id(network) for network in compiled] == [id(made.model.unet), id(made.model.vae_model.vae.decoder)]


def test_the_decoder_is_one_graph_at_any_length(pipeline: Pipeline) -> None:
    decoder = pipeline.model.vae_model.vae.decoder
    fast = torch.compile(decoder.forward, fullgraph=True, backend="aot_eager")
    for columns in (8, 24, 16):
        x = torch.randn(1, pipeline.model.vae_model.vae.config.latent_channels + 2, 32, columns)
        with torch.inference_mode():
            assert torch.allclose(fast(x), decoder(x), atol=1e-5)
