"""The VAE: samples to latents 8 x 8 times smaller, and back. Magnitude-preserving throughout, without attention.

Letters: B batch, C channels, F frequency bins, N frames.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from dualdiff.core.types import Latents, Sample
from dualdiff.models.config import VAEConfig
from dualdiff.models.layers import Block, MPConv, position_channels, with_positions

LOG_RATIO_LIMIT = 7.0
"""A learned standard deviation stays within e^7 of where it starts."""


class VAE(nn.Module):
    """Encoder and decoder with one fixed variance for every latent.

    A latent is N(mu, v) with v = 1/(r^2 + 1) for the target signal-to-noise ratio r, so that drawn latents have unit
    variance when mu has RMS r/sqrt(r^2 + 1). `encode` gives the mode mu, `draw` a latent as the decoder is trained on.
    With a learned variance, the diagonal Gaussian of common VAEs, the encoder also says v, which starts there.
    """

    Config = VAEConfig
    positions: Tensor
    latent_positions: Tensor

    def __init__(self, config: VAEConfig, *, channels: int, frequencies: Tensor) -> None:
        super().__init__()
        self.config = config
        self.compute_dtype = torch.float32
        self.reduction = 1 << (len(config.channel_mults) - 1)
        rows = frequencies.double().log2().view(-1, min(self.reduction, len(frequencies))).mean(1).exp2()
        self.latent_frequencies = rows
        self.register_buffer("positions", position_channels(frequencies, config.frequency_position), persistent=False)
        self.register_buffer("latent_positions", position_channels(rows, config.frequency_position), persistent=False)
        widths = [config.base_channels * mult for mult in config.channel_mults]
        self.encoder = nn.Sequential(*self._encoder(channels + 2, widths))
        self.decoder = nn.Sequential(*self._decoder(channels, widths))
        self.latent_gain = nn.Parameter(torch.ones(()))
        self.sample_gain = nn.Parameter(torch.ones(()))
        if config.latent_variance == "learned":
            self.variance = MPConv(widths[-1], config.latent_channels)
            self.variance_gain = nn.Parameter(torch.zeros(()))

    def _encoder(self, channels: int, widths: list[int]) -> Iterator[nn.Module]:
        yield MPConv(channels, widths[0])
        for level, width in enumerate(widths):
            if level:
                yield Block(widths[level - 1], widths[level - 1], "encoder", resample="down")
            for index in range(self.config.encoder_blocks):
                yield Block(widths[max(level - 1, 0)] if index == 0 else width, width, "encoder")
        yield MPConv(widths[-1], self.config.latent_channels)

    def _decoder(self, channels: int, widths: list[int]) -> Iterator[nn.Module]:
        yield MPConv(self.config.latent_channels + 2, widths[-1])
        yield Block(widths[-1], widths[-1], "decoder")
        yield Block(widths[-1], widths[-1], "decoder")
        current = widths[-1]
        for level in reversed(range(len(widths))):
            if level < len(widths) - 1:
                yield Block(current, current, "decoder", resample="up")
            for _ in range(self.config.decoder_blocks):
                yield Block(current, widths[level], "decoder")
                current = widths[level]
        yield MPConv(widths[0], channels)

    @property
    def noise_std(self) -> float:
        """The standard deviation of every latent, 1/sqrt(r^2 + 1); that which a learned one starts from."""
        return 1 / math.sqrt(self.config.target_snr**2 + 1)

    @property
    def context_frames(self) -> int:
        """Frames on each side that a latent of the encoder sees at most, in whole latents."""
        per_level = 2 * self.config.encoder_blocks + 2
        reach = sum(per_level * 2**level for level in range(len(self.config.channel_mults))) + 2 * self.reduction
        columns: int = math.ceil(reach / self.reduction)
        return columns * self.reduction

    @property
    def decoder_context(self) -> int:
        """Columns of latents on each side that a frame of the decoder's sample depends on at most."""
        levels = len(self.config.channel_mults)
        reach = 5.0 * 2 ** (levels - 1) + 1  # the first convolution, the two blocks at the bottom; the last convolution
        for level in range(levels):
            reach += (2 * self.config.decoder_blocks + 2 * (level < levels - 1)) * 2**level
        columns: int = math.ceil(reach / self.reduction) + 1
        return columns

    def encode(self, sample: Sample) -> Latents:
        """The mode of the latents: (B, C, F, N) to (B, latent channels, F/8, N/8); N a multiple of 8."""
        return self.posterior(sample)[0]

    def posterior(self, sample: Sample) -> tuple[Latents, Tensor]:
        """The mode of the latents and their standard deviation, which fits the mode's shape."""
        seen = self._seen(sample)
        mode: Tensor = self.encoder[-1](seen).float() * self.latent_gain
        if self.config.latent_variance == "fixed":
            return mode, mode.new_tensor(self.noise_std)
        log_ratio = (self.variance(seen).float() * self.variance_gain).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
        return mode, self.noise_std * log_ratio.exp()

    def _seen(self, sample: Sample) -> Tensor:
        """What the encoder sees before its last layer."""
        seen: Tensor = self.encoder[:-1](with_positions(sample, self.positions).to(self.compute_dtype))
        return seen

    def draw(self, mode: Latents, std: Tensor, noise: Latents) -> Latents:
        """The mode plus the latents' own noise, given standard normal numbers."""
        return mode + std * noise.to(mode.device)

    def decode(self, latents: Latents) -> Sample:
        """(B, latent channels, F/8, N/8) to (B, C, F, N)."""
        sample: Tensor = self.decoder(with_positions(latents, self.latent_positions).to(self.compute_dtype)).float()
        return sample * self.sample_gain
