"""Is a model caught that was overfitted on purpose? Trained on four short excerpts alone, and its clips inspected.

    python benchmarks/copies.py --overfit PROJECT WORK

PROJECT has a trained VAE in models/vae, which is used as it is. WORK is a folder for the overfitted project; run again
with the same one, a finished step is not done again and training resumes. It needs no GPU, and minutes.
"""

import datetime
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median

from dualdiff import audio
from dualdiff.data.ledger import LEDGER_NAME, read_ledger, write_ledger
from dualdiff.evaluation.around import Around
from dualdiff.evaluation.copies import Copies
from dualdiff.evaluation.ear import Ear

MUSIC = Path(__file__).resolve().parent.parent / "examples" / "music"
RATE = 32000
TRACK_S, CLIP_S, CLIPS_A_GAME = 12.0, 8.0, 3
STEPS, BATCH, CHANNELS = 4000, 4, 32
SETTINGS = (
    "dataset.near_duplicates=keep",
    "encode.offsets=1",
    f"unet.base_channels={CHANNELS}",
    "unet.loss.label_dropout=0",
    f"unet.train.steps={STEPS}",
    f"unet.train.batch_size={BATCH}",
    "unet.train.crop_s=8.192",
    "unet.train.decay_after_steps=1000",
    "unet.train.export_ema_width=0.045",
    "unet.train.validate_every=500",
    "unet.train.save_every=500",
)


def dualdiff(work: Path, *words: str) -> None:
    """Run a command of the product in the overfitted project; what it says goes to stderr."""
    subprocess.run([sys.executable, "-m", "dualdiff", *words, "--project", str(work)], check=True, stdout=sys.stderr)


def changes() -> list[str]:
    """The settings that differ from the preset, as flags."""
    return [word for change in SETTINGS for word in ("--set", change)]


def parts() -> tuple[list[Path], list[Path], list[Path]]:
    """The tracks to learn from, one of each game; those to calibrate with; and those to test with, in no split."""
    games = [sorted(folder.glob("*.ogg")) for folder in sorted(MUSIC.iterdir()) if any(folder.glob("*.ogg"))]
    others = [track for game in games for track in game[1:]]
    return [game[0] for game in games], others[::2], others[1::2]


def prepare(vae: Path, work: Path) -> None:
    """A project that learns from excerpts of four tracks and holds whole others out."""
    work.mkdir(parents=True, exist_ok=True)
    dualdiff(work, "init", "--preset", "nano", "--name", "overfitted")
    shutil.copytree(vae, work / "models" / "vae")
    learned, held_out, _ = parts()
    for track in [*learned, *held_out]:
        place = work / "music" / track.parent.name / f"{track.stem}.wav"
        place.parent.mkdir(parents=True, exist_ok=True)
        length_s = TRACK_S if track in learned else None
        audio.write(place, audio.below_full_scale(audio.read(track, sample_rate=RATE, duration_s=length_s)), RATE)
    dualdiff(work, "dataset", "scan", *changes()[:2])
    names = {f"{track.parent.name}/{track.stem}.wav" for track in learned}
    rows = read_ledger(work / LEDGER_NAME)
    write_ledger(
        work / LEDGER_NAME, [replace(row, split="train" if row.path in names else "validation") for row in rows]
    )
    dualdiff(work, "encode", *changes()[:4])


def clips_of(work: Path) -> list[Path]:
    """Clips of the overfitted model, some of each game, made where they are not there yet."""
    folder = work / "clips"
    for number, game in enumerate(track.parent.name for track in parts()[0]):
        if len(list(folder.glob(f"game{number}*.flac"))) < CLIPS_A_GAME:
            words = ["--count", str(CLIPS_A_GAME), "--length", f"{CLIP_S:g}", "--cfg", "1", "--out", str(folder)]
            dualdiff(work, "generate", "--game", game, "--name", f"game{number}", "--force", *words)
    return sorted(folder.glob("game*.flac"))


def excerpts_of(work: Path, tracks: Sequence[Path]) -> list[Path]:
    """Tracks in pieces as long as a clip, following each other."""
    found = []
    for track in tracks:
        whole, length = audio.read(track, sample_rate=RATE), round(CLIP_S * RATE)
        for part in range(whole.shape[1] // length):
            found.append(work / "excerpts" / track.parent.name / f"{track.stem}-{part}.wav")
            found[-1].parent.mkdir(parents=True, exist_ok=True)
            piece = whole[:, part * length : (part + 1) * length]
            audio.write(found[-1], audio.below_full_scale(piece), RATE)
    return found


def row(what: str, told: Sequence[Copies]) -> str:
    """A line of the table."""
    flagged = sum(own.flagged for own in told)
    stated, scaled = max(own.stated_rate for own in told), median(own.scaled for own in told)
    least = min(own.scaled for own in told)
    return (
        f"| {what} | {flagged} of {len(told)} | {flagged / len(told):.1%} | {stated:.1%} | {scaled:.2f} | {least:.2f} |"
    )


def measure(project: Path, work: Path) -> None:
    """Train, generate, hear as `inspect` does, and print the table."""
    if not (work / "latents" / "index.json").exists():
        shutil.rmtree(work / "models", ignore_errors=True)
        prepare(project / "models" / "vae", work)
    dualdiff(work, "unet", "train", *changes())  # goes on where it stopped; does nothing when it is done
    clips, tests = clips_of(work), excerpts_of(work, parts()[2])
    learned = [track for track in sorted((work / "music").rglob("*.wav")) if audio.probe(track).duration_s < 20]
    ear = Ear(Around.of(work / "dualdiff.toml", work))
    kinds = {
        "clips of the overfitted model": clips,
        "held-out excerpts": tests,
        "excerpts it learned from": excerpts_of(work, learned),
    }
    print(f"## A model overfitted on purpose\n\n{datetime.date.today()}, on a CPU (not measured on a GPU).", end=" ")
    print("`python benchmarks/copies.py --overfit PROJECT WORK`.\n")
    print(f"The nano UNet with {CHANNELS} base channels, {STEPS} steps of {BATCH} crops of 4.096 s, on", end=" ")
    print(
        f"{len(parts()[0])} tracks of {TRACK_S:g} s; clips of {CLIP_S:g} s, one game each, without guidance.", end=" "
    )
    print(f"Calibrated with {len(parts()[1])} other tracks; the excerpts are of {len(parts()[2])} further ones.\n")
    columns = ("what is heard", "flagged", "share", "stated rate", "median scaled distance", "smallest")
    print("| " + " | ".join(columns) + " |\n" + "|---" * len(columns) + "|")
    right = 0
    for what, paths in kinds.items():
        heard = [(path, ear.hear(path, always=True)[0].copies) for path in paths]
        told = [own for _, own in heard if own is not None]
        print(row(what, told), flush=True)
        if paths is clips:
            games = [track.parent.name for track in parts()[0]]
            right = sum(own is not None and own.matches[0].game == games[int(path.stem[4])] for path, own in heard)
        for path, own in heard:
            if own is not None:
                near = own.matches[0]
                print(path.name, own.scaled, own.rate, own.flagged, near.space, near.track, near.at_s, file=sys.stderr)
    print(f"\nThe nearest passage is of the game asked for in {right} of {len(clips)} clips.")
