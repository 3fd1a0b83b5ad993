"""Files that libsndfile cannot read, turned into FLAC by ffmpeg: m4a and its like, console music, tracker modules.

ffmpeg runs as a program of its own, with the demuxer that the suffix names and no protocol but files, so that a file
can neither pass for something else nor reach for anything outside itself.
"""

import json
import re
import shutil
import subprocess
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dualdiff.audio import chiptunes
from dualdiff.core.errors import DataError
from dualdiff.core.files import TEMPORARY, discard, own_folder, sha256_of, staged

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

SPC_RATE = 32000
"""The sample rate of the SNES; other consoles have none, and are rendered at `CONSOLE_RATE`."""

CONSOLE_RATE = 44100

GET_FFMPEG = "install ffmpeg (Debian, Ubuntu: apt install ffmpeg; macOS: brew install ffmpeg), then scan again"
CACHE_KIND = "audio-cache"
"""What the marker of a cache of renderings says."""

_RENDERED = re.compile(r"[0-9a-f]{64}(-\d+)?(\.[0-9.e+-]+s)?\.flac")
_PATIENCE_S = 300.0


@dataclass(frozen=True, kw_only=True)
class Heard:
    """What a file that needs ffmpeg says of itself."""

    tags: dict[str, str]
    duration_s: float | None
    """None where it plays for ever, or does not say."""


@dataclass(frozen=True, kw_only=True)
class Rendering:
    """Where renderings go, and how tunes end that do not say how: after `length_s`, by a fade of `fade_s` (seconds)."""

    cache: Path
    length_s: float = 120.0
    fade_s: float = 8.0

    def name(self, path: Path, content_hash: str, tune: int) -> str:
        """The file in the cache for a tune of a file: another one for every content, and for settings that matter."""
        return f"{content_hash}{f'-{tune}' if tune else ''}{self._settings(path)}.flac"

    def has(self, name: str, path: Path) -> bool:
        """Whether the cache holds a file of this name, made from a file like `path` with these settings."""
        return name.endswith(f"{self._settings(path)}.flac") and (self.cache / name).exists()

    def _settings(self, path: Path) -> str:
        return f".{self.length_s:g}+{self.fade_s:g}s" if path.suffix.lower() in CONSOLE_SUFFIXES else ""


def needs_ffmpeg(path: Path) -> bool:
    """Whether only ffmpeg can read a file, by its suffix."""
    return path.suffix.lower() in DEMUXERS


def has_ffmpeg() -> bool:
    """Whether ffmpeg, and the ffprobe that comes with it, are on the PATH."""
    return shutil.which("ffmpeg") is not None and shutil.which("ffprobe") is not None


def render(path: Path, rendering: Rendering, tune: int = 0) -> tuple[Path, Heard]:
    """Write what a file plays into the cache, as FLAC, unless it is there; give that file and the tune's tags.

    Tunes last as long as their tags or their notes say and fade as their tags say, else as `rendering` says.

    Raises:
        DataError: ffmpeg cannot play it, or lacks the part that would.
        OSError: the file cannot be read, or the cache cannot be written to.
    """
    out = rendering.cache / rendering.name(path, sha256_of(path), tune)
    heard = _probe(path, tune)
    if out.exists():
        return out, heard
    arguments = ["-sample_fmt", "s32", "-bits_per_raw_sample", "24"]
    if path.suffix.lower() in CONSOLE_SUFFIXES:
        arguments = [*_ending(path, heard, rendering), "-sample_fmt", "s16"]
    own_folder(rendering.cache, CACHE_KIND)
    with staged(out) as temporary:
        exact = ["-map", "0:a:0", "-map_metadata", "-1", "-fflags", "+bitexact", "-flags", "+bitexact", "-c:a", "flac"]
        _run("ffmpeg", path, tune, [*exact, *arguments, "-y", f"file:{temporary}"])
    return out, heard


def prune(cache: Path, wanted: Collection[str]) -> None:
    """Delete from the cache what no file of the collection needs any more, and what interruptions left."""
    discard(cache, _RENDERED, keep=wanted)
    discard(cache, TEMPORARY)


def _ending(path: Path, heard: Heard, rendering: Rendering) -> list[str]:
    """When console music ends, and how it fades: libgme plays on, or stops without a fade at the end it knows."""
    time = chiptunes.playing_time(path)
    length_s = time.length_s if time else heard.duration_s or rendering.length_s
    told_fade_s = time.fade_s if time else 0.0 if heard.duration_s else None
    fade_s = rendering.fade_s if told_fade_s is None else told_fade_s
    if heard.duration_s and not _plays_on(path):
        length_s = max(0.0, min(length_s, heard.duration_s - fade_s))
    fade = [f"afade=t=out:st={length_s:.6f}:d={fade_s:.6f}"] if fade_s else []
    return ["-t", f"{length_s + fade_s:.6f}", *(["-af", *fade] if fade else [])]


def _plays_on(path: Path) -> bool:
    return path.suffix.lower() == ".spc"  # its tag is taken out


def _probe(path: Path, tune: int) -> Heard:
    asked = ["-show_entries", "format=duration:format_tags:stream_tags", "-of", "json"]
    table: dict[str, Any] = json.loads(_run("ffprobe", path, tune, asked))
    own = table.get("format", {})
    holders = [*table.get("streams", [])[:1], own]
    tags = {name.lower(): str(text) for holder in holders for name, text in holder.get("tags", {}).items()}
    if "song" in tags:  # libgme's word
        tags["title"] = tags.pop("song")
    duration_s = float(own.get("duration", 0))
    return Heard(tags=tags, duration_s=duration_s if duration_s > 0 else None)


def _run(program: str, path: Path, tune: int, arguments: list[str]) -> bytes:
    """Run ffmpeg or ffprobe on a file and give what it wrote to its output."""
    demuxer = DEMUXERS[path.suffix.lower()]
    options = ["-f", demuxer]
    if demuxer == "libgme":
        rate = SPC_RATE if path.suffix.lower() == ".spc" else CONSOLE_RATE
        options += ["-track_index", str(tune), "-sample_rate", str(rate)]
    quietly = ["-v", "error", *(["-nostdin"] if program == "ffmpeg" else [])]
    content = chiptunes.without_times(path) if program == "ffmpeg" and _plays_on(path) else b""
    source = "pipe:0" if content else f"file:{path}"
    command = [program, *quietly, "-protocol_whitelist", "pipe" if content else "file", *options, "-i", source]
    try:
        done = subprocess.run(
            [*command, *arguments], capture_output=True, input=content, timeout=_PATIENCE_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise DataError(f"{path} keeps ffmpeg busy for more than {_PATIENCE_S:.0f} s", "take it out") from error
    if done.returncode == 0:
        return done.stdout
    said = done.stderr.decode("utf-8", "replace")
    if "Unknown input format" in said:
        raise DataError(f"{path} needs an ffmpeg with {demuxer}", "install one that has it: Debian's does")
    if done.returncode < 0:
        raise DataError(f"{path} makes ffmpeg crash (signal {-done.returncode})", "take it out")
    raise DataError(
        f"{path} cannot be played by ffmpeg as {path.suffix.lower()[1:]}: {_last_line(said)}", "take it out"
    )


def _last_line(said: str) -> str:
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return lines[-1].rpartition(": ")[2] if lines else "it says nothing about why"
