"""The settings of `generate`, and the limits of what it can be asked for. Free of torch, as are usage errors."""

from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from dualdiff.core.config import setting
from dualdiff.core.quality import Quality

MAX_LENGTH_S = 3600.0
"""The longest clip, seconds: what fits into memory on an ordinary machine."""


SHORTEST_S = 0.1
"""The shortest clip, seconds."""


SHORTEST_LOOP_S = 1.0
"""The shortest loop, seconds."""


MIN_BPM, MAX_BPM = 40.0, 240.0
"""The tempos that a clip can be given, beats a minute."""

MAX_INTRO_S = 600.0
"""The longest lead-in, seconds."""


SPAN_HINT = "both in seconds, such as 10:15; one may be left out"
"""What to say where a text is no span."""


def span_of(text: str, lasts_s: float) -> tuple[float, float] | None:
    """From when to when a text says, START:END, of what lasts so many seconds; None where it says nothing within."""
    low, colon, high = text.partition(":")
    try:
        start_s, end_s = float(low or 0), float(high or lasts_s)
    except ValueError:
        return None
    return (start_s, end_s) if colon and 0 <= start_s < end_s <= lasts_s else None


FileFormat: TypeAlias = Literal["flac", "wav", "ogg", "mp3"]
FILE_FORMATS: tuple[str, ...] = get_args(FileFormat)
"""Kinds of files that clips are written as."""


@dataclass(frozen=True, kw_only=True)
class GenerateConfig:
    """How clips are written unless the command says otherwise."""

    model: str = setting("models/unet", "the model folder that plays")
    guide: str = setting("", "a smaller or earlier model to be guided away from (autoguidance); empty: from no game")
    out: str = setting("clips", "the folder that clips are written to")
    length_s: float = setting(45.0, "length of a clip, seconds", minimum=SHORTEST_S, maximum=MAX_LENGTH_S)
    sampler: Literal["dpmpp_2m", "heun", "euler"] = setting("dpmpp_2m", "the sampler")
    steps: int = setting(20, "steps of the sampler", minimum=1, maximum=10_000)
    rho: float = setting(
        20.0, "how evenly the steps fall: 1 by noise level, the higher the more by its logarithm", minimum=1
    )
    sigma_max: float = setting(0.0, "noise level to start from; 0: the highest of the model's training", minimum=0)
    quality: Quality = setting("default", "how much work the way back to sound takes")
    cfg_scale: float = setting(2.0, "guidance: 1 none, more follows the games more closely", minimum=0)
    cfg_sigma_min: float = setting(0.0, "guidance acts above this noise level", minimum=0)
    cfg_sigma_max: float = setting(1000.0, "guidance acts up to this noise level", above=0)
    file_format: FileFormat = setting("flac", "kind of audio file")
    loudness_lufs: float = setting(
        -16.0, "loudness of a clip, LUFS; lowered where it would clip", minimum=-60, maximum=0
    )

    def __post_init__(self) -> None:
        if self.cfg_sigma_min >= self.cfg_sigma_max:
            raise ValueError(
                f"cfg_sigma_min = {self.cfg_sigma_min:g} is not below cfg_sigma_max = {self.cfg_sigma_max:g}"
            )


NOT_OF_THE_MUSIC = ("model", "guide", "out", "length_s", "file_format")
"""Settings that a clip does not depend on, or that its request holds itself."""
