"""Seconds, peak memory and throughput of each stage of the chain, with the nano preset on examples/music.

    python benchmarks/chain.py [FOLDER] > benchmarks/chain.md

Runs the commands one after the other in FOLDER (a temporary one by default), each as its own process, as a user would.
"""

import datetime
import os
import platform
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

MUSIC = Path(__file__).resolve().parents[1] / "examples" / "music"
CLIP_S = 12.0


@dataclass(frozen=True)
class Measured:
    """What one command cost."""

    seconds: float
    peak_mib: float


def measure(folder: Path, *arguments: str) -> Measured:
    """Run one command in `folder`; wall time, and the memory of its largest process."""
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "dualdiff", *arguments], cwd=folder, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    if status:
        sys.exit(f"dualdiff {' '.join(arguments)} failed")
    return Measured(seconds, usage.ru_maxrss / 1024)


def machine() -> str:
    """The machine in words."""
    import torch

    from dualdiff.core.device import has_fast_bfloat16, select_device

    device = select_device()
    units = "with" if has_fast_bfloat16(device) else "without"
    versions = f"torch {torch.__version__}, Python {platform.python_version()}"
    return f"{os.cpu_count()} cores, device {device}, {units} fast bfloat16, {versions}"


def listened(clip: Path, music: Path) -> str:
    """What can be said of a clip without ears: level, peak, and how far its spectrum is from white noise's."""
    import torch

    from dualdiff import audio
    from dualdiff.evaluation.metrics import spectral_flatness

    waveform = audio.read(clip, sample_rate=32000)
    noise = torch.randn(waveform.shape, generator=torch.Generator().manual_seed(0)) * waveform.std()
    real = audio.read(music, sample_rate=32000, duration_s=CLIP_S)
    flatness = [spectral_flatness(sound) for sound in (waveform, real, noise)]
    return (
        f"The clip: {waveform.shape[-1] / 32000:.1f} s, finite: {bool(waveform.isfinite().all())}, "
        f"peak {float(waveform.abs().max()):.2f} of full scale, "
        f"{audio.loudness_lufs(waveform, 32000):.1f} LUFS. Spectral flatness {flatness[0]:.3f}, "
        f"of the music {flatness[1]:.3f}, of white noise {flatness[2]:.3f}."
    )


def main() -> None:
    """Run the chain and print the table."""
    from dualdiff.project.settings import open_project

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        track = sorted((MUSIC / "Pekka Kana 2").iterdir())[0]
        rows = [("init", measure(folder, "init", "--preset", "nano", "--name", "chain"), "")]
        rows.append(("dataset scan", measure(folder, "dataset", "scan", str(MUSIC)), "16 tracks, 16 min"))
        rows.append(
            (
                "format roundtrip",
                measure(folder, "format", "roundtrip", str(track), "--seconds", "10", "--out", "roundtrip"),
                "10 s of audio",
            )
        )
        settings = open_project(folder).settings
        for stage, section in (("vae train", settings.vae_train), ("unet train", settings.unet_train)):
            if stage == "unet train":
                rows.append(
                    (
                        "encode",
                        encoded := measure(folder, "encode"),
                        f"{16 * 60 / encoded.seconds:.0f} s of audio a second",
                    )
                )
            cost = measure(folder, *stage.split())
            samples = section.steps * section.batch_size
            rows.append(
                (stage, cost, f"{samples} samples of {section.crop_s:g} s, {samples / cost.seconds:.1f} samples/s")
            )
        mix = "Pekka Kana 2:0.7,Noiz2sa:0.3"
        cost = measure(folder, "generate", "--game", mix, "--length", f"{CLIP_S:g}", "--out", "clips")
        rows.append(("generate", cost, f"{CLIP_S:g} s of audio"))
        heard = listened(next((folder / "clips").glob("*.flac")), track)
    total = sum(cost.seconds for _, cost, _ in rows)
    print(f"# The chain, stage by stage\n\n{datetime.date.today().isoformat()}, preset nano, {machine()}.")
    print("Each stage is one process from its start to its end, imports included.\n")
    print("| stage | seconds | share | peak memory, MiB | work |\n|---|---|---|---|---|")
    for stage, cost, work in rows:
        print(f"| {stage} | {cost.seconds:.1f} | {cost.seconds / total:.0%} | {cost.peak_mib:.0f} | {work} |")
    print(f"| all | {total:.1f} | 100% | {max(cost.peak_mib for _, cost, _ in rows):.0f} | |\n")
    print(heard)


if __name__ == "__main__":
    main()
