"""The settings of the losses. Free of torch, so that commands read settings at once."""

from dataclasses import dataclass

from dualdiff.core.config import setting


@dataclass(frozen=True, kw_only=True)
class SpectralLossConfig:
    """Which blocks the loss looks at."""

    block_sizes: tuple[int, ...] = setting((8, 16, 32, 64), "sides of the square blocks, bins and frames", minimum=4)
    overlap: int = setting(8, "blocks start every side/overlap bins and frames", minimum=1)
    random_offset: bool = setting(False, "shift the grid of blocks at random each step")
    phase_weight: float = setting(1.0, "weight of the phase term", minimum=0, ablation=True)


@dataclass(frozen=True, kw_only=True)
class SpectralLoss1dConfig:
    """Which blocks the loss looks at."""

    block_sizes: tuple[int, ...] = setting(
        tuple(2**power for power in range(5, 18)),
        "lengths of the blocks, audio samples; those longer than a crop are left out",
        minimum=16,
        ablation=True,
    )
    phase_weight: float = setting(0.1, "weight of the phase term", minimum=0, ablation=True)
