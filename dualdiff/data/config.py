"""The settings of `encode`, and what it makes of each track. Free of torch, so that commands read settings at once."""

from dataclasses import dataclass
from typing import NamedTuple

from dualdiff.core.config import setting


class Variant(NamedTuple):
    """What is done to a track before it is encoded: made so many semitones higher; left and right swapped."""

    pitch_semitones: int = 0
    mirrored: bool = False

    def __str__(self) -> str:
        pitch = f" {self.pitch_semitones:+d} semitones" if self.pitch_semitones else ""
        return pitch + " mirrored" * self.mirrored


@dataclass(frozen=True, kw_only=True)
class EncodeConfig:
    """What `encode` makes of each track."""

    folder: str = setting("latents", "where the latents go, from the project's folder")
    vae: str = setting("models/vae", "the model folder whose format and VAE encode")
    offsets: int = setting(
        8, "time shifts of 0..n-1 frames stored per track, against a fixed grid", minimum=1, maximum=8
    )
    mirror: bool = setting(False, "store every track with left and right swapped as well")
    pitch_semitones: tuple[int, ...] = setting(
        (0,), "store every track this much higher (below 0: lower); 0 is as it is", minimum=-12, maximum=12
    )
    chunk_s: float = setting(30.0, "tracks go through in pieces of this length, to bound memory, seconds", minimum=5)

    def __post_init__(self) -> None:
        if 0 not in self.pitch_semitones or len(set(self.pitch_semitones)) < len(self.pitch_semitones):
            raise ValueError("pitch_semitones must hold 0, the music as it is, and no number twice")

    @property
    def variants(self) -> list[Variant]:
        """What is made of each track."""
        return [
            Variant(pitch, mirrored) for pitch in self.pitch_semitones for mirrored in (False, True)[: 1 + self.mirror]
        ]
