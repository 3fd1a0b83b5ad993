"""From noise to latents: the schedule of noise levels, and the solvers that walk down it.

Each sampler solves the probability flow dx/ds = (x - D(x; s))/s (Karras et al. 2022, EDM, arXiv 2206.00364, eq. 1)
along a given schedule, and takes any denoiser. Letters: B batch, C channels, F rows, N columns.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol, TypeAlias

import torch
from torch import Tensor

from dualdiff.core.types import Latents
from dualdiff.diffusion.preconditioning import Denoise

StepCallback: TypeAlias = Callable[[int, int], None]
"""Told (steps done, steps in all) after each step."""

Advance: TypeAlias = Callable[[Latents, "Step"], Latents]


@dataclass(frozen=True)
class Step:
    """One step of a sampler, from sigma down to `end`."""

    denoise: Denoise
    sigma: float
    end: float

    def denoised(self, x: Latents, sigma: float) -> Latents:
        """D(x; sigma) for x (B, C, F, N), all clips at one noise level."""
        return self.denoise(x, x.new_full((x.shape[0],), sigma), self.sigma)


class Sampler(Protocol):
    """The one signature of all samplers."""

    def __call__(
        self,
        denoise: Denoise,
        noise: Latents,
        sigmas: Tensor,
        callback: StepCallback | None = None,
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
) -> Tensor:
    """Noise levels (num_steps + 1,), float64, from sigma_max down, equally spaced in s^(1/rho) (EDM eq. 5).

    Where it ends decides what the VAE's decoder is given. Diffusion trains on the mode mu of the latents, and
    sigma_min = sd/r is, in its units, just the noise 1/sqrt(r^2 + 1) that was added to mu whenever the decoder was
    trained. So a sample *at* sigma_min is distributed as the decoder's training inputs, unit variance included. A last
    step to 0, as in EDM, would give the posterior mean instead: a latent whose finest detail is averaged away, of
    smaller variance than any the decoder has seen, reached by a step of order 1.

    Raises:
        ValueError: fewer than one step, or sigma_min not between 0 and sigma_max.
    """
    if num_steps < 1:
        raise ValueError(f"num_steps is {num_steps}: a schedule has at least one step")
    if not 0 < sigma_min < sigma_max:
        raise ValueError(f"sigma_min {sigma_min:g} is not between 0 and sigma_max {sigma_max:g}")
    high, low = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    sigmas: Tensor = (high + torch.arange(num_steps + 1, dtype=torch.float64) / num_steps * (low - high)) ** rho
    sigmas[0], sigmas[-1] = sigma_max, sigma_min
    return sigmas


def draw_noise(generators: Sequence[torch.Generator], shape: Sequence[int], device: str | torch.device) -> Latents:
    """Unit Gaussian noise (B, *shape), float32: clip k from generators[k] alone, drawn where that generator lives."""
    clips = [torch.randn(*shape, generator=generator, device=generator.device) for generator in generators]
    return torch.stack([clip.to(device) for clip in clips])


def euler(
    denoise: Denoise,
    noise: Latents,
    sigmas: Tensor,
    callback: StepCallback | None = None,
) -> Latents:
    """Euler steps, order 1, one evaluation each; the same numbers as DDIM. See `Sampler`."""

    def advance(x: Latents, step: Step) -> Latents:
        return step.denoised(x, step.sigma).lerp(x, step.end / step.sigma)

    return _walk(advance, denoise, noise, sigmas, callback)


def heun(
    denoise: Denoise,
    noise: Latents,
    sigmas: Tensor,
    callback: StepCallback | None = None,
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

    return _walk(advance, denoise, noise, sigmas, callback)


def dpmpp_2m(
    denoise: Denoise,
    noise: Latents,
    sigmas: Tensor,
    callback: StepCallback | None = None,
) -> Latents:
    """DPM-Solver++(2M): order 2 from one evaluation a step. See `Sampler`.

    The exact solution over a step of h = ln(s/s_end) is x s_end/s + integral of e^-(h - t) D dt; D is extrapolated
    linearly in t = -ln s from this step's and the last one's (Lu et al. 2022, arXiv 2211.01095, algorithm 2). The
    first step and a step to 0 are of order 1.
    """
    last: tuple[float, Latents] | None = None

    def advance(x: Latents, step: Step) -> Latents:
        nonlocal last
        denoised = step.denoised(x, step.sigma)
        answer = denoised
        if last is not None and step.end > 0:
            ahead = math.log(step.sigma / step.end) / math.log(last[0] / step.sigma) / 2
            answer = last[1].lerp(denoised, 1 + ahead)
        last = (step.sigma, denoised)
        return answer.lerp(x, step.end / step.sigma)

    return _walk(advance, denoise, noise, sigmas, callback)


SAMPLERS: dict[str, Sampler] = {"euler": euler, "heun": heun, "dpmpp_2m": dpmpp_2m}
"""The samplers by the name that settings and recipes use."""


def _walk(
    advance: Advance,
    denoise: Denoise,
    noise: Latents,
    sigmas: Tensor,
    callback: StepCallback | None,
) -> Latents:
    levels: list[float] = sigmas.tolist()
    num_steps = len(levels) - 1
    if num_steps < 1 or levels[-1] < 0 or any(high <= low for high, low in pairwise(levels)):
        raise ValueError("sigmas must fall strictly, over at least two levels, to 0 or above")
    with torch.no_grad():
        x = noise * levels[0]
        for index, (start, end) in enumerate(pairwise(levels)):
            x = advance(x, Step(denoise, start, end))
            if callback is not None:
                callback(index + 1, num_steps)
    return x
