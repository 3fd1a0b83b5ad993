"""Audio files to waveforms and back; nothing else in dualdiff opens audio files.

Names are resolved when they are first used, so that the process that decodes (`decoding_process`) loads no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dualdiff.audio.dsp import below_full_scale, gain_to, resample
    from dualdiff.audio.loudness import levelled, loudness_lufs, true_peak_db
    from dualdiff.audio.reader import (
        READABLE,
        blocks,
        blocks_own,
        file_of,
        is_readable_name,
        probe,
        read,
        read_own,
        tunes_note,
    )
    from dualdiff.audio.stream import AUDIO_SUFFIXES, AudioInfo
    from dualdiff.audio.writer import WRITABLE, can_hold, can_write, write

__all__ = [
    "AUDIO_SUFFIXES",
    "READABLE",
    "WRITABLE",
    "AudioInfo",
    "below_full_scale",
    "blocks",
    "blocks_own",
    "can_hold",
    "can_write",
    "file_of",
    "gain_to",
    "is_readable_name",
    "levelled",
    "loudness_lufs",
    "probe",
    "read",
    "read_own",
    "resample",
    "true_peak_db",
    "tunes_note",
    "write",
]

_HOMES = {
    "stream": ("AUDIO_SUFFIXES", "AudioInfo"),
    "dsp": ("below_full_scale", "gain_to", "resample"),
    "loudness": ("levelled", "loudness_lufs", "true_peak_db"),
    "reader": (
        "READABLE",
        "blocks",
        "blocks_own",
        "file_of",
        "is_readable_name",
        "probe",
        "read",
        "read_own",
        "tunes_note",
    ),
    "writer": ("WRITABLE", "can_hold", "can_write", "write"),
}


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{home}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
