"""A model folder on disk: JSON and safetensors, chained by hashes. The only reader and writer of weights to share.

    model.json      what lies here, with the hash of each part; written last, so that a folder is whole or not there
    format.json     the format's constants
    phase.json      if its way back is learned: architecture and ancestry; phase.safetensors the weights
    vae.json        architecture and ancestry;  vae.safetensors the weights
    unet.json       architecture, ancestry, latent statistics;  unet.safetensors the weights
    labels.json     the games, in the order of the UNet's labels
    mix.json        what hears how much a clip is like each game;  mix.safetensors the numbers; not in every model
    README.md       the model card

A hash covers a part's JSON and weights and its parents' hashes, so that two parts belong together or are refused.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from dualdiff import config as configs
from dualdiff.errors import ConfigError, DataError
from dualdiff.files import hash_of, sha256_of, write_bytes_atomically, write_json_atomically, write_text_atomically
from dualdiff.formats import FORMATS, Format
from dualdiff.formats.mel import MelFormat
from dualdiff.models import MODELS, VAE, PhaseNet, UNet
from dualdiff.models.layers import bake
from dualdiff.types import Latents, Sample

VERSION = 1
"""The version of the folder's layout; a folder of a newer one is refused."""

ASSETS = Path(str(resources.files("dualdiff"))) / "assets"
"""Where what travels with the package lies."""

PHASE_FILES = ("phase.json", "phase.safetensors")
"""The network of the format's learned way back, where a model has one."""

PRECISION_OF_PHASE = torch.bfloat16
"""Of that network, in training and afterwards: it says angles, to a few degrees at best."""

SIGMA_DATA = 0.5
"""The standard deviation that latents are normalised to before diffusion."""


@dataclass(frozen=True)
class VAEModel:
    """A format and a VAE that belong together, ready to use."""

    folder: Path
    format: Format
    vae: VAE
    format_hash: str
    vae_hash: str

    @property
    def context_frames(self) -> int:
        """Frames on each side that a latent sees at most."""
        return self.vae.context_frames

    def encode(self, sample: Sample) -> Latents:
        """The mode of the latents of a sample; see `VAE.encode`."""
        with torch.inference_mode():
            return self.vae.encode(sample.to(self.vae.positions.device))


@dataclass(frozen=True, kw_only=True)
class LatentSpace:
    """How latents are normalised for diffusion, and the noise level below which they are the VAE's own noise."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    sigma_min: float

    def normalise(self, latents: Latents) -> Latents:
        """(B, C, F, N) of the VAE to mean 0 and standard deviation `SIGMA_DATA` per channel."""
        mean, std = self._broadcast(latents)
        return (latents - mean) / std * SIGMA_DATA

    def restore(self, latents: Latents) -> Latents:
        """The inverse of `normalise`."""
        mean, std = self._broadcast(latents)
        return latents / SIGMA_DATA * std + mean

    def _broadcast(self, like: Tensor) -> tuple[Tensor, Tensor]:
        return tuple(torch.tensor(values, device=like.device)[:, None, None] for values in (self.mean, self.std))  # type: ignore[return-value]


@dataclass(frozen=True)
class Model:
    """A whole model: format, VAE, UNet and the games it knows, with the hash that names it."""

    vae_model: VAEModel
    unet: UNet
    space: LatentSpace
    games: tuple[str, ...]
    unet_hash: str
    facts: Mapping[str, Any]


def shipped_model(name: str = "nano") -> Path | None:
    """The folder of a model that travels with the package; None where there is none of that name."""
    folder = ASSETS / name
    return folder if (folder / "model.json").is_file() else None


def named_model(path: Path) -> Path:
    """The folder that a path means: itself, or the model of that name that travels with the package."""
    is_name = len(path.parts) == 1 and not path.exists()
    return (shipped_model(path.name) if is_name else None) or path


def format_hash(format: Format) -> str:
    """What names a format: the hash of the constants that its samples depend on; how they are decoded may change."""
    decode_only: tuple[str, ...] = getattr(format.config, "DECODE_ONLY", ())
    return hash_of({name: value for name, value in configs.plain(format.config).items() if name not in decode_only})


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """A module's parameters and persistent buffers by name, contiguous, on the CPU."""
    return {name: tensor.detach().cpu().contiguous() for name, tensor in module.state_dict().items()}


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write named tensors as safetensors, atomically."""
    write_bytes_atomically(path, save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}))


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Read named tensors.

    Raises:
        DataError: the file is missing or is not safetensors.
    """
    try:
        tensors: dict[str, Tensor] = load(path.read_bytes())
        return tensors
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing", "the folder is not whole: make or copy it again") from error
    except (OSError, SafetensorError) as error:
        raise DataError(f"{path} cannot be read as safetensors: {error}", "make or copy it again") from error


def load_into(module: nn.Module, tensors: Mapping[str, Tensor], what: str) -> None:
    """Copy named tensors into a module, keeping its memory layout.

    Raises:
        DataError: names or shapes differ.
    """
    own = module.state_dict()
    missing = sorted(own.keys() ^ tensors.keys())
    if missing:
        raise DataError(
            f"{what} does not fit its architecture: {missing[0]} is only on one side", "it belongs to another model"
        )
    for name, tensor in own.items():
        if tensor.shape != tensors[name].shape:
            raise DataError(
                f"{what} does not fit its architecture: {name} has shape {tuple(tensors[name].shape)}",
                "it belongs to another model",
            )
        tensor.copy_(tensors[name])


def save_phase(
    folder: Path, format: Format, network: PhaseNet, weights: Mapping[str, Tensor], facts: Mapping[str, Any], card: str
) -> None:
    """Write a model folder that holds a format and the network of its learned way back."""
    parts = {"format": format_hash(format)}
    write_json_atomically(folder / "format.json", {**configs.plain(format.config), "phase": "learned"})
    parts["phase"] = _save_part(folder, "phase", configs.plain(network.config), weights, dict(parts), facts)
    _finish(folder, parts, card)


def save_vae(
    folder: Path,
    format: Format,
    vae: VAE,
    weights: Mapping[str, Tensor],
    facts: Mapping[str, Any],
    card: str,
    phase: Path | None = None,
) -> None:
    """Write a model folder that holds a format and a VAE, and a copy of the phase network in the folder `phase`.

    Raises:
        DataError: that folder holds no such network, or one for another format.
    """
    parts = {"format": format_hash(format)}
    write_json_atomically(folder / "format.json", configs.plain(format.config))
    if phase is not None:
        parts["phase"] = _phase_hash(phase, parts["format"])
        _copy(phase, folder, PHASE_FILES)
    parts["vae"] = _save_part(folder, "vae", configs.plain(vae.config), weights, {"format": parts["format"]}, facts)
    _finish(folder, parts, card)


def _copy(source: Path, folder: Path, names: tuple[str, ...]) -> None:
    for name in names:
        write_bytes_atomically(folder / name, (source / name).read_bytes())


def save_unet(
    folder: Path, vae_model: VAEModel, unet: UNet, weights: Mapping[str, Tensor], facts: Mapping[str, Any], card: str
) -> None:
    """Write a whole model folder: copies of the format and VAE it was trained on, then the UNet.

    `facts` must hold "games", "latent_mean", "latent_std" and "sigma_min": what generation needs besides weights; and
    may hold "crop_columns", how long the latents were that the UNet was trained on.
    """
    _copy(vae_model.folder, folder, ("format.json", "vae.json", "vae.safetensors"))
    parts = {"format": vae_model.format_hash, "vae": vae_model.vae_hash}
    write_json_atomically(folder / "labels.json", list(facts["games"]))
    parts["unet"] = _save_part(folder, "unet", configs.plain(unet.config), weights, parts, facts)
    carried = read_model_json(vae_model.folder)["parts"]
    if "phase" in carried:  # not a parent: how samples become sound may change
        parts["phase"] = carried["phase"]
        _copy(vae_model.folder, folder, PHASE_FILES)
    _finish(folder, parts, card)


def _save_part(
    folder: Path,
    part: str,
    config: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    parents: Mapping[str, str],
    facts: Mapping[str, Any],
) -> str:
    save_tensors(folder / f"{part}.safetensors", weights)
    description = {"config": dict(config), "parents": dict(parents), "facts": dict(facts)}
    write_json_atomically(folder / f"{part}.json", description)
    return _part_hash(folder, part, description)


def _part_hash(folder: Path, part: str, description: Mapping[str, Any]) -> str:
    return hash_of({"json": description, "weights": sha256_of(folder / f"{part}.safetensors")})


def add_part(
    folder: Path,
    part: str,
    config: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    parents: Sequence[str],
    facts: Mapping[str, Any],
) -> None:
    """Add a part to a whole model folder, or replace it; `parents` are the parts that it belongs to."""
    found = read_model_json(folder)
    parts = found["parts"]
    digest = _save_part(folder, part, config, tensors, {name: parts[name] for name in parents}, facts)
    write_json_atomically(folder / "model.json", {**found, "parts": {**parts, part: digest}})


def read_part(folder: Path, part: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The description and the tensors of a part of a model folder.

    Raises:
        DataError: it is missing, broken, or does not belong to the others.
    """
    return _read_part(folder, part, read_model_json(folder)["parts"])


def _finish(folder: Path, parts: Mapping[str, str], card: str) -> None:
    write_text_atomically(folder / "README.md", card)
    write_json_atomically(folder / "model.json", {"dualdiff_model": VERSION, "parts": dict(parts)})


def read_model_json(folder: Path) -> dict[str, Any]:
    """What a model folder says it holds.

    Raises:
        DataError: the folder is missing, is no model, or is of a newer version.
    """
    path = folder / "model.json"
    if not path.is_file():
        what = "there is no folder" if not folder.exists() else "there is no model (no model.json) in"
        raise DataError(
            f"{what} {folder}", "`dualdiff vae train` and `dualdiff unet train` write models; check the path"
        )
    found = read_json(path)
    if not isinstance(found, dict) or not isinstance(found.get("parts"), dict):
        raise DataError(f"{path} does not describe a dualdiff model", "copy the model again")
    if found.get("dualdiff_model") != VERSION:
        raise DataError(
            f"{folder} is of model version {found.get('dualdiff_model')}, this is version {VERSION}", "update dualdiff"
        )
    return found


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        DataError: it is missing or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing", "the folder is not whole: make or copy it again") from error
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as JSON: {error}", "make or copy it again") from error


def _read_part(folder: Path, part: str, parts: Mapping[str, str]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    if part not in parts:
        raise DataError(f"{folder} holds no {part} (it holds {', '.join(parts)})", f"`dualdiff {part} train` makes one")
    description = read_json(folder / f"{part}.json")
    weights = load_tensors(folder / f"{part}.safetensors")
    if _part_hash(folder, part, description) != parts[part]:
        raise DataError(
            f"the {part} in {folder} is not the one that its model.json names",
            "files were mixed or cut short: make or copy it again",
        )
    for parent, expected in description["parents"].items():
        if parts.get(parent) != expected:
            raise DataError(
                f"the {part} in {folder} was made with another {parent} than lies beside it",
                "files were mixed: make or copy it again",
            )
    return description, weights


def load_format(folder: Path, device: str | torch.device = "cpu") -> Format:
    """The format of a model folder.

    Raises:
        DataError: it is missing, unknown, or not the one that `model.json` names.
    """
    parts = read_model_json(folder)["parts"]
    table = read_json(folder / "format.json")
    kind, config = _known(FORMATS, table, folder / "format.json")
    made: Format = kind(config, device=device)
    if format_hash(made) != parts["format"]:
        raise DataError(
            f"the format in {folder} is not the one that its model.json names", "files were mixed: copy it again"
        )
    return _with_way_back(made, folder, folder)


def open_format(config: Any, root: Path, device: str | torch.device = "cpu") -> Format:
    """The format of a project's settings; the folder of its network, where it has one, is taken from `root`.

    Raises:
        DataError: there is no such network, or it is for another format.
    """
    made: Format = FORMATS[config.name](config, device=device)
    return _with_way_back(made, root / Path(getattr(config, "phase_model", "")).expanduser(), root)


def _with_way_back(made: Format, folder: Path, root: Path) -> Format:
    """The format with the network of its way back, from a folder, if it asks for one."""
    if not isinstance(made, MelFormat) or made.config.phase != "learned":
        return made
    _phase_hash(folder, format_hash(made))
    description, weights = _read_part(folder, "phase", read_model_json(folder)["parts"])
    kind, config = _known(MODELS, description["config"], folder / "phase.json")
    network = kind(config)
    load_into(network, weights, f"the phase network in {folder}")
    return made.learned(ready(network, made.device, PRECISION_OF_PHASE), network.context_frames)


def _phase_hash(folder: Path, format_hash: str) -> str:
    """The hash of the phase network in a folder.

    Raises:
        DataError: there is none, or it is for another format.
    """
    if not (folder / "model.json").is_file():
        raise DataError(
            f"there is no network of the learned way back in {folder}",
            'run `dualdiff format train`, or set format.phase = "pghi"',
        )
    parts: dict[str, str] = read_model_json(folder)["parts"]
    if "phase" not in parts or parts["format"] != format_hash:
        raise DataError(
            f"{folder} holds no phase network for this format",
            "run `dualdiff format train` with another phase.train.run, and name its folder in format.phase_model",
        )
    return parts["phase"]


def _known(table: Mapping[str, Any], config: Any, path: Path) -> tuple[Any, Any]:
    """The class that a config in a file names, and the config as that class has it."""
    name = str(config.get("name")) if isinstance(config, dict) else "nothing"
    if name not in table:
        hint = f"known are {', '.join(table)}: register it, or update dualdiff"
        raise DataError(f'{path} names "{name}", which is not known here', hint)
    try:
        return table[name], configs.build(table[name].Config, config, configs.Source(str(path)))
    except ConfigError as error:
        raise DataError(f"{error.message}", "the file was changed, or is of another version: copy it again") from error


def load_vae(folder: Path, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32) -> VAEModel:
    """The format and VAE of a model folder, baked for inference.

    Raises:
        DataError: something is missing, broken, newer, or does not belong together.
    """
    parts = read_model_json(folder)["parts"]
    made = load_format(folder, device)
    description, weights = _read_part(folder, "vae", parts)
    kind, config = _known(MODELS, description["config"], folder / "vae.json")
    vae = kind(config, channels=made.channels, frequencies=made.frequencies())
    load_into(vae, weights, f"the vae in {folder}")
    return VAEModel(folder, made, ready(vae, device, dtype), parts["format"], parts["vae"])


def load_model(folder: Path, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32) -> Model:
    """A whole model, baked for inference.

    Raises:
        DataError: something is missing, broken, newer, or does not belong together.
    """
    parts = read_model_json(folder)["parts"]
    description, weights = _read_part(folder, "unet", parts)
    vae_model = load_vae(folder, device, dtype)
    facts = description["facts"]
    if read_json(folder / "labels.json") != facts["games"]:
        hint = "put the file back: a model's games cannot be renamed"
        raise DataError(f"{folder / 'labels.json'} does not hold the games that the unet was trained on", hint)
    kind, config = _known(MODELS, description["config"], folder / "unet.json")
    unet = kind(
        config,
        channels=vae_model.vae.config.latent_channels,
        games=len(facts["games"]),
        frequencies=vae_model.vae.latent_frequencies,
    )
    load_into(unet, weights, f"the unet in {folder}")
    space = LatentSpace(mean=tuple(facts["latent_mean"]), std=tuple(facts["latent_std"]), sigma_min=facts["sigma_min"])
    return Model(vae_model, ready(unet, device, dtype), space, tuple(facts["games"]), parts["unet"], facts)


def ready(network: Any, device: str | torch.device, dtype: torch.dtype) -> Any:
    """Put a network into its state for inference: evaluation mode, weights baked in `dtype`, on `device`."""
    bake(network, dtype)
    network.compute_dtype = dtype
    return network.requires_grad_(False).eval().to(device)
