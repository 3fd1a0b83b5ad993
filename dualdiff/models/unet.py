"""The UNet that learns to denoise latents: EDM2, magnitude-preserving, with the games as class labels.

Source: Karras et al. 2023, "Analyzing and Improving the Training Dynamics of Diffusion Models" (arXiv 2312.02696).
Letters: B batch, C channels, F frequency rows, N columns of time, K games, E width of the embedding.
"""

from dataclasses import dataclass
from typing import Literal

from dualdiff.config import setting


@dataclass(frozen=True, kw_only=True)
class UNetConfig:
    """The size of the UNet."""

    name: Literal["edm2"] = setting("edm2", "the architecture")
    base_channels: int = setting(64, "channels at full resolution", minimum=8)
    channel_mults: tuple[int, ...] = setting((1, 2, 3, 4), "channels per level, in base channels; levels halve", minimum=1)
    blocks: int = setting(3, "blocks per level (the decoder has one more)", minimum=1)
    attention_levels: int = setting(2, "how many of the lowest levels attend", minimum=0)
    attention: Literal["full", "separable"] = setting("full", "attend over the plane, or over rows and columns in turn")
    head_channels: int = setting(64, "channels of an attention head", minimum=8)
    embedding_channels: int = setting(256, "width of the noise and label embedding", minimum=16)
    dropout: float = setting(0.0, "share of activations dropped in training", minimum=0, below=1)
