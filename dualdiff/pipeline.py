"""Format, VAE and UNet as one object: encode, decode, generate."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from dualdiff import __version__, audio
from dualdiff.config import plain, setting
from dualdiff.device import compile_in_place, select_device, select_precision
from dualdiff.diffusion.denoiser import Denoiser, guided
from dualdiff.diffusion.sampler import SAMPLERS, draw_noise, sigma_schedule
from dualdiff.errors import UsageError, did_you_mean
from dualdiff.progress import Progress, silent
from dualdiff.seeding import Stream
from dualdiff.store import SIGMA_DATA, Model, load_model
from dualdiff.types import Latents, Quality, Waveform

MAX_LENGTH_S = 3600.0
"""The longest clip, seconds: what fits into memory on an ordinary machine."""


@dataclass(frozen=True, kw_only=True)
class GenerateConfig:
    """How clips are written unless the command says otherwise."""

    model: str = setting("models/unet", "the model folder that plays")
    out: str = setting("clips", "the folder that clips are written to")
    length_s: float = setting(45.0, "length of a clip, seconds", above=0, maximum=3600)
    sampler: Literal["dpmpp_2m", "heun", "euler"] = setting("dpmpp_2m", "the sampler")
    steps: int = setting(24, "steps of the sampler", minimum=1)
    rho: float = setting(7.0, "how the steps crowd towards low noise", minimum=1)
    sigma_max: float = setting(80.0, "noise level to start from", above=0)
    quality: Literal["draft", "default", "high"] = setting("default", "how much work the way back to sound takes")
    cfg_scale: float = setting(2.0, "guidance: 1 none, more follows the games more closely", minimum=0)
    cfg_sigma_min: float = setting(0.0, "guidance acts above this noise level", minimum=0)
    cfg_sigma_max: float = setting(1000.0, "guidance acts up to this noise level", above=0)
    file_format: Literal["flac", "wav", "ogg", "mp3"] = setting("flac", "kind of audio file")
    loudness_lufs: float = setting(
        -16.0, "loudness of a clip, LUFS; lowered where it would clip", minimum=-60, maximum=0
    )

    def __post_init__(self) -> None:
        if self.cfg_sigma_min >= self.cfg_sigma_max:
            raise ValueError(
                f"cfg_sigma_min = {self.cfg_sigma_min:g} is not below cfg_sigma_max = {self.cfg_sigma_max:g}"
            )


@dataclass(frozen=True)
class Clip:
    """A generated piece of music and everything needed to make it again.

    `waveform` is (2, T), float32, at the loudness the recipe says; `recipe` holds plain JSON values.
    """

    waveform: Waveform
    sample_rate: int
    recipe: Mapping[str, Any]


class Pipeline:
    """A model ready to play: `Pipeline.load("models/unet").generate({"A": 0.7, "B": 0.3}, length_s=30, seed=1)`."""

    def __init__(self, model: Model, device: torch.device) -> None:
        self.model = model
        self.device = device
        self.format = model.vae_model.format
        self._denoiser = Denoiser(model.unet, SIGMA_DATA)

    @classmethod
    def load(
        cls, folder: str | Path, device: str = "auto", precision: str = "auto", compile: bool = False
    ) -> "Pipeline":
        """Open a model folder.

        Raises:
            DataError: the folder holds no whole model, or its parts do not belong together.
            UsageError: the device is not on this machine.
        """
        place = select_device(device)
        model = load_model(Path(folder), place, select_precision(precision, place))
        if compile:
            compile_in_place(model.unet, place)
        return cls(model, place)

    @property
    def games(self) -> tuple[str, ...]:
        """The names of the games this model knows."""
        return self.model.games

    @property
    def frame_multiple(self) -> int:
        """A clip's frames are a whole multiple of this: what VAE and UNet together halve."""
        unet_levels = len(self.model.unet.config.channel_mults)
        return int(self.model.vae_model.vae.reduction * 2 ** (unet_levels - 1))

    def encode(self, waveform: Waveform) -> Latents:
        """A waveform (2, T) at the format's rate to normalised latents (1, C, F, N), padded to whole multiples."""
        frames = -(-self.format.num_frames(waveform.shape[-1]) // self.frame_multiple) * self.frame_multiple
        missing = self.format.num_samples(frames) - waveform.shape[-1]
        padded = torch.nn.functional.pad(waveform, (0, missing))[None].to(self.device)
        return self.model.space.normalise(self.model.vae_model.encode(self.format.encode(padded)))

    def decode(
        self,
        latents: Latents,
        seed: int = 0,
        quality: Quality = "default",
        circular: bool = False,
        progress: Progress = silent,
    ) -> Waveform:
        """Normalised latents (1, C, F, N) to a waveform (2, T) at the format's loudness, on the CPU."""
        with torch.inference_mode():
            sample = self.model.vae_model.vae.decode(self.model.space.restore(latents))
        return self.format.decode(sample, seed=seed, quality=quality, circular=circular, progress=progress)[0].cpu()

    def generate(
        self,
        games: Mapping[str, float] | None = None,
        *,
        length_s: float = 45.0,
        seed: int = 0,
        config: GenerateConfig | None = None,
        init: Waveform | None = None,
        strength: float = 1.0,
        progress: Progress = silent,
    ) -> Clip:
        """Write one clip for a weighted mix of games (none: the unconditional model).

        The clip depends on the model, the arguments and nothing else: its noise has a generator of its own. With
        `init`, a waveform (2, T) at the format's rate, the clip is a variation of it; `strength` from above 0 (nearly
        the same) to 1 (nearly free) says from which noise level it starts. `progress` hears of the sampler's steps.

        Raises:
            UsageError: an unknown game, weights that sum to zero, a length or strength that cannot be.
        """
        config = config or GenerateConfig()
        frames = self._frames(length_s)
        labels = self._labels(games or {})
        sigmas = self._sigmas(config, strength if init is not None else 1.0)
        vae = self.model.vae_model.vae
        shape = (vae.config.latent_channels, len(vae.latent_frequencies), frames // vae.reduction)
        noise = draw_noise([Stream(seed).torch("noise")], shape, self.device)
        if init is not None:
            noise = noise + self._fitted(self.encode(init), shape[-1]) / sigmas[0].item()
        interval = (config.cfg_sigma_min, config.cfg_sigma_max)
        denoise = guided(self._denoiser, labels, config.cfg_scale, interval)
        latents = SAMPLERS[config.sampler](
            denoise, noise, sigmas, lambda done, total: progress(done, total, "sampling")
        )
        waveform = self.decode(latents, seed=Stream(seed).seed_for("phase"), quality=config.quality)[
            :, : round(length_s * self.format.sample_rate)
        ]
        recipe = {
            "dualdiff": __version__,
            "model": self.model.unet_hash,
            "games": dict(games or {}),
            "length_s": length_s,
            "seed": seed,
            **{
                key: value
                for key, value in plain(config).items()
                if key not in ("model", "out", "file_format", "length_s")
            },
            "phase": plain(self.format.config).get("phase", ""),
            "device": self.device.type,
            "precision": str(vae.compute_dtype).removeprefix("torch."),
        }
        return Clip(
            audio.levelled(waveform, self.format.sample_rate, config.loudness_lufs), self.format.sample_rate, recipe
        )

    def _frames(self, length_s: float) -> int:
        if not 0 < length_s <= MAX_LENGTH_S:
            raise UsageError(
                f"a length of {length_s:g} s cannot be", f"a clip is longer than 0 and at most {MAX_LENGTH_S:g} seconds"
            )
        samples = round(length_s * self.format.sample_rate)
        multiple = self.frame_multiple
        frames = max(self.format.num_frames(samples), 1)
        while self.format.num_samples(frames) < samples:
            frames += 1
        return -(-frames // multiple) * multiple

    def _labels(self, games: Mapping[str, float]) -> Tensor:
        weights = torch.zeros(1, len(self.games), device=self.device)
        for name, weight in games.items():
            if name not in self.games:
                raise UsageError(
                    f'this model knows no game "{name}"',
                    did_you_mean(name, self.games) or f"it knows {', '.join(self.games)}",
                )
            if not math.isfinite(weight):
                raise UsageError(f'the weight of "{name}" is {weight}', "a weight is a finite number")
            weights[0, self.games.index(name)] = weight
        if games and float(weights.sum()) == 0:
            raise UsageError("the weights of the games sum to zero", "give at least one game a weight of its own")
        return weights

    def _sigmas(self, config: GenerateConfig, strength: float) -> Tensor:
        if not 0 < strength <= 1:
            raise UsageError(
                f"a strength of {strength:g} cannot be", "it is above 0 (nearly the same) and at most 1 (nearly free)"
            )
        sigma_min = self.model.space.sigma_min
        if config.sigma_max <= sigma_min:
            problem = f"sigma_max = {config.sigma_max:g} is not above this model's own noise, {sigma_min:.3g}"
            raise UsageError(problem, "the default is 80: leave generate.sigma_max out")
        low, high = sigma_min ** (1 / config.rho), config.sigma_max ** (1 / config.rho)
        start = (low + strength * (high - low)) ** config.rho
        return sigma_schedule(config.steps, sigma_min, start, config.rho)

    @staticmethod
    def _fitted(latents: Latents, columns: int) -> Latents:
        kept = latents[..., :columns]
        return torch.nn.functional.pad(kept, (0, columns - kept.shape[-1]))
