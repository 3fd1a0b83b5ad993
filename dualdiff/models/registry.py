"""Every architecture by the short name that selects it in a model's JSON."""

from typing import Any

from dualdiff.models.unet import UNet
from dualdiff.models.vae import VAE

MODELS: dict[str, Any] = {"mpvae": VAE, "edm2": UNet}
"""Each class has a `Config`."""
