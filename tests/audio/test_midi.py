"""MIDI files: what is transposed, what stays, and where the beats are."""

import io

import mido
import pytest

from dualdiff.audio import midi
from dualdiff.core.errors import DataError


def midi_bytes(*messages: mido.Message, ticks_per_beat: int = 96) -> bytes:
    file = mido.MidiFile(ticks_per_beat=ticks_per_beat)
    file.tracks.append(mido.MidiTrack(messages))
    written = io.BytesIO()
    file.save(file=written)
    return written.getvalue()


def note(key: int, *, channel: int = 0, ticks: int = 96, before: int = 0) -> list[mido.Message]:
    on = mido.Message("note_on", channel=channel, note=key, velocity=90, time=before)
    return [on, mido.Message("note_off", channel=channel, note=key, time=ticks)]


def notes_of(content: bytes) -> list[tuple[int, int]]:
    """(channel, key) of the notes that begin, and of those that end, which must be the same ones."""
    track = mido.MidiFile(file=io.BytesIO(content)).tracks[0]
    begun = [(one.channel, one.note) for one in track if one.type == "note_on"]
    assert sorted(begun) == sorted((one.channel, one.note) for one in track if one.type == "note_off")
    return begun


def test_only_tuned_notes_are_transposed() -> None:
    woodblock = mido.Message("program_change", channel=2, program=115)
    content = midi_bytes(*note(60), *note(38, channel=9), woodblock, *note(50, channel=2), *note(50, channel=3))
    assert notes_of(midi.altered(content, "x", semitones=3)) == [(0, 63), (9, 38), (2, 50), (3, 53)]
    assert notes_of(midi.altered(content, "x", semitones=-2)) == [(0, 58), (9, 38), (2, 50), (3, 48)]


def test_a_note_ends_where_it_began_though_its_program_changes_meanwhile() -> None:
    to_taiko = mido.Message("program_change", channel=0, program=116)
    on, off = note(60)
    assert notes_of(midi.altered(midi_bytes(on, to_taiko, off), "x", semitones=1)) == [(0, 61)]


def test_the_ends_of_the_keyboard_fold_by_an_octave() -> None:
    assert notes_of(midi.altered(midi_bytes(*note(127), *note(0)), "x", semitones=3)) == [(0, 118), (0, 3)]


def test_the_tempo_scales_with_and_without_tempo_events() -> None:
    plain = midi_bytes(*note(60, ticks=4 * 96))
    assert midi.meter(plain, "x").beats == pytest.approx([0, 0.5, 1, 1.5, 2])
    assert midi.meter(midi.altered(plain, "x", tempo=1.25), "x").beats == pytest.approx([0, 0.4, 0.8, 1.2, 1.6])
    slower = mido.MetaMessage("set_tempo", tempo=1_000_000, time=0)
    changing = midi_bytes(*note(60, ticks=2 * 96), slower, *note(60, ticks=2 * 96))
    assert midi.meter(changing, "x").beats == pytest.approx([0, 0.5, 1, 2, 3])
    assert midi.meter(midi.altered(changing, "x", tempo=0.5), "x").beats == pytest.approx([0, 1, 2, 4, 6])


def test_bars_follow_the_time_signatures() -> None:
    three = mido.MetaMessage("time_signature", numerator=3, denominator=4, time=0)
    six = mido.MetaMessage("time_signature", numerator=6, denominator=8, time=0)
    meter = midi.meter(midi_bytes(three, *note(60, ticks=6 * 96), six, *note(60, ticks=6 * 96 - 1)), "x")
    assert meter.starts_bar == (True, False, False, True, False, False, True, False, True, False)
    assert meter.beats[6:] == pytest.approx([3, 3.75, 4.5, 5.25])


@pytest.mark.parametrize("content", [b"", b"RIFF", midi_bytes(), midi_bytes(*note(60))[:-6]])
def test_what_is_no_music_is_refused_by_name(content: bytes) -> None:
    with pytest.raises(DataError, match="some.mid"):
        midi.altered(content, "some.mid", semitones=1)
