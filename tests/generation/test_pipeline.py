"""The pipeline: clips depend on the model and the arguments, and on nothing else."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dualdiff import audio
from dualdiff.core.errors import DataError, UsageError
from dualdiff.core.rng import Stream
from dualdiff.diffusion.inpainting_guidance import Known
from dualdiff.diffusion.preconditioning import Denoiser
from dualdiff.diffusion.sampler import dpmpp_2m, draw_noise, sigma_schedule
from dualdiff.generation.config import GenerateConfig
from dualdiff.generation.pipeline import Pipeline
from dualdiff.generation.request import Given, Request, hash_of_samples
from dualdiff.model_store.latent_space import SIGMA_DATA
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
    distances = []
    for strength in (0.05, 0.5, 1.0):
        varied = Request(length_s=1.0, init=Given.of(init), strength=strength, config=replace(QUICK, steps=8))
        difference = pipeline.sample([varied])[..., : known.shape[-1]] - known
        distances.append(float(difference.square().mean().sqrt() / known.std()))
    assert distances[0] < 0.2
    assert distances == sorted(distances)
    assert distances[2] > 0.8


def test_sampling_starts_at_the_highest_noise_level_of_training_unless_told(tmp_path: Path) -> None:
    """A model that names no level is of the time when all had the default of 80."""
    for facts, highest in (({}, 80.0), ({"sigma_max": 5.0}, 5.0)):
        model = Pipeline.load(write_model(tmp_path / f"{highest}", facts=facts), "cpu")
        seen: list[float] = []
        network, watched = model.model.unet, Request(length_s=0.6, config=QUICK)
        hook = network.register_forward_pre_hook(lambda _, inputs, seen=seen: seen.append(float(inputs[1][0])))
        clip = next(model.render([watched]))
        assert math.exp(4 * seen[0]) == pytest.approx(highest, rel=1e-4)
        assert clip.recipe["sigma_max"] == highest
        seen.clear()
        lower = replace(watched, config=replace(QUICK, sigma_max=2.0))
        assert next(model.render([lower])).recipe["sigma_max"] == 2.0
        assert math.exp(4 * seen[0]) == pytest.approx(2, rel=1e-4)
        hook.remove()
        with pytest.raises(UsageError, match=f"above the noise levels of this model's training, {highest:g}"):
            model.sample([replace(watched, config=replace(QUICK, sigma_max=81.0))])


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


def test_a_weight_below_zero_is_led_away_from_by_guidance(pipeline: Pipeline) -> None:
    """D_b + w (D_A - D_b), where the base D_b is (1 - n) D_u + n D_B: the formula, with the network asked directly."""
    denoiser, scale = Denoiser(pipeline.model.unet, SIGMA_DATA), 3.0
    config = GenerateConfig(steps=3, cfg_scale=scale)
    for weight, n in ((-0.5, 0.25), (-2.0, 1.0)):

        def by_hand(x: Tensor, sigma: Tensor, start: float, n: float = n) -> Tensor:
            to_a, to_b, to_none = (denoiser(x, sigma, torch.tensor([row])) for row in ([1.0, 0], [0, 1.0], [0.0, 0]))
            base = (1 - n) * to_none + n * to_b
            return base + scale * (to_a - base)

        request = Request(games={"A": 2.0, "B": weight}, length_s=0.6, config=config)
        latents = pipeline.sample([request])
        sigmas = sigma_schedule(3, pipeline.model.space.sigma_min, 80.0, config.rho)
        noise = draw_noise([Stream(0).torch("noise")], latents.shape[1:], "cpu")
        torch.testing.assert_close(latents, dpmpp_2m(by_hand, noise, sigmas), rtol=1e-3, atol=1e-3)


def test_weights_are_led_away_from_without_a_game_to_lead_to(pipeline: Pipeline) -> None:
    only, doubled = ({"B": weight} for weight in (-1.0, -2.0))
    away, same, none = (pipeline.sample([Request(games=g, length_s=0.6, config=QUICK)]) for g in (only, doubled, {}))
    assert torch.equal(away, same)
    assert not torch.allclose(away, none, atol=1e-2)
    with pytest.raises(UsageError, match="below 0 acts by guidance"):
        Request(games=only, config=replace(QUICK, cfg_scale=1.0))


@pytest.mark.parametrize("large", [1e39, 1e308])
def test_weights_may_be_of_any_size(pipeline: Pipeline, large: float) -> None:
    requests = [
        Request(games=games, length_s=0.6, config=QUICK) for games in ({"A": 1, "B": 1}, {"A": large, "B": large})
    ]
    one, two = (pipeline.sample([request]) for request in requests)
    assert torch.equal(one, two)


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
    with pytest.raises(UsageError, match="are zero"):
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
