"""What the UNet is trained for."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from dualdiff.config import setting
from dualdiff.data.loader import Batch
from dualdiff.diffusion.denoiser import Denoiser, Preconditioning, loss_weight
from dualdiff.diffusion.noise import NoiseConfig, NoiseLaw, make_law, stratified_quantiles
from dualdiff.models.unet import UNet
from dualdiff.pipeline import Pipeline
from dualdiff.seeding import Stream
from dualdiff.store import SIGMA_DATA, LatentSpace, Model, VAEModel
from dualdiff.training.loop import Loss, Place
from dualdiff.training.watch import write_preview
from dualdiff.types import Latents, Sigma

VALIDATION_SIGMAS = (0.05, 0.2, 0.8, 3.0, 12.0)
"""Noise levels at which held-out latents are measured, as far as the VAE's own noise lies below."""

PREVIEW_S = 8.0
"""Length of a preview, seconds."""


@dataclass(frozen=True, kw_only=True)
class UNetObjectiveConfig:
    """What the UNet is trained for."""

    label_dropout: float = setting(0.1, "share of examples trained without their game", minimum=0, maximum=1)


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

    def loss(self, batch: Batch, place: Place) -> Loss:
        """The mean loss of normalised latents (B, C, F, N) with labels (B, K); see the class."""
        latents, labels = batch.tensors["latents"], batch.tensors["labels"]
        sigma = self._sigmas(place, len(latents)).to(latents.device)
        dropped = torch.rand(len(latents), generator=place.stream.torch("labels")) < self.config.label_dropout
        labels = labels * ~dropped[:, None].to(labels.device)
        noise = torch.randn(latents.shape, generator=place.stream.torch("noise")).to(latents.device)
        error, u = self._error(latents, noise, sigma, labels)
        total = (error / u.exp() + u).mean()
        scalars = {"denoising": error.mean(), "uncertainty": u.mean(), "log_sigma": sigma.log().mean()}
        return Loss(total, {name: value.detach() for name, value in scalars.items()})

    def _error(self, latents: Latents, noise: Latents, sigma: Sigma, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The weighted squared error of each example (B,), and the log variance u expected of it (B,)."""
        denoised = self._denoise(latents + sigma.view(-1, 1, 1, 1) * noise, sigma, labels)
        error = (denoised - latents).square().flatten(1).mean(1) * loss_weight(sigma, SIGMA_DATA)
        return error, self.model.uncertainty(self._scales.c_noise(sigma))

    def _sigmas(self, place: Place, count: int) -> Sigma:
        if self.noise.stratified:
            offset = float(torch.rand((), generator=place.step_stream.torch("quantiles"), dtype=torch.float64))
            quantiles = stratified_quantiles(place.first, count, place.batch_size, offset)
        else:
            quantiles = torch.rand(count, generator=place.stream.torch("quantiles"), dtype=torch.float64)
        if self._law[0] != place.step:
            self._law = (place.step, self._make_law(place.step))
        return self._law[1].sigma(quantiles)

    def _make_law(self, step: int) -> NoiseLaw:
        return make_law(self.noise, self.space.sigma_min, SIGMA_DATA, self._uncertainty_at, step)

    @torch.no_grad()
    def _uncertainty_at(self, log_sigma: Tensor) -> Tensor:
        """U at points of ln sigma (n,), float64 on the CPU."""
        points = log_sigma.to(self.model.positions.device, torch.float32)
        u: Tensor = self.model.uncertainty(self._scales.c_noise(points.exp()))
        return u.double().cpu()

    def validate(self) -> dict[str, float]:
        """The denoising error of held-out crops at fixed noise levels, with fixed noise."""
        if self.held_out is None:
            return {}
        batch = self.held_out.to(self.model.positions.device)
        latents, labels = batch.tensors["latents"], batch.tensors["labels"]
        found = {}
        for level in (level for level in VALIDATION_SIGMAS if level >= self.space.sigma_min):
            noise = torch.randn(latents.shape, generator=Stream(0).torch(f"sigma {level}")).to(latents.device)
            sigma = torch.full((len(latents),), level, device=latents.device)
            found[f"denoising at sigma {level:g}"] = float(self._error(latents, noise, sigma, labels)[0].mean())
        return found

    def preview(self, folder: Path, name: str) -> list[Path]:
        """One clip of fixed seed for the first game, as `generate` would write it."""
        model = Model(self.vae_model, self.model, self.space, self.games, "in training", {})
        pipeline = Pipeline(model, self.model.positions.device)
        clip = pipeline.generate({self.games[0]: 1.0}, length_s=PREVIEW_S, seed=0)
        return [write_preview(folder / f"{name}-seed0.flac", clip.waveform, clip.sample_rate)]
