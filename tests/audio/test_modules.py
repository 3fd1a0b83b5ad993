"""Tracker modules: melodic samples move, percussion stays, rows come faster at another tempo."""

import numpy as np
import pytest

from dualdiff.audio import modules, openmpt
from dualdiff.audio.modules import Sample
from dualdiff.core.errors import DataError
from tests.module_files import HIT_ROWS, MODULES, ROWS

RATE = 32000
ROW_S = 0.12


def audio_of(content: bytes, tempo: float = 1.0) -> np.ndarray:
    with openmpt.opened(content, "a module") as module:
        return np.concatenate(list(module.play(RATE, tempo=tempo))).mean(1)


def pitch_hz(audio: np.ndarray) -> float:
    """The loudest frequency before the first hit."""
    spectrum = np.abs(np.fft.rfft(audio[RATE // 10 : RATE // 10 + RATE // 2] * np.hanning(RATE // 2), 8 * RATE))
    return float(spectrum.argmax()) / 8


def hit(audio: np.ndarray) -> np.ndarray:
    """The 20 ms after a hit begins, faded in and out, above 3 kHz, where the tone has nothing."""
    start = round(HIT_ROWS[0] * ROW_S * RATE)
    spectrum = np.fft.rfft(audio[start : start + RATE // 50] * np.hanning(RATE // 50))
    spectrum[: 3000 // 50] = 0
    return np.fft.irfft(spectrum)


@pytest.mark.parametrize("suffix", MODULES)
@pytest.mark.parametrize("semitones", [3, -2])
def test_the_tone_moves_and_the_hit_stays(suffix: str, semitones: int) -> None:
    content = MODULES[suffix]()
    before, after = audio_of(content), audio_of(modules.transposed(content, suffix, semitones))
    assert pitch_hz(before) == pytest.approx(261, rel=0.02)
    assert pitch_hz(after) == pytest.approx(pitch_hz(before) * 2 ** (semitones / 12), rel=0.006)
    assert np.abs(hit(before)).max() > 0.01
    assert hit(after) == pytest.approx(hit(before), abs=2e-3)


@pytest.mark.parametrize("suffix", MODULES)
def test_another_tempo_keeps_the_pitch_and_moves_the_rows(suffix: str) -> None:
    content = MODULES[suffix]()
    assert pitch_hz(audio_of(content, 1.1)) == pytest.approx(pitch_hz(audio_of(content)), rel=0.003)
    assert len(audio_of(content, 1.1)) == pytest.approx(len(audio_of(content)) / 1.1, rel=0.002)
    with openmpt.opened(content, "a module") as module:
        rows = module.played_rows(tempo=1.1)
    assert [row.row for row in rows] == list(range(ROWS))
    assert [row.time_s for row in rows] == pytest.approx([ROW_S / 1.1 * row for row in range(ROWS)], abs=0.004)
    assert [row.row for row in rows if row.notes] == [0, *HIT_ROWS]


def test_what_is_percussion() -> None:
    def sample(number: int, name: str = "", loops: bool = False, frames: int = 1000) -> Sample:
        return Sample(number, name, loops, frames, 8363)

    samples = [
        sample(1, "st-01:SnareDrum.2", frames=50_000),
        sample(2, "hi-hat"),
        sample(3),  # short, one pitch
        sample(4),  # short, many pitches
        sample(5, frames=50_000),  # long, one pitch
        sample(6, loops=True),
        sample(7, "heavy chord"),  # its words only begin like a drum's
    ]
    played = [(1, 40), (1, 61), (1, 70), (2, 61), (3, 61), *((4, note) for note in (60, 62, 64)), (5, 61), (6, 61)]
    played += [(7, note) for note in (60, 62, 64)]
    assert modules.percussion(samples, played) == {1, 2, 3}


@pytest.mark.parametrize("suffix", MODULES)
def test_a_module_that_is_cut_short_is_refused(suffix: str) -> None:
    with pytest.raises(DataError, match="module"):
        modules.transposed(MODULES[suffix]()[:90], suffix, 1)


def test_other_modules_are_not_transposed() -> None:
    with pytest.raises(DataError, match="module .med cannot be transposed"):
        modules.transposed(b"", ".med", 1)
