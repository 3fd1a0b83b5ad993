"""The sizes of the networks, as settings. Free of torch, so that commands read settings at once."""

from dataclasses import dataclass
from typing import Literal

from dualdiff.core.config import setting


@dataclass(frozen=True, kw_only=True)
class VAEConfig:
    """The size of the VAE and the precision of its latents."""

    name: Literal["mpvae"] = setting("mpvae", "the architecture")
    base_channels: int = setting(48, "channels at full resolution", minimum=4)
    channel_mults: tuple[int, ...] = setting(
        (1, 2, 3, 5), "channels per level, in base channels; levels halve", minimum=1
    )
    encoder_blocks: int = setting(2, "blocks per level on the way in", minimum=1)
    decoder_blocks: int = setting(3, "blocks per level on the way out", minimum=1)
    latent_channels: int = setting(4, "channels of the latents", minimum=1)
    target_snr: float = setting(16.0, "amplitude of a latent over its noise (r)", above=0)
    latent_variance: Literal["fixed", "learned"] = setting(
        "fixed", "one variance for every latent, or one that the encoder says for each", ablation=True
    )
    frequency_position: bool = setting(True, "tell each row of samples and latents its frequency", ablation=True)


@dataclass(frozen=True, kw_only=True)
class UNetConfig:
    """The size of the UNet."""

    name: Literal["edm2"] = setting("edm2", "the architecture")
    base_channels: int = setting(64, "channels at full resolution", minimum=8)
    channel_mults: tuple[int, ...] = setting(
        (1, 2, 3, 4), "channels per level, in base channels; levels halve", minimum=1
    )
    blocks: int = setting(3, "blocks per level (the decoder has one more)", minimum=1)
    attention_levels: int = setting(2, "how many of the lowest levels attend", minimum=0)
    attention: Literal["full", "separable"] = setting(
        "full", "attend over the plane, or over rows and columns in turn", ablation=True
    )
    head_channels: int = setting(64, "channels of an attention head", minimum=8)
    embedding_channels: int = setting(256, "width of the noise and label embedding", minimum=16)
    dropout: float = setting(0.0, "share of activations dropped in training", minimum=0, below=1)
    rhythm: bool = setting(True, "tell each column of the latents where its beat and bar are, if that is known")
    frequency_position: bool = setting(True, "tell each row of the latents its frequency", ablation=True)
    axes: Literal["plane", "time"] = setting(
        "plane", "convolve over frequency and time, or over time alone, with all rows as channels", ablation=True
    )
    normalise_in_forward: bool = setting(
        True, "normalise weights in every forward pass, not only after updates", ablation=True
    )
