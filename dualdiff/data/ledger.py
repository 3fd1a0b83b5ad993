"""The ledger: what became of every file of the music folder, and why."""

from dataclasses import dataclass
from typing import Literal

from dualdiff.config import setting


@dataclass(frozen=True, kw_only=True)
class DatasetConfig:
    """Where the music is, how it is labelled, and what is refused."""

    folder: str = setting("music", "the folder of music, from here or absolute: folder/<game>/<track>")
    labels: Literal["folder", "tag"] = setting("folder", "what names a track's game: its folder, or its album tag")
    min_duration_s: float = setting(10.0, "shorter tracks are skipped, seconds", above=0)
    max_duration_s: float = setting(3600.0, "longer tracks are skipped, seconds", above=0)
    min_loudness_lufs: float = setting(-60.0, "quieter tracks are skipped as silent, LUFS", minimum=-70, maximum=0)
    validation_share: float = setting(0.05, "share of the tracks kept out of training, to measure on", minimum=0, below=1)
