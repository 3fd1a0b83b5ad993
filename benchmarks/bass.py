"""Whether the bass should see a longer window: the format `multimel` beside `mel`, band by band, as Markdown.

    python benchmarks/bass.py [FOLDER] [--duration 5] [--seeds 3] [--windows]

Both at their default quality. The windows were chosen on Freedoom and Biniax-2 (`--windows` shows the choice, on these
games alone); the other games are reported. Times are of one thread's processor.
"""

import argparse
import itertools
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from format import EXAMPLES, MUSIC, TUNED_ON, excerpt

from dualdiff import audio
from dualdiff.core.types import Waveform
from dualdiff.evaluation import notes
from dualdiff.evaluation.metrics import METRICS, spectrogram
from dualdiff.formats.config import MultiMelConfig
from dualdiff.formats.mel import AbstractMel, MelFormat, MultiMelFormat

RATE = 32000
EDGES_HZ = (20, 250, 1000, 4000, 16000)
FORMATS: dict[str, AbstractMel] = {"mel": MelFormat(), "multimel": MultiMelFormat()}
WINDOWS = {
    f"{round(n_fft / 800)} ms below {hz:g} Hz": MultiMelFormat(MultiMelConfig(bass_n_fft=n_fft, bass_hz=hz))
    for n_fft, hz in (
        (8000, 600.0), (9600, 300.0), (9600, 450.0), (9600, 600.0), (9600, 900.0), (9600, 1200.0), (12800, 300.0),
        (12800, 600.0), (16000, 300.0),
    )
}  # fmt: skip


def measures(decoded: Waveform, waveform: Waveform) -> list[float]:
    """Log-spectral distance per band (dB), cosine of the chroma below 500 Hz, and the measures of `MUSIC`."""
    one, other = (spectrogram(each.mean(0, keepdim=True), 2048, 512)[0].clamp_min(1e-5) for each in (decoded, waveform))
    hz = torch.arange(1025) * RATE / 2048
    distances = []
    for low, high in itertools.pairwise(EDGES_HZ):
        inside = (hz >= low) & (hz < high)
        distances.append((20 * (one[inside] / other[inside]).log10()).abs().mean().item())
    bass = [_bass_chroma(each) for each in (decoded, waveform)]
    cosine = torch.nn.functional.cosine_similarity(*bass, dim=0)
    level = bass[1].norm(dim=0)
    rest = [METRICS[name].compute(decoded, waveform, RATE) for name in MUSIC]
    return [*distances, ((cosine * level).sum() / level.sum()).item(), *rest]


def _bass_chroma(waveform: Waveform) -> Waveform:
    """Twelve classes from 50 to 500 Hz, (12, N)."""
    magnitudes = spectrogram(waveform.mean(0, keepdim=True), 16384, 4096)[0]
    hz = torch.arange(8193) * RATE / 16384
    used = (hz >= 50) & (hz <= 500)
    classes = (12 * (hz[used] / 440).log2()).round().long() % 12
    return magnitudes.new_zeros(12, magnitudes.shape[1]).index_add_(0, classes, magnitudes[used])


def row(made: AbstractMel, waveforms: Sequence[Waveform], seeds: int) -> str:
    """What is left of music that goes there and back, in the mean over excerpts and seeds."""
    found, errors, scores, seconds = [], [], [], 0.0
    for seed in range(seeds):
        common, total = 0.0, 0
        for waveform in waveforms:
            sample = made.encode(waveform[None])
            started = time.process_time()
            decoded = made.decode(sample, seed=seed)[0]
            seconds += time.process_time() - started
            again, mel = made.mel(made.encode(decoded[None])), made.mel(sample)
            errors.append(((again - mel).norm() / mel.norm()).item())
            found.append(measures(decoded, waveform))
            sides = [notes.transcribe(each, RATE) for each in (decoded, waveform)]
            common += notes.f1_score(*sides) * sum(map(len, sides))
            total += sum(map(len, sides))
        scores.append(common / total)
    means = torch.tensor(found).mean(0).tolist()
    cells = [f"{value:.2f}" for value in means[:4]] + [f"{value:.4f}" for value in means[4:]]
    heard_s = seeds * sum(each.shape[-1] for each in waveforms) / RATE
    cells += [f"{statistics.fmean(errors):.4f}", f"{statistics.fmean(scores):.3f}", f"{seconds / heard_s:.3f}"]
    return " | ".join(cells)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=EXAMPLES)
    parser.add_argument("--duration", type=float, default=5.0, help="of each excerpt, seconds")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--windows", action="store_true", help="show what the windows were chosen from")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    names = [f"{low}-{high} Hz, dB ↓" for low, high in itertools.pairwise(EDGES_HZ)]
    music = [f"{METRICS[name].title} {'↑' if METRICS[name].higher_is_better else '↓'}" for name in MUSIC]
    head = [*names, "bass chroma ↑", *music, "mel convergence ↓", "notes, F1 ↑", "seconds per second"]
    paths = sorted(path for path in options.folder.rglob("*") if path.suffix.lower() in audio.AUDIO_SUFFIXES)
    for tuned in (True,) if options.windows else (True, False):
        chosen = [path for path in paths if (path.parent.name in TUNED_ON) == tuned]
        waveforms = [excerpt(path, options.duration) for path in chosen]
        games = ", ".join(sorted({path.parent.name for path in chosen}))
        print(f"\n{games}: {len(waveforms)} excerpts of {options.duration:g} s, {options.seeds} seeds.\n")
        print(f"| {'window for the bass' if options.windows else 'format'} | {' | '.join(head)} |")
        print("|---" * (len(head) + 1) + "|")
        for name, made in (WINDOWS if options.windows else FORMATS).items():
            print(f"| {name} | {row(made, waveforms, options.seeds)} |", flush=True)


if __name__ == "__main__":
    main()
