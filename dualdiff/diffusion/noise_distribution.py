"""Noise laws: how the noise levels of training are distributed, and how a batch is spread over them.

A law is a density of ln s (s = sigma, the noise level) on [sigma_min, sigma_max], and nothing outside: a law with tails
is cut there and scaled up to mass 1 exactly. Levels are drawn by the inverse of its cumulative distribution, at
quantiles that cover the global batch evenly. Computed in float64 on the CPU; the levels come out as float32.
Letters: B noise levels, G points of a grid.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from dualdiff.core.errors import ConfigError
from dualdiff.core.types import Sigma
from dualdiff.diffusion.config import NoiseConfig

GRID_POINTS = 513  # of the learned law: 0.02 of ln s apart over [0.002, 80], far finer than u(s) can vary
OFFSET_STEPS = 2.0**32  # offsets are multiples of 2^-32, so that no quantile is ever rounded into the next cell


class NoiseLaw(Protocol):
    """A distribution of noise levels."""

    def sigma(self, quantiles: Tensor) -> Sigma:
        """The levels (B,), float32, below which the given shares (B,) of the law lie: its inverse CDF.

        Raises:
            ValueError: a quantile outside [0, 1].
        """

    def log_density(self, log_sigma: Tensor) -> Tensor:
        """The logarithm of the density p(ln s), at ln s (any shape, on the CPU), float64; -inf outside of the range."""


def stratified_quantiles(first: int, count: int, total: int, offset: float) -> Tensor:
    """(i + offset)/total for i = first ... first + count - 1: (count,), float64.

    `total` is the global batch of a step over all processes and micro-batches, `first` the place of this micro-batch in
    it, `offset` in [0, 1) one random number per step that all share. However the batch is cut, each of its `total`
    equal cells of [0, 1) then holds exactly one quantile.

    Raises:
        ValueError: the slice does not lie in the batch, or the offset not in [0, 1).
    """
    if first < 0 or count < 0 or first + count > total or not 0 <= offset < 1:
        raise ValueError(f"no quantiles {first} to {first + count} of {total} at offset {offset}")
    places = torch.arange(first, first + count, dtype=torch.float64)
    return (places + math.floor(offset * OFFSET_STEPS) / OFFSET_STEPS) / total


@dataclass(frozen=True)
class LogNormal:
    """ln s is normal (EDM section 5: mean -1.2, std 1.2; EDM2: -0.4, 1.0), cut to the range."""

    mean: float
    std: float
    sigma_min: float
    sigma_max: float

    def sigma(self, quantiles: Tensor) -> Sigma:
        """See `NoiseLaw`."""
        low, high = self._tails()
        z = torch.special.ndtri(low + _checked(quantiles) * (high - low))
        return _cut(self.mean + self.std * z, self.sigma_min, self.sigma_max)

    def log_density(self, log_sigma: Tensor) -> Tensor:
        """See `NoiseLaw`."""
        low, high = self._tails()
        z = (log_sigma.double() - self.mean) / self.std
        inside = -(z**2) / 2 - math.log(math.sqrt(2 * math.pi) * self.std * (high - low))
        return _only_within(inside, log_sigma, self.sigma_min, self.sigma_max)

    def _tails(self) -> tuple[float, float]:
        """The normal law's mass below the range, and that below its end."""
        ends = torch.tensor([self.sigma_min, self.sigma_max], dtype=torch.float64).log()
        low, high = torch.special.ndtr((ends - self.mean) / self.std).tolist()
        return low, high


@dataclass(frozen=True)
class LogSech:
    """The cosine schedule with v-prediction: s = sd cot(theta), theta uniform, cut to the range.

    With x = ln(s/sd), theta = arccot(e^x) falls as d theta/dx = -1/(e^x + e^-x); uniform over pi/2, it gives
    p(x) = sech(x)/pi, and the mass below x is (2/pi) arctan(e^x).
    """

    sigma_data: float
    sigma_min: float
    sigma_max: float

    def sigma(self, quantiles: Tensor) -> Sigma:
        """See `NoiseLaw`."""
        low, high = self._angles()
        angle = low + _checked(quantiles) * (high - low)
        return _cut(angle.tan().log() + math.log(self.sigma_data), self.sigma_min, self.sigma_max)

    def log_density(self, log_sigma: Tensor) -> Tensor:
        """See `NoiseLaw`."""
        low, high = self._angles()
        x = (log_sigma.double() - math.log(self.sigma_data)).abs()
        log_cosh = x + torch.log1p((-2 * x).exp()) - math.log(2)
        return _only_within(-log_cosh - math.log(2 * (high - low)), log_sigma, self.sigma_min, self.sigma_max)

    def _angles(self) -> tuple[float, float]:
        """arctan(s/sd) = pi/2 - theta at both ends of the range; its span is the mass times pi/2."""
        return math.atan(self.sigma_min / self.sigma_data), math.atan(self.sigma_max / self.sigma_data)


@dataclass(frozen=True)
class LogLinear:
    """ln s is uniform over the range."""

    sigma_min: float
    sigma_max: float

    def sigma(self, quantiles: Tensor) -> Sigma:
        """See `NoiseLaw`."""
        low, high = math.log(self.sigma_min), math.log(self.sigma_max)
        return _cut(low + _checked(quantiles) * (high - low), self.sigma_min, self.sigma_max)

    def log_density(self, log_sigma: Tensor) -> Tensor:
        """See `NoiseLaw`."""
        inside = torch.full_like(log_sigma, -math.log(math.log(self.sigma_max / self.sigma_min)), dtype=torch.float64)
        return _only_within(inside, log_sigma, self.sigma_min, self.sigma_max)


class Learned:
    """Training goes where the model makes progress: p = (1 - floor) e^(-T u)/Z + floor/range.

    u(s), the log variance that the model expects of its own loss, is low where it predicts well. It is given at G
    equally spaced points of ln s that span the range. Between them the density is linear, so that its CDF is
    quadratic and has an exact inverse; the floor keeps every level possible.
    """

    def __init__(self, u: Tensor, temperature: float, floor: float, sigma_min: float, sigma_max: float) -> None:
        """Build the law from u (G,), at `log_sigma_grid(sigma_min, sigma_max, G)`.

        Raises:
            ValueError: fewer than two values, one that is not finite, or a floor not in (0, 1].
        """
        values = u.detach().double().cpu()
        if values.ndim != 1 or len(values) < 2 or not values.isfinite().all() or not 0 < floor <= 1:
            raise ValueError("a learned law needs finite values of u on a grid, and a floor above 0 and at most 1")
        self.sigma_min, self.sigma_max = sigma_min, sigma_max
        self.grid = log_sigma_grid(sigma_min, sigma_max, len(values))
        self.spacing = math.log(sigma_max / sigma_min) / (len(values) - 1)
        progress = (-temperature * (values - values.min())).exp()
        uniform = 1 / math.log(sigma_max / sigma_min)
        self.density = (1 - floor) * progress / self._cell_masses(progress).sum() + floor * uniform
        self.cumulative = torch.cat([values.new_zeros(1), self._cell_masses(self.density).cumsum(0)])

    def sigma(self, quantiles: Tensor) -> Sigma:
        """See `NoiseLaw`."""
        wanted = _checked(quantiles)
        cell = torch.searchsorted(self.cumulative, wanted, right=True).sub(1).clamp(0, len(self.grid) - 2)
        missing = (wanted - self.cumulative[cell]).clamp_min(0)
        left, right = self.density[cell], self.density[cell + 1]
        slope = (right - left) / self.spacing
        # left t + slope t^2/2 = missing, solved for t in the form that does not cancel when the slope is small
        t = 2 * missing / (left + (left**2 + 2 * slope * missing).clamp_min(0).sqrt())
        return _cut(self.grid[cell] + t.clamp_max(self.spacing), self.sigma_min, self.sigma_max)

    def log_density(self, log_sigma: Tensor) -> Tensor:
        """See `NoiseLaw`."""
        place = ((log_sigma.double() - self.grid[0]) / self.spacing).clamp(0, len(self.grid) - 1)
        cell = place.floor().long().clamp_max(len(self.grid) - 2)
        density = torch.lerp(self.density[cell], self.density[cell + 1], place - cell)
        return _only_within(density.log(), log_sigma, self.sigma_min, self.sigma_max)

    def _cell_masses(self, density: Tensor) -> Tensor:
        """The mass between neighbours of the grid (G - 1,) under a density (G,) that is linear between them."""
        return (density[:-1] + density[1:]) * (self.spacing / 2)


def log_sigma_grid(sigma_min: float, sigma_max: float, points: int = GRID_POINTS) -> Tensor:
    """Equally spaced ln s from ln sigma_min to ln sigma_max: (G,), float64."""
    return torch.linspace(math.log(sigma_min), math.log(sigma_max), points, dtype=torch.float64)


def make_law(
    config: NoiseConfig, sigma_min: float, sigma_data: float, u: Callable[[Tensor], Tensor] | None, step: int
) -> NoiseLaw:
    """The law that the settings name, as it is at a training step.

    `u` maps ln s (G,), float64 on the CPU, to the model's log variances (G,); only the learned law asks it.
    That law starts uniform at step 0, while u means nothing yet, and its T rises linearly over the warm-up.

    Raises:
        ConfigError: the range is empty, or holds next to nothing of the normal law.
        ValueError: the learned law without a u.
    """
    sigma_max = config.sigma_max
    if not 0 < sigma_min < sigma_max:
        message = f"the noise levels from sigma_min = {sigma_min:g} to sigma_max = {sigma_max:g} are no range"
        raise ConfigError(message, "raise sigma_max")
    if config.law == "log-normal":
        return _log_normal(config, sigma_min)
    if config.law == "log-sech":
        return LogSech(sigma_data, sigma_min, sigma_max)
    if config.law == "log-linear":
        return LogLinear(sigma_min, sigma_max)
    if u is None:
        raise ValueError("the learned law needs u")
    with torch.no_grad():
        values = u(log_sigma_grid(sigma_min, sigma_max))
    warmed_up = min(step / config.learned_warmup_steps, 1.0) if config.learned_warmup_steps else 1.0
    return Learned(values, config.learned_temperature * warmed_up, config.learned_floor, sigma_min, sigma_max)


def _log_normal(config: NoiseConfig, sigma_min: float) -> LogNormal:
    ends = math.log(sigma_min), math.log(config.sigma_max)
    mean, std = config.log_normal_mean, config.log_normal_std
    if not ends[0] - 3 * std < mean < ends[1] + 3 * std:
        message = f"log_normal_mean = {mean:g} lies more than three log_normal_std outside of the range of ln sigma"
        raise ConfigError(message, f"choose a mean between {ends[0]:.2f} and {ends[1]:.2f}")
    return LogNormal(mean, std, sigma_min, config.sigma_max)


def _checked(quantiles: Tensor) -> Tensor:
    wanted = quantiles.detach().double().cpu()
    if not ((wanted >= 0) & (wanted <= 1)).all():
        raise ValueError("quantiles lie in [0, 1]")
    return wanted


def _cut(log_sigma: Tensor, sigma_min: float, sigma_max: float) -> Sigma:
    """exp, with what rounding put past the ends brought back to them, as float32."""
    return log_sigma.exp().clamp(sigma_min, sigma_max).float()


def _only_within(inside: Tensor, log_sigma: Tensor, sigma_min: float, sigma_max: float) -> Tensor:
    within = (log_sigma >= math.log(sigma_min)) & (log_sigma <= math.log(sigma_max))
    return inside.masked_fill(~within, -math.inf)
