"""Which notes are heard, and how many of them two waveforms share.

Notes are found by basic-pitch (Bittner et al. 2022, "A Lightweight Instrument-Agnostic Model for Polyphonic Note
Transcription"), whose small network travels with the package; to run it takes onnxruntime, of the extra
`dualdiff[eval]`. Letters: T time in audio samples, N the network's frames, P its 88 pitches.
"""

import functools
import importlib.util
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dualdiff import audio
from dualdiff.core.errors import UsageError
from dualdiff.core.types import Waveform

NETWORK = Path(__file__).parents[1] / "assets" / "basic-pitch" / "nmp.onnx"
MISSING = "pip install 'dualdiff[eval]'"
"""What to do where the notes cannot be found."""
RATE = 22050
HOP = 256
WINDOW = 43844
"""Audio samples that the network takes at once."""
MARGIN = 15
"""Frames at either end of a window that are left to its neighbour."""
LOWEST = 21
"""The MIDI number of the lowest pitch, A0."""
ONSET = 0.5
"""A note begins where its onset peaks at this or more."""
SUSTAIN = 0.3
"""It lasts while it is this present; shorter gaps than SHORTEST are bridged."""
SHORTEST = 11
"""Frames, 128 ms: what is shorter is no note."""
TOLERANCE_S = 0.05
"""Two notes are the same if they have one pitch and begin within this of each other."""


@dataclass(frozen=True)
class Note:
    """A note that is heard."""

    pitch: int
    """MIDI number; 69 is A4."""
    start_s: float
    stop_s: float


def is_available() -> bool:
    """Whether onnxruntime is there."""
    return importlib.util.find_spec("onnxruntime") is not None


def note_agreement(estimate: Waveform, target: Waveform, sample_rate: int) -> float:
    """The F1 score of the notes of the estimate, those of the target being the right ones; 1 where neither has any.

    Raises:
        UsageError: onnxruntime is missing.
    """
    return f1_score(transcribe(estimate, sample_rate), transcribe(target, sample_rate))


def f1_score(found: Iterable[Note], right: Iterable[Note]) -> float:
    """Twice the notes in common over all notes of both; each note has one partner at most."""
    starts = [_starts_by_pitch(notes) for notes in (found, right)]
    total = sum(len(times) for side in starts for times in side.values())
    common = sum(_pairs(times, starts[1].get(pitch, [])) for pitch, times in starts[0].items())
    return 2 * common / total if total else 1.0


def _starts_by_pitch(notes: Iterable[Note]) -> dict[int, list[float]]:
    found: dict[int, list[float]] = {}
    for note in sorted(notes, key=lambda note: note.start_s):
        found.setdefault(note.pitch, []).append(note.start_s)
    return found


def _pairs(one: list[float], other: list[float]) -> int:
    """How many of two rising series can be paired within the tolerance: in order, which is the most there can be."""
    i = j = count = 0
    while i < len(one) and j < len(other):
        apart = one[i] - other[j]
        if abs(apart) <= TOLERANCE_S:
            i, j, count = i + 1, j + 1, count + 1
        elif apart < 0:
            i += 1
        else:
            j += 1
    return count


def transcribe(waveform: Waveform, sample_rate: int) -> list[Note]:
    """The notes of a waveform (C, T), by their start.

    Raises:
        UsageError: onnxruntime is missing.
    """
    mono = audio.resample(waveform.mean(0, keepdim=True).cpu(), sample_rate, RATE)[0]
    return notes_of(*_activations(mono))


def _activations(mono: Tensor) -> tuple[Tensor, Tensor]:
    """How present each pitch is, and how much it begins, at each frame of mono audio at RATE, (N, P) each, 0 to 1."""
    frames = mono.shape[0] // HOP + 1
    kept = WINDOW // HOP + 1 - 2 * MARGIN
    count = -(-frames // kept)
    padded = torch.nn.functional.pad(mono, (MARGIN * HOP, max(0, count * kept * HOP + WINDOW - len(mono))))
    windows = padded.unfold(0, WINDOW, kept * HOP)[:count, :, None]
    session = _network()
    names = ["StatefulPartitionedCall:1", "StatefulPartitionedCall:2"]  # presence, onsets
    found = [session.run(names, {session.get_inputs()[0].name: window[None].numpy()}) for window in windows]
    sides = zip(*found, strict=True)
    present, onsets = (
        torch.cat([torch.from_numpy(part[0, MARGIN:-MARGIN]) for part in side])[:frames] for side in sides
    )
    return present, onsets


@functools.cache
def _network() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise UsageError("notes are found with onnxruntime, which is missing", MISSING) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(NETWORK, options, providers=["CPUExecutionProvider"])


def notes_of(present: Tensor, onsets: Tensor) -> list[Note]:
    """The notes that presence and onsets, (N, P) each, stand for: from each peak of the onsets while it is present."""
    before, after = (torch.nn.functional.pad(onsets, pad) for pad in ((0, 0, 1, 0), (0, 0, 0, 1)))
    peaks = (onsets >= ONSET) & (onsets > before[:-1]) & (onsets >= after[1:])
    notes = []
    for pitch in range(onsets.shape[1]):
        starts = peaks[:, pitch].nonzero().flatten().tolist()
        audible = (present[:, pitch] >= SUSTAIN).tolist()
        for start, limit in zip(starts, [*starts[1:], len(audible)], strict=False):
            stop = _end(audible, start, limit)
            if stop - start >= SHORTEST:
                notes.append(Note(LOWEST + pitch, start * HOP / RATE, stop * HOP / RATE))
    return sorted(notes, key=lambda note: (note.start_s, note.pitch))


def _end(audible: list[bool], start: int, limit: int) -> int:
    """The frame behind the last audible one, from `start` on, before a gap of SHORTEST frames or the limit."""
    stop = start + 1
    for frame in range(start + 1, limit):
        if audible[frame]:
            stop = frame + 1
        elif frame - stop >= SHORTEST:
            break
    return stop
