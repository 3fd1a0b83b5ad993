"""Write waveforms (C, T) as audio files with tags and loop points."""

import math
import shutil
from pathlib import Path

import soundfile
import torch

from dualdiff.audio import loop_points, tags
from dualdiff.core.errors import DataError, DualdiffError
from dualdiff.core.files import staged
from dualdiff.core.types import Waveform

WRITABLE = {  # suffix: (format, subtype) of libsndfile
    ".flac": ("FLAC", "PCM_24"),
    ".wav": ("WAV", "PCM_24"),
    ".ogg": ("OGG", "VORBIS"),
    ".mp3": ("MP3", "MPEG_LAYER_III"),
    ".opus": ("OGG", "OPUS"),
}
_RATES = {  # the sample rates, Hz, of suffixes that do not take all
    ".mp3": (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000),
    ".opus": (8000, 12000, 16000, 24000, 48000),
    ".flac": range(1, 655_351),
    ".ogg": range(1, 200_001),
}
_OWN_TAGS = {"WAV": tags.append_wave_tags, "MP3": tags.prepend_id3_tags}  # where libsndfile's are broken
_LARGEST_SAMPLE = 4  # bytes per sample of any file written here
_BLOCK = 1 << 16  # frames encoded at once


def can_write(suffix: str) -> bool:
    """Whether this build of libsndfile has the encoder for a suffix of `WRITABLE`."""
    container, subtype = WRITABLE[suffix]
    return bool(soundfile.check_format(container, subtype))


def can_hold(suffix: str, sample_rate: int) -> bool:
    """Whether files of a suffix can have a sample rate."""
    return suffix not in _RATES or sample_rate in _RATES[suffix]


def write(
    path: Path | str,
    waveform: Waveform,
    sample_rate: int,
    *,
    title: str = "",
    comment: str = "",
    artist: str = "",
    album: str = "",
    bitrate_kbps: float | None = None,
    loop: tuple[int, int] | None = None,
) -> None:
    """Write (C, T) as .flac or .wav (24 bit), .ogg, .mp3 or .opus, by the suffix, atomically, with tags.

    `bitrate_kbps` asks mp3 and opus for about that rate. The comment may hold a recipe of any length. `loop` is where
    a loop starts and how long it is, samples: tags LOOPSTART and LOOPLENGTH, or a `smpl` chunk; not in mp3.

    Raises:
        DataError: there are no samples, or they are not finite, or would clip in a 24-bit file.
        DualdiffError: the suffix is not one of these, the folder cannot be written to, or the codec refuses.
    """
    path = Path(path)
    if path.suffix.lower() not in WRITABLE:
        raise DualdiffError(
            f"{path} cannot be written: {path.suffix or 'no suffix'} is not a known format",
            f"one of {' '.join(WRITABLE)}",
        )
    _refuse_unwritable(path, waveform)
    if loop is not None and path.suffix.lower() not in loop_points.LOOPING:
        raise DualdiffError(
            f"{path} cannot be written: {path.suffix} cannot loop without a gap",
            f"one of {' '.join(loop_points.LOOPING)}",
        )
    texts = {"title": title, "comment": comment, "artist": artist, "album": album}
    texts = {name: text for name, text in texts.items() if text}
    with staged(path) as temporary:
        try:
            _encode(temporary, waveform, sample_rate, texts, bitrate_kbps)
        except soundfile.LibsndfileError as error:
            if shutil.disk_usage(path.parent).free < waveform.numel() * _LARGEST_SAMPLE:  # libsndfile does not say so
                hint = "nothing already there was changed; free some space"
                raise DualdiffError(f"{path} cannot be written: no space is left on the disk", hint) from error
            kind = f"{path.suffix} at {sample_rate} Hz with {waveform.shape[0]} channels"
            raise DualdiffError(
                f"{path} cannot be written: {kind} is refused: {error.error_string}", "try .flac"
            ) from error
        if loop is not None:
            loop_points.write_loop(temporary, *loop, sample_rate)


def _refuse_unwritable(path: Path, waveform: Waveform) -> None:
    if not waveform.numel():
        raise DataError(f"{path} is not written: there is no audio to write")
    if not torch.isfinite(waveform).all():
        raise DataError(f"{path} is not written: the audio holds values that are not finite numbers (NaN or infinity)")
    peak = waveform.abs().max().item()
    if peak > 1.0 and path.suffix.lower() in (".flac", ".wav"):
        raise DataError(
            f"{path} is not written: the audio would clip, it peaks {20 * math.log10(peak):.1f} dB above full scale",
            "lower its level",
        )


def _encode(
    path: Path, waveform: Waveform, sample_rate: int, texts: dict[str, str], bitrate_kbps: float | None
) -> None:
    container, subtype = WRITABLE[path.suffix]
    level = None if bitrate_kbps is None else _compression_level(subtype, sample_rate, waveform.shape[0], bitrate_kbps)
    mode = "CONSTANT" if level is not None and container == "MP3" else None
    audio = waveform.detach().to("cpu", torch.float32).T.contiguous().numpy()
    with soundfile.SoundFile(
        path, "w", sample_rate, waveform.shape[0], subtype, format=container, compression_level=level, bitrate_mode=mode
    ) as file:
        for name, text in texts.items() if container not in _OWN_TAGS else ():
            setattr(file, name, text)
        for first in range(0, len(audio), _BLOCK):  # in one piece, libsndfile's Vorbis encoder overflows its stack
            file.write(audio[first : first + _BLOCK])
    if container in _OWN_TAGS and texts:
        _OWN_TAGS[container](path, texts)


def _compression_level(subtype: str, sample_rate: int, channels: int, bitrate_kbps: float) -> float | None:
    """The compression level, 0 to 1, for a bit rate: libsndfile maps them linearly, over a range of each codec."""
    ranges = {"MPEG_LAYER_III": (32, 320) if sample_rate >= 32000 else (8, 160), "OPUS": (6 * channels, 256 * channels)}
    if subtype not in ranges:
        return None
    lowest, highest = ranges[subtype]
    return min(max((highest - bitrate_kbps) / (highest - lowest), 0.0), 0.99)
