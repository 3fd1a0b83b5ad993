"""Latents on disk: who made them and of what; one file of them."""

import math
from pathlib import Path
from typing import Any

from dualdiff.core.errors import DataError
from dualdiff.core.files import sha256_of, size_of
from dualdiff.data.latent_dataset import LatentIndex
from dualdiff.data.latent_file import facts_of
from dualdiff.inspection.project_context import ProjectContext, ancestry
from dualdiff.inspection.report_data import Bars, Histogram, Report, ReportTable


def inspect_latents(folder: Path, around: ProjectContext) -> Report:
    """Latents: who made them, and of what. Their hashes are for `dualdiff encode --check`: reading all takes long.

    Raises:
        DataError: a file is missing.
    """
    index = LatentIndex.open(folder)
    missing = [file.name for track in index.tracks for file in track.files if not (folder / file.name).is_file()]
    if missing:
        raise DataError(
            f"{folder / missing[0]} is missing ({len(missing)} of its files are)",
            "make the latents anew: dualdiff encode",
        )
    column_s = index.frames_per_column * index.frame_s
    rows = [
        (
            game,
            len(own),
            sum(track.split == "validation" for track in own),
            round(sum(track.columns for track in own) * column_s, 1),
        )
        for game in index.games
        for own in [[track for track in index.tracks if track.game == game]]
    ]
    facts = {
        "made by the VAE": index.vae_hash,
        "in": index.vae,
        "made with the format": index.format_hash,
        "tracks": len(index.tracks),
        "games": len(index.games),
        "hours": round(sum(track.columns for track in index.tracks) * column_s / 3600, 3),
        "variants": index.offsets * len(index.variants),
        "time shifts": index.offsets,
        "pitches, semitones": sorted({variant.pitch_semitones for variant in index.variants}),
        "mirrored": any(variant.mirrored for variant in index.variants),
        "mean": list(index.mean),
        "standard deviation": list(index.std),
        "seconds per column": column_s,
        "bytes": size_of(folder),
    }
    made_by = [around.of_part("vae", index.vae_hash), around.of_part("format", index.format_hash)]
    columns = ("game", "tracks", "to validate", "seconds")
    sheet = ReportTable(title="games", columns=columns, rows=rows)
    channels = ReportTable(
        title="latent channels",
        columns=("channel", "mean", "standard deviation"),
        rows=[(number, *own) for number, own in enumerate(zip(index.mean, index.std, strict=True))],
    )
    minutes = {game: seconds / 60 for game, _, _, seconds in sorted(rows, key=lambda row: -row[3])}
    lengths = [track.columns * column_s for track in index.tracks]
    return Report(
        kind="latents",
        path=folder,
        facts=facts,
        sheets=[sheet, channels, ancestry([*made_by, around.of_ledger(index)] if around.root else made_by)],
        charts=[
            Bars(title="music by game", unit="min", values=minutes),
            Histogram(title="length of tracks", unit="s", values=lengths),
        ],
        next="dualdiff unet train",
    )


def inspect_latent_file(path: Path) -> Report:
    """One file of latents: which track it is of, and whether it is what was written.

    Raises:
        DataError: it is no such file, or lies in no folder of latents.
    """
    facts = facts_of(path)
    if facts is None:
        raise DataError(f"{path} is no file of latents", "inspect takes a model's or a run's folder, not its weights")
    index = LatentIndex.open(path.parent)
    owners = [
        (track, variant, file)
        for track in index.tracks
        for variant, file in zip(index.variants, track.files, strict=True)
        if file.name == path.name
    ]
    digest = sha256_of(path)
    named: dict[str, Any] = {"track": None}
    if owners:
        track, variant, file = owners[0]
        named = {
            "track": track.path,
            "game": track.game,
            "split": track.split,
            "pitch, semitones": variant.pitch_semitones,
            "mirrored": variant.mirrored,
            "as it was written": digest == file.sha256,
        }
    counts = facts["count"] / max(len(facts["sum"]), 1)
    means = [total / facts["count"] for total in facts["sum"]]
    spreads = [
        math.sqrt(max(squares / facts["count"] - own * own, 0.0))
        for squares, own in zip(facts["sum_of_squares"], means, strict=True)
    ]
    return Report(
        kind="latents of a track",
        path=path,
        facts={
            **named,
            "columns": facts["columns"],
            "seconds": round(facts["columns"] * index.frames_per_column * index.frame_s, 3),
            "time shifts": index.offsets,
            "made by the VAE": index.vae_hash,
            "made with the format": index.format_hash,
            "numbers per channel": round(counts),
            "bytes": path.stat().st_size,
            "sha256": digest,
        },
        notes=() if owners else ("The index of its folder does not name it: it is left over, or of another VAE.",),
        sheets=[
            ReportTable(
                title="latent channels",
                columns=("channel", "mean", "standard deviation"),
                rows=[(number, *own) for number, own in enumerate(zip(means, spreads, strict=True))],
            )
        ],
        next="dualdiff encode --check",
    )
