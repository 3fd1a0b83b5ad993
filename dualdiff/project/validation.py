"""Settings against data and each other: what does not fit is refused, by file, line and key, before anything runs."""

import math
from collections.abc import Sequence

from dualdiff.formats.base import FORMATS, Format, PhaseKeeping
from dualdiff.project.settings import Project
from dualdiff.training.config import TrainConfig

RATES = (1e-6, 0.1)
"""Learning rates that train: a step of Adam is about as long as the rate, next to weights of size 1."""

FIRST_RATE = 0.03
"""The longest first step: Adam's direction is then the sign of one noisy gradient."""


def crop_frames(project: Project, section: str, config: TrainConfig, made: Format, multiple: int) -> int:
    """The frames of a crop: `crop_s` rounded down to a multiple of what the networks halve.

    Raises:
        ConfigError: not one multiple fits.
    """
    frames = int(config.crop_s * made.sample_rate / made.hop_length) // multiple * multiple
    if frames == 0:
        least = multiple * made.hop_length / made.sample_rate
        hint = f"it must be at least {least:.3f} seconds"
        raise project.error(f"{section}.crop_s", f"= {config.crop_s:g} is too short", hint)
    return frames


def require_enough(
    project: Project, section: str, config: TrainConfig, crop_s: float, durations_s: Sequence[float]
) -> None:
    """Refuse a crop longer than every track, and a batch larger than all distinct crops of the data set.

    Raises:
        ConfigError: either is so.
    """
    longest = max(durations_s)
    if crop_s > longest:
        problem = f"= {config.crop_s:g} is longer than every track: the longest lasts {longest:.1f} s"
        raise project.error(f"{section}.crop_s", problem, "use shorter crops, or longer tracks")
    crops = sum(int(duration // crop_s) for duration in durations_s)
    if config.batch_size > crops:
        problem = f"= {config.batch_size} is larger than the data set: it holds {crops} crops of {crop_s:.1f} s"
        raise project.error(f"{section}.batch_size", problem, "use a smaller batch, shorter crops or more music")


def require_halving(project: Project, key: str, rows: int, levels: int) -> None:
    """Refuse a network with more levels than its rows can be halved, down to two; one row alone is not halved.

    Raises:
        ConfigError: it has.
    """
    halvings = levels - 1
    if rows > 1 and (rows % 2**halvings or rows >> halvings < 2):
        problem = f"has {levels} levels, but {rows} rows cannot be halved {halvings} times and leave two"
        raise project.error(key, problem, "use fewer levels")


def require_blocks(project: Project, made: Format, frames: int) -> None:
    """Refuse a loss that the format or the crops do not suit.

    Raises:
        ConfigError: waveforms are to be compared, but the format has no phase; or blocks are too large for a crop.
    """
    settings = project.settings
    kind, samples = settings.vae_loss.reconstruction, made.num_samples(frames)
    if kind == "spectral_1d" and not isinstance(made, PhaseKeeping):
        keeping = [name for name, known in FORMATS.items() if hasattr(known, "keeps_phase")]
        problem = f'= "spectral_1d" compares waveforms, but the format {made.config.name} does not keep the phase'
        hint = f'set it to "spectral", or choose one of the formats that do: {", ".join(keeping)}'
        raise project.error("vae.loss.reconstruction", problem, hint)
    if kind == "spectral_1d" and samples < min(settings.vae_spectral_1d.block_sizes):
        problem = f"holds no block that fits into crops of {samples} audio samples"
        raise project.error("vae.spectral_1d.block_sizes", problem, "use longer crops (vae.train.crop_s)")
    largest = max(settings.vae_spectral.block_sizes)
    if kind == "spectral" and min(made.bins, frames) <= largest // 2:
        problem = f"holds {largest}, too large for crops of {made.bins} bins and {frames} frames"
        hint = "use smaller blocks, or longer crops (vae.train.crop_s)"
        if isinstance(made, PhaseKeeping):
            hint += ', or compare waveforms (vae.loss.reconstruction = "spectral_1d")'
        raise project.error("vae.spectral.block_sizes", problem, hint)


def require_rate(project: Project, section: str, config: TrainConfig) -> None:
    """Refuse a learning rate that no training survives, that moves nothing, or that is high without a warm-up.

    Raises:
        ConfigError: it is so.
    """
    low, high = RATES
    if not low <= config.learning_rate <= high:
        what = "throws every weight over in a step" if config.learning_rate > high else "moves next to nothing"
        problem = f"= {config.learning_rate:g} is absurd: it {what}"
        raise project.error(f"{section}.learning_rate", problem, f"0.01 is usual; from {low:g} to {high:g} is possible")
    if config.learning_rate > FIRST_RATE * max(config.warmup_steps, 1):
        needed = math.ceil(config.learning_rate / FIRST_RATE)
        problem = f"= {config.learning_rate:g} is too high for a warm-up of {config.warmup_steps} steps"
        raise project.error(f"{section}.learning_rate", problem, f"set {section}.warmup_steps = {needed} or more")
