"""The UNet that learns to denoise latents: EDM2, magnitude-preserving, with the games as class labels.

Source: Karras et al. 2023, "Analyzing and Improving the Training Dynamics of Diffusion Models" (arXiv 2312.02696).
Letters: B batch, C channels, F frequency rows, N columns of time, K games, E width of the embedding.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from dualdiff.core.types import RHYTHM_CHANNELS, Rhythm
from dualdiff.models.config import UNetConfig
from dualdiff.models.layers import (
    Attention,
    Block,
    FourierFeatures,
    MPConv,
    mp_cat,
    mp_silu,
    mp_sum,
    normalise_after_updates_only,
    position_channels,
    with_positions,
)


class UNet(nn.Module):
    """The EDM2 network F(c_in x, c_noise, games). It knows neither sigma nor preconditioning.

    `uncertainty` belongs to the loss: the logarithm u of the variance that the loss expects at a noise level.
    `compute_dtype` is the type of the body; inputs, outputs and the embedding stay float32.
    """

    Config = UNetConfig
    positions: Tensor

    def __init__(self, config: UNetConfig, *, channels: int, games: int, frequencies: Tensor) -> None:
        super().__init__()
        self.config, self.games = config, games
        self.compute_dtype = torch.float32
        positions = position_channels(frequencies, config.frequency_position and config.axes == "plane")
        self.rows = config.axes == "plane"
        if not self.rows:
            channels, positions = channels * len(frequencies), positions[:, :, :1]
        self.channels = channels
        self.register_buffer("positions", positions, persistent=False)
        widths = [config.base_channels * mult for mult in config.channel_mults]
        width = config.embedding_channels
        self.noise_features = FourierFeatures(widths[0])
        self.noise_embedding = MPConv(widths[0], width, kernel=0)
        self.label_embedding = MPConv(games, width, kernel=0)
        self.null_embedding = MPConv(width, 1, kernel=0)
        self.uncertainty = Uncertainty()
        self.encoder = nn.ModuleList(self._encoder(widths))
        self.decoder = nn.ModuleList(self._decoder(widths))
        self.output = MPConv(widths[0], channels, rows=self.rows)
        self.output_gain = nn.Parameter(torch.zeros(()))
        self.rhythm_input = MPConv(RHYTHM_CHANNELS, widths[0], rows=False) if config.rhythm else nn.Identity()
        self.rhythm_gain = nn.Parameter(torch.zeros(())) if config.rhythm else None
        if not config.normalise_in_forward:
            normalise_after_updates_only(self)

    def _block(
        self, level: int, source: int, target: int, kind: Any, resample: Any = "keep", attend: bool = True
    ) -> Block:
        config = self.config
        kinds: tuple[Any, ...] = ("plane",) if config.attention == "full" else ("row", "column")
        attention = (
            [Attention(target, config.head_channels, along) for along in kinds]
            if self._attends(level) and attend
            else []
        )
        return Block(
            source,
            target,
            kind,
            resample=resample,
            embedding=config.embedding_channels,
            dropout=config.dropout,
            attention=attention,
            rows=self.rows,
        )

    def _attends(self, level: int) -> bool:
        return level >= len(self.config.channel_mults) - self.config.attention_levels

    def _encoder(self, widths: list[int]) -> Iterator[nn.Module]:
        yield MPConv(self.channels + 2, widths[0], rows=self.rows)
        for level, width in enumerate(widths):
            if level:
                yield self._block(level, widths[level - 1], widths[level - 1], "encoder", "down", attend=False)
            for index in range(self.config.blocks):
                yield self._block(level, widths[max(level - 1, 0)] if index == 0 else width, width, "encoder")

    def _decoder(self, widths: list[int]) -> Iterator[nn.Module]:
        skips = [widths[0]]
        for level, width in enumerate(widths):
            skips += ([widths[level - 1]] if level else []) + [width] * self.config.blocks
        current = widths[-1]
        for level in reversed(range(len(widths))):
            if level == len(widths) - 1:
                yield self._block(level, current, current, "decoder")
                yield self._block(level, current, current, "decoder", attend=False)
            else:
                yield self._block(level, current, current, "decoder", "up", attend=False)
            for _ in range(self.config.blocks + 1):
                yield Skipped(self._block(level, current + skips.pop(), widths[level], "decoder"))
                current = widths[level]

    def embed(self, c_noise: Tensor, games: Tensor) -> Tensor:
        """The modulation (B, E) of noise levels (B,) and game weights (B, K); a row of zeros means no game."""
        rms = games.square().mean(dim=1, keepdim=True).sqrt()
        labelled = self.label_embedding(games / rms.clamp_min(1e-12))
        null = self.null_embedding.used_weight(labelled.dtype) * math.sqrt(self.config.embedding_channels)
        label = torch.where(rms > 0, labelled, null.expand_as(labelled))
        return mp_silu(mp_sum(self.noise_embedding(self.noise_features(c_noise)), label))

    def forward(self, x: Tensor, c_noise: Tensor, games: Tensor, rhythm: Rhythm | None = None) -> Tensor:
        """(B, C, F, N), (B,) and (B, K) to (B, C, F, N); F and N must be multiples of 2^(levels - 1).

        `rhythm` (B, R, N) is added to the first convolution, the same for all rows, with a gain that starts at 0; None,
        or zeros, where nothing is known of it.
        """
        embedding = self.embed(c_noise, games)
        shape = x.shape
        x = x if self.rows else x.flatten(1, 2)[:, :, None]
        x = with_positions(x, self.positions).to(self.compute_dtype)
        skips: list[Tensor] = []
        for block in self.encoder:
            x = block(x, embedding) if isinstance(block, Block) else block(x)
            if not skips and self.rhythm_gain is not None and rhythm is not None:
                x = x + self.rhythm_input(rhythm[:, :, None].to(x.dtype)) * self.rhythm_gain.to(x.dtype)
            skips.append(x)
        for block in self.decoder:
            x = block(x, skips.pop(), embedding) if isinstance(block, Skipped) else block(x, embedding)
        answer: Tensor = self.output(x).float() * self.output_gain
        return answer.reshape(shape)


class Skipped(nn.Module):
    """A decoder block that first joins what the encoder saw at the same place."""

    def __init__(self, block: Block) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor, skip: Tensor, embedding: Tensor) -> Tensor:
        """(B, C, F, N) and the encoder's (B, C', F, N) to (B, out, F, N)."""
        out: Tensor = self.block(mp_cat(x, skip), embedding)
        return out


class Uncertainty(nn.Module):
    """u(sigma): the log variance that the loss expects at a noise level; 0 before training (EDM2 eq. 21)."""

    def __init__(self, width: int = 128) -> None:
        super().__init__()
        self.features = FourierFeatures(width)
        self.linear = MPConv(width, 1, kernel=0)
        self.gain = nn.Parameter(torch.zeros(()))

    def forward(self, c_noise: Tensor) -> Tensor:
        """(B,) to (B,)."""
        u: Tensor = self.linear(self.features(c_noise))[:, 0] * self.gain
        return u
