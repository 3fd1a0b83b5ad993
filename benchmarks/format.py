"""The mel formats' ways back against their bars, and their ways there against the plain ones, as Markdown.

    python benchmarks/format.py [FOLDER] [--errors 5] [--times 4] [--threads 2] [--repeats 3]

Errors are means over the middle of every track in FOLDER, in the same run; mel errors are of the format's own mel. The
original and `mel` have the same samples; `multimel`, the default, has its own. Times are medians. The settings were
found on Freedoom and Biniax-2, which are left out here. `original` is fast Griffin-Lim with 400
iterations of 6400 points, whose channels get a third of their own magnitudes back: its errors are those of the
package's own iterations, which a test holds equal to the plain ones; its time is that of the plain ones, `torch.stft`
and `torch.istft` of both channels.
"""

import argparse
import math
import resource
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from unittest import mock

import torch
import torchaudio

from dualdiff import audio
from dualdiff.core.progress import silent
from dualdiff.core.types import Sample, Waveform
from dualdiff.evaluation import notes
from dualdiff.evaluation.baselines import griffin_lim
from dualdiff.evaluation.metrics import METRICS
from dualdiff.formats.config import MelConfig, MultiMelConfig
from dualdiff.formats.filterbank import mel_inverse
from dualdiff.formats.griffin_lim import Bands, Polish, Target
from dualdiff.formats.mel import ITERATIONS, AbstractMel, MelFormat, MultiMelFormat, filters_of
from dualdiff.formats.phase_retrieval import Recovery, at_random, recover
from dualdiff.formats.stft import Stft, hann_power_window

EXAMPLES = Path(__file__).parents[1] / "examples" / "music"
TUNED_ON = ("Freedoom", "Biniax-2")
FGLA_ITERATIONS = 400
MUSIC = ("multi_resolution_stft", "chroma_cosine", "onset_correlation", "coherence_error", "level_difference_error_db")
MEL, MULTIMEL = MelFormat(), MultiMelFormat()
REFERENCE = Stft(MEL.window, MEL.config.n_fft, MEL.hop_length)
INVERSE = mel_inverse(MEL.filters, MEL.config.n_fft)
Method = Callable[[Sample], Waveform]


def original(sample: Sample) -> Waveform:
    """Fast Griffin-Lim that stops where the channels have a third of their own magnitudes."""

    def source(first: int, last: int) -> Target:
        return Target((MEL.mel(sample[0, ..., first:last]).transpose(-1, -2) @ INVERSE).clamp_min_(0))

    polish = Polish(REFERENCE, FGLA_ITERATIONS, last_weight=0.33)
    return recover(source, sample.shape[-1], Recovery(polish, at_random), seed=0, progress=silent)


def plain_original(sample: Sample) -> Waveform:
    """The same, written down with the library's own transforms."""
    magnitudes = (MEL.mel(sample[0]).transpose(-1, -2) @ INVERSE).clamp_min_(0).transpose(-1, -2)
    window, length = MEL.window.float(), MEL.num_samples(sample.shape[-1])
    phases = torch.exp(2j * math.pi * torch.rand(magnitudes.shape[1:])).expand(2, -1, -1)
    previous: torch.Tensor | float = 0.0
    for iteration in range(FGLA_ITERATIONS + 1):
        weight = max(iteration / FGLA_ITERATIONS - 0.67, 0.0)
        wanted = torch.lerp(magnitudes.mean(0, keepdim=True), magnitudes, weight)
        waveform = torch.istft(phases * wanted, 6400, MEL.hop_length, window=window, length=length)
        spectra = torch.stft(waveform, 6400, MEL.hop_length, window=window, return_complex=True)
        phases = torch.sgn(spectra - 0.99 / 1.99 * previous)
        previous = spectra
    return waveform


def of_quality(quality: str, made: AbstractMel = MEL) -> Method:
    """A format's own way back."""
    return lambda sample: made.decode(sample, quality=quality)[0]


def plain_mel(waveform: Waveform, n_fft: int) -> torch.Tensor:
    """Mel magnitudes of one window, written down with the library's own transform."""
    window = hann_power_window(n_fft, MEL.config.window_power)
    window *= MEL.window.sum() / window.sum()
    spectra = torch.stft(waveform, n_fft, MEL.hop_length, window=window.float(), return_complex=True)
    return (spectra.abs().transpose(-1, -2) @ filters_of(MEL.config, n_fft, 0.0)).transpose(-1, -2)


def plain_encoding(waveform: Waveform, made: AbstractMel) -> Sample:
    """The definition of a sample."""
    config = made.config
    mel = plain_mel(waveform, config.n_fft)
    if made is MULTIMEL:
        below = (made.frequencies() < config.bass_hz)[:, None]
        mel = torch.where(below, plain_mel(waveform, config.bass_n_fft), mel)
    return (mel**config.magnitude_power - config.mean) / config.scale


def excerpt(path: Path, duration_s: float, start_s: float | None = None) -> Waveform:
    """A piece of a track, its middle unless said otherwise, at the format's loudness, whole frames long."""
    spare_s = max(0.0, audio.probe(path).duration_s - duration_s)
    start_s = spare_s / 2 if start_s is None else min(start_s, spare_s)
    waveform = audio.read(path, sample_rate=MEL.sample_rate, start_s=start_s, duration_s=duration_s)
    loudness = audio.loudness_lufs(waveform, MEL.sample_rate)
    levelled = audio.gain_to(waveform, loudness, MEL.config.loudness_lufs)
    return levelled[:, : levelled.shape[-1] // MEL.hop_length * MEL.hop_length]


def errors(way: Method, waveforms: Sequence[Waveform], made: AbstractMel = MEL) -> list[float]:
    """Both errors of a format's mel, the measures of `MUSIC` in the mean, and the notes' F1 over all of them."""
    rows, common, total = [], 0, 0
    for waveform in waveforms:
        sample = made.encode(waveform[None])
        back = way(sample)
        found, mel = made.mel(made.encode(back[None])), made.mel(sample)
        row = [((found - mel).norm() / mel.norm()).item()]
        row.append(((found**0.25 - mel**0.25).norm() / (mel**0.25).norm()).item())
        rows.append(row + [METRICS[name].compute(back, waveform, MEL.sample_rate) for name in MUSIC])
        heard = [notes.transcribe(side, MEL.sample_rate) for side in (back, waveform)]
        share, count = notes.f1_score(*heard), sum(map(len, heard))
        common, total = common + share * count, total + count
    return [statistics.fmean(column) for column in zip(*rows, strict=True)] + [common / max(total, 1)]


def median_s(function: Callable[[], object], repeats: int) -> float:
    """The median time of several calls, seconds."""
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=EXAMPLES)
    parser.add_argument("--errors", type=float, default=5.0, help="seconds of each track that errors are measured on")
    parser.add_argument("--times", type=float, default=4.0, help="seconds of one track that times are measured on")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.set_grad_enabled(False)
    torch.manual_seed(0)
    found = sorted(path for path in options.folder.rglob("*") if path.suffix.lower() in audio.AUDIO_SUFFIXES)
    paths = [path for path in found if path.parent.name not in TUNED_ON]
    waveforms = [excerpt(path, options.errors) for path in paths]
    timed_on = excerpt(paths[-1], options.times)[None]
    for made in (MEL, MULTIMEL):
        of_quality("draft", made)(made.encode(timed_on))  # what is compiled once is compiled
    iterations = ITERATIONS["pghi"]
    equal = griffin_lim(MEL, iterations["default"], seed=0)
    reference = MelFormat(MelConfig(phase="fgla"))
    ways: dict[str, tuple[AbstractMel, Method, Method]] = {  # name: format, what errors are measured of, and times
        "mel: original fgla, 400": (MEL, original, plain_original),
        "mel: fgla of the package, 400": (MEL, *(lambda sample: reference.decode(sample)[0],) * 2),
        f"mel: torchaudio Griffin-Lim, {iterations['default']}": (MEL, *(lambda sample: equal(sample, silent)[0],) * 2),
    }
    for made in (MEL, MULTIMEL):
        for quality, count in iterations.items():
            ways[f"{made.config.name}: pghi, {quality}, {count}"] = (made, *(of_quality(quality, made),) * 2)
    titles = ["mel convergence ↓", "mel^0.25 error ↓"]
    titles += [f"{METRICS[name].title} {'↑' if METRICS[name].higher_is_better else '↓'}" for name in MUSIC]
    print(f"{len(waveforms)} excerpts of {options.errors:g} s; times on {options.times:g} s.\n")
    print(f"| way back | {' | '.join(titles)} | notes, F1 ↑ | seconds per second | share of the original's time |")
    print("|---" * (len(titles) + 4) + "|")
    base = 0.0
    for name, (made, judged, timed) in ways.items():
        sample = made.encode(timed_on)
        seconds = median_s(lambda timed=timed, sample=sample: timed(sample), options.repeats)
        base = base or seconds
        values = " | ".join(f"{value:.4f}" for value in errors(judged, waveforms, made))
        print(f"| {name} | {values} | {seconds / options.times:.3f} | 1/{base / seconds:.0f} |", flush=True)
    print_lengths(paths[-1], options.repeats)
    print_encoding(waveforms[0], options.repeats)
    print(f"\ntorch {torch.__version__}, torchaudio {torchaudio.__version__}, threads: {torch.get_num_threads()}; CPU.")


def print_lengths(path: Path, repeats: int) -> None:
    """How long 45 s take, and what ten minutes need."""
    sample = MULTIMEL.encode(excerpt(path, 45.0)[None])
    start = MultiMelFormat(MultiMelConfig(phase_iterations=0))
    whole, alone = (median_s(lambda made=made: made.decode(sample), repeats) for made in (MULTIMEL, start))
    print(
        f"\n{sample.shape[-1] / 125:.0f} s of stereo decode in {whole:.2f} s, {alone:.2f} s of them without iterations."
    )
    times: list[list[float]] = [[], []]
    for _ in range(repeats):  # in turn, in processor time: on a busy machine their ratio still holds
        for seconds, table in zip(times, (Bands.table, lambda _: None), strict=True):
            with mock.patch.object(Bands, "table", table):
                started = time.process_time()
                MULTIMEL.decode(sample)
                seconds.append(time.process_time() - started)
    code, plain = map(statistics.median, times)
    print(f"Processor time: {code:.2f} s; {plain:.2f} s where torch's operations iterate, {code / plain:.2f} of it.")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    long = torch.cat([sample] * math.ceil(600 * 125 / sample.shape[-1]), -1)
    started = time.perf_counter()
    MultiMelFormat(MultiMelConfig(phase_iterations=4)).decode(long)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(
        f"{long.shape[-1] / 125 / 60:.0f} min with 4 iterations take {time.perf_counter() - started:.0f} s; the "
        f"process has then used {peak / 2**20:.2f} GiB at most ({before / 2**20:.2f} before)."
    )


def print_encoding(waveform: Waveform, repeats: int) -> None:
    """How long the way there takes beside the plain one, and how equal it is."""
    plain_s = median_s(lambda: plain_encoding(waveform, MEL), 3 * repeats)
    for made in (MEL, MULTIMEL):
        share = median_s(lambda made=made: made.encode(waveform[None]), 3 * repeats) / plain_s
        exact = plain_encoding(waveform, made)
        error = ((made.encode(waveform[None])[0] - exact).norm() / exact.norm()).item()
        print(
            f"Encoding to {made.config.name} takes {share:.2f} of the time of one plain transform of 6400 points",
            end="",
        )
        print(f" and differs by {error:.0e}, relative, from its definition.")


if __name__ == "__main__":
    main()
