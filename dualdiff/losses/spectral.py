"""The multi-scale spectral loss in two dimensions: blocks of the sample, seen through a window and a 2-D FFT."""

from dataclasses import dataclass

from dualdiff.config import setting


@dataclass(frozen=True, kw_only=True)
class SpectralLossConfig:
    """Which blocks the loss looks at."""

    block_sizes: tuple[int, ...] = setting((8, 16, 32, 64), "sides of the square blocks, bins and frames", minimum=4)
    overlap: int = setting(8, "blocks start every side/overlap bins and frames", minimum=1)
    random_offset: bool = setting(False, "shift the grid of blocks at random each step")
    phase_weight: float = setting(1.0, "weight of the phase term", minimum=0)
