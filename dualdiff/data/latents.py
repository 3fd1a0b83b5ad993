"""Latents on disk: tracks through the format and the VAE once, so that the UNet trains on small files."""

from dataclasses import dataclass

from dualdiff.config import setting


@dataclass(frozen=True, kw_only=True)
class EncodeConfig:
    """What `encode` makes of each track."""

    folder: str = setting("latents", "where the latents go, from the project's folder")
    vae: str = setting("models/vae", "the model folder whose format and VAE encode")
    offsets: int = setting(8, "time shifts of 0..n-1 frames stored per track, against a fixed grid", minimum=1, maximum=8)
    mirror: bool = setting(False, "store every track with left and right swapped as well")
    chunk_s: float = setting(30.0, "tracks go through in pieces of this length, to bound memory, seconds", minimum=5)
