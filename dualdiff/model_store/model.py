"""A model folder on disk: JSON and safetensors, chained by hashes. The only one that knows what a model is made of.

    model.json      what lies here, with the hash of each part
    format.json     the format's constants
    vae.json        architecture and ancestry;  vae.safetensors the weights
    unet.json       architecture, ancestry, latent statistics;  unet.safetensors the weights
    labels.json     the games, in the order of the UNet's labels
    mix.json        what hears how much a clip is like each game;  mix.safetensors the numbers; not in every model
    README.md       the model card

A model is written into a sibling folder, which then takes the place of the one before. The parts and their hashes are
the matter of `components`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dualdiff.core import config as configs
from dualdiff.core.errors import ConfigError, DataError
from dualdiff.core.files import hash_of, link_or_copy, read_json, write_json_atomically
from dualdiff.core.tensors import load_into
from dualdiff.core.types import Latents, Sample
from dualdiff.formats.base import FORMATS, Format
from dualdiff.model_store.components import Part, finish, read_model_json, read_part, save_extra, save_part, writing
from dualdiff.model_store.latent_space import LatentSpace
from dualdiff.models.layers import bake
from dualdiff.models.registry import MODELS
from dualdiff.models.unet import UNet
from dualdiff.models.vae import VAE


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

    @property
    def reduction(self) -> int:
        """Frames per column of latents."""
        return int(self.vae.reduction)

    def encode(self, sample: Sample) -> Latents:
        """The mode of the latents of a sample; see `VAE.encode`."""
        with torch.inference_mode():
            return self.vae.encode(sample.to(self.vae.positions.device))


@dataclass(frozen=True)
class Model:
    """A whole model: format, VAE, UNet and the games it knows, with the hash that names it."""

    vae_model: VAEModel
    unet: UNet
    space: LatentSpace
    games: tuple[str, ...]
    unet_hash: str
    facts: Mapping[str, Any]


def format_hash(format: Format) -> str:
    """What names a format: the hash of the constants that its samples depend on; how they are decoded may change."""
    decode_only: tuple[str, ...] = getattr(format.config, "DECODE_ONLY", ())
    return hash_of({name: value for name, value in configs.plain(format.config).items() if name not in decode_only})


def save_vae(
    folder: Path,
    format: Format,
    vae: VAE,
    weights: Mapping[str, Tensor],
    facts: Mapping[str, Any],
    card: str,
) -> None:
    """Write a model folder that holds a format and a VAE."""
    parts = {"format": format_hash(format)}
    with writing(folder) as staging:
        write_json_atomically(staging / "format.json", configs.plain(format.config))
        parts["vae"] = save_part(staging, "vae", configs.plain(vae.config), weights, {"format": parts["format"]}, facts)
        finish(staging, parts, card)


def _share(source: Path, folder: Path, names: tuple[str, ...]) -> None:
    """Put files of another model into a new folder; where the file system can, they take no space twice."""
    for name in names:
        link_or_copy(source / name, folder / name)


def save_unet(
    folder: Path,
    vae_model: VAEModel,
    unet: UNet,
    weights: Mapping[str, Tensor],
    facts: Mapping[str, Any],
    card: str,
    extra: Sequence[Part] = (),
    keep_in: Path | None = None,
) -> None:
    """Write a whole model folder: the format and VAE it was trained on, the UNet, and the parts in `extra`.

    `facts` must hold "games", "latent_mean", "latent_std" and "sigma_min": what generation needs besides weights; and
    may hold "sigma_max", the highest noise level of training, and "crop_columns", how long its latents were. A model
    with another UNet that was there before is kept in the folder `keep_in`, so that its clips can be rendered again.

    Raises:
        DataError: the folder holds something else than a model.
    """
    parts = {"format": vae_model.format_hash, "vae": vae_model.vae_hash}
    with writing(folder, keep_in) as staging:
        _share(vae_model.folder, staging, ("format.json", "vae.json", "vae.safetensors"))
        write_json_atomically(staging / "labels.json", list(facts["games"]))
        parts["unet"] = save_part(staging, "unet", configs.plain(unet.config), weights, parts, facts)
        for part in extra:
            parts = save_extra(staging, part, parts)
        finish(staging, parts, card)


def load_format(folder: Path, device: str | torch.device = "cpu") -> Format:
    """The format of a model folder.

    Raises:
        DataError: it is missing, unknown, or not the one that `model.json` names.
    """
    parts = read_model_json(folder)["parts"]
    table = _current(read_json(folder / "format.json"))
    kind, config = _known(FORMATS, table, folder / "format.json")
    made: Format = kind(config, device=device)
    if format_hash(made) != parts["format"]:
        raise DataError(
            f"the format in {folder} is not the one that its model.json names", "files were mixed: copy it again"
        )
    return made


def _current(table: Any) -> Any:
    """The constants of a format as this version writes them: mel formats once had a network for the phase."""
    if not isinstance(table, dict) or "phase_model" not in table:
        return table
    kept = {name: value for name, value in table.items() if name != "phase_model"}
    return {**kept, "phase": "pghi"} if kept.get("phase") == "learned" else kept


_EARLIER: dict[str, dict[str, Any]] = {"edm2": {"rhythm": False}}
"""What a network was before a setting existed that its file lacks, by the network's name."""


def _known(table: Mapping[str, Any], config: Any, path: Path) -> tuple[Any, Any]:
    """The class that a config in a file names, and the config as that class has it."""
    name = str(config.get("name")) if isinstance(config, dict) else "nothing"
    if name not in table:
        hint = f"known are {', '.join(table)}: register it, or update dualdiff"
        raise DataError(f'{path} names "{name}", which is not known here', hint)
    try:
        config = {**_EARLIER.get(name, {}), **config}
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
    description, weights = read_part(folder, "vae")
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
    description, weights = read_part(folder, "unet")
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
