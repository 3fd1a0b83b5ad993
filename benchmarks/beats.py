"""How often tracked beats agree with exact ones: python benchmarks/beats.py NOTES [--seconds 60] [--renders FOLDER].

NOTES is a folder with MIDI files and modules; each is played, its beats are tracked in the audio, and compared with
those of its own tempo map. Printed per kind of file, over the tracks that get a grid: the share of tempos within 2 %,
or within 2 % of a half or a double; and the mean share of beats found within 70 ms (F measure, of beats at one level).
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import soundfile
import torch

from dualdiff.audio import beat_tracking, midi, notes
from dualdiff.audio.beat_grid import BeatGrid
from dualdiff.audio.notes import Variation

NEAR_S = 0.07


def f_measure(found: BeatGrid, exact: BeatGrid, seconds: float) -> float:
    """Of beats within `NEAR_S`: the harmonic mean of the shares found and right."""
    ours, true = beats_in(found, seconds), beats_in(exact, seconds)
    hits = sum(np.abs(true - time).min() <= NEAR_S for time in ours)
    return 2 * hits / (len(ours) + len(true))


def beats_in(grid: BeatGrid, seconds: float) -> np.ndarray:
    """The times of the beats in the first seconds."""
    times = np.arange(0, seconds, 0.001)
    return times[1:][np.diff(np.floor(grid.phase(times))) > 0]


def audio_of(path: Path, renders: Path | None, soundfont: Path | None) -> tuple[torch.Tensor, int]:
    """The audio of a piece: a FLAC of its name, or played now."""
    made = renders / f"{path.stem}.flac" if renders else None
    if made and made.is_file():
        audio, rate = soundfile.read(made, dtype="float32", always_2d=True)
        return torch.from_numpy(audio.T), rate
    blocks = list(notes.play(path, Variation(soundfont=soundfont)))
    return torch.from_numpy(np.concatenate(blocks).T.copy()), notes.RENDER_RATE


def main() -> int:
    """Compare, and print a line per track and a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notes", type=Path)
    parser.add_argument("--seconds", type=float, default=60.0, help="of each track")
    parser.add_argument("--renders", type=Path, help="a folder of FLAC files of the same names")
    options = parser.parse_args()
    rows: dict[str, list[tuple[float, float, float, float]]] = {}
    for path in sorted(path for path in options.notes.rglob("*") if notes.holds_notes(path)):
        exact = notes.beats(path)
        if exact is None:
            print(f"{path.name}: no exact grid")
            continue
        audio, rate = audio_of(path, options.renders, midi.find_soundfont())
        seconds = min(options.seconds, audio.shape[-1] / rate)
        found = beat_tracking.beats_of(beat_tracking.onset_envelope(audio[:, : round(seconds * rate)], rate))
        if found is None:
            print(f"{path.name}: nothing found")
            continue
        ratio = found.bpm / exact.bpm
        octave = 2.0 ** round(np.log2(ratio))
        level = replace(exact, beats=tuple(beat * octave for beat in exact.beats))
        score = f_measure(found, level, seconds)
        rows.setdefault("MIDI" if notes.is_midi(path) else "modules", []).append(
            (found.confidence, ratio, ratio / octave, score)
        )
        print(
            f"{path.name}: exact {exact.bpm:.1f} found {found.bpm:.1f} confidence {found.confidence:.2f} F {score:.2f}",
            flush=True,
        )
    for kind, own in rows.items():
        values = np.array(own)
        for least in (0.0, 0.5, beat_tracking.LEAST_CONFIDENCE, 0.7):
            kept = values[values[:, 0] >= least]
            if len(kept):
                same, octave = (np.abs(kept[:, column] - 1) < 0.02 for column in (1, 2))
                print(
                    f"{kind}, confidence {least:g}: {len(kept)} of {len(values)} tracks, tempo {same.mean():.2f}, "
                    f"with octaves {octave.mean():.2f}, F {kept[:, 3].mean():.2f}"
                )
    return 0


if __name__ == "__main__":
    sys.exit(main())
