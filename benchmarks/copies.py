"""Are copies found, and is other music left alone? Planted copies at several strengths, over the whole way from audio.

    python benchmarks/copies.py PROJECT CLIP... > copies.md
    python benchmarks/copies.py --overfit PROJECT WORK >> copies.md
    python benchmarks/copies.py --held-out PROJECT >> copies.md

PROJECT is a trained project, CLIP clips of its model. A planted copy is 8 s of a training track within 20 s of a clip,
changed: turned down, low-passed by another rate, through MP3, with noise, or under the clip's own music. Each is told
of as `inspect` tells it. The other parts are apart: see overfit.py and heldout.py beside this file.
"""

import datetime
import sys
import tempfile
from pathlib import Path

import heldout
import overfit
import torch

from dualdiff import audio
from dualdiff.core.types import Waveform
from dualdiff.inspection.clip_analysis import ClipAnalyser
from dualdiff.inspection.project_context import ProjectContext

RATE = 32000
LENGTH_S, COPY_S, AT_S = 20, 8, 6
CHANGES = (
    "as it is",
    "12 dB lower",
    "16 kHz",
    "MP3, 64 kbit/s",
    "noise, 20 dB below",
    "noise, 10 dB below",
    "other music, 6 dB below",
    "other music, as loud",
)


def changed(copy: Waveform, ground: Waveform, change: str, folder: Path) -> Waveform:
    """A copied passage as it is heard in the end, over a ground of the same length."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(copy.shape, generator=generator) * copy.square().mean().sqrt()
    if change == "MP3, 64 kbit/s":
        audio.write(folder / "x.mp3", audio.below_full_scale(copy), RATE, bitrate_kbps=64)
        return audio.read(folder / "x.mp3", sample_rate=RATE)[:, : copy.shape[1]]
    levelled = ground * (copy.square().mean().sqrt() / ground.square().mean().sqrt().clamp_min(1e-6))
    ways = {
        "as it is": lambda: copy,
        "12 dB lower": lambda: 0.25 * copy,
        "16 kHz": lambda: audio.resample(audio.resample(copy, RATE, 16000), 16000, RATE)[:, : copy.shape[1]],
        "noise, 20 dB below": lambda: copy + 0.1 * noise,
        "noise, 10 dB below": lambda: copy + 0.316 * noise,
        "other music, 6 dB below": lambda: copy + 0.5 * levelled,
        "other music, as loud": lambda: copy + levelled,
    }
    return ways[change]()


def main() -> None:
    """Plant, look, and print the table; or one of the other parts."""
    if sys.argv[1:2] == ["--overfit"]:
        overfit.measure(Path(sys.argv[2]), Path(sys.argv[3]))
        return
    if sys.argv[1:2] == ["--held-out"]:
        heldout.measure(Path(sys.argv[2]))
        return
    root, clips = Path(sys.argv[1]), [Path(word) for word in sys.argv[2:]]
    around = ProjectContext.of(root / "dualdiff.toml", root)
    ear = ClipAnalyser(around)
    index = around.latents
    if index is None:
        sys.exit("the project has no latents")
    music = root / around.setting("dataset", "folder", "music")
    training = index.tracks_of("train")[::2]
    grounds = [audio.read(path, sample_rate=RATE, duration_s=LENGTH_S) for path in clips]
    print(f"# Copies\n\n{datetime.date.today()}, on a CPU (not measured on a GPU).", end=" ")
    print("`python benchmarks/copies.py PROJECT CLIP...`.\n")
    print(f"{len(index.tracks_of('train'))} training tracks, {len(index.tracks_of('validation'))} held out;", end=" ")
    print(f"{len(training)} copies of {COPY_S} s, each inside {LENGTH_S} s that the model wrote.\n")
    print("| the copied passage | flagged | right track named | median scaled distance |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for change in CHANGES:
            flagged, right, scaled = 0, 0, []
            for number, track in enumerate(training):
                ground = grounds[number % len(grounds)].clone()
                copy = audio.read(music / track.path, sample_rate=RATE, start_s=10.37, duration_s=COPY_S)
                first, last = AT_S * RATE, AT_S * RATE + copy.shape[1]
                ground[:, first:last] = changed(copy, ground[:, first:last], change, folder)
                audio.write(folder / "clip.wav", audio.below_full_scale(ground), RATE)
                found = ear.hear(folder / "clip.wav", always=True)[0].copies
                if found is not None:
                    flagged += found.flagged
                    right += found.matches[0].track == track.path
                    scaled.append(found.scaled)
            print(
                f"| {change} | {flagged} of {len(training)} | {right} | {sorted(scaled)[len(scaled) // 2]:.2f} |",
                flush=True,
            )
    told = [ear.hear(path)[0].copies for path in clips]
    known = [own for own in told if own is not None]
    flagged = sum(own.flagged for own in known)
    print(f"\nOf the {len(known)} clips themselves {flagged} are flagged;", end=" ")
    print(f"the stated rate of false alarms is {max(own.stated_rate for own in known):.1%}", end=" ")
    print(f"of tracks at most, from {known[0].tracks} to compare with.")


if __name__ == "__main__":
    main()
