"""A model with another average of its weights than it was exported with, rebuilt from the run that trained it."""

from dataclasses import replace
from pathlib import Path

from dualdiff.core.config import plain
from dualdiff.core.errors import DataError
from dualdiff.core.files import read_json
from dualdiff.core.tensors import load_into, tensors_of
from dualdiff.model_store.components import AVERAGED
from dualdiff.model_store.model import Model, ready
from dualdiff.models.unet import UNet
from dualdiff.training.ema.snapshots import RebuiltAverage, rebuild


def run_of(model: Model, root: Path) -> Path:
    """The run folder that trained a model: in the project `root`, or in the one that the model folder stands in.

    Raises:
        DataError: there is none, or it trains another model.
    """
    folder = model.vae_model.folder
    name = str(model.facts.get("run") or folder.name)
    places = [root / "runs" / name, folder.resolve().parent.parent / "runs" / name]
    found = next((place for place in places if (place / "state.json").is_file()), None)
    if found is None:
        raise DataError(
            f"the run that trained {folder} is not here: there is no {places[0]}",
            "other averages than the exported one are rebuilt from a run's snapshots: name a model of this project",
        )
    identity = read_json(found / "state.json").get("identity", {})
    own = {
        "network": "unet",
        "vae": model.vae_model.vae_hash,
        "games": list(model.games),
        "config": plain(model.unet.config),
    }
    for key, value in own.items():
        if identity.get(key) != value:
            raise DataError(f"{found} is not the run that trained {folder}: its {key} is another", "name another model")
    return found


def with_average(model: Model, run: Path, width: float, step: int | None = None) -> tuple[Model, RebuiltAverage]:
    """The model with its UNet's weights replaced, in place, by an average of any width; and how that was made.

    Raises:
        DataError: see `snapshots.plan`.
    """
    how, weights = rebuild(run, width, step)
    fresh = UNet(
        model.unet.config,
        channels=model.vae_model.vae.config.latent_channels,
        games=len(model.games),
        frequencies=model.vae_model.vae.latent_frequencies,
    )
    load_into(fresh, {**tensors_of(fresh), **weights}, f"the average of {run}")
    fresh = ready(fresh, model.unet.positions.device, model.unet.compute_dtype)
    load_into(model.unet, tensors_of(fresh), f"the average of {run}")
    return replace(model, unet_hash=f"{model.unet_hash}{AVERAGED}{width:g}@{how.step}"), how
