"""`unet test`: the measures of a model, with the music and the latents of its project."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dualdiff import audio
from dualdiff.core.errors import DataError
from dualdiff.core.progress import Progress, silent
from dualdiff.core.types import Latents
from dualdiff.data.fingerprint_store import prints_path, read_prints
from dualdiff.data.latent_dataset import LatentIndex
from dualdiff.data.manifest import Row, read_ledger, used
from dualdiff.evaluation.excerpts import read_excerpts
from dualdiff.evaluation.feature_spaces import audio_space, fingerprint, latent_space
from dualdiff.evaluation.game_classifier import load_game_classifier
from dualdiff.evaluation.memorization import Memorization, MemorizationTest
from dualdiff.evaluation.model_measures import ModelMeasures, measure_model
from dualdiff.evaluation.notes import MISSING, is_available
from dualdiff.generation.pipeline import Clip, Pipeline
from dualdiff.project.settings import Project


@dataclass(frozen=True)
class UnetTest:
    """The measures of a model, what they are of, and what could not be measured."""

    folder: Path
    facts: dict[str, Any]
    notes: tuple[str, ...]
    measures: ModelMeasures


def measure_unet(
    project: Project, folder: Path, *, clips: int, length_s: float, progress: Progress = silent
) -> UnetTest:
    """Measure the model in a folder against the tracks of a project; with `clips` 0 the denoising ladder alone.

    Raises:
        DataError: there is no manifest or no model, the project has no track of the model's games or none that is held
            out, or its tracks are shorter than the clips.
    """
    rows = used(read_ledger(project.ledger))
    settings = project.settings
    pipeline = Pipeline.load(folder, settings.project.device, settings.project.precision)
    known = [row for row in rows if row.game in pipeline.games]
    held_out = _held_out(project, folder, pipeline, known)
    music, count, notes = project.music(rows), max(clips, 1), []
    missing = [game for game in pipeline.games if game not in {row.game for row in known}]
    if missing:
        notes.append(
            f"The project has no track of {', '.join(missing)}: the model's clips of it are compared with others."
        )

    def excerpts(tracks: Sequence[Row], number: int) -> list[Any]:
        rate = pipeline.format.sample_rate
        return list(read_excerpts(tracks, music, sample_rate=rate, length_s=length_s, count=number))

    classifier = load_game_classifier(folder)
    if classifier is None:
        notes.append("The model has no game classifier: label adherence and mixes are not measured.")
    if not is_available():
        notes.append(f"Melodies are not measured: {MISSING}")
    find_copies = _finder(project, pipeline, notes, length_s) if clips else None
    measures = measure_model(
        pipeline,
        excerpts(held_out, max(count, LADDER_EXCERPTS)),
        excerpts(used(known, "train"), count) if clips else (),
        clips=clips,
        config=replace(settings.generate, length_s=length_s),
        shares_of=(lambda clip: classifier.shares(_latents(pipeline, clip))) if classifier else None,
        find_copies=find_copies,
        progress=progress,
    )
    facts = {
        "model": pipeline.model.unet_hash[:12],
        "steps": pipeline.model.facts.get("steps"),
        "clips": clips,
        "length_s": length_s,
        "held-out tracks": len(held_out),
        "training tracks": len(used(known, "train")),
        "sampler": f"{settings.generate.sampler}, {settings.generate.steps} steps, cfg {settings.generate.cfg_scale:g}",
    }
    return UnetTest(folder, facts, tuple(notes), measures)


LADDER_EXCERPTS = 16
"""At least so many excerpts of held-out music are read, where there are as many."""


def _held_out(project: Project, folder: Path, pipeline: Pipeline, known: Sequence[Row]) -> list[Row]:
    """The held-out tracks of the model's games.

    Raises:
        DataError: there is none, or no track of these games at all.
    """
    if not known:
        raise DataError(
            f"the model in {folder} knows {', '.join(pipeline.games)}; {project.ledger} has no track of them",
            "name the project that it was trained in with --project",
        )
    held_out = used(known, "validation")
    if not held_out:
        raise DataError(
            f"{project.ledger} holds out no track of {', '.join(pipeline.games)}: there is no music to compare with",
            "raise dataset.validation_share, then `dualdiff dataset scan`",
        )
    return held_out


SHORTEST_COMPARED_S = 8.0
"""The features of a shorter clip may not fill a passage that memorization is tested with."""


def _finder(
    project: Project, pipeline: Pipeline, notes: list[str], length_s: float
) -> Callable[[Clip], Memorization] | None:
    """The search for near-duplicates of training passages.

    None, with a note, for clips that are too short, and without latents of the model's VAE.
    """
    if length_s < SHORTEST_COMPARED_S:
        notes.append(f"Memorization is not measured: it needs clips of {SHORTEST_COMPARED_S:g} s or more (--length).")
        return None
    try:
        index = LatentIndex.open(project.path(project.settings.encode.folder))
        index.require(vae_hash=pipeline.model.vae_model.vae_hash, format_hash=pipeline.model.vae_model.format_hash)
    except DataError as error:
        notes.append(f"Memorization is not measured: {error.message}.")
        return None
    space, into = latent_space(index)
    sound = audio_space(index, read_prints(prints_path(project.root)))
    finder = MemorizationTest(index, [space, sound] if sound else [space])

    def find(clip: Clip) -> Memorization:
        series = {space.name: into(_latents(pipeline, clip))}
        if sound:
            series[sound.name] = fingerprint(clip.waveform, clip.sample_rate)
        return finder.find(series, clip.waveform.shape[-1] / clip.sample_rate)

    return find


def _latents(pipeline: Pipeline, clip: Clip) -> Latents:
    """The latents (C, F, N) of a clip as the VAE makes them, at the format's loudness."""
    waveform = audio.levelled(clip.waveform, clip.sample_rate, pipeline.format.config.loudness_lufs)
    return pipeline.model.space.restore(pipeline.encode(waveform))[0].cpu().float()
