"""Do seams stand out? Loops, clips that go on and clips mended, at their seams and everywhere else, over many clips.

    python benchmarks/seams.py MODEL [--clips 50] > benchmarks/seams.md

Two measures of a place: the spectral flux, how far the spectra of 32 ms before and after it are apart, and the phase
jump, how far strong partials are from going on through it at their pace. A seam's rank is the share of other places of
its clip with a lower value, of those that lie as the seam does in the grid of the latents' columns: a decoder that was
trained little steps a little at each border of two columns, so that any place on one has more flux than one between.
Seams that cannot be told from other places have ranks spread evenly from 0 to 1: mean 0.5, and 5 % above 0.95. Two
controls: the same places of clips in which nothing was joined, and plain clips repeated as if they were loops. And with
nothing sampled: from the clip's own latents, what stands out is the VAE's and the joining's, not the sampler's.
"""

import argparse
import datetime
import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from dualdiff.diffusion.inpainting_guidance import Known
from dualdiff.generation.config import GenerateConfig
from dualdiff.generation.pipeline import Pipeline
from dualdiff.generation.request import Given, Request, Rewrite

SPAN = 1024
"""Samples of a spectrum."""
STEP = 256
"""Samples between the spectra of a phase jump."""
LENGTH_S, MORE_S, PART = 6.0, 2.0, (2.5, 3.5)
SETTINGS = GenerateConfig(steps=10, quality="draft")
MEASURES = ("flux", "phase")


def spectra(waveform: Tensor, starts: Tensor) -> Tensor:
    """Spectra (P, F) of the mean of both channels, from each start on."""
    frames = waveform.mean(0)[starts[:, None] + torch.arange(SPAN)]
    return torch.fft.rfft(frames * torch.hann_window(SPAN))


def flux(waveform: Tensor, places: Tensor) -> Tensor:
    """|sqrt A - sqrt B| / (|sqrt A| + |sqrt B|) of the magnitudes before and behind each place, (P,)."""
    before, behind = (spectra(waveform, places + shift).abs().sqrt() for shift in (-SPAN, 0))
    return (before - behind).norm(dim=1) / (before.norm(dim=1) + behind.norm(dim=1)).clamp_min(1e-9)


def phase_jump(waveform: Tensor, places: Tensor) -> Tensor:
    """The second difference of the phase over three spectra around each place, mean by magnitude, radians, (P,)."""
    three = [spectra(waveform, places - SPAN // 2 + shift) for shift in (-STEP, 0, STEP)]
    turn = (three[2] * three[1].conj() ** 2 * three[0]).angle().abs()
    weight = three[1].abs()
    return (turn * weight).sum(1) / weight.sum(1).clamp_min(1e-9)


def ranks(waveform: Tensor, seams: Sequence[int], column: int) -> dict[str, list[float]]:
    """The rank of each seam among the places a whole number of columns off, well away from all seams, by measure."""
    margin = 4 * SPAN
    found: dict[str, list[float]] = {name: [] for name in MEASURES}
    for seam in seams:
        others = torch.arange(seam % column, waveform.shape[-1] - margin, column)
        away = torch.stack([(others - other).abs() > margin for other in seams]).all(0) & (others > margin)
        for name, measure in zip(MEASURES, (flux, phase_jump), strict=True):
            usual, value = measure(waveform, others[away]), measure(waveform, torch.tensor([seam]))
            found[name].append(float((usual < value).double().mean()))
    return found


def kinds(pipeline: Pipeline, seed: int) -> Iterator[tuple[str, Tensor, list[int]]]:
    """The clips of a seed: what each is, its waveform (2, T), and where its seams are."""
    rate, games = pipeline.format.sample_rate, {pipeline.games[seed % len(pipeline.games)]: 1.0}
    request = Request(games=games, length_s=LENGTH_S + MORE_S, seed=seed, config=SETTINGS)
    end, first, last = (round(place_s * rate) for place_s in (LENGTH_S, *PART))

    def rendered(request: Request) -> Tensor:
        return next(pipeline.render([request])).waveform

    longer = rendered(request)
    for place in (first, last, end):
        yield "control: nothing was joined", longer, [place]
    plain = longer[:, :end]
    yield "control: a plain clip, repeated", torch.cat([plain, plain], 1), [end]
    loop = rendered(replace(request, loop=True, length_s=LENGTH_S))
    yield "loop", torch.cat([loop, loop], 1), [loop.shape[1]]
    given = Given.of(plain, rate)
    more = Rewrite(clip=given, start_s=LENGTH_S, end_s=LENGTH_S + MORE_S)
    yield "extend, where the old ends", rendered(replace(request, rewrite=more, seed=seed + 1000)), [end]
    part = Rewrite(clip=given, start_s=PART[0], end_s=PART[1])
    mended = rendered(replace(request, rewrite=part, length_s=LENGTH_S, seed=seed + 1000))
    yield "inpaint, where the new begins", mended, [first]
    yield "inpaint, where the new ends", mended, [last]
    with own_latents(pipeline):
        whole = Given.of(longer, rate)
        tail = Rewrite(clip=whole, start_s=LENGTH_S, end_s=LENGTH_S + MORE_S)
        yield "extend, from the clip's own latents", rendered(replace(request, rewrite=tail)), [end]
        middle = rendered(replace(request, rewrite=replace(tail, start_s=PART[0], end_s=PART[1])))
        yield "inpaint, from them, where it begins", middle, [first]
        yield "inpaint, from them, where it ends", middle, [last]


@contextmanager
def own_latents(pipeline: Pipeline) -> Iterator[None]:
    """Nothing is sampled: the latents of what is there stay, so that only VAE and joining can be heard."""
    sample = pipeline.sample

    def kept(_requests: Sequence[Request], *, known: Known, **_: object) -> Tensor:
        return known.latents

    pipeline.sample = kept  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        pipeline.sample = sample  # type: ignore[method-assign]


def row(name: str, found: dict[str, list[float]]) -> str:
    """A row of the table: of each measure the mean rank, the share above 0.95, and the distance from an even spread."""
    cells = []
    for measure in MEASURES:
        values = sorted(found[measure])
        count = len(values)
        distance = max(max((k + 1) / count - value, value - k / count) for k, value in enumerate(values))
        above = sum(value > 0.95 for value in values) / count
        cells += [f"{sum(values) / count:.2f}", f"{above:.0%}", f"{distance:.2f}"]
    return f"| {name} | {len(found[MEASURES[0]])} | {' | '.join(cells)} |"


def main() -> None:
    """Render, measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--clips", type=int, default=50)
    options = parser.parse_args()
    pipeline = Pipeline.load(options.model)
    found: dict[str, dict[str, list[float]]] = {}
    for seed in range(options.clips):
        for name, waveform, seams in kinds(pipeline, seed):
            for measure, values in ranks(waveform, seams, pipeline.codec.column).items():
                found.setdefault(name, {}).setdefault(measure, []).extend(values)
        print(seed, *(row(name, values) for name, values in found.items()), sep="\n", file=sys.stderr)
    even = 1.36 / math.sqrt(options.clips)
    print("# Seams\n")
    today = datetime.date.today().isoformat()
    print(f"{today}, `python benchmarks/seams.py MODEL`: {options.clips} clips of {LENGTH_S:g} s of each kind, preset")
    print(
        f"nano, {SETTINGS.steps} steps, draft quality, on a CPU; not measured on a GPU. Ranks of seams among", end=" "
    )
    print(
        "places of their clip that are whole columns of latents off: mean (0.5 where they do not stand out),", end=" "
    )
    print(
        "share above 0.95 (5 %), and the distance of Kolmogorov and Smirnov from an even spread (for as many places",
        end=" ",
    )
    print(f"below {even:.2f} in 95 of 100 cases where it is even).\n")
    print("| place | places | flux, mean | above 0.95 | distance | phase jump, mean | above 0.95 | distance |")
    print("|---|---|---|---|---|---|---|---|")
    for name, values in found.items():
        print(row(name, values))


if __name__ == "__main__":
    main()
