"""Notes: the right ones are heard in tones, and agreement counts them one by one."""

import builtins
import math

import pytest
import torch

from dualdiff.core.errors import UsageError
from dualdiff.evaluation import notes
from dualdiff.evaluation.notes import Note, f1_score, notes_of

RATE = 32000
needs_onnx = pytest.mark.skipif(not notes.is_available(), reason="needs onnxruntime")


def melody(*pitches: int, note_s: float = 0.5) -> torch.Tensor:
    """Plucked tones, one after another, stereo."""
    time_s = torch.arange(round(note_s * RATE)) / RATE
    shape = torch.exp(-3 * time_s) * (1 - torch.exp(-200 * time_s))
    tones = []
    for pitch in pitches:
        turns = 2 * math.pi * 440 * 2 ** ((pitch - 69) / 12) * time_s
        tones.append(shape * sum(torch.sin(k * turns) / k for k in range(1, 5)) * 0.2)
    return torch.cat(tones).expand(2, -1)


@needs_onnx
def test_a_melody_is_heard_note_by_note():
    pitches = (60, 64, 67, 72, 69, 65, 62, 59)  # beyond one window of the network
    found = notes.transcribe(melody(*pitches), RATE)
    right = [Note(pitch, 0.5 * index, 0.5 * index + 0.4) for index, pitch in enumerate(pitches)]
    assert f1_score(found, right) > 0.75  # an octave above some of them is heard too


@needs_onnx
def test_agreement_is_of_pitch_and_time():
    tune = melody(60, 64, 67, 72)
    assert notes.note_agreement(tune, tune, RATE) == 1
    assert notes.note_agreement(melody(61, 65, 68, 73), tune, RATE) < 0.3
    assert notes.note_agreement(tune.roll(RATE // 4, -1), tune, RATE) < 0.3
    assert notes.note_agreement(torch.zeros(2, 100), torch.zeros(2, 100), RATE) == 1
    assert notes.note_agreement(torch.zeros_like(tune), tune, RATE) == 0


def test_each_note_has_one_partner():
    two, one = [Note(60, 0.00, 1.0), Note(60, 0.06, 1.0)], [Note(60, 0.04, 1.0)]
    assert f1_score(two, one) == pytest.approx(2 / 3)
    assert f1_score([Note(60, 1.0, 2.0)], [Note(60, 1.06, 2.0)]) == 0
    assert f1_score([Note(60, 1.0, 2.0)], [Note(61, 1.0, 2.0)]) == 0
    crossed = [Note(60, 0.0, 1.0), Note(60, 0.05, 1.0)]
    assert f1_score(crossed, [Note(60, 0.04, 1.0), Note(60, 0.09, 1.0)]) == 1
    assert f1_score([], []) == 1


def test_a_note_lasts_while_it_is_present_and_bridges_short_gaps():
    present, onsets = torch.zeros(200, 88), torch.zeros(200, 88)
    onsets[10, 39] = 0.9
    present[10:40, 39] = present[45:60, 39] = 0.8  # a gap of five frames
    present[80:100, 39] = 0.8  # too late to belong to it
    onsets[120, 40], present[120:125, 40] = 0.9, 0.8  # too short
    onsets[150, 41], present[150:190, 41] = 0.4, 0.9  # no onset
    (note,) = notes_of(present, onsets)
    assert note.pitch == 60
    assert (note.start_s, note.stop_s) == pytest.approx((10 * 256 / 22050, 60 * 256 / 22050))


def test_without_onnxruntime_it_says_how_to_get_it(monkeypatch):
    imported = builtins.__import__

    def without(name, *rest, **more):
        if name == "onnxruntime":
            raise ImportError(name)
        return imported(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    notes._network.cache_clear()
    with pytest.raises(UsageError, match="onnxruntime") as caught:
        notes.note_agreement(torch.zeros(2, 100), torch.zeros(2, 100), RATE)
    notes._network.cache_clear()
    assert "dualdiff[eval]" in caught.value.hint


def test_the_network_travels_with_its_licence():
    files = {path.name for path in notes.NETWORK.parent.iterdir()}
    assert {"nmp.onnx", "LICENSE", "NOTICE"} <= files
