"""Networks as plain modules; a short name in a model's JSON selects the class."""

from typing import Any

from dualdiff.models.unet import UNet, UNetConfig
from dualdiff.models.vae import VAE, VAEConfig

MODELS: dict[str, Any] = {"mpvae": VAE, "edm2": UNet}
"""Every architecture by its name; each class has a `Config`."""

__all__ = ["MODELS", "VAE", "UNet", "UNetConfig", "VAEConfig"]
