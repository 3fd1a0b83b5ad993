"""Audio and pictures inside a page: as data of the page itself, so that it needs no other file and no network."""

import base64
import tempfile
from html import escape
from pathlib import Path

from dualdiff import audio
from dualdiff.core.types import Waveform
from dualdiff.evaluation.spectrogram_image import SpectrogramRow, png, spectrogram_picture

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

EMBEDDED_BYTES = 4 << 20
"""An audio file up to this size is put into a page as it is; a larger one as Ogg Vorbis."""
PICTURE_COLOURS = 96
"""Colours of a spectrogram on a page."""

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


def playable(path: Path | None, waveform: Waveform, sample_rate: int) -> tuple[bytes, str]:
    """An audio file for a page and its suffix: the file itself where browsers play it and it is small, else Ogg Vorbis.

    Args:
        path: the file; None for a waveform that no file holds.
        waveform: what it holds, (C, T).
        sample_rate: of the waveform, Hz.
    """
    if path is not None and path.suffix.lower() in MEDIA and path.stat().st_size <= EMBEDDED_BYTES:
        return path.read_bytes(), path.suffix
    return compact(waveform, sample_rate), COMPACT


def picture_of(waveform: Waveform, sample_rate: int) -> bytes:
    """A small PNG of the spectrogram of a waveform (C, T): its colours are few, so they are numbered."""
    return png(spectrogram_picture([SpectrogramRow("", waveform)], sample_rate).quantize(PICTURE_COLOURS))
