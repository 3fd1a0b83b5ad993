"""MIDI files: transposed and at another tempo in their own events, their beats, and their audio by fluidsynth."""

import io
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import mido
import numpy as np

from dualdiff.core.errors import DataError
from dualdiff.core.files import write_bytes_atomically

SUFFIXES = (".mid", ".midi")

DRUM_CHANNEL = 9
"""Channel 10 of General MIDI, counted from 0."""

UNTUNED_PROGRAMS = frozenset([113, 115, *range(117, 128)])
"""General MIDI's percussion and sound effects (agogo, woodblock, toms, seashore ...), counted from 0."""

SOUNDFONT_FOLDERS = (
    *("/usr/share/sounds/sf2", "/usr/share/sounds/sf3", "/usr/share/soundfonts", "/usr/local/share/soundfonts"),
    *("/opt/homebrew/share/soundfonts", "~/.local/share/soundfonts"),
)
SOUNDFONT_NAMES = ("FluidR3_GM.sf2", "MuseScore_General*.sf3", "MuseScore_General*.sf2", "default*.sf[23]", "*.sf[23]")
"""In this order: those under the MIT licence first."""

GET_FLUIDSYNTH = "install fluidsynth (Debian, Ubuntu: apt install fluidsynth; macOS: brew install fluid-synth)"
GET_SOUNDFONT = "install one (Debian, Ubuntu: apt install fluid-soundfont-gm), or name one in dataset.soundfonts"

GAIN = 0.1
"""Leaves headroom: fluidsynth clips what is above full scale."""

DEFAULT_TEMPO = 500_000
"""Microseconds of a quarter note where a file does not say: 120 a minute."""

_PATIENCE_S = 600.0
_BLOCK = 1 << 16


def has_fluidsynth() -> bool:
    """Whether fluidsynth is on the PATH."""
    return shutil.which("fluidsynth") is not None


def find_soundfont(folders: Sequence[str] = SOUNDFONT_FOLDERS) -> Path | None:
    """The first soundfont of this machine in the order of `SOUNDFONT_NAMES`; None where there is none."""
    places = [Path(folder).expanduser() for folder in folders]
    found = (path for name in SOUNDFONT_NAMES for place in places for path in sorted(place.glob(name)))
    return next((path for path in found if path.is_file()), None)


def read(content: bytes, name: str) -> mido.MidiFile:
    """The events of a MIDI file; `name` names it in errors.

    Raises:
        DataError: it is damaged, or has no notes.
    """
    try:
        file = mido.MidiFile(file=io.BytesIO(content), clip=True)
    except Exception as error:
        raise DataError(f"{name} cannot be read as MIDI: {error or type(error).__name__}", "remove it") from error
    if not any(message.type == "note_on" for track in file.tracks for message in track):
        raise DataError(f"{name} holds no notes", "remove it")
    if file.ticks_per_beat <= 0:
        raise DataError(f"{name} counts time in film frames, not in beats", "remove it")
    return file


def altered(content: bytes, name: str, *, semitones: int = 0, tempo: float = 1.0) -> bytes:
    """A MIDI file so many semitones higher (below 0: lower) and at `tempo` times its tempo.

    Drums stay as they are: channel 10, and the programs for percussion and sound effects.

    Raises:
        DataError: as `read`.
    """
    file = read(content, name)
    shifts = _Shifts(semitones)
    for _, message in _in_time(file):
        if message.type == "program_change":
            shifts.programs[message.channel] = message.program
        elif message.type in ("note_on", "note_off", "polytouch"):
            message.note = shifts.note(message)
        elif message.type == "set_tempo":
            message.tempo = min(round(message.tempo / tempo), 0xFFFFFF)
    if tempo != 1.0:
        first = mido.MetaMessage("set_tempo", tempo=round(DEFAULT_TEMPO / tempo), time=0)
        file.tracks[0].insert(0, first)  # before the file's own, which replace it
    written = io.BytesIO()
    file.save(file=written)
    return written.getvalue()


class _Shifts:
    """How far each note moves: what is on when a note begins holds until it ends."""

    def __init__(self, semitones: int) -> None:
        self.programs: dict[int, int] = {}
        self._semitones = semitones
        self._sounding: dict[tuple[int, int], int] = {}

    def note(self, message: Any) -> int:
        key = (message.channel, message.note)
        if message.type == "note_on" and message.velocity:
            self._sounding[key] = self._moved(message)
        return self._sounding.get(key) or self._moved(message)

    def _moved(self, message: Any) -> int:
        if message.channel == DRUM_CHANNEL or self.programs.get(message.channel) in UNTUNED_PROGRAMS:
            return int(message.note)
        note = message.note + self._semitones
        return int(note + 12 if note < 0 else note - 12 if note > 127 else note)


def _in_time(file: mido.MidiFile) -> list[tuple[int, Any]]:
    """All events of all tracks with their ticks, in the order of time; those of one tick as the tracks have them."""
    events = []
    for track in file.tracks:
        tick = 0
        for message in track:
            tick += message.time
            events.append((tick, message))
    return sorted(events, key=lambda event: event[0])


@dataclass(frozen=True)
class Meter:
    """The beats of a file: their times in seconds, and whether each begins a bar."""

    beats: tuple[float, ...]
    starts_bar: tuple[bool, ...]


def meter(content: bytes, name: str) -> Meter:
    """The beats of a MIDI file by its tempo and time signature events, up to its last note.

    A beat is the signature's note value; of 6/8, 9/8 and 12/8, three of them.

    Raises:
        DataError: as `read`.
    """
    file = read(content, name)
    events = _in_time(file)
    end = max(tick for tick, message in events if message.type in ("note_on", "note_off"))
    tempos = [(0, DEFAULT_TEMPO), *((tick, one.tempo) for tick, one in events if one.type == "set_tempo")]
    signatures = [(0, (4, 4))]
    signatures += [(tick, (one.numerator, one.denominator)) for tick, one in events if one.type == "time_signature"]
    ticks, starts = _beat_ticks(signatures, file.ticks_per_beat, end)
    return Meter(tuple(_seconds(ticks, tempos, file.ticks_per_beat)), tuple(starts))


def _beat_ticks(
    signatures: list[tuple[int, tuple[int, int]]], per_quarter: int, end: int
) -> tuple[list[Fraction], list[bool]]:
    ticks: list[Fraction] = []
    starts: list[bool] = []
    for (start, (count, value)), (stop, _) in zip(signatures, [*signatures[1:], (end + 1, (4, 4))], strict=True):
        compound = value >= 8 and count > 3 and count % 3 == 0
        step = Fraction(4 * per_quarter, value) * (3 if compound else 1)
        bar = count // 3 if compound else max(count, 1)
        own = [start + step * index for index in range(int((stop - start) / step) + 1) if start + step * index < stop]
        ticks += own
        starts += [index % bar == 0 for index in range(len(own))]
    return ticks, starts


def _seconds(ticks: list[Fraction], tempos: list[tuple[int, int]], per_quarter: int) -> Iterator[float]:
    """The times of ticks, in order, by the microseconds of a quarter note from some ticks on."""
    index, seconds = 0, 0.0
    for tick in ticks:
        while index + 1 < len(tempos) and tempos[index + 1][0] <= tick:
            seconds += (tempos[index + 1][0] - tempos[index][0]) * tempos[index][1] / per_quarter / 1e6
            index += 1
        yield seconds + float(tick - tempos[index][0]) * tempos[index][1] / per_quarter / 1e6


def play(content: bytes, name: str, soundfont: Path, sample_rate: int) -> Iterator[np.ndarray[Any, Any]]:
    """The audio of a MIDI file, (T, 2) float32, in blocks.

    Raises:
        DataError: fluidsynth is missing, cannot play it, or does not come to an end.
    """
    if not has_fluidsynth():
        raise DataError(f"only fluidsynth plays {name}, and it is not on this machine", GET_FLUIDSYNTH)
    with tempfile.TemporaryDirectory(prefix="dualdiff-midi-") as folder:
        source, made = Path(folder) / "source.mid", Path(folder) / "made.raw"
        write_bytes_atomically(source, content)
        options = ["-n", "-i", "-q", "-r", str(sample_rate), "-g", str(GAIN), "-O", "float", "-T", "raw"]
        options += ["-o", "synth.dynamic-sample-loading=1"]  # only the instruments that play
        try:
            done = subprocess.run(
                ["fluidsynth", *options, "-F", str(made), str(soundfont), str(source)],
                capture_output=True,
                stdin=subprocess.DEVNULL,
                timeout=_PATIENCE_S,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise DataError(f"{name} keeps fluidsynth busy for more than {_PATIENCE_S:.0f} s", "remove it") from error
        if done.returncode or not made.is_file() or not made.stat().st_size:
            lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
            reason = lines[-1] if lines else "it gives no reason"
            raise DataError(f"{name} cannot be played by fluidsynth with {soundfont.name}: {reason}", "remove it")
        with open(made, "rb") as file:
            while piece := file.read(8 * _BLOCK):
                yield np.frombuffer(piece, np.float32).reshape(-1, 2)
