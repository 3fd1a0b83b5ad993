"""The VAE: samples to latents 8 x 8 times smaller, and back. Magnitude-preserving throughout, without attention.

Letters: B batch, C channels, F frequency bins, N frames.
"""

from dataclasses import dataclass
from typing import Literal

from dualdiff.config import setting


@dataclass(frozen=True, kw_only=True)
class VAEConfig:
    """The size of the VAE and the precision of its latents."""

    name: Literal["mpvae"] = setting("mpvae", "the architecture")
    base_channels: int = setting(48, "channels at full resolution", minimum=4)
    channel_mults: tuple[int, ...] = setting((1, 2, 3, 5), "channels per level, in base channels; levels halve", minimum=1)
    encoder_blocks: int = setting(2, "blocks per level on the way in", minimum=1)
    decoder_blocks: int = setting(3, "blocks per level on the way out", minimum=1)
    latent_channels: int = setting(4, "channels of the latents", minimum=1)
    target_snr: float = setting(16.0, "amplitude of a latent over its noise (r)", above=0)
