"""A mel whose low filters see a longer window and whose high ones a shorter, beside the mel of one window, as Markdown.

    python benchmarks/bass.py [FOLDER] [--duration 6]

A trial of a format: 256 numbers a hop and channel as in `mel`, but filters of some bands see windows of another length.
The way back is joint: each band starts from its own integrated phase gradient; in each iteration the bands' spectra,
crossfaded where they meet, are made one waveform, which is analysed again by all windows. All ways have the same
iterations (fast Griffin-Lim, not bound to the mel), so that only the windows differ.
"""

import argparse
import itertools
import math
from pathlib import Path

import torch

from dualdiff import audio
from dualdiff.evaluation import notes
from dualdiff.evaluation.metrics import onset_correlation, spectrogram
from dualdiff.formats.mel import MelFormat, filters_on, mel_inverse
from dualdiff.formats.phase import Recovery
from dualdiff.formats.polish import Polish, stereo_weight
from dualdiff.formats.stft import Stft, with_magnitude

EXAMPLES = Path(__file__).parents[1] / "examples" / "music"
HOP, RATE, ITERATIONS, MOMENTUM = 256, 32000, 40, 0.4975
WAYS = {
    "one window (mel)": ([254.6], []),
    "20, 8 and 4 ms": ([640.0, 254.6, 128.0], [1200.0, 5000.0]),
    "12, 8 and 4 ms": ([384.0, 254.6, 128.0], [600.0, 5000.0]),
    "8 and 4 ms": ([254.6, 128.0], [5000.0]),
    "12 and 8 ms": ([384.0, 254.6], [600.0]),
}
EDGES_HZ = (20, 250, 1000, 4000, 16000)


class Band:
    """One window: its transform, its share of each bin, and the way from mel to linear magnitudes on it."""

    def __init__(self, mel: MelFormat, std: float, low_hz: float, high_hz: float) -> None:
        length = 2 ** round(math.log2(8 * std))
        place = torch.arange(length) - length // 2
        window = torch.exp(-(place**2) / (2 * std**2)).double()
        self.std = std
        self.stft = Stft(window * (mel.window.sum() / window.sum()), length, HOP)
        hz = torch.arange(length // 2 + 1) * RATE / length
        fade = 4 * RATE / length  # crossfade over some bins

        def rise(edge: float) -> torch.Tensor:
            return ((hz - edge) / fade + 0.5).clamp(0, 1)

        self.share = (rise(low_hz) if low_hz else torch.ones_like(hz)) - (
            rise(high_hz) if high_hz else torch.zeros_like(hz)
        )
        self.filters = filters_on(mel.filters, length)
        self.inverse = mel_inverse(mel.filters, length)
        centre = mel.frequencies()
        self.mels = (centre >= low_hz) & (centre < (high_hz or 1e9))

    def spectra(self, waveform: torch.Tensor, frames: int) -> torch.Tensor:
        """(C, T) to (C, N, F)."""
        return self.stft.spectra(self.stft.padded(waveform), 0, frames)

    def mel(self, waveform: torch.Tensor, frames: int) -> torch.Tensor:
        """(C, T) to (C, N, 256), all filters through this window."""
        return self.spectra(waveform, frames).abs() @ self.filters


def bands_of(mel: MelFormat, stds: list[float], splits: list[float]) -> list[Band]:
    """The bands from low to high."""
    edges = [0.0, *splits, 0.0]
    return [Band(mel, std, edges[i], edges[i + 1]) for i, std in enumerate(stds)]


def there_and_back(bands: list[Band], waveform: torch.Tensor) -> torch.Tensor:
    """(2, T) through the mel and back."""
    frames = waveform.shape[-1] // HOP + 1
    mel = torch.stack([band.mel(waveform, frames) * band.mels for band in bands]).sum(0)
    targets = []
    for band in bands:
        targets.append((mel @ band.inverse).clamp_min(0))  # beyond a split, another window's numbers stand in
    current = []
    for band, magnitudes in zip(bands, targets, strict=True):
        recovery = Recovery(Polish(band.stft, 0), band.std)
        start = recovery.start(magnitudes, None, torch.Generator().manual_seed(0), False)
        current.append(start * magnitudes.mean(0, keepdim=True))
    before: list[torch.Tensor | None] = [None] * len(bands)
    result = waveform.new_zeros(2, 0)
    for iteration in range(ITERATIONS + 1):
        result = _joined(bands, current, frames)
        weight = stereo_weight(min(iteration + 1, ITERATIONS), ITERATIONS, 0.67)
        for index, band in enumerate(bands):
            found = band.spectra(result, frames)
            last = before[index]
            moved = found if last is None else found - MOMENTUM * last
            before[index] = found
            mid = targets[index].mean(0, keepdim=True)
            wanted = torch.lerp(mid, targets[index], weight) if weight > 0 else mid
            if weight > 0 and len(moved) == 1:
                moved = moved.expand(2, -1, -1).clone()
                before[index] = found.expand(2, -1, -1).clone()
            current[index] = with_magnitude(moved.clone(), wanted)
    return result


def _joined(bands: list[Band], spectra: list[torch.Tensor], frames: int) -> torch.Tensor:
    """One waveform of all bands' spectra, each with its share."""
    parts = []
    for band, own in zip(bands, spectra, strict=True):
        buffer = band.stft.empty(len(own), frames)
        band.stft.add(buffer, (own * band.share).contiguous(), 0)
        parts.append(band.stft.finished(buffer, band.stft.envelope(frames)))
    return torch.stack(parts).sum(0)


def measures(decoded: torch.Tensor, waveform: torch.Tensor) -> list[float]:
    """Log-spectral distance per band (dB), cosine of the chroma below 500 Hz, onset correlation."""
    one, other = (spectrogram(each.mean(0, keepdim=True), 2048, 512)[0].clamp_min(1e-5) for each in (decoded, waveform))
    hz = torch.arange(1025) * RATE / 2048
    distances = []
    for low, high in itertools.pairwise(EDGES_HZ):
        inside = (hz >= low) & (hz < high)
        distances.append((20 * (one[inside] / other[inside]).log10()).abs().mean().item())
    bass = [_bass_chroma(each) for each in (decoded, waveform)]
    cosine = torch.nn.functional.cosine_similarity(*bass, dim=0)
    level = bass[1].norm(dim=0)
    return [*distances, ((cosine * level).sum() / level.sum()).item(), onset_correlation(decoded, waveform, RATE)]


def _bass_chroma(waveform: torch.Tensor) -> torch.Tensor:
    """Twelve classes from 50 to 500 Hz, (12, N)."""
    magnitudes = spectrogram(waveform.mean(0, keepdim=True), 16384, 4096)[0]
    hz = torch.arange(8193) * RATE / 16384
    used = (hz >= 50) & (hz <= 500)
    classes = (12 * (hz[used] / 440).log2()).round().long() % 12
    return magnitudes.new_zeros(12, magnitudes.shape[1]).index_add_(0, classes, magnitudes[used])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=EXAMPLES)
    parser.add_argument("--duration", type=float, default=6.0, help="of each excerpt, seconds")
    options = parser.parse_args()
    torch.set_num_threads(1)
    mel = MelFormat()
    waveforms = []
    for path in sorted(options.folder.glob("*/*.ogg"))[1::2]:
        waveform = audio.read(path, sample_rate=RATE, start_s=20, duration_s=options.duration)
        waveform = audio.gain_to(waveform, audio.loudness_lufs(waveform, RATE), -20.0)
        waveforms.append(waveform[:, : waveform.shape[-1] // HOP * HOP])
    names = [f"{low}-{high} Hz, dB ↓" for low, high in itertools.pairwise(EDGES_HZ)]
    head = ["windows", *names, "bass chroma ↑", "onsets ↑", "notes F1 ↑"]
    print(f"{len(waveforms)} excerpts of {options.duration:g} s\n\n| {' | '.join(head)} |\n{'|---' * len(head)}|")
    for name, (stds, splits) in WAYS.items():
        bands = bands_of(mel, stds, splits)
        found, common, total = [], 0.0, 0
        for waveform in waveforms:
            decoded = there_and_back(bands, waveform)
            found.append(measures(decoded, waveform))
            sides = [notes.transcribe(each, RATE) for each in (decoded, waveform)]
            common += notes.f1_score(*sides) * sum(map(len, sides))
            total += sum(map(len, sides))
        means = torch.tensor(found).mean(0).tolist()
        cells = [f"{value:.2f}" for value in means[:4]] + [f"{value:.4f}" for value in means[4:]]
        print(f"| {name} | {' | '.join(cells)} | {common / total:.3f} |", flush=True)


if __name__ == "__main__":
    main()
