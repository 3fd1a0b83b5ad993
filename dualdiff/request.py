"""What a clip is asked to be: plain values that say all it depends on, besides the model and the machine."""

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from dualdiff.config import setting
from dualdiff.errors import UsageError
from dualdiff.games import refuse_weights
from dualdiff.types import Quality, Waveform

MAX_LENGTH_S = 3600.0
"""The longest clip, seconds: what fits into memory on an ordinary machine."""


SHORTEST_S = 0.1
"""The shortest clip, seconds."""


@dataclass(frozen=True, kw_only=True)
class GenerateConfig:
    """How clips are written unless the command says otherwise."""

    model: str = setting("models/unet", "the model folder that plays")
    guide: str = setting("", "a smaller or earlier model to be guided away from (autoguidance); empty: from no game")
    out: str = setting("clips", "the folder that clips are written to")
    length_s: float = setting(45.0, "length of a clip, seconds", minimum=SHORTEST_S, maximum=MAX_LENGTH_S)
    sampler: Literal["dpmpp_2m", "heun", "euler"] = setting("dpmpp_2m", "the sampler")
    steps: int = setting(20, "steps of the sampler", minimum=1)
    rho: float = setting(
        20.0, "how evenly the steps fall: 1 by noise level, the higher the more by its logarithm", minimum=1
    )
    sigma_max: float = setting(80.0, "noise level to start from", above=0)
    quality: Quality = setting("default", "how much work the way back to sound takes")
    cfg_scale: float = setting(2.0, "guidance: 1 none, more follows the games more closely", minimum=0)
    cfg_sigma_min: float = setting(0.0, "guidance acts above this noise level", minimum=0)
    cfg_sigma_max: float = setting(1000.0, "guidance acts up to this noise level", above=0)
    file_format: Literal["flac", "wav", "ogg", "mp3"] = setting("flac", "kind of audio file")
    loudness_lufs: float = setting(
        -16.0, "loudness of a clip, LUFS; lowered where it would clip", minimum=-60, maximum=0
    )

    def __post_init__(self) -> None:
        if self.cfg_sigma_min >= self.cfg_sigma_max:
            raise ValueError(
                f"cfg_sigma_min = {self.cfg_sigma_min:g} is not below cfg_sigma_max = {self.cfg_sigma_max:g}"
            )


@dataclass(frozen=True, kw_only=True)
class Given:
    """Audio that a clip is made from: (2, T) at the format's rate and loudness, and what names it in the recipe.

    Two are equal when they are the same file. `file` is empty for audio that never was one.
    """

    waveform: Waveform = field(compare=False, repr=False)
    file: str = ""
    sha256: str = ""

    @classmethod
    def of(cls, waveform: Waveform) -> "Given":
        """Audio in memory, named by its samples."""
        return cls(waveform=waveform, sha256=hash_of_samples(waveform))


@dataclass(frozen=True, kw_only=True)
class Request:
    """One clip. With the same model on the same machine, equal requests give equal audio, whatever is beside them.

    Raises:
        UsageError: a length, strength or weight that cannot be.
    """

    games: Mapping[str, float] = field(default_factory=dict)
    length_s: float = 45.0
    seed: int = 0
    config: GenerateConfig = GenerateConfig()
    init: Given | None = None
    """What the clip is a variation of."""
    strength: float = 1.0
    """From which share of the noise a variation starts: above 0 (nearly the same) to 1 (nearly free)."""

    def __post_init__(self) -> None:
        if not SHORTEST_S <= self.length_s <= MAX_LENGTH_S:
            raise UsageError(
                f"a length of {self.length_s:g} s cannot be", f"a clip lasts {SHORTEST_S:g} to {MAX_LENGTH_S:g} seconds"
            )
        if self.init is None and self.strength != 1.0:
            raise UsageError("a strength needs a clip to vary", "name one with --init")
        if not 0 < self.strength <= 1:
            raise UsageError(
                f"a strength of {self.strength:g} cannot be",
                "it is above 0 (nearly the same) and at most 1 (nearly free)",
            )
        refuse_weights(self.games)

    def facts(self) -> dict[str, Any]:
        """The request as JSON values: the larger part of a recipe."""
        settings = dataclasses.asdict(self.config)
        facts = {"games": dict(self.games), "length_s": self.length_s, "seed": self.seed}
        facts |= {key: value for key, value in settings.items() if key not in NOT_OF_THE_MUSIC}
        if self.init is not None:
            facts["init"] = {"file": self.init.file, "sha256": self.init.sha256, "strength": self.strength}
        return facts


NOT_OF_THE_MUSIC = ("model", "guide", "out", "length_s", "file_format")
"""Settings that a clip does not depend on, or that its request holds itself."""


def hash_of_samples(waveform: Waveform) -> str:
    """The SHA-256 of a waveform's samples, float32, in hexadecimal: equal for equal audio only."""
    return hashlib.sha256(waveform.detach().cpu().float().contiguous().numpy().tobytes()).hexdigest()
