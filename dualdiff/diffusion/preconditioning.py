"""From a raw network to a denoiser: preconditioning, the weight of the loss, labels and guidance.

Sources: Karras et al. 2022 (EDM, arXiv 2206.00364), Kynkaanniemi et al. 2024 (guidance interval, 2404.07724),
Karras et al. 2024 (autoguidance, 2406.02507). Letters: B batch, C channels, F rows, N columns, K labels.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import torch
from torch import Tensor

from dualdiff.core.types import Latents, Rhythm, Sigma

Network: TypeAlias = Callable[..., Latents]
"""What is trained: (c_in x (B, C, F, N), c_noise (B,), labels (B, K)), and rhythm (B, R, N), to (B, C, F, N)."""

LabelledDenoise: TypeAlias = Callable[[Latents, Sigma, Tensor], Latents]
"""(x (B, C, F, N), sigma (B,), labels (B, K)) to the expected clean latents (B, C, F, N); a `Denoiser` is one."""

EVERYWHERE = (0.0, math.inf)
"""The guidance interval that leaves no noise level out."""


class Denoise(Protocol):
    """What a sampler calls: the expected clean latents, labels and guidance already decided."""

    def __call__(self, x: Latents, sigma: Sigma, start: float, /) -> Latents:
        """Denoise x (B, C, F, N) of noise levels sigma (B,).

        `start` is the noise level at which the sampler's step began. It differs from sigma in Heun's second half and
        and is what a guidance interval is compared with: a step is guided as a whole or not at all.
        """


@dataclass(frozen=True)
class Preconditioning:
    """The scales around the network that keep its input and its target at unit variance (EDM table 1, eq. 7)."""

    sigma_data: float

    def c_skip(self, sigma: Sigma) -> Tensor:
        """How much of the noisy input is part of the answer: sd^2/(s^2 + sd^2)."""
        return self.sigma_data**2 / (sigma**2 + self.sigma_data**2)

    def c_out(self, sigma: Sigma) -> Tensor:
        """The scale of the network's output: s sd/sqrt(s^2 + sd^2)."""
        return sigma * self.sigma_data / (sigma**2 + self.sigma_data**2).sqrt()

    def c_in(self, sigma: Sigma) -> Tensor:
        """The scale of the network's input: 1/sqrt(s^2 + sd^2)."""
        return (sigma**2 + self.sigma_data**2).rsqrt()

    def c_noise(self, sigma: Sigma) -> Tensor:
        """What the network is told of the noise level: ln(s)/4."""
        return sigma.log() / 4


def loss_weight(sigma: Sigma, sigma_data: float) -> Tensor:
    """lambda(s) = (s^2 + sd^2)/(s sd)^2 = 1/c_out^2: the network's errors weigh the same at every level (EDM eq. 8)."""
    return (sigma**2 + sigma_data**2) / (sigma * sigma_data) ** 2


@dataclass(frozen=True)
class Denoiser:
    """D(x; s, labels) = c_skip x + c_out F(c_in x, c_noise, labels), for a network F (EDM eq. 7).

    What surrounds the network is computed in the type of x, whatever type the network's answer has.
    """

    network: Network
    sigma_data: float
    rhythm: Rhythm | None = None
    """(B, R, N): what the network is told of the beats; a whole multiple of B rows at once has it as often."""

    def __call__(self, x: Latents, sigma: Sigma, labels: Tensor) -> Latents:
        """The expected clean latents (B, C, F, N) of x (B, C, F, N) at noise levels (B,), labels (B, K)."""
        scales = Preconditioning(self.sigma_data)
        per_clip = sigma.to(x.dtype).view(-1, 1, 1, 1)
        own = () if self.rhythm is None else (self.rhythm.repeat(len(x) // len(self.rhythm), 1, 1),)
        answer = self.network(scales.c_in(per_clip) * x, scales.c_noise(sigma), labels, *own).to(x.dtype)
        return scales.c_skip(per_clip) * x + scales.c_out(per_clip) * answer


def conditioned(denoiser: LabelledDenoise, labels: Tensor) -> Denoise:
    """The denoiser at fixed labels (B, K), without guidance; a row of zeros asks for the unconditional model.

    A whole multiple of B rows at once, say several windows of each clip, has the labels as often.
    """

    def denoise(x: Latents, sigma: Sigma, start: float) -> Latents:
        return denoiser(x, sigma, _for_rows(labels, x))

    return denoise


@dataclass(frozen=True)
class Away:
    """Labels (B, K) that guidance leads away from, and how far n (B,) for each clip."""

    labels: Tensor
    share: Tensor


def guided(
    denoiser: LabelledDenoise,
    labels: Tensor,
    scale: float,
    interval: tuple[float, float] = EVERYWHERE,
    away: Away | None = None,
) -> Denoise:
    """Classifier-free guidance: D_b + w (D_c - D_b) in steps that start in (low, high], D_c in the others.

    D_c is the denoiser at the labels (B, K). The base D_b is D_u, without labels; with `away`, (1 - n) D_u + n D_a,
    where D_a is the denoiser at the labels to lead away from. All are computed in one batch. A scale of 1 needs no D_b,
    nor do labels that are all zero, and it is not computed then.
    """
    plain = conditioned(denoiser, labels)
    if scale == 1 or (away is None and not labels.any()):
        return plain
    base = _base(torch.zeros_like(labels), away)

    def denoise(x: Latents, sigma: Sigma, start: float) -> Latents:
        if not _within(start, interval):
            return plain(x, sigma, start)
        rows = torch.cat([_for_rows(own, x) for own in (labels, *base)])
        count = 1 + len(base)
        with_labels, *others = denoiser(torch.cat([x] * count), torch.cat([sigma] * count), rows).chunk(count)
        return _blended(others, away).lerp(with_labels, scale)

    return denoise


def autoguided(
    denoiser: LabelledDenoise,
    guide: LabelledDenoise,
    labels: Tensor,
    scale: float,
    interval: tuple[float, float] = EVERYWHERE,
    away: Away | None = None,
) -> Denoise:
    """Autoguidance: D_g + w (D - D_g) in steps that start in (low, high], D in the others.

    D_g is a worse denoiser of the same data (smaller, or earlier in training) at the same labels (B, K); with `away`,
    (1 - n) of it and n of the same at the labels to lead away from.
    """
    plain = conditioned(denoiser, labels)
    worse = [conditioned(guide, own) for own in _base(labels, away)]

    def denoise(x: Latents, sigma: Sigma, start: float) -> Latents:
        better = plain(x, sigma, start)
        if scale == 1 or not _within(start, interval):
            return better
        return _blended([each(x, sigma, start) for each in worse], away).lerp(better, scale)

    return denoise


def _base(neutral: Tensor, away: Away | None) -> list[Tensor]:
    """The labels (B, K) of the base of guidance: the neutral ones, those to lead away from, or both."""
    if away is None:
        return [neutral]
    return [away.labels] if (away.share == 1).all() else [neutral, away.labels]


def _blended(answers: Sequence[Latents], away: Away | None) -> Latents:
    """The base of guidance from what `_base` gave: (1 - n) of the first answer and n of the second, clip by clip."""
    if away is None or len(answers) == 1:
        return answers[0]
    neutral, led_away = answers
    share = away.share.to(neutral).repeat(len(neutral) // len(away.share)).view(-1, 1, 1, 1)
    return torch.lerp(neutral, led_away, share)


def _for_rows(labels: Tensor, x: Latents) -> Tensor:
    """The labels (B, K) of as many rows as x has, whole multiples of B."""
    return labels.repeat(len(x) // len(labels), 1) if len(labels) > 1 or len(x) > 1 else labels


def _within(start: float, interval: tuple[float, float]) -> bool:
    low, high = interval
    return low < start <= high
