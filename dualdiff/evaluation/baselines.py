"""What a format is compared with: other ways back from the same mel, and codecs; each a way there and back.

Letters: T time in audio samples. Waveforms are (2, T).
"""

import math
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torchaudio

from dualdiff import audio
from dualdiff.core.errors import UsageError, did_you_mean
from dualdiff.core.progress import Progress, silent
from dualdiff.core.quality import Quality
from dualdiff.core.types import Sample, Waveform
from dualdiff.formats.base import Format
from dualdiff.formats.config import MelConfig
from dualdiff.formats.filterbank import mel_inverse
from dualdiff.formats.mel import MelFormat

BASELINES = ("fgla-400", "griffin-lim-32", "mp3-64", "mp3-128", "opus-64", "opus-128")
"""Compared with unless said otherwise."""
RATES_KBPS = {"mp3": (32, 320), "opus": (12, 512)}
"""Of codecs, in stereo at usual sample rates."""


@dataclass(frozen=True)
class Reconstruction:
    """A waveform that went there and back, and how long each way took, seconds."""

    waveform: Waveform
    encode_s: float
    decode_s: float
    bitrate_kbps: float | None = None
    """What was written for it, where it went through a file."""


Method = Callable[[Waveform, int, Progress], Reconstruction]
"""A way there and back for a waveform (2, T) at a sample rate; T stays."""


def baseline(name: str, seed: int = 0) -> Method:
    """The way of a name: `fgla-N` or `griffin-lim-N` (N iterations), `mp3-K` or `opus-K` (about K kbit/s).

    Raises:
        UsageError: it is not known, or its codec is not there.
    """
    kind, number = known(name)
    return _KINDS[kind](number, seed)


def known(name: str) -> tuple[str, int]:
    """The kind and the number of a baseline's name.

    Raises:
        UsageError: it is not known, its codec is not there, or is never of that rate.
    """
    kind, _, number = name.rpartition("-")
    if kind not in _KINDS or not number.isdecimal() or int(number) < 1:
        hint = did_you_mean(name, BASELINES) or f"baselines are {', '.join(f'{one}-NUMBER' for one in _KINDS)}"
        raise UsageError(f'there is no baseline "{name}"', hint)
    if not _is_there(kind):
        raise UsageError(f"the baseline {name} needs a libsndfile that writes {kind}", "leave it out")
    low, high = RATES_KBPS.get(kind, (1, math.inf))
    if not low <= int(number) <= high:
        raise UsageError(f"the baseline {name} cannot be", f"{kind} takes {low:g} to {high:g} kbit/s")
    return kind, int(number)


def available() -> list[str]:
    """Those of `BASELINES` whose codec is there."""
    return [name for name in BASELINES if _is_there(name.rpartition("-")[0])]


def _is_there(kind: str) -> bool:
    return f".{kind}" not in audio.WRITABLE or audio.can_write(f".{kind}")


def through(format: Format, seed: int, quality: Quality = "default") -> Method:
    """A format as a way; the same seed gives the same waveform."""
    return _way(format, lambda sample, progress: format.decode(sample, seed=seed, quality=quality, progress=progress))


def _way(format: Format, decode: Callable[[Sample, Progress], Waveform]) -> Method:
    """There by a format, at the loudness, rate and whole frames it wants; back by `decode`."""

    def way(original: Waveform, sample_rate: int, progress: Progress = silent) -> Reconstruction:
        at_rate = audio.resample(original, sample_rate, format.sample_rate)
        loudness = audio.loudness_lufs(at_rate, format.sample_rate)
        frames = format.num_frames(at_rate.shape[-1])
        frames += format.num_samples(frames) < at_rate.shape[-1]
        levelled = audio.gain_to(at_rate, loudness, format.config.loudness_lufs)
        levelled = _of_length(levelled, format.num_samples(frames))
        started = time.perf_counter()
        sample = format.encode(levelled[None])
        encoded = time.perf_counter()
        decoded = decode(sample, progress)[0].cpu()
        stopped = time.perf_counter()
        if math.isfinite(loudness):
            decoded = audio.gain_to(decoded, format.config.loudness_lufs, loudness)
        decoded = audio.resample(decoded, format.sample_rate, sample_rate)
        return Reconstruction(_of_length(decoded, original.shape[-1]), encoded - started, stopped - encoded)

    return way


def _of_length(waveform: Waveform, length: int) -> Waveform:
    missing = max(0, length - waveform.shape[-1])
    fitted: Waveform = torch.nn.functional.pad(waveform[:, :length], (0, missing))
    return fitted


def _fgla(iterations: int, seed: int) -> Method:
    return through(MelFormat(MelConfig(phase="fgla", phase_iterations=iterations)), seed)


def griffin_lim(mel: MelFormat, iterations: int, seed: int) -> Callable[[Sample, Progress], Waveform]:
    """Griffin-Lim of torchaudio as a way back from samples (B, 2, F, N), each channel by itself."""
    inverse = mel_inverse(mel.filters, mel.config.n_fft)
    transform = torchaudio.transforms.GriffinLim(
        mel.config.n_fft, iterations, hop_length=mel.hop_length, window_fn=lambda _: mel.window.float(), power=1.0
    )

    def decode(sample: Sample, progress: Progress) -> Waveform:
        magnitudes = (mel.mel(sample).transpose(-1, -2) @ inverse).clamp_min_(0).transpose(-1, -2)
        with torch.random.fork_rng(devices=[]):  # torchaudio draws its start from the global generator
            torch.manual_seed(seed)
            waveform: Waveform = transform(magnitudes)
        return waveform

    return decode


def _griffin_lim(iterations: int, seed: int) -> Method:
    mel = MelFormat()
    return _way(mel, griffin_lim(mel, iterations, seed))


def _codec(suffix: str, bitrate_kbps: int, codec_rate: int | None = None) -> Method:
    """A codec as a way, through a file; at its own sample rate where it has one."""

    def way(original: Waveform, sample_rate: int, progress: Progress = silent) -> Reconstruction:
        file_rate = codec_rate or sample_rate
        at_rate = audio.resample(original, sample_rate, file_rate)
        with tempfile.TemporaryDirectory(prefix="dualdiff-") as folder:
            path = Path(folder) / f"coded{suffix}"
            started = time.perf_counter()
            audio.write(path, at_rate, file_rate, bitrate_kbps=bitrate_kbps)
            encoded = time.perf_counter()
            decoded = audio.read(path, sample_rate=file_rate)
            stopped = time.perf_counter()
            actual_kbps = path.stat().st_size * 8 / 1000 * sample_rate / original.shape[-1]
        decoded = audio.resample(decoded, file_rate, sample_rate)
        fitted = _of_length(decoded, original.shape[-1])
        return Reconstruction(fitted, encoded - started, stopped - encoded, actual_kbps)

    return way


_KINDS: dict[str, Callable[[int, int], Method]] = {
    "fgla": _fgla,
    "griffin-lim": _griffin_lim,
    "mp3": lambda bitrate_kbps, seed: _codec(".mp3", bitrate_kbps),
    "opus": lambda bitrate_kbps, seed: _codec(".opus", bitrate_kbps, 48000),
}
