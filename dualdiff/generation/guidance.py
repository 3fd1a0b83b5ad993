"""The denoiser of requests: their games as labels, with guidance towards and away from them.

Letters: B clips of a batch, K games of the model.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from dualdiff.core.errors import UsageError, did_you_mean
from dualdiff.core.types import Rhythm
from dualdiff.diffusion.preconditioning import Away, Denoise, Denoiser, autoguided, guided
from dualdiff.generation.label_weights import split
from dualdiff.generation.request import Request
from dualdiff.model_store.latent_space import SIGMA_DATA
from dualdiff.model_store.model import Model


def guided_denoiser(
    denoiser: Denoiser,
    guide: Model | None,
    games: Sequence[str],
    requests: Sequence[Request],
    device: torch.device,
    beats: Rhythm | None = None,
) -> Denoise:
    """The denoiser of requests of one kind, guided towards their games and away from those of weights below 0.

    Args:
        denoiser: that of the model.
        guide: the model of autoguidance; None guides away from music of no game.
        games: the games that the model knows.
        requests: one for each clip.
        device: where the labels go.
        beats: the rhythm (B, R, N), for models that know one.

    Raises:
        UsageError: an unknown game.
    """
    config, mixes = requests[0].config, [split(request.games) for request in requests]
    interval = (config.cfg_sigma_min, config.cfg_sigma_max)
    labels, away = labels_of([mix.towards for mix in mixes], games).to(device), None
    if any(mix.away for mix in mixes):
        shares = torch.tensor([mix.away_share for mix in mixes], device=device)
        away = Away(labels_of([mix.away for mix in mixes], games).to(device), shares)
    denoiser = denoiser if beats is None else replace(denoiser, rhythm=beats)
    if guide is not None:
        worse = Denoiser(guide.unet, SIGMA_DATA, beats if guide.unet.config.rhythm else None)
        return autoguided(denoiser, worse, labels, config.cfg_scale, interval, away)
    return guided(denoiser, labels, config.cfg_scale, interval, away)


def labels_of(mixes: Sequence[Mapping[str, float]], games: Sequence[str]) -> Tensor:
    """The weights of the games, (B, K); a row of zeros where none is named.

    Raises:
        UsageError: an unknown game.
    """
    weights = torch.zeros(len(mixes), len(games))
    for row, mix in enumerate(mixes):
        for name, weight in mix.items():
            if name not in games:
                raise UsageError(
                    f'this model knows no game "{name}"',
                    did_you_mean(name, games) or f"it knows {', '.join(games)}",
                )
            weights[row, games.index(name)] = weight
    return weights
