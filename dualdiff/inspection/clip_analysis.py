"""Listening to clips: how much each is like which game, and what it may have copied, with what is at hand for it."""

import math
from collections.abc import Mapping
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
from dualdiff.data.encode import latents_of
from dualdiff.data.fingerprint_store import prints_path, read_prints
from dualdiff.evaluation.feature_spaces import Space, audio_space, fingerprint, latent_space
from dualdiff.evaluation.game_classifier import MixMeter, load_mix
from dualdiff.evaluation.memorization import Copies, CopyFinder
from dualdiff.generation.recipe import read_recipe
from dualdiff.inspection.project_context import Around
from dualdiff.model_store.components import read_model_json
from dualdiff.model_store.model import VAEModel, load_vae


@dataclass(frozen=True, kw_only=True)
class Heard:
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
    copies: Copies | None = None
    part: tuple[float, float] | None = None
    """From when to when it was listened to, seconds; None: all of it."""
    notes: tuple[str, ...] = ()
    """What could not be told, and what helps."""


class Ear:
    """Hears clips against what lies around them; what costs time is opened once, when it is first needed."""

    def __init__(self, around: Around, copies: bool = True, progress: Progress = silent) -> None:
        self.around, self._copies, self._progress = around, copies, progress
        self._vaes: dict[Path, VAEModel] = {}
        self._meters: dict[Path, MixMeter | None] = {}

    def hear(self, path: Path, always: bool = False, part: tuple[float, float] | None = None) -> tuple[Heard, Waveform]:
        """What is known of a file, and its waveform (C, T); of audio that is no clip the levels only, unless `always`.

        Of a `part`, from when to when in seconds, only that is listened to.

        Raises:
            DataError: it is no audio that can be read.
        """
        info = audio.probe(path)
        start_s, end_s = part or (0.0, None)
        length_s = None if end_s is None else end_s - start_s
        waveform = audio.read(path, sample_rate=info.sample_rate, start_s=start_s, duration_s=length_s)
        notes: list[str] = []
        recipe = _recipe(path, notes)
        shares: dict[str, float] = {}
        copies: Copies | None = None
        if recipe or always:
            encoded: dict[str, Latents] = {}
            shares = self._shares(recipe, waveform, info.sample_rate, encoded, notes)
            if self._copies:
                copies = self._find_copies(waveform, info.sample_rate, start_s, encoded, notes)
        heard = Heard(
            path=path,
            sha256=sha256_of(path),
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

    def _meter(self, folder: Path) -> MixMeter | None:
        if folder not in self._meters:
            self._meters[folder] = load_mix(folder)
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
            encoded[digest] = latents_of([_as_tracks_are(waveform, rate, vae)], vae)
        return encoded[digest]

    def _find_copies(
        self, waveform: Waveform, rate: int, start_s: float, encoded: dict[str, Latents], notes: list[str]
    ) -> Copies | None:
        try:
            if self.finder is None:
                notes.append(self._no_finder)
                return None
            finder, vae, into = self.finder
            series: dict[str, Tensor] = {"latents": into(self._encoded(vae, waveform, rate, encoded))}
            if "audio" in finder.spaces:
                series["audio"] = fingerprint(waveform, rate)
            return finder.find(series, waveform.shape[-1] / rate, start_s)
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
    def finder(self) -> tuple[CopyFinder, Path, Any] | None:
        """What finds copies, and the folder of the VAE and the axes that lead into the space of its latents."""
        index = self.around.latents
        vae = self.around.model_with("vae", index.vae_hash) if index else None
        if index is None or vae is None:
            return None
        latents, into = latent_space(index)
        prints = read_prints(prints_path(self.around.root)) if self.around.root else {}
        spaces: list[Space] = [own for own in (latents, audio_space(index, prints)) if own]
        return CopyFinder(index, spaces, self._progress), vae, into


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
