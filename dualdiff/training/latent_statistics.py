"""The latent statistics of a run: it goes on with those it began with, also when new tracks have moved the index's."""

import logging
from dataclasses import replace
from pathlib import Path

from dualdiff.core.errors import DataError
from dualdiff.core.files import read_json
from dualdiff.data.latent_dataset import LatentIndex

log = logging.getLogger(__name__)

STATISTICS_NAME = "latents.json"

FAR = 0.5
"""How far a channel's mean may have moved, in its standard deviations, and its standard deviation, relatively."""


def run_statistics(folder: Path, index: LatentIndex) -> LatentIndex:
    """The index with the statistics that the run in `folder` began with, if there is one.

    Mean and standard deviation only scale the latents: as long as they are about right, those of the start serve as
    well as new ones, and the network goes on seeing what it learned on.

    Raises:
        DataError: the latents have become so different that they do not.
    """
    path = folder / STATISTICS_NAME
    if not path.exists():
        return index
    found = read_json(path)
    try:
        mean, std = tuple(map(float, found["mean"])), tuple(map(float, found["std"]))
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path} does not hold mean and std of latents", "put the file back") from error
    if (mean, std) == (index.mean, index.std):
        return index
    moved = [abs(a - b) / s for a, b, s in zip(index.mean, mean, std, strict=True)]
    moved += [abs(a / s - 1) for a, s in zip(index.std, std, strict=True)]
    if max(moved) > FAR:
        raise DataError(
            f"the latents in {index.folder} have changed too much since {folder} began: mean or spread of a channel "
            f"moved by {max(moved):.0%}",
            "give the training another name (unet.train.run) to start anew on them",
        )
    log.info(
        "%s goes on with the latent statistics that it began with: tracks encoded since moved them by up to %.1f%%",
        folder,
        100 * max(moved),
    )
    return replace(index, mean=mean, std=std)
