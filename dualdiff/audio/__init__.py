"""Audio files to waveforms and back; nothing else in dualdiff opens audio files."""

from dualdiff.audio.reader import (
    AUDIO_SUFFIXES,
    WRITABLE,
    AudioInfo,
    below_full_scale,
    blocks,
    can_write,
    gain_to,
    levelled,
    loudness_lufs,
    probe,
    read,
    resample,
    true_peak_db,
    write,
)

__all__ = [
    "AUDIO_SUFFIXES",
    "WRITABLE",
    "AudioInfo",
    "below_full_scale",
    "blocks",
    "can_write",
    "gain_to",
    "levelled",
    "loudness_lufs",
    "probe",
    "read",
    "resample",
    "true_peak_db",
    "write",
]
