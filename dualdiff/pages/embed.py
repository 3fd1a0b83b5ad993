"""Audio and pictures inside a page: as data of the page itself, so that it needs no other file and no network."""

import base64
import tempfile
from html import escape
from pathlib import Path

from dualdiff import audio
from dualdiff.core.types import Waveform

MEDIA = {
    ".flac": "audio/flac",
    ".mp3": "audio/mpeg",
    ".oga": "audio/ogg",
    ".ogg": "audio/ogg",
    ".opus": "audio/ogg",
    ".png": "image/png",
    ".wav": "audio/wav",
}
"""What browsers play and show, by the suffix of the file."""

COMPACT = ".ogg"
"""The suffix of what `compact` makes."""


def data_uri(content: bytes, suffix: str) -> str:
    """The content of a file as an address that holds it."""
    return f"data:{MEDIA[suffix.lower()]};base64,{base64.b64encode(content).decode('ascii')}"


def player(content: bytes, suffix: str, words: str) -> str:
    """A player of an audio file's content; `words` tell those who cannot see it what it plays."""
    return f'<audio controls preload="metadata" aria-label="{escape(words)}" src="{data_uri(content, suffix)}"></audio>'


def compact(waveform: Waveform, sample_rate: int) -> bytes:
    """A waveform (C, T) as Ogg Vorbis: a tenth of a WAV file's size, and played by every browser of today."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"clip{COMPACT}"
        audio.write(path, audio.below_full_scale(waveform), sample_rate)
        return path.read_bytes()
