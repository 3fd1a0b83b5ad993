"""Format, VAE and UNet as one object: encode, decode, generate.

Letters: B clips of a batch, C latent channels, F rows, N columns, T audio samples, K games.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dualdiff import __version__, audio
from dualdiff.core.config import plain
from dualdiff.core.device import (
    compile_in_place,
    machine_name,
    name_of_precision,
    room_for,
    select_device,
    select_precision,
)
from dualdiff.core.errors import DataError, UsageError
from dualdiff.core.progress import Progress, silent
from dualdiff.core.quality import Quality
from dualdiff.core.rng import Stream
from dualdiff.core.types import Latents, Rhythm, Waveform
from dualdiff.diffusion.inpainting_guidance import Known, Windows, columns_of
from dualdiff.diffusion.preconditioning import Denoise, Denoiser
from dualdiff.diffusion.sampler import SAMPLERS, draw_noise, sigma_schedule
from dualdiff.diffusion.windowed import lay_out, windowed
from dualdiff.formats.stft import reflected
from dualdiff.generation import rhythm
from dualdiff.generation.config import GenerateConfig
from dualdiff.generation.guidance import guided_denoiser
from dualdiff.generation.inpainting import FADE_S, followed, morphed, rise, spliced, stretch
from dualdiff.generation.recipe import VERSION, sealed
from dualdiff.generation.request import Given, Request, Rewrite, hash_of_samples
from dualdiff.model_store.autoencoder import Codec
from dualdiff.model_store.latent_space import SIGMA_DATA
from dualdiff.model_store.location import named_model
from dualdiff.model_store.model import Model, load_model

DECODE_STEPS = 6
"""What decoding a clip costs, in steps of the sampler, roughly: for the progress shown."""

DEFAULT_CROP_COLUMNS = 640
"""Of models that do not say what crops they were trained on: 41 s."""

DEFAULT_SIGMA_MAX = 80.0
"""Of models that do not say what noise levels they were trained at: the default of `unet.noise.sigma_max`."""

DEFAULTS = GenerateConfig()
NOT_SAMPLED = ("model", "guide", "out", "length_s", "file_format", "loudness_lufs", "quality")
"""Settings that clips of one batch may differ in."""


@dataclass(frozen=True)
class Clip:
    """A generated piece of music and everything needed to make it again.

    `waveform` is (2, T), float32, at the loudness the recipe says; `recipe` holds plain JSON values.
    """

    waveform: Waveform
    sample_rate: int
    recipe: Mapping[str, Any]
    loop: tuple[int, int] | None = None
    """Where its loop starts and how long it is, samples."""


class Pipeline:
    """A model ready to play: `Pipeline.load("models/unet").generate({"A": 0.7, "B": 0.3}, length_s=30, seed=1)`."""

    def __init__(self, model: Model, device: torch.device, guide: Model | None = None) -> None:
        self.model = model
        self.device = device
        self.guide = guide
        columns = int(2 ** (len(model.unet.config.channel_mults) - 1))
        self.codec = Codec(model.vae_model, model.space, columns, device)
        self.format = self.codec.format
        self._denoiser = Denoiser(model.unet, SIGMA_DATA)
        self._room: dict[tuple[int, ...], int] = {}

    @classmethod
    def load(
        cls,
        folder: str | Path,
        device: str = "auto",
        precision: str = "auto",
        compile: bool = False,
        guide: str | Path | None = None,
    ) -> "Pipeline":
        """Open a model folder, or "nano", the model that travels with the package.

        `guide` is the folder of a worse model of the same latents, for autoguidance.

        Raises:
            DataError: the folder holds no whole model, its parts do not belong together, or the guide does not fit it.
            UsageError: the device is not on this machine.
        """
        place = select_device(device)
        dtype = select_precision(precision, place)
        model = load_model(named_model(Path(folder)), place, dtype)
        worse = None if guide is None else load_model(named_model(Path(guide)), place, dtype)
        if worse is not None:
            _refuse_misfit(Path(str(guide)), worse, model)
        if compile:
            for loaded in (model, worse):
                if loaded is not None:
                    compile_in_place(loaded.unet, place)
            compile_in_place(model.vae_model.vae.decoder, place)
        return cls(model, place, worse)

    @property
    def games(self) -> tuple[str, ...]:
        """The names of the games this model knows."""
        return self.model.games

    @property
    def longest(self) -> int:
        """The columns that the UNet is given at once: as many as the crops that it was trained on."""
        columns = int(self.model.facts.get("crop_columns", DEFAULT_CROP_COLUMNS))
        return max(columns // self.codec.column_multiple, 1) * self.codec.column_multiple

    def encode(self, waveform: Waveform) -> Latents:
        """A waveform (2, T), at the format's rate and loudness, to latents (1, C, F, N); see `Codec.encode`."""
        return self.codec.encode(waveform)

    def decode(
        self,
        latents: Latents,
        seed: int = 0,
        quality: Quality = "default",
        circular: bool = False,
        progress: Progress = silent,
    ) -> Waveform:
        """Normalised latents (1, C, F, N) to a waveform (2, T) at the format's loudness, on the CPU."""
        return self.codec.decode(latents, seed, quality, circular, progress)

    def generate(
        self,
        games: Mapping[str, float] | None = None,
        *,
        length_s: float = 45.0,
        seed: int = 0,
        config: GenerateConfig | None = None,
        init: Waveform | None = None,
        strength: float = 1.0,
        loop: bool = False,
        progress: Progress = silent,
    ) -> Clip:
        """Write one clip for a weighted mix of games (none: the unconditional model).

        The clip depends on the model, the arguments and nothing else: its noise has a generator of its own. With
        `init`, a waveform (2, T) at the format's rate and loudness, the clip is a variation of it; `strength` from
        above 0 (nearly the same) to 1 (nearly free) says from which noise level it starts. A `loop` leads back to its
        beginning, and is as long as its latents. `progress` hears of it.

        Raises:
            UsageError: an unknown game, weights that sum to zero, a length or strength that cannot be.
        """
        request = Request(
            games=games or {},
            length_s=length_s,
            seed=seed,
            config=config or GenerateConfig(),
            init=None if init is None else Given.of(init),
            strength=strength,
            loop=loop,
        )
        return next(self.render([request], progress))

    def batches(self, requests: Sequence[Request]) -> list[list[Request]]:
        """The requests in their order, cut where they cannot be sampled together.

        On a CPU each stands alone: there a batch is hardly faster, and its sums come out in another order, so that a
        clip would depend on those beside it. A GPU gets as many as have room in its free memory.
        """
        together = []
        for _, alike in groupby(requests, key=self._kind):
            same = list(alike)
            size = self._clips_at_once(same[0]) if len(same) > 1 else 1
            together += [same[first : first + size] for first in range(0, len(same), size)]
        return together

    def settled(self, request: Request) -> Request:
        """The request with its tempo, and the length that follows from its bars; see `rhythm.settled`."""
        return rhythm.settled(request, self.model.unet.config.rhythm, rhythm.tempos_of(self.model.facts))

    def render(self, requests: Sequence[Request], progress: Progress = silent) -> Iterator[Clip]:
        """Write the clips of one of the `batches`, in order, as each is decoded.

        Raises:
            UsageError: an unknown game, or noise levels that cannot be; before anything is computed.
            ValueError: the requests cannot be sampled together.
        """
        requests = [self.settled(request) for request in requests]
        if len({self._kind(request) for request in requests}) > 1:
            raise ValueError("a batch is of one length and one kind")
        if requests[0].rewrite is not None:
            yield from (self._rewritten(own, own.rewrite, progress) for own in requests if own.rewrite is not None)
            return
        steps, loop = requests[0].config.steps, requests[0].loop
        total = steps + DECODE_STEPS * len(requests)
        latents = self.sample(requests, ring=loop, progress=_share(progress, 0, steps, total))
        for index, request in enumerate(requests):
            told = _share(progress, steps + DECODE_STEPS * index, DECODE_STEPS, total)
            seed, quality = Stream(request.seed).seed_for("phase"), request.config.quality
            own = latents[index : index + 1]
            waveform = self.decode(own, seed, quality, loop, progress=told)
            if not loop:
                yield self._finished(request, waveform[:, : round(request.length_s * self.format.sample_rate)])
            elif not request.intro_s:
                yield self._finished(request, waveform, (0, waveform.shape[-1]))
            else:
                whole, start = self._with_intro(request, own, waveform)
                yield self._finished(request, whole, (start, waveform.shape[-1]))

    def _with_intro(self, request: Request, loop: Latents, waveform: Waveform) -> tuple[Waveform, int]:
        """A loop (1, C, F, N), (2, T), behind a lead-in: the whole, and where the loop starts in it.

        The lead-in is what may come before the loop's beginning, which is known. It goes over into the beginning within
        a moment that is played once: the loop starts behind it, and so ends with it, as it was.
        """
        asked = round(request.intro_s * self.format.sample_rate)
        lead = -(-asked // self.codec.column)
        multiple = self.codec.column_multiple
        columns = -(-(lead + max(self.longest - lead, self.longest // 4)) // multiple) * multiple
        places = torch.arange(columns - lead) % loop.shape[-1]
        latents = torch.cat([loop.new_zeros(*loop.shape[:-1], lead), loop[..., places.to(loop.device)]], -1)
        kept = (torch.arange(columns) >= lead).float().to(self.device)
        new = replace(request, strength=1.0)  # what a loop varies says nothing of what comes before it
        grid = rhythm.grid_of(request, self._column_s, loop.shape[-1])
        beats = None if grid is None else rhythm.channels(grid, self._column_s, columns, lead)[None]
        sampled = self.sample([new], known=Known(latents, kept), purpose="intro", beats=beats)
        start, fade = lead * self.codec.column, round(FADE_S * self.format.sample_rate)
        length = self.codec.num_samples(columns)
        goes_on = waveform[:, torch.arange(length - start) % waveform.shape[-1]]
        known = torch.cat([waveform.new_zeros(2, start), goes_on], -1)
        seed, quality = Stream(request.seed).seed_for("phase"), request.config.quality
        fresh = self.codec.fill(sampled, known, 0, start, seed, quality)
        over = torch.lerp(fresh[:, start : start + fade], waveform[:, :fade], rise(fade))
        lead_in = torch.cat([fresh[:, start - asked : start], over], -1)
        return torch.cat([lead_in, waveform.roll(-fade, -1)], -1), lead_in.shape[-1]

    def _rewritten(self, request: Request, rewrite: Rewrite, progress: Progress) -> Clip:
        """A given clip, a part of it written anew: what is kept of it is the clip itself, at its own rate and level.

        A loop stays one, unless one of its ends is written anew or the file cannot hold loop points.
        """
        given, rate = rewrite.clip, self.format.sample_rate
        total = given.waveform.shape[-1]
        first, last = round(rewrite.start_s * rate), round(rewrite.end_s * rate)
        seen = stretch(
            first,
            last,
            total,
            column=self.codec.column,
            quantum=rate // math.gcd(rate, given.original_rate),
            longest=self.longest,
            multiple=self.codec.column_multiple,
            short=self.codec.column - self.codec.num_samples(1),
        )
        length = self.codec.num_samples(seen.columns)
        part = given.waveform[:, seen.start : seen.start + length]
        # where the clip ends, it goes on backwards: else its last latents would say that the music stops
        goes_on = reflected(part, length - part.shape[-1])[:, length - part.shape[-1] :] if part.numel() else part
        known = self.codec.encode(goes_on)
        steps = request.config.steps
        grid = rhythm.grid_of_clip(given, rate) if self.model.unet.config.rhythm else None
        start = -seen.start / self.codec.column
        latents = self.sample(
            [request],
            beats=None if grid is None else rhythm.channels(grid, self._column_s, seen.columns, start)[None],
            known=Known(known, seen.kept.to(self.device)),
            progress=_share(progress, 0, steps, steps + DECODE_STEPS),
        )
        stop = min(last - seen.start, length) if last < total else length
        told = _share(progress, steps, DECODE_STEPS, steps + DECODE_STEPS)
        seed, quality = Stream(request.seed).seed_for("phase"), request.config.quality
        fresh = self.codec.fill(latents, goes_on, first - seen.start, stop, seed, quality, told)
        waveform = spliced(given, fresh, seen.start, rate, rewrite.start_s, rewrite.end_s)
        loop = given.loop if request.config.file_format != "mp3" and rewrite.spares_the_loop else None
        return self._finished(request, waveform, loop, given.original_rate)

    def sample(
        self,
        requests: Sequence[Request],
        *,
        ring: bool = False,
        known: Known | None = None,
        purpose: str = "noise",
        beats: Rhythm | None = None,
        progress: Progress = silent,
    ) -> Latents:
        """The normalised latents (B, C, F, N) of requests of one kind: all sampling goes through here.

        What is longer than the crops that the UNet was trained on goes through it in windows; so does a `ring`, whose
        end leads back to its beginning. `known` latents are started from, at the requests' strength, and held where
        they are kept; those of a request's own `init` unless given. So are `beats` (B, R, N).
        """
        first = requests[0]
        sigmas = self._sigmas(first.config, first.strength)
        shape = self._shape(first) if known is None else known.latents.shape[1:]
        streams = [Stream(request.seed) for request in requests]
        noise = draw_noise([stream.torch(purpose) for stream in streams], shape, self.device)
        known = known or self._varied(requests, shape[-1])
        canvas = lay_out(shape[-1], longest=self.longest, multiple=self.codec.column_multiple, ring=ring)
        beats = self._beats(requests, shape[-1]) if beats is None else beats.to(self.device)

        def in_windows(windows: Windows) -> Denoise:
            return self._guided(requests, None if beats is None else columns_of(beats, windows))

        denoise = windowed(self._guided(requests, beats), canvas, streams, known, at=in_windows)
        if known is not None:
            noise = known.start(noise, sigmas[0].item())
        sampler = SAMPLERS[first.config.sampler]
        return sampler(denoise, noise, sigmas, lambda done, total: progress(done, total, "sampling"))

    @property
    def _column_s(self) -> float:
        return self.codec.column / self.format.sample_rate

    def _beats(self, requests: Sequence[Request], columns: int) -> Rhythm | None:
        """The rhythm (B, R, N) of requests; None where none has any, or the model knows none."""
        if not self.model.unet.config.rhythm:
            return None
        beats = rhythm.of_requests(requests, self._column_s, columns, self.format.sample_rate)
        return None if beats is None else beats.to(self.device)

    def _finished(
        self, request: Request, waveform: Waveform, loop: tuple[int, int] | None = None, rate: int = 0
    ) -> Clip:
        if not rate:
            rate = self.format.sample_rate
            waveform = audio.levelled(waveform, rate, request.config.loudness_lufs)
        recipe = {
            "dualdiff": __version__,
            "version": VERSION,
            "model": self.model.unet_hash,
            **({} if self.guide is None else {"guide": self.guide.unet_hash}),
            **request.facts(),
            "sigma_max": self._starts_at(request.config),
            "phase": plain(self.format.config).get("phase", ""),
            "device": self.device.type,
            "machine": machine_name(self.device),
            "precision": name_of_precision(self.model.vae_model.vae.compute_dtype),
            "torch": torch.__version__,
            "waveform": hash_of_samples(waveform),
        }
        return Clip(waveform, rate, sealed(recipe), loop)

    def _kind(self, request: Request) -> tuple[Any, ...]:
        """What the requests of one batch share."""
        config = replace(request.config, **{name: getattr(DEFAULTS, name) for name in NOT_SAMPLED})
        sources = request.init is not None, request.morph is not None, request.rewrite is not None
        shape = self._shape(self.settled(request))
        return shape, config, sources, request.strength, request.loop, request.intro_s

    def _shape(self, request: Request) -> tuple[int, int, int]:
        """(C, F, N) of the latents of a request: long enough for its length, and a whole multiple."""
        samples = round(request.length_s * self.format.sample_rate)
        if request.loop:  # as long as its columns
            return self.codec.shape(max(1, round(samples / self.codec.column)))
        return self.codec.shape(self.codec.num_columns(samples))

    def _clips_at_once(self, request: Request) -> int:
        if self.device.type != "cuda":
            return 1
        channels, rows, columns = self._shape(request)
        shape = channels, rows, min(columns, self.longest)
        if shape not in self._room:
            denoise = self._guided([request])

            def trial() -> None:
                denoise(torch.zeros(1, *shape, device=self.device), torch.ones(1, device=self.device), 1.0)

            with torch.inference_mode():
                self._room[shape] = room_for(trial, self.device)
        return self._room[shape]

    def _guided(self, requests: Sequence[Request], beats: Rhythm | None = None) -> Denoise:
        """The denoiser of requests of one kind; see `guided_denoiser`."""
        return guided_denoiser(self._denoiser, self.guide, self.games, requests, self.device, beats)

    @property
    def sigma_max(self) -> float:
        """The highest noise level that the UNet was trained at, and its guide, where there is one."""
        unets = [self.model, *([] if self.guide is None else [self.guide])]
        return min(float(model.facts.get("sigma_max", DEFAULT_SIGMA_MAX)) for model in unets)

    def _starts_at(self, config: GenerateConfig) -> float:
        """The noise level that sampling starts from: the highest of training, or a lower one of the settings.

        Raises:
            UsageError: the settings name one that the UNet was not trained at.
        """
        low, high = self.model.space.sigma_min, self.sigma_max
        if config.sigma_max > high * (1 + 1e-6):
            problem = f"sigma_max = {config.sigma_max:g} is above the noise levels of this model's training, {high:g}"
            raise UsageError(problem, f"set generate.sigma_max = 0 to start from {high:g}, or a lower level")
        if config.sigma_max and config.sigma_max <= low:
            problem = f"sigma_max = {config.sigma_max:g} is not above this model's own noise, {low:.3g}"
            raise UsageError(problem, f"set generate.sigma_max = 0 to start from {high:g}")
        return config.sigma_max or high

    def _sigmas(self, config: GenerateConfig, strength: float) -> Tensor:
        sigma_min = self.model.space.sigma_min
        low, high = sigma_min ** (1 / config.rho), self._starts_at(config) ** (1 / config.rho)
        start = (low + strength * (high - low)) ** config.rho
        return sigma_schedule(config.steps, sigma_min, start, config.rho)

    def _varied(self, requests: Sequence[Request], columns: int) -> Known | None:
        """What variations start from: their clips' latents, cut or followed by zeros to so many columns."""
        given = [self._started(request, columns) for request in requests if request.init is not None]
        return Known(torch.cat(given)) if given else None

    def _started(self, request: Request, columns: int) -> Latents:
        sources = [source for source in (request.init, request.morph) if source is not None]
        cut = [followed(self.encode(source.waveform), columns) for source in sources]
        return morphed(*cut) if len(cut) == 2 else cut[0]


def _share(progress: Progress, before: float, share: float, whole: float) -> Progress:
    """What tells of a part of some work: `share` of `whole`, after `before` is done."""

    def tell(done: float, total: float, note: str = "") -> None:
        progress(before + share * done / total, whole, note or "decoding")

    return tell


def _refuse_misfit(folder: Path, guide: Model, model: Model) -> None:
    """Refuse a guide that does not denoise the same latents for the same games."""
    ours = model.vae_model
    misfits = {
        "its format is another": guide.vae_model.format_hash != ours.format_hash,
        "its VAE is another": guide.vae_model.vae_hash != ours.vae_hash,
        "its latents are scaled otherwise": guide.space != model.space,
        "it knows other games": guide.games != model.games,
    }
    for problem, is_so in misfits.items():
        if is_so:
            hint = "a guide is a smaller or earlier UNet, trained on the same latents"
            raise DataError(f"{folder} cannot guide {model.unet_hash[:12]}: {problem}", hint)
