"""The mel format's way there and back, beside other ways, as Markdown.

    python benchmarks/format.py [FOLDER] [--tracks 4] [--duration 10] [--threads 1]

Distances are on the same excerpts in the same run, times relative to those of the format. One thread unless said
otherwise: several threads are faster, but on a machine that does other work besides, their times tell little.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torchaudio

from dualdiff import audio
from dualdiff.evaluation.metrics import METRICS
from dualdiff.evaluation.roundtrip import Comparison, compare
from dualdiff.formats.mel import MelFormat
from dualdiff.types import Waveform

EXAMPLES = Path(__file__).parents[1] / "examples" / "music"
BASELINES = ("fgla-10", "fgla-40", "griffin-lim-32", "mp3-64", "opus-64")
SHOWN = ("spectral_convergence", "log_mel_distance", "chroma_cosine", "onset_correlation", "coherence_error")


def plain_encoding(mel: MelFormat, waveform: Waveform) -> torch.Tensor:
    """The definition of a sample, written down with the library's own transform."""
    config, window = mel.config, mel.window.float()
    spectra = torch.stft(waveform, config.n_fft, config.hop_length, window=window, return_complex=True)
    powered = (spectra.abs().transpose(-1, -2) @ mel.filters).transpose(-1, -2) ** config.magnitude_power
    return (powered - config.mean) / config.scale


def fastest_s(function: Callable[[], object], times: int = 7) -> float:
    """The least of several timings, seconds of processor time."""
    seconds = []
    for _ in range(times):
        started = time.process_time()
        function()
        seconds.append(time.process_time() - started)
    return min(seconds)


def table(rows: list[Comparison]) -> str:
    """One line per way, in Markdown."""
    arrows = [f"{METRICS[name].title} {'↑' if METRICS[name].higher_is_better else '↓'}" for name in SHOWN]
    lines = [f"| way | {' | '.join(arrows)} | there, times | back, times |", "|---" * (len(SHOWN) + 3) + "|"]
    for row in rows:
        values = " | ".join(f"{row.metrics[name]:.3f}" for name in SHOWN)
        there, back = row.encode_s / rows[0].encode_s, row.decode_s / rows[0].decode_s
        lines.append(f"| {row.name} | {values} | {there:.2f} | {back:.2f} |")
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=EXAMPLES)
    parser.add_argument("--tracks", type=int, default=4)
    parser.add_argument("--duration", type=float, default=10.0, help="of each excerpt, seconds")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    paths = sorted(path for path in options.folder.rglob("*") if path.suffix.lower() in audio.AUDIO_SUFFIXES)
    paths = paths[:: max(1, len(paths) // options.tracks)][: options.tracks]
    mel = MelFormat()
    rows = compare(paths, mel, BASELINES, duration_s=options.duration)
    print(f"{rows[0].files} excerpts, {rows[0].audio_s:.0f} s; `mel` is pghi with 40 iterations\n")
    print(table(rows))
    waveform = audio.read(paths[0], sample_rate=mel.sample_rate, duration_s=options.duration)
    share = fastest_s(lambda: mel.encode(waveform[None])) / fastest_s(lambda: plain_encoding(mel, waveform))
    exact = plain_encoding(mel, waveform)
    error = ((mel.encode(waveform[None])[0] - exact).norm() / exact.norm()).item()
    print(
        f"\nEncoding takes {share:.2f} of the time of the plain transform and differs from it by {error:.0e}, relative."
    )
    print(f"The way back takes {rows[0].decode_s / rows[0].audio_s:.2f} of the time that the audio lasts.")
    print(f"torch {torch.__version__}, torchaudio {torchaudio.__version__}, threads: {torch.get_num_threads()}.")


if __name__ == "__main__":
    main()
