"""What was tried for the way back, each beside what was taken, as Markdown: on the tracks that it was tuned on.

    python benchmarks/phase.py [--duration 6] [--iterations 40]

Two excerpts of every track of Freedoom and Biniax-2. `bound` means that each bin has the magnitude that least squares
give it; `free from` a frequency, that only the mel is given from there on.
"""

import argparse
import time
from collections.abc import Callable

import torch
from format import EXAMPLES, MEL, MUSIC, TUNED_ON, errors, excerpt

from dualdiff import audio
from dualdiff.core.progress import silent
from dualdiff.core.rng import Stream
from dualdiff.core.types import Sample, Waveform
from dualdiff.evaluation.metrics import METRICS
from dualdiff.formats.filterbank import filters_on
from dualdiff.formats.griffin_lim import ACCELERATED, FAST, Bands, Pace, Polish, Target, stereo_weight
from dualdiff.formats.mel import BLEND_HZ, FREE_HZ, MONO_SHARE
from dualdiff.formats.pghi import Integrated
from dualdiff.formats.phase_retrieval import Recovery, at_random, recover
from dualdiff.formats.stft import Stft, with_magnitude

STFT, INVERSE = MEL._short_stft, MEL._back.inverse
HZ = torch.arange(STFT.bins) * MEL.sample_rate / STFT.n_fft
STD = MEL.config.window_std


def target_of(sample: Sample, first: int, last: int) -> Target:
    """What the format's way back is given."""
    mel = MEL.mel(sample[0, ..., first:last]).transpose(-1, -2).contiguous()
    return Target((mel @ INVERSE).clamp_min_(0), mel)


def polished(
    iterations: int,
    pace: Pace = ACCELERATED,
    free_hz: float | None = FREE_HZ,
    mono_share: float = MONO_SHARE,
    std: float | None = STD,
) -> Callable[[Sample], Waveform]:
    """A way back with the package's iterations."""
    bands = None
    if free_hz is not None:
        bands = Bands(filters_on(MEL.filters, STFT.n_fft), ((HZ - free_hz) / BLEND_HZ).clamp(0, 1))
    recovery = Recovery(
        Polish(STFT, iterations, pace, mono_share, bands), at_random if std is None else Integrated(STFT, std)
    )
    return lambda sample: recover(
        lambda first, last: target_of(sample, first, last), sample.shape[-1], recovery, seed=0, progress=silent
    )


def consistent(stft: Stft, spectra: torch.Tensor) -> tuple[Waveform, torch.Tensor]:
    """The waveform nearest to spectra (2, N, F), and its spectra."""
    buffer = stft.empty(2, spectra.shape[1])
    stft.add(buffer, spectra, 0)
    waveform = stft.finished(buffer, stft.envelope(spectra.shape[1]))
    return waveform, stft.spectra(stft.padded(waveform), 0, spectra.shape[1])


def projected(kind: str, strength: float, iterations: int) -> Callable[[Sample], Waveform]:
    """A way back by ADMM (Masuyama et al. 2019) or RAAR (Luke 2005), bound."""

    def way(sample: Sample) -> Waveform:
        target = target_of(sample, 0, sample.shape[-1])
        recovery = Integrated(STFT, STD)
        unit = recovery(target.magnitudes, {}, Stream(0).torch("start"), False)
        state, dual = unit * target.at(0, sample.shape[-1], 0.0)[0].expand(2, -1, -1), torch.zeros(1)
        for iteration in range(1, iterations + 1):
            wanted = target.at(0, sample.shape[-1], stereo_weight(iteration, iterations, MONO_SHARE))[0]
            if kind == "admm":
                both = state + dual
                nearer = (strength * both + consistent(STFT, both)[1]) / (1 + strength)
                dual = both - nearer
                state = with_magnitude(nearer - dual, wanted)
            else:
                right = with_magnitude(state.clone(), wanted)
                mirrored = 2 * right - state
                turned = 2 * consistent(STFT, mirrored)[1] - mirrored
                state = strength / 2 * (turned + state) + (1 - strength) * right
        return consistent(STFT, with_magnitude(state.clone(), target.magnitudes))[0]

    return way


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--duration", type=float, default=6.0)
    parser.add_argument("--iterations", type=int, default=40)
    options = parser.parse_args()
    torch.set_grad_enabled(False)
    count = options.iterations
    waveforms = [
        excerpt(path, options.duration, start_s)
        for game in TUNED_ON
        for path in sorted((EXAMPLES / game).iterdir())
        if path.suffix in audio.AUDIO_SUFFIXES
        for start_s in (15.0, 40.0)
    ]
    ways = {
        "integrated phase alone": polished(0),
        "fast Griffin-Lim, bound": polished(count, FAST, None),
        "accelerated as published (0.09, 1.1, 1.25), bound": polished(count, Pace(0.09, 1.1, 1.25), None),
        "accelerated (0.9, 1, 1.2), bound": polished(count, ACCELERATED, None),
        "ADMM, rho 0.2, bound": projected("admm", 0.2, count),
        "ADMM, rho 0.5, bound": projected("admm", 0.5, count),
        "RAAR, beta 0.6, bound": projected("raar", 0.6, count),
        "RAAR, beta 0.9, bound": projected("raar", 0.9, count),
        "accelerated, free from 3 kHz": polished(count, free_hz=3000.0),
        "accelerated, free from 1.5 kHz": polished(count, free_hz=1500.0),
        "**accelerated, free from 400 Hz, one phase for half of it**": polished(count),
        "the same, each channel by itself": polished(count, mono_share=0.0),
        "the same, one phase for 0.8 of it": polished(count, mono_share=0.8),
        "the same, fast instead of accelerated": polished(count, FAST),
        "the same, random start": polished(count, std=None),
    }
    titles = ["mel convergence ↓", "mel^0.25 error ↓"]
    titles += [f"{METRICS[name].title} {'↑' if METRICS[name].higher_is_better else '↓'}" for name in MUSIC]
    print(f"{len(waveforms)} excerpts of {options.duration:g} s, {count} iterations, one seed.\n")
    print(f"| way back | {' | '.join(titles)} | notes, F1 ↑ | processor seconds per second |")
    print("|---" * (len(titles) + 3) + "|")
    for name, way in ways.items():
        started = time.process_time()
        for waveform in waveforms:
            way(MEL.encode(waveform[None]))
        seconds = (time.process_time() - started) / sum(one.shape[-1] for one in waveforms) * MEL.sample_rate
        values = " | ".join(f"{value:.4f}" for value in errors(way, waveforms))
        print(f"| {name} | {values} | {seconds:.3f} |", flush=True)


if __name__ == "__main__":
    main()
