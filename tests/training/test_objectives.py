"""What the networks are trained for, against the equations; and that no draw depends on how a batch is cut."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Literal

import pytest
import torch
from torch import Tensor

from dualdiff.core.rng import Stream
from dualdiff.core.types import RHYTHM_CHANNELS
from dualdiff.data.loader import Batch
from dualdiff.diffusion.config import NoiseConfig
from dualdiff.diffusion.noise_distribution import Learned, LogSech, make_law
from dualdiff.diffusion.preconditioning import Denoiser
from dualdiff.losses.config import SpectralLoss1dConfig, SpectralLossConfig
from dualdiff.model_store.latent_space import SIGMA_DATA, LatentSpace
from dualdiff.models.layers import Attention, MPConv
from dualdiff.project.settings import open_project
from dualdiff.tasks.train import prepare
from dualdiff.training.config import UNetObjectiveConfig, VAEObjectiveConfig
from dualdiff.training.objective import BatchPosition, Loss
from dualdiff.training.unet import UNetObjective, by_level
from dualdiff.training.vae import VAEObjective, kl_to_unit
from tests.conftest import TINY
from tests.models.test_unet import tiny
from tests.models.test_vae import tiny as tiny_vae

BATCH = 24
SIGMA_MIN = 0.03
LAW = Literal["learned", "log-normal", "log-sech", "log-linear"]


def denoising(label_dropout: float = 0.1, **noise: object) -> UNetObjective:
    """The UNet's objective, as if it had learned something already."""
    unet = tiny()
    torch.nn.init.ones_(unet.uncertainty.gain)
    torch.nn.init.ones_(unet.output_gain)
    space = LatentSpace(mean=(0.0,) * 4, std=(1.0,) * 4, sigma_min=SIGMA_MIN)
    config, law = UNetObjectiveConfig(label_dropout=label_dropout), NoiseConfig(**noise)  # type: ignore[arg-type]
    return UNetObjective(unet, None, space, ("A", "B", "C"), config, law)  # type: ignore[arg-type]


def examples(first: int = 0, count: int = BATCH) -> Batch:
    latents = 0.5 * torch.randn(BATCH, 4, 16, 8, generator=torch.Generator().manual_seed(0))
    labels = torch.eye(3)[torch.arange(BATCH) % 3]
    chosen = slice(first, first + count)
    return Batch({"latents": latents[chosen], "labels": labels[chosen]}, [str(i) for i in range(first, first + count)])


def at(first: int, step: int = 5, total: int = BATCH) -> BatchPosition:
    return BatchPosition(step, first, total, Stream(3).at("step", step))


class ComparisonPage:
    """A stand-in for the denoiser that remembers what it is asked."""

    def __init__(self) -> None:
        self.sigmas: list[Tensor] = []
        self.labels: list[Tensor] = []
        self.noisy: list[Tensor] = []

    def __call__(self, x: Tensor, sigma: Tensor, labels: Tensor) -> Tensor:
        self.sigmas.append(sigma)
        self.labels.append(labels)
        self.noisy.append(x)
        return torch.zeros_like(x)


def asked(objective: UNetObjective, cuts: int, step: int = 5) -> ComparisonPage:
    """What a whole step asks of the denoiser when its batch is cut into so many parts, of whichever processes."""
    objective._denoise = listening = ComparisonPage()  # type: ignore[assignment]
    size = BATCH // cuts
    for part in range(cuts):
        objective.loss(examples(part * size, size), at(part * size, step))
    return listening


@pytest.mark.parametrize("law", LAW.__args__)  # type: ignore[attr-defined]
@pytest.mark.parametrize("cuts", [1, 4, 8])
def test_each_equal_share_of_the_law_has_one_level_of_the_global_batch_however_it_is_cut(law: str, cuts: int) -> None:
    objective = denoising(law=law, learned_warmup_steps=0)
    made = make_law(objective.noise, SIGMA_MIN, SIGMA_DATA, objective._uncertainty_at, 5)
    edges = made.sigma(torch.linspace(0, 1, BATCH + 1))
    sigma = torch.cat(asked(objective, cuts).sigmas)
    assert ((edges[:-1] <= sigma) & (sigma <= edges[1:])).all()
    assert torch.equal(sigma, asked(objective, 1).sigmas[0])
    other = torch.cat(asked(objective, cuts, step=6).sigmas)
    assert not torch.equal(sigma, other), "each step has an offset of its own"


def test_levels_that_are_not_stratified_are_independent_and_still_no_matter_of_cuts() -> None:
    objective = denoising(law="log-linear", stratified=False)
    whole, cut = (torch.cat(asked(objective, cuts).sigmas) for cuts in (1, 4))
    assert torch.equal(whole, cut)
    cells = ((whole.log() - math.log(SIGMA_MIN)) / math.log(80 / SIGMA_MIN) * BATCH).floor()
    assert len(cells.unique()) < BATCH
    many = torch.cat([asked(objective, 1, step).sigmas[0] for step in range(40)]).log().sort().values
    places = (many - math.log(SIGMA_MIN)) / math.log(80 / SIGMA_MIN)
    steps = (torch.arange(len(many)) + 0.5) / len(many)
    assert (places - steps).abs().max() < 1.63 / math.sqrt(len(many))  # Kolmogorov and Smirnov's, at 1 %


def test_the_learned_law_follows_what_the_model_has_learned_since() -> None:
    objective = denoising(law="learned", learned_warmup_steps=0)
    before = torch.cat(asked(objective, 2, step=5).sigmas)
    with torch.no_grad():
        objective.model.uncertainty.gain.fill_(-1.0)
    assert not torch.allclose(before, torch.cat(asked(objective, 2, step=6).sigmas), rtol=0.2)


def test_labels_and_noise_belong_to_the_example() -> None:
    objective = denoising(label_dropout=0.5)
    whole, cut = asked(objective, 1), asked(objective, 8)
    assert torch.equal(torch.cat(cut.labels), whole.labels[0])
    assert torch.equal(torch.cat(cut.noisy), whole.noisy[0])


def test_labels_are_dropped_as_often_as_is_asked() -> None:
    for share in (0.0, 0.1, 1.0):
        objective = denoising(label_dropout=share)
        labels = torch.cat([asked(objective, 1, step).labels[0] for step in range(40)])
        assert set(labels.sum(1).tolist()) <= {0.0, 1.0}
        found = float((labels.sum(1) == 0).float().mean())
        assert found == pytest.approx(share, abs=4 * math.sqrt(share * (1 - share) / len(labels)))


def test_the_loss_is_its_equation() -> None:
    objective = denoising(law="log-normal", label_dropout=0.0)
    torch.nn.init.zeros_(objective.model.output_gain)
    batch, place = examples(), at(0)
    loss = objective.loss(batch, place)
    sigma = objective._sigmas(place, BATCH)
    noise = place.normal(batch.tensors["latents"].shape, "noise")
    y = batch.tensors["latents"]
    denoised = Denoiser(objective.model, SIGMA_DATA)(
        y + sigma.view(-1, 1, 1, 1) * noise, sigma, batch.tensors["labels"]
    )
    u = objective.model.uncertainty(sigma.log() / 4).view(-1, 1, 1, 1)
    weight = ((sigma**2 + 0.25) / (sigma * 0.5) ** 2).view(-1, 1, 1, 1)
    per_element = weight / u.exp() * (denoised - y).square() + u
    torch.testing.assert_close(loss.total, per_element.mean())
    pairs = torch.stack(list(loss.sums.values()))
    assert pairs[:, 1].sum() == BATCH
    torch.testing.assert_close(pairs[:, 0].sum() / BATCH, loss.terms["denoising"])


def test_the_losses_of_parts_add_up_to_that_of_the_whole() -> None:
    objective = denoising()
    whole = objective.loss(examples(), at(0)).total
    parts = [objective.loss(examples(first, 6), at(first)).total for first in range(0, BATCH, 6)]
    torch.testing.assert_close(torch.stack(parts).mean(), whole)


def reconstructing(kind: str = "spectral") -> tuple[VAEObjective, Batch]:
    sample = torch.randn(2, 2, 32, 64, generator=torch.Generator().manual_seed(0))
    format = SimpleNamespace(encode=lambda waveform: waveform, sample_rate=32000)
    config = VAEObjectiveConfig(reconstruction=kind, kl_weight=0.3)  # type: ignore[arg-type]
    spectral = SpectralLossConfig(block_sizes=(8, 16))
    objective = VAEObjective(tiny_vae(), format, config, spectral, SpectralLoss1dConfig())  # type: ignore[arg-type]
    torch.nn.init.constant_(objective.model.log_variance, 0.7)
    return objective, Batch({"waveform": sample}, ["a", "b"])


def test_the_loss_of_the_vae_is_its_equation() -> None:
    objective, batch = reconstructing("point")
    place, vae, sample = at(0, total=2), objective.model.vae, batch.tensors["waveform"]
    loss: Loss = objective.loss(batch, place)
    mode = vae.encode(sample)
    drawn = mode + vae.noise_std * place.normal(mode.shape, "latents")
    distance = loss.terms["reconstruction"]
    torch.testing.assert_close(
        distance, objective._distance(vae.decode(drawn), sample, torch.Generator())["reconstruction"]
    )
    torch.testing.assert_close(loss.total, distance / math.exp(0.7) + 0.7 + 0.3 * kl_to_unit(drawn))


def test_blocks_and_latents_of_the_vae_are_drawn_by_step_and_by_example() -> None:
    objective, batch = reconstructing()
    whole = objective.loss(batch, at(0, total=2))
    halves = []
    for first in (0, 1):
        own = Batch({"waveform": batch.tensors["waveform"][first : first + 1]}, ["x"])
        halves.append(objective.loss(own, at(first, total=2)))
    for name in ("reconstruction", "amplitude", "phase", "kl"):
        torch.testing.assert_close(torch.stack([half.terms[name] for half in halves]).mean(), whole.terms[name])
    assert objective.loss(batch, at(0, step=6, total=2)).terms["reconstruction"] != whole.terms["reconstruction"]


SWITCHES = (
    'unet.attention="separable"',
    "unet.frequency_position=false",
    "unet.normalise_in_forward=false",
    'unet.noise.law="log-sech"',
    "unet.noise.stratified=false",
)


def test_each_switch_of_the_lineage_reaches_the_training(chain: Path, tmp_path: Path) -> None:
    plain, switched = (
        prepare(open_project(chain, [*TINY, *switches]), "unet", tmp_path / name).job.objective
        for name, switches in (("plain", ()), ("switched", SWITCHES))
    )
    for objective, is_switched in ((plain, False), (switched, True)):
        assert isinstance(objective, UNetObjective)
        attending = {layer.along for layer in objective.model.modules() if isinstance(layer, Attention)}
        assert attending == ({"row", "column"} if is_switched else {"plane"})
        assert objective.model.positions[:, 0].any() != is_switched
        assert {layer.normalises for layer in objective.model.modules() if isinstance(layer, MPConv)} == {
            not is_switched
        }
        sigma = objective._sigmas(at(0), BATCH).sort().values
        assert isinstance(objective._law[1], LogSech if is_switched else Learned)
        edges = objective._law[1].sigma(torch.linspace(0, 1, BATCH + 1))
        assert ((edges[:-1] <= sigma) & (sigma <= edges[1:])).all() != is_switched


def test_rhythm_is_dropped_for_its_share_of_the_examples_apart_from_labels() -> None:
    objective = denoising(label_dropout=0.5)
    objective.config = UNetObjectiveConfig(label_dropout=0.5, rhythm_dropout=0.25)
    network, seen = objective.model.forward, []

    def forward(x: Tensor, c_noise: Tensor, games: Tensor, rhythm: Tensor | None = None) -> Tensor:
        assert rhythm is not None
        seen.append((games.any(1), rhythm.flatten(1).any(1)))
        return network(x, c_noise, games, rhythm)

    objective.model.forward = forward  # type: ignore[method-assign]
    batch = examples()
    told = Batch({**batch.tensors, "rhythm": torch.ones(BATCH, RHYTHM_CHANNELS, 8)}, batch.names)
    for step in range(20):
        objective.loss(told, at(0, step))
    labelled, with_beats = (torch.cat(parts).float() for parts in zip(*seen, strict=True))
    assert with_beats.mean().item() == pytest.approx(0.75, abs=0.08)
    assert labelled.mean().item() == pytest.approx(0.5, abs=0.09)
    assert (labelled * with_beats).mean().item() == pytest.approx(0.375, abs=0.09), "apart from each other"


def test_the_gain_of_rhythm_learns() -> None:
    objective = denoising()
    batch = examples()
    rhythm = torch.randn(BATCH, RHYTHM_CHANNELS, 8, generator=torch.Generator().manual_seed(4))
    objective.loss(Batch({**batch.tensors, "rhythm": rhythm}, batch.names), at(0)).total.backward()
    assert objective.model.rhythm_gain.grad.abs() > 0


def test_every_band_of_noise_levels_can_be_reached() -> None:
    sigma = 4.0 ** torch.arange(-6, 6) * 1.5
    bands = by_level(torch.ones(len(sigma)), sigma)
    assert len(bands) == 7
    assert all(count > 0 for _, count in bands.values())
    assert sum(float(count) for _, count in bands.values()) == len(sigma)
