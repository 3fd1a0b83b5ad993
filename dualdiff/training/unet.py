"""What the UNet is trained for."""

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from dualdiff.core.rng import Stream
from dualdiff.core.types import RHYTHM_CHANNELS, Latents, Rhythm, Sigma
from dualdiff.data.loader import Batch
from dualdiff.diffusion.config import NoiseConfig
from dualdiff.diffusion.noise_distribution import NoiseLaw, log_sigma_grid, make_law, stratified_quantiles
from dualdiff.diffusion.preconditioning import Denoiser, Preconditioning, loss_weight
from dualdiff.generation.pipeline import Pipeline
from dualdiff.model_store.latent_space import SIGMA_DATA, LatentSpace
from dualdiff.model_store.model import Model, VAEModel
from dualdiff.models.unet import UNet
from dualdiff.training.config import UNetObjectiveConfig
from dualdiff.training.objective import BatchPosition, Loss, Validation
from dualdiff.training.tensorboard import PREVIEWED, write_preview
from dualdiff.training.time_budget import scaled

VALIDATION_SIGMAS = (0.05, 0.2, 0.8, 3.0, 12.0)
"""Noise levels at which held-out latents are measured, as far as the VAE's own noise lies below."""

VALIDATED_AT_ONCE = 4
"""Held-out crops in one forward pass: what bounds the memory."""

HELD_OUT_LOSS = "held_out"
"""What a validation calls the error of a game, over all noise levels."""

CURVE_POINTS = 49
"""Points of a curve over ln sigma."""

LEVELS = 7
"""Bands of noise levels that the training error is reported for; the outer ones hold what lies beyond them."""

PREVIEW_S = 8.0
"""Length of a preview, seconds."""


class UNetObjective:
    """Denoise latents at noise levels of a law, weighted by a learned uncertainty.

    Loss per element = lambda(s)/exp(u(s)) (D - y)^2 + u(s) (EDM2 eq. 21), with the games as labels, dropped for a share
    of the examples so that the model also learns to play without.
    """

    def __init__(
        self,
        unet: UNet,
        vae_model: VAEModel,
        space: LatentSpace,
        games: tuple[str, ...],
        config: UNetObjectiveConfig,
        noise: NoiseConfig,
        held_out: Batch | None = None,
    ) -> None:
        self.model = unet
        self.vae_model, self.space, self.games = vae_model, space, games
        self.config, self.noise, self.held_out = config, noise, held_out
        self._denoise = Denoiser(unet, SIGMA_DATA)
        self._scales = Preconditioning(SIGMA_DATA)
        self._law: tuple[int, NoiseLaw] = (-1, self._make_law(0))

    def loss(self, batch: Batch, place: BatchPosition) -> Loss:
        """The mean loss of normalised latents (B, C, F, N) with labels (B, K); see the class."""
        latents, labels = batch.tensors["latents"], batch.tensors["labels"]
        sigma = self._sigmas(place, len(latents)).to(latents.device)
        dropped = place.uniform(len(latents), "labels") < self.config.label_dropout
        labels = labels * ~dropped[:, None].to(labels.device)
        noise = place.normal(latents.shape, "noise").to(latents.device)
        rhythm = batch.tensors.get("rhythm")
        if rhythm is not None:
            known = place.uniform(len(latents), "rhythm") >= self.config.rhythm_dropout
            rhythm = rhythm * known[:, None, None].to(rhythm.device)
        error, u = self._error(latents, noise, sigma, labels, rhythm)
        total = (error / u.exp() + u).mean()
        scalars = {"denoising": error.mean(), "uncertainty": u.mean(), "log_sigma": sigma.log().mean()}
        terms = {name: value.detach() for name, value in scalars.items()}
        return Loss(total, terms, by_level(error.detach(), sigma))

    def _error(
        self, latents: Latents, noise: Latents, sigma: Sigma, labels: Tensor, rhythm: Rhythm | None
    ) -> tuple[Tensor, Tensor]:
        """The weighted squared error of each example (B,), and the log variance u expected of it (B,)."""
        denoise = self._denoise if rhythm is None else replace(self._denoise, rhythm=rhythm)
        denoised = denoise(latents + sigma.view(-1, 1, 1, 1) * noise, sigma, labels)
        error = (denoised - latents).square().flatten(1).mean(1) * loss_weight(sigma, SIGMA_DATA)
        return error, self.model.uncertainty(self._scales.c_noise(sigma))

    def _sigmas(self, place: BatchPosition, count: int) -> Sigma:
        if self.noise.stratified:
            offset = float(torch.rand((), generator=place.step_stream.torch("quantiles"), dtype=torch.float64))
            quantiles = stratified_quantiles(place.first, count, place.batch_size, offset)
        else:
            quantiles = place.uniform(count, "quantiles")
        if self._law[0] != place.step:
            self._law = (place.step, self._make_law(place.step))
        return self._law[1].sigma(quantiles)

    def _make_law(self, step: int) -> NoiseLaw:
        return make_law(self.noise, self.space.sigma_min, SIGMA_DATA, self._uncertainty_at, step)

    def curves(self, step: int) -> dict[str, list[float]]:
        """The noise law and u, over ln sigma from sigma_min to sigma_max."""
        points = log_sigma_grid(self.space.sigma_min, self.noise.sigma_max, CURVE_POINTS)
        density = self._make_law(step).log_density(points).exp()
        found = {"log_sigma": points, "noise_density": density, "u": self._uncertainty_at(points)}
        return {f"noise/{name}": [float(f"{value:.6g}") for value in values] for name, values in found.items()}

    @torch.no_grad()
    def _uncertainty_at(self, log_sigma: Tensor) -> Tensor:
        """U at points of ln sigma (n,), float64 on the CPU."""
        points = log_sigma.to(self.model.positions.device, torch.float32)
        u: Tensor = self.model.uncertainty(self._scales.c_noise(points.exp()))
        return u.double().cpu()

    def stretch(self, factor: float) -> None:
        """The warm-up of the learned noise law."""
        steps = scaled(self.noise.learned_warmup_steps, factor)
        self.noise = replace(self.noise, learned_warmup_steps=steps)
        self._law = (-1, self._make_law(0))

    def validate(self) -> Validation:
        """The denoising error of held-out crops at fixed noise levels, with fixed noise: by level, and by game."""
        if self.held_out is None:
            return Validation()
        levels = [level for level in VALIDATION_SIGMAS if level >= self.space.sigma_min]
        errors = torch.stack([self._held_out_errors(level) for level in levels])  # (levels, B)
        measures = {
            f"denoising/sigma_{level:g}": float(error.mean()) for level, error in zip(levels, errors, strict=True)
        }
        mean, games = errors.mean(0), self.held_out.tensors["labels"].argmax(1).tolist()
        of_games: dict[str, float] = {}
        for number in sorted(set(games)):
            own = [index for index, game in enumerate(games) if game == number]
            of_games[self.games[number]] = float(mean[own].mean())
        return Validation(measures, {HELD_OUT_LOSS: of_games})

    def _held_out_errors(self, level: float) -> Tensor:
        """The weighted squared error (B,) of each held-out crop at one noise level, a few at a time."""
        assert self.held_out is not None
        device = self.model.positions.device
        latents, labels = (self.held_out.tensors[name].to(device) for name in ("latents", "labels"))
        nothing = latents.new_zeros(len(latents), RHYTHM_CHANNELS, latents.shape[-1])
        rhythm = self.held_out.tensors.get("rhythm", nothing).to(device)
        noise = torch.randn(latents.shape, generator=Stream(0).torch(f"sigma {level}")).to(device)
        sigma = torch.full((len(latents),), level, device=device)
        parts = zip(
            *(torch.split(tensor, VALIDATED_AT_ONCE) for tensor in (latents, noise, sigma, labels, rhythm)), strict=True
        )
        return torch.cat([self._error(*part)[0] for part in parts]).cpu()

    def preview(self, folder: Path, name: str) -> list[Path]:
        """A clip of each of a few fixed seeds, for one game after another, as `generate` would write them."""
        facts = {"sigma_max": self.noise.sigma_max}
        model = Model(self.vae_model, self.model, self.space, self.games, "in training", facts)
        pipeline = Pipeline(model, self.model.positions.device)
        paths = []
        for seed in range(PREVIEWED):
            clip = pipeline.generate({self.games[seed % len(self.games)]: 1.0}, length_s=PREVIEW_S, seed=seed)
            paths.append(write_preview(folder / f"{name}-seed{seed}.flac", clip.waveform, clip.sample_rate))
        return paths


def by_level(error: Tensor, sigma: Sigma) -> dict[str, Tensor]:
    """Sum and count (2,) of the errors (B,) in each band of noise levels: a factor of 4 wide, from 1/64 to 256."""
    band = (sigma.log2() / 2 + 3).floor().long().clamp(0, LEVELS - 1)
    chosen = torch.nn.functional.one_hot(band, LEVELS).to(error.dtype)  # (B, levels)
    pairs = torch.stack([error @ chosen, chosen.sum(0)], dim=1)
    return {f"denoising/sigma_{2 * 4.0 ** (index - 3):.2g}": pair for index, pair in enumerate(pairs)}
