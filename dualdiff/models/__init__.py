"""Networks as plain modules; a short name in a model's JSON selects the class."""

from typing import Any

from dualdiff.models.phase import PhaseNet, PhaseNetConfig
from dualdiff.models.unet import UNet, UNetConfig
from dualdiff.models.vae import VAE, VAEConfig

MODELS: dict[str, Any] = {"mpvae": VAE, "edm2": UNet, "edges": PhaseNet}
"""Every architecture by its name; each class has a `Config`."""

__all__ = ["MODELS", "VAE", "PhaseNet", "PhaseNetConfig", "UNet", "UNetConfig", "VAEConfig"]
