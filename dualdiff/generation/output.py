"""Generated clips as files: what they are called, and the recipe in their tags that renders them again."""

import json
import math
import re
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dualdiff import audio
from dualdiff.core.errors import DataError, DualdiffError, UsageError
from dualdiff.core.files import is_file_name, mark, refuse_existing, sha256_of, write_json_atomically
from dualdiff.generation.config import FILE_FORMATS, MAX_LENGTH_S, GenerateConfig
from dualdiff.generation.recipe import CHANGED, SIDECAR, Wanted, read_recipe, wanted
from dualdiff.generation.request import Given, Request, Rewrite

if TYPE_CHECKING:
    from dualdiff.generation.pipeline import Clip, Pipeline

LONGEST_NAME = 80
"""The games' share of a file name or a title, in letters."""

LONGEST_STEM = 200
"""A file's name without its suffix, in bytes of UTF-8: file systems take 255 for all of it."""

SUFFIXES = (".flac", ".wav", ".ogg", ".mp3")
"""Of the files that clips can be."""

VARIATION_STRENGTH = 0.6
"""How far a variation strays unless said otherwise: most of the form stays, most of the notes change."""


@dataclass(frozen=True)
class Job:
    """A request, the name of the file it goes to, and the recipe that it repeats (empty where it repeats none)."""

    stem: str
    request: Request
    recipe: Mapping[str, Any] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """The suffix of the file, without its dot."""
        return str(self.request.config.file_format)

    @property
    def name(self) -> str:
        """The name of the file."""
        return f"{self.stem}.{self.kind}"


def given(path: Path, pipeline: "Pipeline", length_s: float | None = None, keep: bool = False) -> Given:
    """Audio to make a clip from, at the model's rate and loudness; only its beginning where a length is given.

    To `keep` a part of it, it is there as it was, too: at its own rate, or the model's if that is higher.

    Raises:
        DataError: the file is not audio that can be read, is silent, or is longer than a clip can be.
    """
    info, rate = audio.probe(path), pipeline.format.sample_rate
    if min(info.duration_s, length_s or math.inf) > MAX_LENGTH_S:
        raise DataError(f"{path} lasts {info.duration_s:.0f} s, too long", f"{MAX_LENGTH_S:g} s at most: cut it")
    waveform = audio.read(path, sample_rate=rate, duration_s=length_s)
    loudness = audio.loudness_lufs(waveform, rate)
    if not math.isfinite(loudness):
        raise DataError(f"{path} is silent: there is nothing to make a clip from", "name a clip with music in it")
    wanted_lufs = pipeline.format.config.loudness_lufs
    levelled = audio.gain_to(waveform, loudness, wanted_lufs)
    source = Given(waveform=levelled, file=path.name, sha256=sha256_of(audio.file_of(path)))
    if not keep:
        return source
    own_rate = max(info.sample_rate, rate)
    original = waveform if own_rate == rate else audio.read(path, sample_rate=own_rate)
    gain = 10 ** ((wanted_lufs - loudness) / 20)
    loop = info.loop if own_rate == info.sample_rate else None
    original = audio.below_full_scale(original)
    loops = info.loop is not None
    return replace(source, original=original, original_rate=own_rate, gain=gain, loop=loop, loops=loops)


def named(requests: Sequence[Request], stem: str = "") -> list[Job]:
    """The requests as jobs, named by games, seed and index: `noiz2sa-seed7-02.flac`; by `stem` if there is one."""
    several = len(requests) > 1
    return [
        Job(
            (f"{stem}-{index:02d}" if several else stem)
            if stem
            else f"{_mix(request.games)}-seed{request.seed}-{index:02d}",
            request,
        )
        for index, request in enumerate(requests)
    ]


def _mix(games: Mapping[str, float]) -> str:
    """The games that are asked for, as letters of a file name."""
    slugs = [slug(game) for game, weight in games.items() if weight > 0]
    return shortened("+".join(slugs)[:LONGEST_NAME], LONGEST_STEM - 60) or "any"


def shortened(stem: str, most: int = LONGEST_STEM) -> str:
    """As many letters of a file's name as come to so many bytes at most."""
    return stem.encode()[:most].decode(errors="ignore").rstrip("-+")


def slug(text: str) -> str:
    """A text as letters of a file name, none of which can lead anywhere else."""
    return re.sub(r"\W+", "-", text.casefold()).strip("-")


def precision_of(path: Path, device: str) -> str:
    """Return the precision to render a clip again in: that of its recipe, or "auto" where that is slow on the device.

    Raises:
        DataError: see `read_recipe`.
        UsageError: the device is not on this machine.
    """
    from dualdiff.core.device import has_fast_bfloat16, select_device

    stored = read_recipe(path).get("precision")
    fast = has_fast_bfloat16(select_device(device))
    return stored if stored == "float32" or (stored == "bfloat16" and fast) else "auto"


def write_clip(path: Path, clip: "Clip", sidecar: bool = False) -> None:
    """Write a clip with its recipe in its tags, atomically; and the same beside it as JSON, if asked.

    Raises:
        DualdiffError: the folder cannot be written to.
    """
    wanted_games = [game for game, weight in clip.recipe["games"].items() if weight > 0]
    title = " + ".join(wanted_games)[:LONGEST_NAME] or "any game"
    comment = json.dumps(clip.recipe, ensure_ascii=False)
    audio.write(path, clip.waveform, clip.sample_rate, title=title, artist="dualdiff", comment=comment, loop=clip.loop)
    if sidecar:
        facts = {
            "file": path.name,
            "sha256": sha256_of(path),
            "title": title,
            "duration_s": clip.waveform.shape[-1] / clip.sample_rate,
            "sample_rate": clip.sample_rate,
            "loudness_lufs": round(audio.loudness_lufs(clip.waveform, clip.sample_rate), 2),
            "true_peak_db": round(audio.true_peak_db(clip.waveform, clip.sample_rate), 2),
        }
        finite = {key: None if value == -math.inf else value for key, value in facts.items()}
        write_json_atomically(path.with_suffix(SIDECAR), {**finite, "recipe": clip.recipe})


def loop_lost(request: Request, clip: "Clip") -> list[str]:
    """Why a clip does not loop though the one that it is made from does, as a line; none where it is not so."""
    source = request.rewrite.clip if request.rewrite else None
    if source is None or not source.loops or clip.loop is not None:
        return []
    why = "an end of its loop is written anew, or lies beside what is"
    if request.config.file_format == "mp3":
        why = "an mp3 file holds none"
    elif source.loop is None:
        why = f"it is written at {source.original_rate} Hz, not at its own rate"
    return [f"the loop points of {source.file} are left out: {why}"]


def require_free(paths: list[Path], force: bool) -> None:
    """Refuse, before a model is loaded, files that exist already; nothing is written.

    Raises:
        UsageError: a file exists and `force` is not set, two clips would go into one file, or a folder to be made has
            the name of an audio file.
    """
    twice = [path for path, count in Counter(paths).items() if count > 1]
    if twice:
        raise UsageError(f"two clips would be written to {twice[0].name}", "give each a name of its own")
    refuse_existing(paths, force, "choose another --name or --out, or let --force replace it")
    for folder in {path.parent for path in paths}:
        if folder.suffix.lower() in SUFFIXES and not folder.exists():
            raise UsageError(f"{folder} is to be a folder, and has the name of a file", "name the file with --name")


def make_folders(paths: list[Path]) -> None:
    """Make the folders of some files, marked as the program's own where they are new, and test that they take files.

    Raises:
        DualdiffError: a folder cannot be made or written to.
    """
    for folder in {path.parent for path in paths}:
        is_new = not folder.exists()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
            if is_new:
                mark(folder, "clips")
        except OSError as error:
            raise DualdiffError(f"{folder} cannot be written to: {error.strerror}", "name another folder") from error


def again(path: Path, pipeline: "Pipeline", file_format: str | None = None) -> Job:
    """The job that renders the clip `path` once more, with the model that made it, as the same kind of file.

    A clip that it varies is looked for beside it, and in the folder that the command runs in: a recipe holds no more
    than that clip's name and hash.

    Raises:
        DataError: the clip holds no recipe, or one that cannot be; was made with another model or guide; or varies a
            file that is no longer there.
    """
    from dualdiff.model_store.components import split_average

    recipe = read_recipe(path)
    guide = "" if pipeline.guide is None else pipeline.guide.unet_hash
    for what, flag, made_with, here in (
        ("model", "--model", recipe["model"], pipeline.model.unet_hash),
        ("guide", "--guide", recipe.get("guide", ""), guide),
    ):
        if made_with != here:
            told = f"{path} was made with {_named(what, made_with)}, this is {_named(what, here)}"
            hint = _where(what, flag, str(made_with), path, pipeline) if made_with else f"leave {flag} out"
            (one, average), (other, _) = (split_average(digest) for digest in (str(made_with), here))
            if one == other:
                hint = f"say --ema {average}" if average else "leave --ema out"
            raise DataError(told, hint)
    kind = path.suffix[1:].lower()
    same_kind = kind if kind in FILE_FORMATS else GenerateConfig().file_format
    asked = wanted(recipe, str(path), file_format or same_kind)
    facts, sources = asked.facts, _sources(path, asked, pipeline)
    rewritten = sources.get("rewrite")
    request = Request(
        games=asked.games,
        length_s=facts.length_s,
        seed=facts.seed,
        config=asked.config,
        init=sources.get("init"),
        morph=sources.get("morph"),
        rewrite=None if rewritten is None else Rewrite(clip=rewritten, start_s=facts.start_s, end_s=facts.end_s),
        strength=facts.strength,
        loop=facts.loop,
        intro_s=facts.intro_s,
        bpm=facts.bpm or None,
        beats_per_bar=facts.beats_per_bar if facts.bpm else None,
    )
    return Job(f"{shortened(path.stem)}-again", request, recipe)


def _where(what: str, flag: str, digest: str, clip: Path, pipeline: "Pipeline") -> str:
    """What to do to use the model of a recipe: where it is kept, if it is in the project of the model or the clip."""
    from dualdiff.model_store.components import model_with

    near = [Path(), pipeline.model.vae_model.folder, clip]
    roots = dict.fromkeys(folder for path in near for folder in (path.resolve(), *path.resolve().parents))
    place = next((found for root in roots if (found := model_with(root, "unet", digest))), None)
    return f'it is kept in {place}: {flag} "{place}"' if place else f"name the folder of that {what} with {flag}"


def _named(what: str, content_hash: Any) -> str:
    from dualdiff.model_store.components import split_average

    digest, average = split_average(str(content_hash))
    averaged = f" with its weights averaged over {average}" if average else ""
    return f"the {what} {digest[:12]}{averaged}" if content_hash else f"no {what}"


def _sources(path: Path, asked: Wanted, pipeline: "Pipeline") -> dict[str, Given]:
    """The clips that a recipe is made from: the files of that name and content."""
    found = {}
    for key, (name, sha256) in asked.sources.items():
        if not is_file_name(name):
            raise DataError(
                f'{path}: the recipe in its tags is made from a clip called "{name}", which is no file name', CHANGED
            )
        here = [folder / name for folder in (path.parent, Path()) if audio.file_of(folder / name).is_file()]
        same = [place for place in here if sha256_of(audio.file_of(place)) == sha256]
        if not same:
            raise DataError(
                f"{path} is made from {name}, which is neither beside it nor here, or has changed",
                f"put {name} beside it, as it was",
            )
        keep = key == "rewrite"
        found[key] = given(same[0], pipeline, None if keep else asked.facts.length_s, keep)
    return found
