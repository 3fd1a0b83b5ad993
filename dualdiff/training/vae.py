"""What the VAE is trained for."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from dualdiff.core.types import Latents, Sample, Waveform
from dualdiff.data.loader import Batch
from dualdiff.formats.base import Format
from dualdiff.losses.config import SpectralLoss1dConfig, SpectralLossConfig
from dualdiff.losses.spectral import SpectralLoss2d, pointwise_loss
from dualdiff.losses.spectral_1d import SpectralLoss1d
from dualdiff.models.vae import VAE
from dualdiff.training.config import VAEObjectiveConfig
from dualdiff.training.objective import BatchPosition, Loss, Validation
from dualdiff.training.tensorboard import PREVIEWED, write_preview

VALIDATED_AT_ONCE = 4
"""Held-out crops in one forward pass: what bounds the memory."""


class TrainedVAE(nn.Module):
    """The VAE and the loss's learned log variance u: what the optimizer sees."""

    def __init__(self, vae: VAE) -> None:
        super().__init__()
        self.vae = vae
        self.log_variance = nn.Parameter(torch.zeros(()))


class VAEObjective:
    """Reconstruct a sample from a drawn latent, while latents keep mean 0 and variance 1.

    Loss = (amplitude + phase) / exp(u) + u + w KL, with one learned scalar u and the multi-scale spectral loss: in two
    dimensions, of the samples, or in one, of the waveforms that samples with a phase stand for.
    """

    def __init__(
        self,
        vae: VAE,
        format: Format,
        config: VAEObjectiveConfig,
        spectral: SpectralLossConfig,
        spectral_1d: SpectralLoss1dConfig,
        held_out: Batch | None = None,
        held_out_games: Sequence[str] = (),
    ) -> None:
        """`held_out` are crops that the training measures itself on, `held_out_games` the game of each."""
        self.model = TrainedVAE(vae)
        self.format, self.config = format, config
        self.held_out, self.held_out_games = held_out, held_out_games
        self._spectral_loss = SpectralLoss2d(spectral).to(vae.positions.device)
        self._waveform_loss = SpectralLoss1d(spectral_1d, format.sample_rate)

    def loss(self, batch: Batch, place: BatchPosition) -> Loss:
        """The mean loss of waveforms (B, 2, T); see the class."""
        with torch.no_grad():
            sample = self.format.encode(batch.tensors["waveform"])
        mode, std = self.model.vae.posterior(sample)
        drawn = self.model.vae.draw(mode, std, place.normal(mode.shape, "latents"))
        terms = self._distance(self.model.vae.decode(drawn), sample, place.step_stream.torch("blocks"))
        is_fixed = self.model.vae.config.latent_variance == "fixed"
        divergence = kl_to_unit(drawn) if is_fixed else kl_of_gaussians(mode, std)
        u = self.model.log_variance
        total = (terms["reconstruction"] / u.exp() + u) + self.config.kl_weight * divergence
        scalars = {**terms, "kl": divergence, "log_variance": u, "latent_std": drawn.std()}
        return Loss(total, {name: value.detach() for name, value in scalars.items()})

    def _distance(self, reconstruction: Sample, sample: Sample, generator: torch.Generator) -> dict[str, Tensor]:
        if self.config.reconstruction == "point":
            return {"reconstruction": pointwise_loss(reconstruction, sample)}
        if self.config.reconstruction == "spectral_1d":
            waveforms = [self.format.decode(each) for each in (reconstruction, sample)]
            parts = self._waveform_loss(waveforms[0], waveforms[1], generator)
        else:
            parts = self._spectral_loss(reconstruction, sample, generator)
        return {"reconstruction": parts["amplitude"] + parts["phase"], **parts}

    def stretch(self, factor: float) -> None:
        """It has no schedule."""

    def validate(self) -> Validation:
        """The reconstruction of held-out crops from the mode of their latents: over all, and by game."""
        if self.held_out is None:
            return Validation()
        sums: dict[str, float] = {}
        errors: list[float] = []
        for waveform in torch.split(self._held_out_waveform(), VALIDATED_AT_ONCE):
            sample = self.format.encode(waveform)
            reconstruction = self.model.vae.decode(self.model.vae.encode(sample))
            terms = self._distance(reconstruction, sample, torch.Generator().manual_seed(0))
            errors += (reconstruction - sample).abs().mean((1, 2, 3)).tolist()
            for name, value in terms.items():
                sums[name] = sums.get(name, 0.0) + float(value) * len(waveform)
        means = {name: total / len(errors) for name, total in sums.items()}
        of_games: dict[str, float] = {}
        for game in sorted(set(self.held_out_games)):
            own = [error for error, name in zip(errors, self.held_out_games, strict=True) if name == game]
            of_games[game] = sum(own) / len(own)
        return Validation({**means, "absolute_error": sum(errors) / len(errors)}, {"absolute_error": of_games})

    def curves(self, step: int) -> dict[str, list[float]]:
        """The VAE knows none."""
        return {}

    def preview(self, folder: Path, name: str) -> list[Path]:
        """Held-out crops, each of another game if it can be: the original, and what comes back."""
        if self.held_out is None:
            return []
        of_a_game = [
            number for number, game in enumerate(self.held_out_games) if game not in self.held_out_games[:number]
        ]
        chosen = sorted([*of_a_game, *(set(range(len(self.held_out))) - set(of_a_game))][:PREVIEWED])
        paths = []
        for number, crop in enumerate(chosen, start=1):
            waveform = self._held_out_waveform()[crop : crop + 1]
            back = self.format.decode(
                self.model.vae.decode(self.model.vae.encode(self.format.encode(waveform))), seed=0
            )
            for kind, audible in (("original", waveform), ("through-vae", back)):
                path = folder / f"{name}-track{number}-{kind}.flac"
                paths.append(write_preview(path, audible[0], self.format.sample_rate))
        return paths

    def _held_out_waveform(self) -> Waveform:
        held_out = self.held_out.to(self.model.vae.positions.device) if self.held_out else None
        return held_out.tensors["waveform"] if held_out else torch.zeros(0)


def kl_to_unit(drawn: Latents) -> Tensor:
    """m^2 + q - 1 - ln q, per example over all elements of the drawn latent, with mean m and mean square q; averaged.

    0 when each example's latents have mean 0 and variance 1: with one fixed variance only these two can stray.
    """
    flat = drawn.flatten(1)
    m, q = flat.mean(1), flat.square().mean(1)
    return (m.square() + q - 1 - q.log()).mean()


def kl_of_gaussians(mode: Latents, std: Tensor) -> Tensor:
    """(mu^2 + v - 1 - ln v)/2, the divergence of N(mu, v) from N(0, 1), averaged over elements."""
    variance = std.square()
    return (mode.square() + variance - 1 - variance.log()).mean() / 2
