"""MIDI files and tracker modules, which hold notes: their audio in any key, at any tempo, with any soundfont."""

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import soundfile

from dualdiff.audio import midi, modules, openmpt
from dualdiff.audio.beat_grid import SLOWEST_BPM, BeatGrid
from dualdiff.audio.ffmpeg import CACHE_KIND, MODULE_SUFFIXES
from dualdiff.audio.openmpt import PlayedRow
from dualdiff.core.errors import DataError
from dualdiff.core.files import hash_of, own_folder, replacing, sha256_of

Block: TypeAlias = np.ndarray[Any, Any]
"""Stereo audio, (T, 2), float32."""

RENDER_RATE = 32000
"""The sample rate of the formats: nothing is resampled in training."""

UNEVEN_SHARE = 0.05
"""Share of beats of a module that jumps within patterns may cut short."""

PEAK = 0.9
"""The highest sample of a file, where the notes are louder."""

LONGEST_S = 1800.0
"""A piece that plays for longer is not rendered: it fills the memory."""


@dataclass(frozen=True, kw_only=True)
class Variation:
    """How notes are played: so many semitones higher, at `tempo` times their own, MIDI with a soundfont."""

    semitones: int = 0
    tempo: float = 1.0
    soundfont: Path | None = None


def is_midi(path: Path) -> bool:
    """Whether a file is MIDI, by its suffix."""
    return path.suffix.lower() in midi.SUFFIXES


def holds_notes(path: Path) -> bool:
    """Whether a file holds notes, not audio, by its suffix."""
    return is_midi(path) or path.suffix.lower() in MODULE_SUFFIXES


def can_vary(path: Path) -> bool:
    """Whether a file can be transposed: MIDI, and the modules whose samples have a pitch that is known."""
    return is_midi(path) or (path.suffix.lower() in modules.TRANSPOSABLE and openmpt.has_library())


def has_exact_beats(path: Path) -> bool:
    """Whether the beats of a file can be read from its notes on this machine."""
    return is_midi(path) or (path.suffix.lower() in MODULE_SUFFIXES and openmpt.has_library())


def play(path: Path, variation: Variation, tune: int | None = None) -> Iterator[Block]:
    """The audio of a file, or of one of its tunes (from 0), at `RENDER_RATE`: blocks (T, 2), float32.

    Raises:
        DataError: the file is damaged, or what plays it is missing.
        OSError: it cannot be read.
    """
    content, name, suffix = path.read_bytes(), str(path), path.suffix.lower()
    if is_midi(path):
        if variation.soundfont is None:
            raise DataError(f"{name} needs a soundfont, and there is none on this machine", midi.GET_SOUNDFONT)
        content = midi.altered(content, name, semitones=variation.semitones, tempo=variation.tempo)
        yield from midi.play(content, name, variation.soundfont, RENDER_RATE)
        return
    if variation.semitones:
        content = modules.transposed(content, suffix, variation.semitones)
    with openmpt.opened(content, name) as module:
        yield from module.play(RENDER_RATE, tempo=variation.tempo, subsong=tune)


def beats(path: Path, tempo: float = 1.0, tune: int | None = None) -> BeatGrid | None:
    """The exact beats of a file, or of one of its tunes, at `tempo` times its own; None where it has fewer than two.

    Of MIDI by its tempo and time signature events. A module has rows: how many make a beat is estimated from where its
    notes lie, and bars of four beats are taken as known where its patterns hold whole ones.

    Raises:
        DataError: the file is damaged, or libopenmpt is missing.
        OSError: it cannot be read.
    """
    content, name = path.read_bytes(), str(path)
    if is_midi(path):
        meter = midi.meter(content, name)
        return _grid_of_meter(tuple(time / tempo for time in meter.beats), meter.starts_bar)
    with openmpt.opened(content, name) as module:
        return _grid_of_rows(module.played_rows(tempo=tempo, subsong=tune))


def _grid_of_meter(times: tuple[float, ...], starts_bar: tuple[bool, ...]) -> BeatGrid | None:
    if len(times) < 2:
        return None
    bars = [index for index, starts in enumerate(starts_bar) if starts]
    lengths = {after - before for before, after in itertools.pairwise(bars)}
    per_bar = lengths.pop() if len(lengths) == 1 else 0
    return BeatGrid.of_beats(times, per_bar, bars[0] if per_bar else 0).at_level()


def _grid_of_rows(rows: list[PlayedRow]) -> BeatGrid | None:
    if len(rows) < 2:
        return None
    row_s = float(np.median(np.diff([row.time_s for row in rows])))
    per_beat = rows_per_beat([row.notes for row in rows], row_s)
    starts = [index for index, row in enumerate(rows) if row.row % per_beat == 0]
    is_uneven = np.diff(starts) != per_beat
    if len(starts) < 2 or is_uneven.mean() > UNEVEN_SHARE:
        return None
    first = next((number for number, index in enumerate(starts) if rows[index].row == 0), 0)
    knows_bars = all(row.rows % (4 * per_beat) == 0 for row in rows) and not is_uneven.any()
    times = [rows[index].time_s for index in starts]
    return BeatGrid.of_beats(times, 4 * knows_bars, first * knows_bars).at_level()


def rows_per_beat(notes: Sequence[int], row_s: float) -> int:
    """How many rows of `row_s` seconds make a beat of a module, given the number of notes in each row.

    A beat is four rows, or three, as often doubled or halved as brings the tempo to the level of `BeatGrid.at_level`;
    of both, the one at which the numbers of notes are more alike, by their autocorrelation.
    """
    counts = np.asarray(notes, float) - np.mean(notes)

    def alike(rows: int) -> float:
        lags = [lag for lag in (rows, 2 * rows, 4 * rows) if lag < len(counts)]
        return sum(float((counts[lag:] * counts[:-lag]).mean()) for lag in lags)

    level = [2.0 ** -math.floor(math.log2(60 / (rows * row_s) / SLOWEST_BPM)) for rows in (4, 3)]
    candidates = [max(1, round(rows / factor)) for rows, factor in zip((4, 3), level, strict=True)]
    return max(candidates, key=alike)


@dataclass(frozen=True, kw_only=True)
class Renderer:
    """Where renders of notes go, and the soundfonts for MIDI; the first is for pieces as they are."""

    cache: Path
    soundfonts: tuple[Path, ...] = ()

    @property
    def soundfont(self) -> Path | None:
        """What plays MIDI as it is; None where there is none."""
        return self.soundfonts[0] if self.soundfonts else None

    def has(self, file: Path, path: Path, variation: Variation, tune: int | None = None) -> bool:
        """Whether a file is there and is what this renderer makes of a piece."""
        return file.is_file() and file == self.file(path, variation, tune)

    def file(self, path: Path, variation: Variation, tune: int | None = None) -> Path:
        """The file in the cache of a piece played in some way: another one for each content and each way.

        Raises:
            OSError: the piece cannot be read.
        """
        soundfont = variation.soundfont.name if variation.soundfont and is_midi(path) else ""
        key = [sha256_of(path), tune, variation.semitones, variation.tempo, soundfont]
        return self.cache / f"{hash_of(key)}.flac"

    def render(self, path: Path, variation: Variation, tune: int | None = None) -> Path:
        """Write the audio of a piece into the cache, FLAC of 16 bit below `PEAK`, unless it is there; give that file.

        Raises:
            DataError: as `play`; or it plays nothing, or for longer than `LONGEST_S`.
            DualdiffError: the folder cannot be written to.
        """
        target = self.file(path, variation, tune)
        if not target.exists():
            audio = _gathered(path, play(path, variation, tune))
            audio *= min(1.0, PEAK / max(float(np.abs(audio).max()), 1e-9))
            own_folder(self.cache, CACHE_KIND)
            with replacing(target) as file:
                soundfile.write(file, audio, RENDER_RATE, "PCM_16", format="FLAC")
        return target


def _gathered(path: Path, blocks: Iterable[Block]) -> Block:
    parts, frames = [], 0
    for block in blocks:
        parts.append(block)
        frames += len(block)
        if frames > LONGEST_S * RENDER_RATE:
            raise DataError(f"{path} plays for more than {LONGEST_S / 60:.0f} minutes", "remove it")
    if not frames:
        raise DataError(f"{path} plays nothing", "remove it")
    return np.concatenate(parts)
