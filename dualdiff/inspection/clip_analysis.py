"""Listening to clips: how much each is like which game, and what it may have copied, with what is at hand for it."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from dualdiff import audio
from dualdiff.core.errors import DataError
from dualdiff.core.files import sha256_of
from dualdiff.core.progress import Progress, silent
from dualdiff.core.types import Latents, Waveform
from dualdiff.data.fingerprint_store import prints_path, read_prints
from dualdiff.evaluation.feature_spaces import Space, audio_space, fingerprint, latent_space
from dualdiff.evaluation.game_classifier import GameClassifier, load_game_classifier
from dualdiff.evaluation.memorization import PASSAGE_S, Memorization, MemorizationTest
from dualdiff.evaluation.training_fingerprints import has_fingerprints, load_fingerprints
from dualdiff.generation.recipe import read_recipe
from dualdiff.inspection.project_context import ProjectContext
from dualdiff.model_store.autoencoder import latents_of
from dualdiff.model_store.components import read_model_json
from dualdiff.model_store.model import VAEModel, load_vae


@dataclass(frozen=True, kw_only=True)
class ClipAnalysis:
    """What is known of an audio file."""

    path: Path
    sha256: str
    info: audio.AudioInfo
    lufs: float
    peak_db: float
    recipe: Mapping[str, Any] = field(default_factory=dict)
    """Empty for audio that no model wrote."""
    shares: Mapping[str, float] = field(default_factory=dict)
    """How much it is like each game; empty where that cannot be told."""
    copies: Memorization | None = None
    part: tuple[float, float] | None = None
    """From when to when it was listened to, seconds; None: all of it."""
    notes: tuple[str, ...] = ()
    """What could not be told, and what helps."""


@dataclass(frozen=True)
class MemorizationSource:
    """What finds copies; for the space of latents the VAE's folder, and what takes its latents into that space."""

    copies: MemorizationTest
    vae: Path | None = None
    into: Callable[[Latents], Tensor] | None = None


class ClipAnalyser:
    """Hears clips against what lies around them; what costs time is opened once, when it is first needed."""

    def __init__(
        self, around: ProjectContext, copies: bool = True, progress: Progress = silent, *, shares: bool = True
    ) -> None:
        self.around, self._copies, self._shares_too, self._progress = around, copies, shares, progress
        self._vaes: dict[Path, VAEModel] = {}
        self._meters: dict[Path, GameClassifier | None] = {}
        self._prints: dict[Path, MemorizationSource] = {}

    def hear(
        self, path: Path, always: bool = False, part: tuple[float, float] | None = None
    ) -> tuple[ClipAnalysis, Waveform]:
        """What is known of a file, and its waveform (C, T); of audio that is no clip the levels only, unless `always`.

        Of a `part`, from when to when in seconds, only that is listened to.

        Raises:
            DataError: it is no audio that can be read.
        """
        info = audio.probe(path)
        start_s, end_s = part or (0.0, None)
        length_s = None if end_s is None else end_s - start_s
        waveform = audio.read(path, sample_rate=info.sample_rate, start_s=start_s, duration_s=length_s)
        notes = [note] if (note := audio.tunes_note(path)) else []
        recipe = _recipe(path, notes)
        shares: dict[str, float] = {}
        copies: Memorization | None = None
        if recipe or always:
            encoded: dict[str, Latents] = {}
            if self._shares_too:
                shares = self._shares(recipe, waveform, info.sample_rate, encoded, notes)
            if self._copies:
                new = _new_part(recipe, start_s, waveform.shape[-1] / info.sample_rate)
                finder = self._finder_of(str(recipe.get("model", "")), notes)
                if finder is not None:
                    rate = info.sample_rate
                    copies = self._find_copies(finder, waveform, rate, start_s, new, encoded, notes)
        heard = ClipAnalysis(
            path=path,
            sha256=sha256_of(audio.file_of(path)),
            info=info,
            lufs=audio.loudness_lufs(waveform, info.sample_rate),
            peak_db=audio.true_peak_db(waveform, info.sample_rate),
            recipe=recipe,
            shares=shares,
            copies=copies,
            part=part,
            notes=tuple(notes),
        )
        return heard, waveform

    def _shares(
        self, recipe: Mapping[str, Any], waveform: Waveform, rate: int, encoded: dict[str, Latents], notes: list[str]
    ) -> dict[str, float]:
        folder = self._judge_of(str(recipe.get("model", "")))
        if folder is None:
            notes.append("No model is at hand to tell its games by: name one with --model.")
            return {}
        meter = self._meter(folder)
        if meter is None:
            notes.append(f"The model in {self.around.named(folder)} was made without what tells games apart.")
            return {}
        try:
            return meter.shares(self._encoded(folder, waveform, rate, encoded))
        except DataError as error:
            notes.append(f"Which games it is like cannot be told: {error.message}.")
            return {}

    def _judge_of(self, model_hash: str) -> Path | None:
        """The model folder that a clip is judged by: the one that wrote it, or else one that can."""
        wrote = self.around.model_with("unet", model_hash)
        if wrote is not None:
            return wrote
        able = [place for place, parts in self.around.models.items() if "mix" in parts]
        return able[0] if able else next((place for place, own in self.around.models.items() if "unet" in own), None)

    def _meter(self, folder: Path) -> GameClassifier | None:
        if folder not in self._meters:
            self._meters[folder] = load_game_classifier(folder)
        return self._meters[folder]

    def _vae(self, folder: Path) -> VAEModel:
        if folder not in self._vaes:
            self._vaes[folder] = load_vae(folder)
        return self._vaes[folder]

    def _encoded(self, folder: Path, waveform: Waveform, rate: int, encoded: dict[str, Latents]) -> Latents:
        """The latents of a clip by the VAE of a model folder, made once for all folders with the same VAE."""
        digest = read_model_json(folder)["parts"]["vae"]
        if digest not in encoded:
            vae = self._vae(folder)
            encoded[digest] = latents_of(vae, [_as_tracks_are(waveform, rate, vae)])
        return encoded[digest]

    def _finder_of(self, model_hash: str, notes: list[str]) -> "MemorizationSource | None":
        """What finds copies in a clip: the fingerprints that its model carries, else the latents of the project."""
        folder = self.around.model_with("unet", model_hash)
        try:
            if folder is not None and has_fingerprints(folder):
                if folder not in self._prints:
                    self._prints[folder] = MemorizationSource(load_fingerprints(folder))
                return self._prints[folder]
            if self.finder is not None:
                return self.finder
        except DataError as error:
            notes.append(f"What it may have copied cannot be told: {error.message}.")
            return None
        notes.append(self._no_finder)
        return None

    def _find_copies(
        self,
        finder: "MemorizationSource",
        waveform: Waveform,
        rate: int,
        start_s: float,
        new: tuple[float, float],
        encoded: dict[str, Latents],
        notes: list[str],
    ) -> Memorization | None:
        """Look for the seconds `new` of a waveform (C, T) in the training tracks; it begins `start_s` into its file."""
        try:
            if new[1] - new[0] < min(PASSAGE_S, waveform.shape[-1] / rate):
                what = f"the model wrote {new[1] - new[0]:.1f} s of it"
                raise DataError(what, f"what may be copied is told of {PASSAGE_S:g} s or more")
            spaces, series = finder.copies.spaces, {}
            if finder.vae is not None and finder.into is not None:
                series["latents"] = finder.into(self._encoded(finder.vae, waveform, rate, encoded))
            if "audio" in spaces:
                series["audio"] = fingerprint(waveform, rate)
            own = {name: _cut(values, spaces[name].step_s, new) for name, values in series.items()}
            return finder.copies.find(own, new[1] - new[0], start_s + new[0])
        except DataError as error:
            notes.append(f"What it may have copied cannot be told: {error.message}.")
            return None

    @property
    def _no_finder(self) -> str:
        if self.around.latents is None and self.around.root is not None:
            return "What it may have copied cannot be told: the project has no latents; dualdiff encode makes them."
        if self.around.latents is None:
            return "What it may have copied cannot be told without the latents of a project: name one with --project."
        return "What it may have copied cannot be told: the VAE that made the latents is not here; run dualdiff encode."

    @cached_property
    def finder(self) -> "MemorizationSource | None":
        """What finds copies in the latents of the project; None where they, or their VAE, are missing."""
        index = self.around.latents
        vae = self.around.model_with("vae", index.vae_hash) if index else None
        if index is None or vae is None:
            return None
        latents, into = latent_space(index)
        prints = read_prints(prints_path(self.around.root)) if self.around.root else {}
        spaces: list[Space] = [own for own in (latents, audio_space(index, prints)) if own]
        return MemorizationSource(MemorizationTest(index, spaces, self._progress), vae, into)


def _new_part(recipe: Mapping[str, Any], start_s: float, length_s: float) -> tuple[float, float]:
    """The seconds of a piece of a clip that a model wrote: of an extended or inpainted clip not the audio it kept.

    The piece begins `start_s` into the clip and is `length_s` long; the result counts from the beginning of the piece,
    and is empty where all of the piece was kept.
    """
    rewrite = recipe.get("rewrite")
    if not isinstance(rewrite, dict) or not {"start_s", "end_s"} <= rewrite.keys():
        return 0.0, length_s
    first, last = (min(max(float(rewrite[key]) - start_s, 0.0), length_s) for key in ("start_s", "end_s"))
    return first, last


def _cut(series: Tensor, step_s: float, part: tuple[float, float]) -> Tensor:
    """The whole steps of a series (D, M) within a part, in seconds."""
    return series[:, math.ceil(part[0] / step_s - 1e-6) : math.floor(part[1] / step_s + 1e-6)]


def _recipe(path: Path, notes: list[str]) -> Mapping[str, Any]:
    try:
        return read_recipe(path)
    except DataError as error:
        if "check sum" in error.message:
            notes.append("Its recipe was changed after it was written: nothing of it is believed.")
        return {}


def _as_tracks_are(waveform: Waveform, rate: int, vae: VAEModel) -> Waveform:
    """A clip (C, T) as tracks are encoded: in stereo, at the format's rate and loudness."""
    stereo = waveform.expand(2, -1) if waveform.shape[0] == 1 else waveform
    made = vae.format
    resampled = audio.resample(stereo, rate, made.sample_rate)
    lufs = audio.loudness_lufs(resampled, made.sample_rate)
    return audio.gain_to(resampled, lufs if math.isfinite(lufs) else -math.inf, made.config.loudness_lufs)
