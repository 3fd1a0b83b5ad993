"""The learned way back beside pghi, as Markdown: on held-out tracks of the training games, and on a game never seen.

    python benchmarks/learned.py MODEL [--music DIR] [--unseen GAME] [--held-out NAME ...] [--duration 6]

MODEL is the folder that `dualdiff format train` wrote, for a project whose music lacks the unseen game and the held-out
tracks. Both ways start from the same samples, at the default quality.
"""

import argparse
import time
from pathlib import Path

import torch

from dualdiff import audio
from dualdiff.evaluation import notes
from dualdiff.evaluation.metrics import METRICS
from dualdiff.formats.mel import MelFormat
from dualdiff.model_store.model import load_format

EXAMPLES = Path(__file__).parents[1] / "examples" / "music"
STARTS_S = (15.0, 40.0)
SHOWN = (
    "multi_resolution_stft",
    "log_mel_distance",
    "chroma_cosine",
    "onset_correlation",
    "coherence_error",
    "level_difference_error_db",
)


def excerpts(paths: list[Path], made: MelFormat, duration_s: float) -> list[torch.Tensor]:
    """Two excerpts of each file at the format's loudness, whole frames long."""
    found = []
    for path in paths:
        for start_s in STARTS_S:
            waveform = audio.read(path, sample_rate=made.sample_rate, start_s=start_s, duration_s=duration_s)
            loudness = audio.loudness_lufs(waveform, made.sample_rate)
            waveform = audio.gain_to(waveform, loudness, made.config.loudness_lufs)
            found.append(waveform[:, : waveform.shape[-1] // made.hop_length * made.hop_length])
    return found


def row(name: str, made: MelFormat, waveforms: list[torch.Tensor]) -> str:
    """One line of the table: notes over all excerpts together, the others in the mean."""
    values = dict.fromkeys(SHOWN, 0.0)
    common = total = 0
    seconds = []
    for waveform in waveforms:
        sample = made.encode(waveform[None])
        started = time.process_time()
        decoded = made.decode(sample)[0]
        seconds.append((time.process_time() - started) / (waveform.shape[-1] / made.sample_rate))
        for key in SHOWN:
            values[key] += METRICS[key].compute(decoded, waveform, made.sample_rate) / len(waveforms)
        found, right = (notes.transcribe(each, made.sample_rate) for each in (decoded, waveform))
        total += len(found) + len(right)
        common += round(notes.f1_score(found, right) * (len(found) + len(right)))
    median = sorted(seconds)[len(seconds) // 2]
    cells = [f"{common / total:.3f}", *(f"{values[key]:.4f}" for key in SHOWN), f"{median:.2f}"]
    return f"| {name} | {' | '.join(cells)} |"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--music", type=Path, default=EXAMPLES)
    parser.add_argument("--unseen", default="Noiz2sa")
    parser.add_argument("--held-out", nargs="+", default=["common06", "RUNNIN", "song12"])
    parser.add_argument("--duration", type=float, default=6.0, help="of each excerpt, seconds")
    options = parser.parse_args()
    torch.set_num_threads(1)
    learned = load_format(options.model)
    assert isinstance(learned, MelFormat)
    ways = {"pghi": MelFormat(), "learned": learned}
    learned.decode(torch.zeros(1, 2, learned.bins, 8))  # compiles
    paths = sorted(options.music.glob("*/*"))
    sets = {
        "held-out tracks": [path for path in paths if path.stem in options.held_out],
        f"{options.unseen}, never seen": [path for path in paths if path.parent.name == options.unseen],
    }
    head = ["notes F1", *(METRICS[key].title for key in SHOWN), "s per s"]
    for title, chosen in sets.items():
        waveforms = excerpts(chosen, learned, options.duration)
        print(f"\n{title}, {len(waveforms)} excerpts\n\n| way | {' | '.join(head)} |\n{'|---' * (len(head) + 1)}|")
        for name, made in ways.items():
            print(row(name, made, waveforms), flush=True)


if __name__ == "__main__":
    main()
