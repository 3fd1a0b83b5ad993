"""There and back: what a format, or a codec beside it, keeps of music, and how long it takes.

Letters: T time in audio samples. Waveforms are (2, T).
"""

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from dualdiff import audio
from dualdiff.core.errors import DataError, UsageError
from dualdiff.core.files import refuse_existing
from dualdiff.core.progress import Progress, silent
from dualdiff.core.quality import Quality
from dualdiff.core.types import Waveform
from dualdiff.evaluation.baselines import Method, Reconstruction, available, baseline, known, through
from dualdiff.evaluation.metrics import measure
from dualdiff.evaluation.spectrogram_image import SpectrogramRow, write_spectrograms
from dualdiff.formats.base import Format

log = logging.getLogger(__name__)

LONGEST_S = 1200.0
"""The length of a file that is sent through unless more is requested: some 3 GB of memory."""


@dataclass(frozen=True)
class RoundtripResult:
    """What became of one file."""

    path: Path
    start_s: float
    duration_s: float
    encode_s: float
    decode_s: float
    metrics: dict[str, float]
    audio: Path | None
    """The round trip as a file, where a folder was given."""
    picture: Path | None
    """Both spectrograms as a file, where a folder was given."""

    @property
    def real_time_factor(self) -> float:
        """Seconds of computing, both ways, per second of audio: below 1 is faster than it sounds."""
        return (self.encode_s + self.decode_s) / self.duration_s


@dataclass(frozen=True)
class Comparison:
    """How one way did, in the mean over all files; one row of a table."""

    name: str
    files: int
    audio_s: float
    encode_s: float
    decode_s: float
    metrics: dict[str, float]
    bitrate_kbps: float | None = None
    """Of a codec, what it wrote."""

    @property
    def real_time_factor(self) -> float:
        """As `RoundtripResult.real_time_factor`, over all files."""
        return (self.encode_s + self.decode_s) / self.audio_s


@dataclass(frozen=True)
class Excerpt:
    """A piece of a file."""

    path: Path
    start_s: float
    waveform: Waveform


OnReconstruction = Callable[[Excerpt, str, Waveform], None]
"""Told of each excerpt, by way, what it became; and of the excerpt itself, as the way `ORIGINAL`."""
ORIGINAL = "original"


def roundtrip(
    path: Path,
    format: Format,
    *,
    out: Path | None = None,
    start_s: float = 0.0,
    duration_s: float | None = None,
    seed: int = 0,
    quality: Quality = "default",
    force: bool = False,
    progress: Progress = silent,
) -> RoundtripResult:
    """Send a file, or an excerpt, through a format and back; measure, and write audio and picture into `out`.

    Without `duration_s`, all of it is sent; of a file longer than `LONGEST_S`, that much.

    Raises:
        DataError: the file cannot be read.
        UsageError: a file to be written is there already, and `force` is off.
        DualdiffError: the folder cannot be written to.
    """
    written, picture = _outputs(path, out, force)
    duration_s = _part_of(path, duration_s)
    original = audio.read(path, sample_rate=format.sample_rate, start_s=start_s, duration_s=duration_s)
    _warm_up(format)
    passed = through(format, seed, quality)(original, format.sample_rate, progress)
    if written and picture:
        again = audio.below_full_scale(passed.waveform)
        audio.write(written, again, format.sample_rate, title=f"{path.stem}, round trip ({format.config.name})")
        rows = [
            SpectrogramRow(f"{path.name}", original),
            SpectrogramRow(f"round trip ({format.config.name})", passed.waveform),
        ]
        write_spectrograms(picture, rows, format.sample_rate, start_s)
    metrics = measure(passed.waveform, original, format.sample_rate)
    length_s = original.shape[-1] / format.sample_rate
    return RoundtripResult(path, start_s, length_s, passed.encode_s, passed.decode_s, metrics, written, picture)


def _part_of(path: Path, duration_s: float | None) -> float | None:
    """Return how much of a file to send through, seconds; reports what becomes of a long file, and of a mono one."""
    info = audio.probe(path)
    if info.channels == 1:
        log.info("%s is mono: it goes through twice, as left and as right", path)
    if duration_s is not None or info.duration_s <= LONGEST_S:
        return duration_s
    lasts, part = f"{info.duration_s / 60:.0f} min", f"{LONGEST_S / 60:.0f}"
    log.info("%s lasts %s: its first %s go there and back (--seconds takes more)", path, lasts, part)
    return LONGEST_S


def require_possible(paths: Sequence[Path], out: Path | None, baselines: Sequence[str], force: bool = False) -> None:
    """Refuse baselines that are not known, and files that cannot all be written into `out`, before any work is done.

    Raises:
        UsageError: there is no such baseline; a file is there already, and `force` is off; or two round trips would go
            into one file.
    """
    for name in baselines:
        known(name)
    targets = [target for path in paths for target in _outputs(path, out, force) if target]
    twice = next((target for target, count in Counter(targets).items() if count > 1), None)
    if twice:
        hint = "send files of the same name through one after the other, each with an --out of its own"
        raise UsageError(f"two files would be written to {twice}", hint)


def _outputs(path: Path, out: Path | None, force: bool) -> tuple[Path, Path] | tuple[None, None]:
    if out is None:
        return None, None
    written, picture = out / f"{path.stem}-roundtrip.flac", out / f"{path.stem}-roundtrip.png"
    refuse_existing((written, picture), force, "add --force to overwrite it, or give another --out")
    return written, picture


def compare(
    paths: Sequence[Path],
    format: Format,
    baselines: Sequence[str] | None = None,
    *,
    duration_s: float = 10.0,
    seed: int = 0,
    quality: Quality = "default",
    listener: OnReconstruction | None = None,
    progress: Progress = silent,
) -> list[Comparison]:
    """Compare a format with baselines on the same excerpts, from the middle of each file.

    Baselines are named as in `baselines.baseline`; without a choice they are the `baselines.available` ones. Gives one
    row each, the format first; all are means over the same excerpts.

    Raises:
        UsageError: a baseline is not known, or its codec is not there.
        DataError: no paths, or a file that cannot be read.
    """
    if not paths:
        raise DataError("there are no files to compare on", "run dualdiff dataset scan, or name some")
    ways: dict[str, Method] = {format.config.name: through(format, seed, quality)}
    ways |= {name: baseline(name, seed) for name in (available() if baselines is None else baselines)}
    _warm_up(format)
    excerpts = [_middle(path, format, duration_s) for path in paths]
    if listener:
        for excerpt in excerpts:
            listener(excerpt, ORIGINAL, excerpt.waveform)
    total, done = len(ways) * len(excerpts), 0
    rows: list[Comparison] = []
    for name, way in ways.items():
        tried = []
        for excerpt in excerpts:
            progress(done, total, name)
            passed = way(excerpt.waveform, format.sample_rate, silent)
            if listener:
                listener(excerpt, name, passed.waveform)
            tried.append(_judged(name, passed, excerpt.waveform, format.sample_rate))
            done += 1
        rows.append(_mean(name, tried))
    progress(total, total)
    return rows


def _middle(path: Path, format: Format, duration_s: float) -> Excerpt:
    start_s = max(0.0, (audio.probe(path).duration_s - duration_s) / 2)
    return Excerpt(
        path, start_s, audio.read(path, sample_rate=format.sample_rate, start_s=start_s, duration_s=duration_s)
    )


def _judged(name: str, passed: Reconstruction, original: Waveform, sample_rate: int) -> Comparison:
    metrics = measure(passed.waveform, original, sample_rate)
    length_s = original.shape[-1] / sample_rate
    return Comparison(name, 1, length_s, passed.encode_s, passed.decode_s, metrics, passed.bitrate_kbps)


def _mean(name: str, tried: list[Comparison]) -> Comparison:
    rates = [one.bitrate_kbps for one in tried if one.bitrate_kbps is not None]
    return Comparison(
        name=name,
        files=len(tried),
        audio_s=sum(one.audio_s for one in tried),
        encode_s=sum(one.encode_s for one in tried),
        decode_s=sum(one.decode_s for one in tried),
        metrics={key: sum(one.metrics[key] for one in tried) / len(tried) for key in tried[0].metrics},
        bitrate_kbps=sum(rates) / len(rates) if rates else None,
    )


def _warm_up(format: Format) -> None:
    """Compile and build whatever the first decoding does, so that timings are those of the second."""
    format.decode(format.encode(torch.zeros(1, 2, 4 * format.hop_length)))
