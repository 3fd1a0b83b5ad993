"""Audio files and levels: probe, read, resample, loudness, peaks, write with tags. The only user of audio codecs.

Waveforms here are (C, T), float32, full scale [-1, 1]; C channels, T time in samples. A file that is missing, broken,
cut off or not audio is a `DataError` that names it.
"""

import math
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType

import soundfile
import torch

from dualdiff.audio import loop_points, vorbis
from dualdiff.audio import tags as containers
from dualdiff.audio.dsp import (
    SINC_ROLLOFF,
    SINC_ZEROS,
    below_full_scale,
    gain_to,
    mix_channels,
    resample,
)
from dualdiff.audio.loudness import levelled, loudness_lufs, true_peak_db
from dualdiff.core.errors import DataError, DualdiffError
from dualdiff.core.files import staged
from dualdiff.core.types import Waveform

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

AUDIO_SUFFIXES = (".aif", ".aiff", ".au", ".caf", ".flac", ".mp3", ".oga", ".ogg", ".opus", ".w64", ".wav")
WRITABLE = {  # suffix: (format, subtype) of libsndfile
    ".flac": ("FLAC", "PCM_24"),
    ".wav": ("WAV", "PCM_24"),
    ".ogg": ("OGG", "VORBIS"),
    ".mp3": ("MP3", "MPEG_LAYER_III"),
    ".opus": ("OGG", "OPUS"),
}
_TAGS = ("title", "artist", "album", "comment", "genre", "date", "tracknumber", "software")
_OWN_TAGS = {"WAV": containers.append_wave_tags, "MP3": containers.prepend_id3_tags}  # where libsndfile's are broken
_MORE_TAGS = ("game", "loopstart", "looplength")  # which libsndfile does not give
_MEND = "fetch or convert the file again, or take it out"
_GUESSED = 0.01  # share of an MP3's length that may be missing: without an index, libsndfile guesses it from the size
_ENDLESS = 1 << 40  # frames; libsndfile gives 2^63 - 1 where the length is unknown
_LARGEST_SAMPLE = 4  # bytes per sample of any file written here
_PIECE = 1 << 16  # frames decoded or encoded at once


@dataclass(frozen=True)
class AudioInfo:
    """What a file says of itself; frames are samples per channel."""

    duration_s: float
    sample_rate: int
    channels: int
    frames: int
    format: str
    tags: dict[str, str]

    @property
    def loop(self) -> tuple[int, int] | None:
        """Where a loop starts and how long it is, samples, as its tags or `smpl` chunk say; None where none can be."""
        start, length = (self.tags.get(name, "") for name in ("loopstart", "looplength"))
        if not (start.isdecimal() and length.isdecimal() and 0 < int(length) <= self.frames - int(start)):
            return None
        return int(start), int(length)


def probe(path: Path | str) -> AudioInfo:
    """Read a file's header and tags, without decoding it.

    Raises:
        DataError: the file is missing, a folder, empty, cut off, not audio, or without a known length.
    """
    path = Path(path)
    with _Reader(path) as reader:
        file = reader.file
        tags = {name: text for name in _TAGS if (text := getattr(file, name))}
        if file.format == "MP3":  # libsndfile takes the bytes of UTF-8 tags for Latin-1 letters
            tags = {name: _as_utf8(text) for name, text in tags.items()}
        if file.format == "WAV":
            tags |= containers.wave_tags(path)
        if file.format in ("FLAC", "OGG"):
            tags |= {name: text for name, text in containers.vorbis_comments(path).items() if name in _MORE_TAGS}
        rate, frames = file.samplerate, file.frames
        return AudioInfo(frames / rate, rate, file.channels, frames, file.format.lower(), tags)


def _as_utf8(text: str) -> str:
    with suppress(UnicodeError):
        return text.encode("latin-1").decode("utf-8")
    return text


class _Reader:
    """An open audio file, read by position; one that is not to seek is decoded from before that position instead."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = _open(path)
        self._decoder = self.file  # of all of the file, or of what follows some place in it
        self._next = 0  # the frame that the decoder gives next
        self._kept = torch.empty(0, 0)  # the last frames given, which end at _next

    def __enter__(self) -> "_Reader":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._decoder.close()
        self.file.close()

    def frames(self, first: int, last: int) -> Waveform:
        """Frames `first` to `last` of the file, (file's channels, last - first), at its own rate."""
        kept_first = self._next - self._kept.shape[-1]
        if not kept_first <= first <= self._next:
            self._go_to(first, last)
            kept_first = first
        fresh = self._decode(max(last - self._next, 0))
        self._next += fresh.shape[-1]
        if first == kept_first + self._kept.shape[-1]:  # nothing of what was kept is wanted again
            self._kept = fresh
        else:
            self._kept = torch.cat([self._kept, fresh], -1)[:, first - kept_first :]
        return self._kept[:, : last - first]

    def _go_to(self, first: int, last: int) -> None:
        """Let the decoder give frame `first` next; it will have to give frames up to `last`."""
        self._kept = torch.empty(0, 0)
        if self.file.seekable():
            with _blame(self.path):
                self.file.seek(first)
        else:
            if not 0 <= first - self._next <= _PIECE:
                self._start_before(first, last)
            for position in range(self._next, first, _PIECE):
                self._decode(min(_PIECE, first - position))
        self._next = first

    def _start_before(self, first: int, last: int) -> None:
        """Begin to decode as shortly before a frame as can be: in Ogg Vorbis nearby, else at the start of the file."""
        part = vorbis.spliced(self.path, first)
        if part is not None:
            with suppress(soundfile.LibsndfileError):
                decoder = soundfile.SoundFile(part)
                if part.first_frame + decoder.frames >= last:  # libsndfile ends where it believes the file to
                    self._take(decoder, part.first_frame)
                    return
        if first < self._next:
            self._take(_open(self.path), 0)

    def _take(self, decoder: soundfile.SoundFile, first_frame: int) -> None:
        _read_only_forward(decoder)
        if self._decoder is not self.file:
            self._decoder.close()
        self._decoder, self._next = decoder, first_frame

    def _decode(self, count: int) -> Waveform:
        with _blame(self.path):
            decoded = torch.from_numpy(self._decoder.read(count, dtype="float32", always_2d=True))
        audio = decoded.T
        missing = count - audio.shape[-1]
        if missing > (_GUESSED * self.file.frames if self.file.format == "MP3" else 0):
            raise DataError(
                f"{self.path} is cut off: it announces {self.file.frames} frames and ends earlier",
                _MEND,
            )
        if not torch.isfinite(decoded.sum()):  # in one pass
            raise DataError(f"{self.path} holds samples that are not finite numbers (NaN or infinity)", _MEND)
        return audio


@contextmanager
def _blame(path: Path) -> Iterator[None]:
    """Turn an error of libsndfile into one about the file."""
    try:
        yield
    except soundfile.LibsndfileError as error:
        raise DataError(f"{path} cannot be decoded: its audio is damaged or cut off", _MEND) from error


def _open(path: Path) -> soundfile.SoundFile:
    try:
        if path.is_dir():
            raise DataError(f"{path} is a folder, not an audio file")
        if path.stat().st_size == 0:
            raise DataError(f"{path} is empty (0 bytes)", _MEND)
        if containers.is_cut_off(path):
            raise DataError(f"{path} is cut off: it ends in the middle of its audio", _MEND)
        file = soundfile.SoundFile(path)
    except FileNotFoundError as error:
        raise DataError(
            f"{path} does not exist", "check the path; if the music has moved, `dualdiff dataset scan`"
        ) from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    except UnicodeEncodeError as error:
        raise DataError(f"{path} cannot be read: its name is not valid UTF-8", "rename it") from error
    except (soundfile.LibsndfileError, TypeError) as error:  # TypeError: a suffix that means headerless audio
        hint = f"readable are {' '.join(AUDIO_SUFFIXES)}; convert it, or take it out"
        raise DataError(
            f"{path} is not audio in a known format, whatever its name says, or its start is damaged", hint
        ) from error
    if not 0 < file.frames < _ENDLESS:
        file.close()
        raise DataError(f"{path} {'holds no audio' if file.frames <= 0 else 'does not say how long it is'}", _MEND)
    if file.format in ("OGG", "MP3"):
        _read_only_forward(file)
    return file


def _read_only_forward(file: soundfile.SoundFile) -> None:
    """Let soundfile take a file for one that cannot seek.

    In Ogg and MP3, libsndfile 1.2 seeks wrongly: in Ogg up to a block beside the wanted sample, and not even back to
    the start in files cut out of longer ones; in MP3 a seek drops what the next frames still need. And soundfile seeks
    to where it is after each piece that it reads, unless the file says that it cannot.
    """
    file.seekable = lambda: False


def read(
    path: Path | str, *, sample_rate: int, channels: int = 2, start_s: float = 0.0, duration_s: float | None = None
) -> Waveform:
    """Read a file or an excerpt of it, resampled: (channels, T).

    An excerpt equals the same samples of the whole file read at once; one that reaches beyond the end is shorter.
    Mono becomes equal channels; of more than two channels, centre and surrounds are mixed into the first two.

    Raises:
        DataError: as `probe`; or the excerpt starts behind the end, or the file is damaged or holds NaN or infinity.
    """
    path = Path(path)
    with _Reader(path) as reader:
        ratio = _ratio(reader.file.samplerate, sample_rate)
        total = math.ceil(reader.file.frames / ratio)
        first = round(start_s * sample_rate)
        last = total if duration_s is None else min(total, first + round(duration_s * sample_rate))
        if not 0 <= first < last:
            raise DataError(f"{path} lasts {total / sample_rate:.1f} s: there is no excerpt of it at {start_s:g} s", "")
        return mix_channels(_resampled(reader, ratio, first, last), channels).contiguous()


def blocks(path: Path | str, *, sample_rate: int, block_s: float) -> Iterator[Waveform]:
    """Read a file as stereo in consecutive blocks of `block_s` (the last one shorter), in bounded memory.

    The blocks joined equal `read` of the whole file, but may lie in memory as the file has them, channels in turn.
    Raises as `read`. An MP3 may end up to 1 % before its header says.
    """
    length = max(1, round(block_s * sample_rate))
    with _Reader(Path(path)) as reader:
        ratio = _ratio(reader.file.samplerate, sample_rate)
        total = math.ceil(reader.file.frames / ratio)
        for first in range(0, total, length):
            block = _resampled(reader, ratio, first, min(first + length, total))
            if block.shape[-1]:  # a length that was guessed may promise blocks that are not there
                yield mix_channels(block, 2)


def _ratio(from_rate: int, to_rate: int) -> Fraction:
    """File frames per wanted sample; odd rates are rounded (by 2.5e-7 at most): their filters would fill the memory."""
    return Fraction(from_rate, to_rate).limit_denominator(2000)


def _resampled(reader: _Reader, ratio: Fraction, first: int, last: int) -> Waveform:
    """Samples `first` to `last` of the whole file at the wanted rate, in the file's own channels."""
    if ratio == 1:
        return reader.frames(first, last)
    step_in, step_out = ratio.numerator, ratio.denominator
    context = math.ceil(SINC_ZEROS / (min(step_in, step_out) * SINC_ROLLOFF)) + 1
    start = max(0, first // step_out - context) * step_in
    stop = min(reader.file.frames, (-(-last // step_out) + context) * step_in)
    offset = start // step_in * step_out
    return resample(reader.frames(start, stop), step_in, step_out)[:, first - offset : last - offset]


def can_write(suffix: str) -> bool:
    """Whether this build of libsndfile has the encoder for a suffix of `WRITABLE`."""
    container, subtype = WRITABLE[suffix]
    return bool(soundfile.check_format(container, subtype))


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
    tags = {"title": title, "comment": comment, "artist": artist, "album": album}
    tags = {name: text for name, text in tags.items() if text}
    with staged(path) as temporary:
        if loop is not None and temporary.suffix != ".wav":
            tags = loop_points.placeholders(*loop) | tags
        try:
            _encode(temporary, waveform, sample_rate, tags, bitrate_kbps)
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


def _encode(path: Path, waveform: Waveform, sample_rate: int, tags: dict[str, str], bitrate_kbps: float | None) -> None:
    container, subtype = WRITABLE[path.suffix]
    level = None if bitrate_kbps is None else _compression_level(subtype, sample_rate, waveform.shape[0], bitrate_kbps)
    mode = "CONSTANT" if level is not None and container == "MP3" else None
    audio = waveform.detach().to("cpu", torch.float32).T.contiguous().numpy()
    with soundfile.SoundFile(
        path, "w", sample_rate, waveform.shape[0], subtype, format=container, compression_level=level, bitrate_mode=mode
    ) as file:
        for name, text in tags.items() if container not in _OWN_TAGS else ():
            setattr(file, name, text)
        for first in range(0, len(audio), _PIECE):  # in one piece, libsndfile's Vorbis encoder overflows its stack
            file.write(audio[first : first + _PIECE])
    if container in _OWN_TAGS and tags:
        _OWN_TAGS[container](path, tags)


def _compression_level(subtype: str, sample_rate: int, channels: int, bitrate_kbps: float) -> float | None:
    """The compression level, 0 to 1, for a bit rate: libsndfile maps them linearly, over a range of each codec."""
    ranges = {"MPEG_LAYER_III": (32, 320) if sample_rate >= 32000 else (8, 160), "OPUS": (6 * channels, 256 * channels)}
    if subtype not in ranges:
        return None
    lowest, highest = ranges[subtype]
    return min(max((highest - bitrate_kbps) / (highest - lowest), 0.0), 0.99)
