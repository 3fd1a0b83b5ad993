"""The phase network: from magnitudes to how the phase changes from cell to cell, each with how sure it is.

Between two neighbouring cells of a spectrogram the phase changes by some angle d, of which the network gives a von
Mises distribution, p(d) proportional to exp(x cos d + y sin d): the vector (x, y) points to the likeliest angle, its
length is the concentration. What is there already (the change that the gradient of the magnitudes implies) comes in as
a unit vector, and the network's vector is added to it, so that it has to learn only what that rule gets wrong.
Letters: B batch, N frames, F frequency bins; edges are (B, 4, F, N): x, y to the next frame, x, y to the next bin.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dualdiff.core.config import setting
from dualdiff.models.layers import MPConv, mp_silu, mp_sum_scales

INPUTS = 6
"""Channels of a cell: log magnitude, left-right balance, and the unit vectors of both changes that the rule gives."""


@dataclass(frozen=True, kw_only=True)
class PhaseNetConfig:
    """The size of the phase network."""

    name: Literal["edges"] = setting("edges", "the architecture")
    base_channels: int = setting(48, "channels of the network", minimum=4)
    dilations: tuple[int, ...] = setting(
        (1, 2, 4, 8, 1, 1), "one layer each: frames between what it looks at", minimum=1
    )
    fold: int = setting(4, "neighbouring bins that are worked on as one row", minimum=1)
    rows: int = setting(128, "rows it works on, from the lowest; above them the rule is kept", minimum=1)


class PhaseNet(nn.Module):
    """Convolutions over rows of folded bins and frames, dilated along time, magnitude-preserving."""

    Config = PhaseNetConfig

    def __init__(self, config: PhaseNetConfig) -> None:
        super().__init__()
        self.config = config
        self.compute_dtype = torch.float32
        width = config.base_channels
        self.first = MPConv(INPUTS * config.fold + 2, width)
        self.layers = nn.ModuleList(MPConv(width, width) for _ in config.dilations)
        self.last = MPConv(width, 4 * config.fold)
        self.gain = nn.Parameter(torch.zeros(()))
        self.trust = nn.Parameter(torch.ones(2))
        """The concentration of the rule along frames and along bins, where the network adds nothing."""

    @property
    def context_frames(self) -> int:
        """Frames on each side that an output sees."""
        return sum(self.config.dilations) + 2

    def forward(self, cells: Tensor) -> Tensor:
        """(B, INPUTS, F, N) to edges (B, 4, F, N)."""
        config = self.config
        rows = min(config.rows, cells.shape[2] // config.fold)
        low = cells[:, :, : rows * config.fold]
        cell_rows = low.reshape(len(cells), INPUTS, rows, config.fold, -1)
        folded = cell_rows.transpose(2, 3).flatten(1, 2)  # (B, INPUTS fold, rows, N)
        height = torch.linspace(-1.7, 1.7, rows, device=cells.device, dtype=cells.dtype)[:, None]
        extra = torch.stack([height.expand(rows, cells.shape[3]), torch.ones_like(cells[0, 0, :rows])])
        x = torch.cat([folded, extra.expand(len(cells), -1, -1, -1)], 1)
        x = self.first(x.to(self.compute_dtype).contiguous(memory_format=torch.channels_last))
        keep, new = mp_sum_scales(0.3)
        for layer, dilation in zip(self.layers, config.dilations, strict=True):
            assert isinstance(layer, MPConv)
            weight = layer.used_weight(x.dtype)
            x = keep * x + new * F.conv2d(mp_silu(x), weight, padding=(1, dilation), dilation=(1, dilation))
        change = self.last(mp_silu(x)).float() * self.gain
        change = change.reshape(len(cells), 4, config.fold, rows, -1).transpose(2, 3).flatten(2, 3)
        edges = cells[:, 2:] * self.trust.repeat_interleave(2)[:, None, None]
        return torch.cat([edges[:, :, : change.shape[2]] + change, edges[:, :, change.shape[2] :]], 2)
