"""From noise to latents: the schedule of noise levels, and the solvers that walk down it.

Each sampler solves the probability flow dx/ds = (x - D(x; s))/s (Karras et al. 2022, EDM, arXiv 2206.00364, eq. 1)
along a given schedule, and takes any denoiser. Letters: B batch, C channels, F rows, N columns.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, Protocol, TypeAlias

import torch
from torch import Tensor

from dualdiff.core.types import Latents
from dualdiff.diffusion.preconditioning import Denoise

StepCallback: TypeAlias = Callable[[int, int], None]
"""Told (steps done, steps in all) after each step."""

Advance: TypeAlias = Callable[[Latents, "Step"], Latents]


@dataclass(frozen=True)
class Churn:
    """Noise put back before each step: turns the deterministic flow into a stochastic one (EDM algorithm 2).

    `amount` is S_churn, spread over the steps; `interval` holds S_tmin and S_tmax; `inflation` is S_noise. Each clip
    draws from its own generator, so that what it becomes does not depend on the batch around it.
    """

    amount: float
    generators: Sequence[torch.Generator]
    interval: tuple[float, float] = (0.0, math.inf)
    inflation: float = 1.0

    def raised(self, sigma: float, num_steps: int) -> float:
        """The noise level to which a step that starts at sigma first goes back up, at most sqrt(2) sigma."""
        low, high = self.interval
        return sigma * (1 + min(self.amount / num_steps, math.sqrt(2) - 1)) if low <= sigma <= high else sigma


@dataclass(frozen=True)
class Step:
    """One step of a sampler: D at its beginning, from sigma (after churn) down to `end`."""

    denoise: Denoise
    start: float
    sigma: float
    end: float

    def denoised(self, x: Latents, sigma: float) -> Latents:
        """D(x; sigma) for x (B, C, F, N), all clips at one noise level."""
        return self.denoise(x, x.new_full((x.shape[0],), sigma), self.start)


class Sampler(Protocol):
    """The one signature of all samplers."""

    def __call__(
        self,
        denoise: Denoise,
        noise: Latents,
        sigmas: Tensor,
        callback: StepCallback | None = None,
        churn: Churn | None = None,
    ) -> Latents:
        """Walk from sigmas[0] noise, with noise (B, C, F, N) of unit variance, to latents at sigmas[-1].

        `sigmas` (num_steps + 1,) falls strictly. To vary known latents y instead of starting from nothing, give
        noise + y/sigmas[0]. `callback` hears (steps done, steps in all) after each step. No gradients are kept.
        """


def sigma_schedule(
    num_steps: int,
    sigma_min: float,
    sigma_max: float,
    rho: float = 7.0,
    end: Literal["sigma_min", "zero"] = "sigma_min",
) -> Tensor:
    """Noise levels (num_steps + 1,), float64, from sigma_max down, equally spaced in s^(1/rho) (EDM eq. 5).

    Where it ends decides what the VAE's decoder is given. Diffusion trains on the mode mu of the latents, and
    sigma_min = sd/r is, in its units, just the noise 1/sqrt(r^2 + 1) that was added to mu whenever the decoder was
    trained. So a sample *at* sigma_min is distributed as the decoder's training inputs, unit variance included, and
    the default ends there. A last step to 0 would give the posterior mean instead: a latent whose finest detail is
    averaged away, of smaller variance than any the decoder has seen, reached by a step of order 1.

    With `end="zero"` the last step goes from sigma_min to 0, as in EDM: right where nothing downstream expects noise
    (data that was never blurred by a VAE, with a sigma_min such as 0.002). Both take num_steps steps.

    Raises:
        ValueError: fewer than one step (two with end="zero"), or sigma_min not between 0 and sigma_max.
    """
    intervals = num_steps if end == "sigma_min" else num_steps - 1
    if intervals < 1:
        raise ValueError(f"num_steps is {num_steps}: too few for a schedule that ends at {end}")
    if not 0 < sigma_min < sigma_max:
        raise ValueError(f"sigma_min {sigma_min:g} is not between 0 and sigma_max {sigma_max:g}")
    high, low = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    sigmas = (high + torch.arange(intervals + 1, dtype=torch.float64) / intervals * (low - high)) ** rho
    sigmas[0], sigmas[intervals] = sigma_max, sigma_min
    return sigmas if end == "sigma_min" else torch.cat([sigmas, sigmas.new_zeros(1)])


def draw_noise(generators: Sequence[torch.Generator], shape: Sequence[int], device: str | torch.device) -> Latents:
    """Unit Gaussian noise (B, *shape), float32: clip k from generators[k] alone, drawn where that generator lives."""
    clips = [torch.randn(*shape, generator=generator, device=generator.device) for generator in generators]
    return torch.stack([clip.to(device) for clip in clips])


def euler(
    denoise: Denoise,
    noise: Latents,
    sigmas: Tensor,
    callback: StepCallback | None = None,
    churn: Churn | None = None,
) -> Latents:
    """Euler steps, order 1, one evaluation each; the same numbers as DDIM. See `Sampler`."""

    def advance(x: Latents, step: Step) -> Latents:
        return step.denoised(x, step.sigma).lerp(x, step.end / step.sigma)

    return _walk(advance, denoise, noise, sigmas, callback, churn)


def heun(
    denoise: Denoise,
    noise: Latents,
    sigmas: Tensor,
    callback: StepCallback | None = None,
    churn: Churn | None = None,
) -> Latents:
    """Heun's steps, order 2, two evaluations each, one for a step to 0 (EDM algorithms 1 and 2). See `Sampler`."""

    def advance(x: Latents, step: Step) -> Latents:
        denoised = step.denoised(x, step.sigma)
        predicted = denoised.lerp(x, step.end / step.sigma)
        if step.end == 0:
            return predicted
        slope = (x - denoised) / step.sigma
        slope_at_end = (predicted - step.denoised(predicted, step.end)) / step.end
        return x + (step.end - step.sigma) / 2 * (slope + slope_at_end)

    return _walk(advance, denoise, noise, sigmas, callback, churn)


def dpmpp_2m(
    denoise: Denoise,
    noise: Latents,
    sigmas: Tensor,
    callback: StepCallback | None = None,
    churn: Churn | None = None,
) -> Latents:
    """DPM-Solver++(2M): order 2 from one evaluation a step. See `Sampler`.

    The exact solution over a step of h = ln(s/s_end) is x s_end/s + integral of e^-(h - t) D dt; D is extrapolated
    linearly in t = -ln s from this step's and the last one's (Lu et al. 2022, arXiv 2211.01095, algorithm 2). Order
    1 are the first step, a step to 0, and a churned one: fresh noise moved x to another path, so that a difference
    of D would count as slope what is only that noise (measured: it nearly doubles the variance). Churn suits `heun`.
    """
    last: tuple[float, Latents] | None = None

    def advance(x: Latents, step: Step) -> Latents:
        nonlocal last
        denoised = step.denoised(x, step.sigma)
        answer = denoised
        if last is not None and step.end > 0 and step.sigma == step.start:
            ahead = math.log(step.sigma / step.end) / math.log(last[0] / step.sigma) / 2
            answer = last[1].lerp(denoised, 1 + ahead)
        last = (step.sigma, denoised)
        return answer.lerp(x, step.end / step.sigma)

    return _walk(advance, denoise, noise, sigmas, callback, churn)


SAMPLERS: dict[str, Sampler] = {"euler": euler, "heun": heun, "dpmpp_2m": dpmpp_2m}
"""The samplers by the name that settings and recipes use."""


def _walk(
    advance: Advance,
    denoise: Denoise,
    noise: Latents,
    sigmas: Tensor,
    callback: StepCallback | None,
    churn: Churn | None,
) -> Latents:
    levels: list[float] = sigmas.tolist()
    num_steps = len(levels) - 1
    if num_steps < 1 or levels[-1] < 0 or any(high <= low for high, low in pairwise(levels)):
        raise ValueError("sigmas must fall strictly, over at least two levels, to 0 or above")
    if churn is not None and len(churn.generators) != noise.shape[0]:
        raise ValueError(f"churn has {len(churn.generators)} generators for {noise.shape[0]} clips")
    with torch.no_grad():
        x = noise * levels[0]
        for index, (start, end) in enumerate(pairwise(levels)):
            sigma = start if churn is None else churn.raised(start, num_steps)
            if churn is not None and sigma > start:
                fresh = draw_noise(churn.generators, x.shape[1:], x.device).to(x.dtype)
                x = x + churn.inflation * math.sqrt(sigma**2 - start**2) * fresh
            x = advance(x, Step(denoise, start, sigma, end))
            if callback is not None:
                callback(index + 1, num_steps)
    return x
