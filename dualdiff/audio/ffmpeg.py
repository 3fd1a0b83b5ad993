"""Decode by ffmpeg what libsndfile cannot: m4a and its like, console music, tracker modules.

ffmpeg runs as a program of its own, with the demuxer that the suffix names and no protocol but files, so that a file
can neither pass for something else nor reach for anything outside itself.
"""

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from dualdiff.audio import chiptunes
from dualdiff.audio.isolation import BYTES_PER_S, Deadline
from dualdiff.audio.stream import BLOCK, REPAIR, WHOLE, Block, Excerpt, Stream, between
from dualdiff.audio.tags import with_comment
from dualdiff.core.errors import DataError

CONSOLE_SUFFIXES = (".ay", ".gbs", ".gym", ".hes", ".kss", ".nsf", ".nsfe", ".sap", ".spc", ".vgm", ".vgz")
"""Music of game consoles and home computers, played by libgme."""

MODULE_SUFFIXES = (
    *(".669", ".amf", ".ams", ".dbm", ".dsm", ".far", ".imf", ".it", ".mdl", ".med", ".mo3", ".mod", ".mptm", ".mtm"),
    *(".okt", ".psm", ".ptm", ".s3m", ".stm", ".ult", ".umx", ".xm"),
)
"""Tracker modules, played by libopenmpt."""

_CODED = {".aac": "aac", ".ape": "ape", ".m4a": "mov", ".m4b": "mov", ".tta": "tta", ".wma": "asf", ".wv": "wv"}

DEMUXERS = _CODED | dict.fromkeys(CONSOLE_SUFFIXES, "libgme") | dict.fromkeys(MODULE_SUFFIXES, "libopenmpt")
"""The suffixes of all files that need ffmpeg, with the demuxer for each."""

_FALLBACK = {
    **{".aif": "aiff", ".aiff": "aiff", ".au": "au", ".caf": "caf", ".flac": "flac", ".mp3": "mp3", ".oga": "ogg"},
    **{".ogg": "ogg", ".opus": "ogg", ".w64": "w64", ".wav": "wav"},
}
"""Demuxers for files that libsndfile mostly reads: some hold codecs that it does not know."""

SPC_RATE = 32000
"""The sample rate of the SNES; other consoles have none, and are rendered at `CONSOLE_RATE`."""

CONSOLE_RATE = 44100

CACHE_KIND = "audio-cache"
"""What the marker of a cache of decoded music says."""

GET_FFMPEG = "install ffmpeg (Debian, Ubuntu: apt install ffmpeg; macOS: brew install ffmpeg), then scan again"
MOST_TUNES = 256

_PATIENCE_S, _LONGEST_PATIENCE_S = 30.0, 900.0
_OPEN_ENDED = ("aac", "mp3", "libgme", "libopenmpt")
"""Demuxers whose length is an estimate or a setting: it is not compared with what was decoded."""
_LOSSLESS = ("alac", "ape", "flac", "pcm", "tta", "wavpack", "wmalossless")
_SHORTER = 0.005  # share of the announced length that may be missing, and at least
_SHORTER_S = 0.1
_LAST_SAMPLE_BYTES = 4


@dataclass(frozen=True, kw_only=True)
class Rendering:
    """How tunes end that do not say how: after `length_s`, by a fade of `fade_s` (seconds)."""

    length_s: float = 120.0
    fade_s: float = 8.0


@dataclass(frozen=True, kw_only=True)
class _Probe:
    """What ffprobe says of a file."""

    tags: dict[str, str]
    sample_rate: int
    channels: int
    codec: str
    duration_s: float | None
    """None where it plays for ever, or does not say."""


def needs_ffmpeg(path: Path) -> bool:
    """Whether only ffmpeg can read a file, by its suffix."""
    return path.suffix.lower() in DEMUXERS


def can_try(path: Path) -> bool:
    """Whether ffmpeg is there and has a demuxer for files of this suffix."""
    return has_ffmpeg() and path.suffix.lower() in DEMUXERS | _FALLBACK


def has_ffmpeg() -> bool:
    """Whether ffmpeg, and the ffprobe that comes with it, are on the PATH."""
    return shutil.which("ffmpeg") is not None and shutil.which("ffprobe") is not None


def count_tunes(path: Path) -> int:
    """How many tunes a file holds: console music by its header, a module by asking for one after the other.

    Raises:
        DataError: ffmpeg cannot read the module.
        OSError: the file cannot be read.
    """
    suffix = path.suffix.lower()
    if suffix in CONSOLE_SUFFIXES:
        return chiptunes.count_tunes(path)
    if suffix not in MODULE_SUFFIXES or not has_ffmpeg():
        return 1
    for tune in range(1, MOST_TUNES):
        try:
            _ffprobe(path, tune)
        except DataError as error:
            if "Invalid subsong" in error.message:
                return tune
            raise
    return MOST_TUNES


@contextmanager
def stream(
    path: Path, tune: int | None = None, rendering: Rendering | None = None, excerpt: Excerpt = WHOLE
) -> Iterator[Stream]:
    """Decode an excerpt of a file, or of one of its tunes (counted from 0).

    Tunes last as long as their tags or their notes say and fade as their tags say, else as `rendering` says.

    Raises:
        DataError: ffmpeg is missing, cannot play the file, or lacks the part that would; while decoding, the file is
            cut off, or keeps ffmpeg busy for too long.
    """
    if not has_ffmpeg():
        raise DataError(f"only ffmpeg plays {path.suffix.lower()[1:]} files such as {path}", GET_FFMPEG)
    probe = _ffprobe(path, tune)
    arguments = _ending(path, probe, rendering or Rendering()) if path.suffix.lower() in CONSOLE_SUFFIXES else []
    arguments += ["-map", "0:a:0", "-map_metadata", "-1", "-f", "f32le", "-c:a", "pcm_f32le", "pipe:1"]
    notes: list[str] = []
    with _running("ffmpeg", path, tune, arguments) as running:
        first, last = excerpt.frames(probe.sample_rate)
        blocks = between(_checked(path, probe, running, notes), first, last)
        yield Stream(
            sample_rate=probe.sample_rate,
            channels=probe.channels,
            format=path.suffix.lower()[1:],
            tags=probe.tags,
            frames=None,
            is_seekable=False,
            is_lossy=not probe.codec.startswith(_LOSSLESS) or path.suffix.lower() in CONSOLE_SUFFIXES,
            start=first,
            blocks=blocks,
            notes=notes,
        )


def _checked(path: Path, probe: _Probe, running: "_Running", notes: list[str]) -> Iterator[Block]:
    """The blocks of a file; at its end, whether it has come to it."""
    frames = 0
    for content in running.output(BLOCK * probe.channels * _LAST_SAMPLE_BYTES):
        whole = len(content) // (4 * probe.channels) * 4 * probe.channels
        block: Block = np.frombuffer(content[:whole], np.float32).reshape(-1, probe.channels)
        if not np.isfinite(block.sum(dtype=np.float64)):
            raise DataError(f"{path} holds samples that are not finite numbers (NaN or infinity)", REPAIR)
        frames += len(block)
        yield block
    running.require_success()
    notes += running.warnings()
    if probe.duration_s is None or _demuxer(path) in _OPEN_ENDED:
        return
    missing_s = probe.duration_s - frames / probe.sample_rate
    if missing_s > max(_SHORTER_S, _SHORTER * probe.duration_s):
        raise DataError(
            f"{path} is cut off: it announces {probe.duration_s:.2f} s and ends {missing_s:.2f} s earlier", REPAIR
        )


def _ending(path: Path, probe: _Probe, rendering: Rendering) -> list[str]:
    """When console music ends, and how it fades: libgme plays on, or stops without a fade at the end it knows."""
    time = chiptunes.playing_time(path)
    length_s = time.length_s if time else probe.duration_s or rendering.length_s
    own_fade_s = time.fade_s if time else 0.0 if probe.duration_s else None
    fade_s = rendering.fade_s if own_fade_s is None else own_fade_s
    if probe.duration_s and not _plays_on(path):
        length_s = max(0.0, min(length_s, probe.duration_s - fade_s))
    fade = [f"afade=t=out:st={length_s:.6f}:d={fade_s:.6f}"] if fade_s else []
    return ["-t", f"{length_s + fade_s:.6f}", *(["-af", *fade] if fade else [])]


def _plays_on(path: Path) -> bool:
    return path.suffix.lower() == ".spc"  # its tag is removed


def _demuxer(path: Path) -> str:
    return (DEMUXERS | _FALLBACK)[path.suffix.lower()]


def _ffprobe(path: Path, tune: int | None) -> _Probe:
    entries = "format=duration:format_tags:stream_tags:stream=codec_name,sample_rate,channels"
    arguments = ["-select_streams", "a:0", "-show_entries", entries, "-of", "json"]
    with _running("ffprobe", path, tune, arguments) as running:
        content = b"".join(running.output(1 << 16))
        running.require_success()
    table: dict[str, Any] = json.loads(content)
    general, audio = table.get("format", {}), next(iter(table.get("streams", [])), None)
    if not audio or not int(audio.get("sample_rate", 0)) or not audio.get("channels"):
        raise DataError(f"{path} holds no audio that ffmpeg can play", "remove it")
    tags = {name.lower(): str(text) for holder in (audio, general) for name, text in holder.get("tags", {}).items()}
    if "song" in tags:  # libgme's word
        tags["title"] = tags.pop("song")
    duration_s = float(general.get("duration", 0))
    return _Probe(
        tags=with_comment(tags),
        sample_rate=int(audio["sample_rate"]),
        channels=int(audio["channels"]),
        codec=str(audio.get("codec_name", "")),
        duration_s=duration_s if duration_s > 0 else None,
    )


def _options(path: Path, tune: int | None) -> list[str]:
    demuxer = _demuxer(path)
    options = ["-f", demuxer]
    if demuxer == "libgme":
        rate = SPC_RATE if path.suffix.lower() == ".spc" else CONSOLE_RATE
        options += ["-track_index", str(tune or 0), "-sample_rate", str(rate)]
    if demuxer == "libopenmpt" and tune is not None:
        options += ["-subsong", str(tune)]
    return options


@contextmanager
def _running(program: str, path: Path, tune: int | None, arguments: list[str]) -> Iterator["_Running"]:
    """Ffmpeg or ffprobe at work on a file; it is ended when the block is left."""
    is_patched = program == "ffmpeg" and _plays_on(path)
    source, protocol = ("pipe:0", "pipe") if is_patched else (f"file:{path}", "file")
    quietly = ["-v", "error", *(["-nostdin"] if program == "ffmpeg" and not is_patched else [])]
    command = [program, *quietly, "-protocol_whitelist", protocol, *_options(path, tune), "-i", source, *arguments]
    with tempfile.TemporaryFile() as messages, tempfile.TemporaryFile() as content:
        if is_patched:
            content.write(chiptunes.without_times(path))
            content.seek(0)
        process = subprocess.Popen(
            command,
            stdin=content if is_patched else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=messages,
            start_new_session=True,  # Ctrl-C reaches this process alone, which ends the other one
        )
        try:
            yield _Running(path, process, messages)
        finally:
            process.kill()
            assert process.stdout is not None
            process.stdout.close()
            process.wait()


class _Running:
    """A program at work on a file."""

    def __init__(self, path: Path, process: "subprocess.Popen[bytes]", messages: IO[bytes]) -> None:
        self._path, self._process, self._messages = path, process, messages

    def output(self, size: int) -> Iterator[bytearray]:
        """What the program writes, in pieces of `size` bytes, the last one shorter."""
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        limit_s = min(_PATIENCE_S + self._path.stat().st_size / BYTES_PER_S, _LONGEST_PATIENCE_S)
        deadline = Deadline(limit_s)
        content = bytearray()
        while True:
            try:
                deadline.wait_for(descriptor)
            except TimeoutError as error:
                problem = f"{self._path} keeps ffmpeg busy for more than {limit_s:.0f} s"
                raise DataError(problem, "remove it") from error
            piece = os.read(descriptor, size - len(content))
            content += piece
            if len(content) == size or (not piece and content):
                yield content
                content = bytearray()
            if not piece:
                return

    def require_success(self) -> None:
        """Wait for the end.

        Raises:
            DataError: the program reports a failure.
        """
        code = self._process.wait()
        if code == 0:
            return
        text = self._text()
        demuxer = _demuxer(self._path)
        if "Unknown input format" in text:
            raise DataError(f"{self._path} needs an ffmpeg with {demuxer}", "install one that has it: Debian's does")
        if code < 0:
            raise DataError(f"{self._path} makes ffmpeg crash (signal {-code})", "remove it")
        kind = self._path.suffix.lower()[1:]
        raise DataError(f"{self._path} cannot be played by ffmpeg as {kind}: {_reason(text)}", "remove it")

    def warnings(self) -> list[str]:
        """What the program reports about a file that it plays, in a line."""
        text = self._text()
        return [f"ffmpeg: {_reason(text)}"] if text.strip() else []

    def _text(self) -> str:
        self._messages.seek(0)
        return self._messages.read(1 << 16).decode("utf-8", "replace")


def _reason(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    named = next((line for line in lines if "Invalid subsong" in line), "")
    if named:
        return named.rpartition("] ")[2]
    return lines[-1].rpartition(": ")[2][:200] if lines else "it says nothing about why"
