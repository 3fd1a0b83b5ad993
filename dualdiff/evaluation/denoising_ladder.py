"""The denoising ladder: at which noise level a model loses the beat.

Latents of real music are noised to a level and denoised from there, and the beat of what comes out is compared with the
beat of the music. Between two rungs lies what the model decides at the noise levels between them. It is cheap: a format
that stores magnitudes needs no phase retrieval, because the spectral flux needs none.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from dualdiff import audio
from dualdiff.core.progress import Progress, silent
from dualdiff.core.types import Sample, Waveform
from dualdiff.evaluation.distances import Estimate, interval_of_mean
from dualdiff.evaluation.music import MusicExcerpt
from dualdiff.evaluation.rhythm import HOP_S, beat_strength, flux_of_magnitudes, spectral_flux
from dualdiff.formats.base import Format
from dualdiff.formats.mel import AbstractMel
from dualdiff.generation.config import GenerateConfig
from dualdiff.generation.pipeline import Pipeline
from dualdiff.generation.request import Given, Request

SIGMAS = (0.5, 1.0, 2.0, 4.0, 8.0)
"""Noise levels that are denoised from; sigma_data is 0.5."""
MOST_CROPS = 16
WINDOW_S = 4.0
FORMAT, VAE, NOTHING = "format", "VAE", "noise"
"""The rungs without a noise level: the music's sample, its latents decoded, and clips from noise alone."""


@dataclass(frozen=True)
class Rung:
    """The beat strength in windows of 4 s at one rung: `name` is a constant of this module or the noise level."""

    name: str
    sigma: float | None
    crops: int
    beat_strength: Estimate


def denoising_ladder(
    pipeline: Pipeline,
    excerpts: Sequence[MusicExcerpt],
    config: GenerateConfig | None = None,
    sigmas: Sequence[float] = SIGMAS,
    progress: Progress = silent,
) -> list[Rung]:
    """The rungs, from the music itself down to clips from noise alone; each crop with the label of its own game.

    A crop is as long as the model's own, and at least 4 s; excerpts that are shorter, or of games that the model does
    not know, are left out, and so are levels below the model's own noise.
    """
    crops = _crops(pipeline, excerpts)
    settings = config or GenerateConfig()
    settings = replace(settings, sigma_max=settings.sigma_max or pipeline.sigma_max)  # 0: that of the training
    levels = [sigma for sigma in sigmas if pipeline.model.space.sigma_min < sigma < settings.sigma_max]
    total = len(crops) * (len(levels) + 2)
    found: dict[tuple[str, float | None], list[float]] = {}
    done = 0
    for number, crop in enumerate(crops):
        own: dict[tuple[str, float | None], Sample] = {
            (FORMAT, None): _encoded(pipeline.format, crop.waveform),
            (VAE, None): _through_vae(pipeline, crop),
        }
        for sigma in [*levels, None]:
            name = NOTHING if sigma is None else f"{sigma:g}"
            own[name, sigma] = _denoised(pipeline, crop, sigma, settings, number)
            done += 1
            progress(done, total, "denoising ladder")
        for rung, sample in own.items():
            found.setdefault(rung, []).append(sample_beat_strength(pipeline.format, sample))
        done += 1
    return [Rung(name, sigma, len(values), interval_of_mean(values)) for (name, sigma), values in found.items()]


def _crops(pipeline: Pipeline, excerpts: Sequence[MusicExcerpt]) -> list[MusicExcerpt]:
    """The beginnings of excerpts at the format's rate and loudness, as long as the model's crops."""
    made, codec = pipeline.format, pipeline.codec
    columns = max(pipeline.longest, codec.num_columns(round(WINDOW_S * made.sample_rate)))
    most = max(excerpt.waveform.shape[-1] / excerpt.sample_rate for excerpt in excerpts) if excerpts else 0.0
    while columns > codec.column_multiple and codec.num_samples(columns) > most * made.sample_rate:
        columns -= codec.column_multiple
    length = codec.num_samples(columns)
    crops = []
    for excerpt in excerpts:
        waveform = audio.resample(excerpt.waveform, excerpt.sample_rate, made.sample_rate)
        if waveform.shape[-1] >= length and excerpt.game in pipeline.games:
            levelled = audio.levelled(waveform, made.sample_rate, made.config.loudness_lufs)
            crops.append(replace(excerpt, waveform=levelled[:, :length], sample_rate=made.sample_rate))
    return crops[:MOST_CROPS]


def _encoded(made: Format, waveform: Waveform) -> Sample:
    return made.encode(waveform[None])


@torch.inference_mode()
def _through_vae(pipeline: Pipeline, crop: MusicExcerpt) -> Sample:
    model = pipeline.model
    return model.vae_model.vae.decode(model.space.restore(pipeline.encode(crop.waveform)))


@torch.inference_mode()
def _denoised(pipeline: Pipeline, crop: MusicExcerpt, sigma: float | None, config: GenerateConfig, seed: int) -> Sample:
    """A crop noised to a level and denoised from there, or a clip from noise alone, as a sample (1, 2, F, N)."""
    low, high = (level ** (1 / config.rho) for level in (pipeline.model.space.sigma_min, config.sigma_max))
    given = {} if sigma is None else {"strength": (sigma ** (1 / config.rho) - low) / (high - low)}
    request = Request(
        games={crop.game: 1.0},
        length_s=crop.waveform.shape[-1] / crop.sample_rate,
        seed=seed,
        config=config,
        init=None if sigma is None else Given.of(crop.waveform),
        **given,
    )
    model = pipeline.model
    return model.vae_model.vae.decode(model.space.restore(pipeline.sample([request])))


def sample_beat_strength(made: Format, sample: Sample) -> float:
    """The beat strength in windows of 4 s of a sample (1, 2, F, N), from its magnitudes where it holds them."""
    if isinstance(made, AbstractMel):
        magnitudes = made.mel(sample)[0].mean(dim=0)
        return beat_strength(flux_of_magnitudes(magnitudes), made.hop_length / made.sample_rate, WINDOW_S)
    waveform = made.decode(sample, quality="draft")[0]
    return beat_strength(spectral_flux(waveform, made.sample_rate), HOP_S, WINDOW_S)
