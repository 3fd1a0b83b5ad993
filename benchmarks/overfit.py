"""Is a model caught that was overfitted on purpose? Trained on four short excerpts alone, and its clips inspected.

    python benchmarks/copies.py --overfit PROJECT WORK

PROJECT has a trained VAE in models/vae, which is used as it is. WORK is a folder for the overfitted project; run again
with the same one, a finished step is not done again and training resumes. It needs no GPU, and a quarter of an hour.
All other tracks are held out: clips are compared with them all, an excerpt of one of them with all but that track.
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
from dualdiff.data.manifest import LEDGER_NAME, read_ledger, write_ledger
from dualdiff.evaluation.memorization import Calibration, Memorization
from dualdiff.inspection.clip_analysis import ClipAnalyser
from dualdiff.inspection.project_context import ProjectContext

MUSIC = Path(__file__).resolve().parent.parent / "examples" / "music"
RATE = 32000
TRACK_S, CLIP_S, CLIPS_A_GAME = 12.0, 8.0, 3
STEPS, BATCH, CHANNELS = 4500, 4, 32
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


def parts() -> tuple[list[Path], list[Path]]:
    """The tracks to learn from, one of each game; and all others."""
    games = [sorted(folder.glob("*.ogg")) for folder in sorted(MUSIC.iterdir()) if any(folder.glob("*.ogg"))]
    return [game[0] for game in games], [track for game in games for track in game[1:]]


def prepare(vae: Path, work: Path) -> None:
    """A project that learns from excerpts of four tracks and holds whole others out."""
    work.mkdir(parents=True, exist_ok=True)
    dualdiff(work, "init", "--preset", "nano", "--name", "overfitted")
    shutil.copytree(vae, work / "models" / "vae")
    learned, held_out = parts()
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


def told_of(ear: ClipAnalyser, path: Path, without: str = "") -> Memorization:
    """What `inspect` says a piece may have copied; compared with all tracks but one."""
    if ear.finder is None:
        sys.exit("the project has no latents")
    known = ear.finder[0].calibration
    ear.finder[0].calibration = Calibration(tuple(own for own in known.references if own.path != without))
    found = ear.hear(path, always=True)[0].copies
    ear.finder[0].calibration = known
    if found is None:
        sys.exit(f"{path} cannot be compared")
    near = found.matches[0]
    print(path.name, found.scaled, found.rate, found.flagged, near.space, near.track, near.at_s, file=sys.stderr)
    return found


def row(what: str, told: Sequence[Memorization]) -> str:
    """A line of the table."""
    flagged = sum(own.flagged for own in told)
    stated, scaled = max(own.stated_rate for own in told), [own.scaled for own in told]
    cells = (f"{flagged} of {len(told)}", f"{flagged / len(told):.1%}", f"{stated:.1%}", f"{median(scaled):.2f}")
    return f"| {what} | {' | '.join(cells)} | {min(scaled):.2f} to {max(scaled):.2f} |"


def measure(project: Path, work: Path) -> None:
    """Train, generate, hear as `inspect` does, and print the table."""
    if not (work / "latents" / "index.json").exists():
        shutil.rmtree(work / "models", ignore_errors=True)
        prepare(project / "models" / "vae", work)
    dualdiff(work, "unet", "train", *changes())  # goes on where it stopped; does nothing when it is done
    (learned, held_out), clips = parts(), clips_of(work)
    ear = ClipAnalyser(ProjectContext.of(work / "dualdiff.toml", work))
    print(f"## A model overfitted on purpose\n\n{datetime.date.today()}, on a CPU (not measured on a GPU).", end=" ")
    print("`python benchmarks/copies.py --overfit PROJECT WORK`.\n")
    print(f"The nano UNet with {CHANNELS} base channels, {STEPS} steps of {BATCH} crops of 8.192 s, on", end=" ")
    print(f"{len(learned)} tracks of {TRACK_S:g} s; clips of {CLIP_S:g} s, one game each, without guidance.", end=" ")
    print(f"{len(held_out)} other tracks are held out.\n")
    columns = ("what is heard", "flagged", "share", "stated rate", "median scaled distance", "range")
    print("| " + " | ".join(columns) + " |\n" + "|---" * len(columns) + "|")
    told = {path: told_of(ear, path) for path in clips}
    print(row("clips of the overfitted model", list(told.values())), flush=True)
    tracks, excerpts = 0, []
    for track in held_out:
        name = f"{track.parent.name}/{track.stem}.wav"
        own = [told_of(ear, path, without=name) for path in excerpts_of(work, [track])]
        tracks += any(one.flagged for one in own)
        excerpts += own
    print(row("held-out excerpts", excerpts), flush=True)
    short = [work / "music" / track.parent.name / f"{track.stem}.wav" for track in learned]
    print(row("excerpts it learned from", [told_of(ear, path) for path in excerpts_of(work, short)]), flush=True)
    games = [track.parent.name for track in learned]
    right = sum(own.matches[0].game == games[int(path.stem[4])] for path, own in told.items())
    print(f"\nThe nearest passage is of the game asked for in {right} of {len(clips)} clips.", end=" ")
    print(f"{tracks} of {len(held_out)} held-out tracks have a flagged excerpt.")
