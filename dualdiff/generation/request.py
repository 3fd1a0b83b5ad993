"""What a clip is asked to be: plain values that say all it depends on, besides the model and the machine."""

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dualdiff import audio
from dualdiff.core.errors import UsageError
from dualdiff.generation.config import (
    MAX_BPM,
    MAX_INTRO_S,
    MAX_LENGTH_S,
    MIN_BPM,
    NOT_OF_THE_MUSIC,
    SHORTEST_LOOP_S,
    SHORTEST_S,
    GenerateConfig,
)
from dualdiff.generation.label_weights import refuse_weights

if TYPE_CHECKING:
    from dualdiff.core.types import Waveform


def _nothing() -> "Waveform":
    import torch

    return torch.zeros(2, 0)


@dataclass(frozen=True, kw_only=True)
class Given:
    """Audio that a clip is made from: (2, T) at the format's rate and loudness, and what names it in the recipe.

    Two are equal when they are the same file. `file` is empty for audio that never was one.
    """

    waveform: "Waveform" = field(compare=False, repr=False)
    file: str = ""
    sha256: str = ""
    original: "Waveform" = field(default_factory=_nothing, compare=False, repr=False)
    """The same as it was, (2, T) at `original_rate`; only of a clip of which a part is to stay as it is."""
    original_rate: int = field(default=0, compare=False)
    gain: float = field(default=1.0, compare=False)
    """What brought the original to the format's loudness."""
    loop: tuple[int, int] | None = field(default=None, compare=False)
    """Where a loop starts in the original and how long it is, samples; None at another rate than the file's own."""
    loops: bool = field(default=False, compare=False)
    """Whether the file has loop points."""

    @classmethod
    def of(cls, waveform: "Waveform", sample_rate: int = 0) -> "Given":
        """Audio in memory, named by its samples; with the rate it has, parts of it may stay as they are."""
        name = hash_of_samples(waveform)
        return cls(waveform=waveform, sha256=name, original=waveform, original_rate=sample_rate)

    def named(self) -> dict[str, Any]:
        """What names it in a recipe."""
        return {"file": self.file, "sha256": self.sha256}


@dataclass(frozen=True, kw_only=True)
class Rewrite:
    """A given clip of which the seconds `start_s` to `end_s` are written anew; they may begin where it ends."""

    clip: Given
    start_s: float
    end_s: float

    def __post_init__(self) -> None:
        lasts_s = self.clip.original.shape[-1] / self.clip.original_rate
        if not 0 <= self.start_s < self.end_s:
            raise UsageError(
                f"nothing lies between {self.start_s:g} and {self.end_s:g} s", "a range is START:END, in seconds"
            )
        if self.start_s > lasts_s:
            raise UsageError(
                f"{self.start_s:g} s lies outside of {self.clip.file or 'the clip'}, which lasts {lasts_s:.2f} s",
                "name a range within it",
            )
        if not self.end_s <= MAX_LENGTH_S:
            raise UsageError(
                f"a clip of {self.end_s:g} s cannot be", f"a clip lasts {SHORTEST_S:g} to {MAX_LENGTH_S:g} seconds"
            )

    @property
    def spares_the_loop(self) -> bool:
        """Whether the clip loops, and neither end of its loop lies in what is written anew or beside it."""
        if self.clip.loop is None:
            return False
        start, length = self.clip.loop
        ends_s = (start / self.clip.original_rate, (start + length) / self.clip.original_rate)
        return not any(self.start_s - SHORTEST_S < end_s < self.end_s + SHORTEST_S for end_s in ends_s)


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
    morph: Given | None = None
    """What a variation of `init` turns into from its beginning to its end."""
    rewrite: Rewrite | None = None
    """Another clip, of which a part is written anew."""
    loop: bool = False
    """Whether the end leads back to the beginning."""
    intro_s: float = 0.0
    """How long a lead-in comes before the loop, seconds."""
    bpm: float | None = None
    """Its tempo, beats a minute; None leaves it to the seed."""
    beats_per_bar: int | None = None
    """None leaves them to the tempo; 0 where bars are not known."""
    bars: int = 0
    """How many bars long it is, whatever `length_s` says; 0 where that says it."""

    def __post_init__(self) -> None:
        if not SHORTEST_S <= self.length_s <= MAX_LENGTH_S:
            raise UsageError(
                f"a length of {self.length_s:g} s cannot be", f"a clip lasts {SHORTEST_S:g} to {MAX_LENGTH_S:g} seconds"
            )
        if self.init is None and self.rewrite is None and self.strength != 1.0:
            raise UsageError("a strength needs a clip to vary", "name one with --init")
        if not 0 < self.strength <= 1:
            raise UsageError(
                f"a strength of {self.strength:g} cannot be",
                "it is above 0 (nearly the same) and at most 1 (nearly free)",
            )
        refuse_weights(self.games)
        if any(weight < 0 for weight in self.games.values()) and self.config.cfg_scale <= 1:
            raise UsageError(
                f"a weight below 0 acts by guidance, and cfg_scale = {self.config.cfg_scale:g} is none",
                "raise --cfg above 1 (2 is usual), or leave weights below 0 out",
            )
        self._refuse_tempo()
        self._refuse_what_does_not_fit()

    def _refuse_tempo(self) -> None:
        if self.bpm is not None and not MIN_BPM <= self.bpm <= MAX_BPM:
            raise UsageError(f"a tempo of {self.bpm:g} cannot be", f"it is {MIN_BPM:g} to {MAX_BPM:g} beats a minute")
        if (self.bpm is not None or self.bars) and (self.rewrite is not None or self.init is not None):
            raise UsageError("what is made of a clip has that clip's tempo", "leave out --bpm and --bars")

    def _refuse_what_does_not_fit(self) -> None:
        if self.rewrite is not None and (self.loop or self.init is not None):
            raise UsageError(
                "a clip of which a part is written anew is neither a loop nor a variation", "do one of both"
            )
        if self.morph is not None and (self.loop or self.init is None):
            raise UsageError("what goes from one clip to another is no loop, and begins with a clip", "leave one out")
        kind = self.config.file_format
        if self.rewrite is not None and not audio.can_hold(f".{kind}", self.rewrite.clip.original_rate):
            rate = f"{self.rewrite.clip.original_rate} Hz, the rate of {self.rewrite.clip.file}"
            raise UsageError(f"{kind} files cannot hold {rate}", "take --format wav, or flac, or convert that file")
        if self.loop and self.length_s < SHORTEST_LOOP_S:
            raise UsageError(f"a loop of {self.length_s:g} s cannot be", f"a loop lasts {SHORTEST_LOOP_S:g} s or more")
        if self.loop and self.config.file_format == "mp3":
            raise UsageError("an mp3 file cannot loop without a gap", "take --format flac, ogg or wav")
        if self.intro_s and not self.loop:
            raise UsageError("an intro leads into a loop", "say --loop too")
        if not 0 <= self.intro_s <= MAX_INTRO_S:
            raise UsageError(f"an intro of {self.intro_s:g} s cannot be", f"it lasts 0 to {MAX_INTRO_S:g} s")

    def facts(self) -> dict[str, Any]:
        """The request as JSON values: the larger part of a recipe."""
        settings = dataclasses.asdict(self.config)
        facts = {"games": dict(self.games), "length_s": self.length_s, "seed": self.seed}
        facts |= {key: value for key, value in settings.items() if key not in NOT_OF_THE_MUSIC}
        if self.init is not None:
            facts["init"] = {**self.init.named(), "strength": self.strength}
        if self.morph is not None:
            facts["morph"] = self.morph.named()
        if self.rewrite is not None:
            part = {"start_s": self.rewrite.start_s, "end_s": self.rewrite.end_s, "strength": self.strength}
            facts["rewrite"] = {**self.rewrite.clip.named(), **part}
        if self.loop:
            facts |= {"loop": True, "intro_s": self.intro_s}
        if self.bpm is not None:
            facts |= {"bpm": self.bpm, "beats_per_bar": self.beats_per_bar}
        return facts


def hash_of_samples(waveform: "Waveform") -> str:
    """The SHA-256 of a waveform's samples, float32, in hexadecimal: equal for equal audio only."""
    return hashlib.sha256(waveform.detach().cpu().float().contiguous().numpy().tobytes()).hexdigest()
