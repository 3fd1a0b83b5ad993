"""Did the mix do what was asked? A small classifier that hears how much a clip is like each game.

It is linear discriminant analysis over pooled statistics of latents: means, spreads and changes over a few seconds,
which tell instruments, registers and pace from one another, not tunes. It is fitted in closed form, on training tracks
only. How its probabilities are scaled is chosen across training tracks, each judged by a fit without it; how often it
is right is told of held-out tracks. It travels in the model's folder, so that clips can be judged without the latents.

Letters: C channels, F rows and N columns of latents; W windows, D = 3 C F statistics, K games.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from dualdiff.core.errors import DataError
from dualdiff.core.types import Latents
from dualdiff.data.latent_dataset import ENCODE, LatentIndex, LatentTrack
from dualdiff.data.latent_file import read_columns
from dualdiff.model_store.components import Part, read_model_json, read_part

PART = "mix"
"""What the classifier is called among the parts of a model."""
WINDOW_S = 4.0
MOST_WINDOWS = 40_000
"""That a fit looks at, spread evenly over the tracks: what bounds its memory, to 60 MB."""
SHRINKAGES = (0.01, 0.03, 0.1, 0.3, 0.6)
"""How much of the covariance within games is replaced by its diagonal: the best of these."""
TEMPERATURES = tuple(2 ** (power / 4) for power in range(-28, 9))
"""What scores are multiplied by before they become probabilities: the best of these."""
FOLDS = 4
_LEAST_SPREAD = 1e-3


@dataclass(frozen=True)
class GameClassifier:
    """A fitted classifier: the softmax of x W + b says how much a window with the statistics x is like each game."""

    games: tuple[str, ...]
    window: int
    """Columns of a window."""
    weights: Tensor
    """W, (D, K), float32."""
    biases: Tensor
    """b, (K,), with the centre of the statistics taken into it."""
    facts: Mapping[str, Any]
    """How it was fitted, and how often it is right: plain JSON values."""

    def shares(self, latents: Latents) -> dict[str, float]:
        """How much a clip (C, F, N), as the VAE encodes it, is like each game, most first: the mean over its windows.

        Raises:
            DataError: the latents are of another shape than those it was fitted on.
        """
        statistics = torch.stack([pooled(piece) for piece in _windows_of(latents, self.window)])
        if statistics.shape[1] != len(self.weights):
            raise DataError(
                f"the mix classifier knows {len(self.weights)} statistics of latents, here are {statistics.shape[1]}",
                "it belongs to another model",
            )
        found = (statistics @ self.weights + self.biases).softmax(dim=1).mean(dim=0).tolist()
        return dict(sorted(zip(self.games, found, strict=True), key=lambda item: -item[1]))


def pooled(latents: Latents) -> Tensor:
    """The statistics (D,) of a window (C, F, n): of each channel and row its mean, log spread, log size of changes."""
    values = latents.float()
    changes = values.diff(dim=-1) if values.shape[-1] > 1 else torch.zeros_like(values)
    spread = values.std(dim=-1, unbiased=False).clamp_min(_LEAST_SPREAD).log()
    change = changes.square().mean(dim=-1).sqrt().clamp_min(_LEAST_SPREAD).log()
    return torch.cat([values.mean(dim=-1).flatten(), spread.flatten(), change.flatten()])


def _windows_of(latents: Latents, window: int) -> list[Latents]:
    """Windows that overlap by half; the whole where it is shorter than one."""
    last = max(latents.shape[-1] - window, 0)
    return [latents[..., first : first + window] for first in [*range(0, last, max(window // 2, 1)), last]]


def fit_game_classifier(index: LatentIndex) -> GameClassifier:
    """Fit the classifier to the training tracks of some latents.

    Raises:
        DataError: there is no training track, or a file is missing or broken.
    """
    window = max(2, round(WINDOW_S / (index.frame_s * index.frames_per_column)))
    each = max(2, MOST_WINDOWS // max(len(index.tracks), 1))
    training = _Examples.read(index, index.tracks_of("train"), window, each)
    held_out = _Examples.read(index, index.tracks_of("validation"), window, each)
    if not len(training.labels):
        raise DataError(f"the latents in {index.folder} have no track to train on", ENCODE)
    shrinkage, temperature, is_calibrated = _chosen(training, len(index.games))
    weights, biases = _fit(training, len(index.games), shrinkage)
    facts = {
        "fitted on windows": len(training.labels),
        "window_s": window * index.frames_per_column * index.frame_s,
        "shrinkage": shrinkage,
        "temperature": temperature,
        "calibrated": is_calibrated,
        **_held_out_facts(held_out, (weights * temperature, biases * temperature)),
    }
    return GameClassifier(index.games, window, (weights * temperature).float(), (biases * temperature).float(), facts)


@dataclass(frozen=True)
class _Examples:
    """Windows of tracks: statistics (W, D), games (W,) by number, and tracks (W,), numbered within each game."""

    statistics: Tensor
    labels: Tensor
    tracks: Tensor

    @classmethod
    def read(cls, index: LatentIndex, tracks: Sequence[LatentTrack], window: int, each: int) -> "_Examples":
        """At most `each` windows of each track, evenly spread, of the music as it is."""
        rows, labels, numbers = [], [], []
        seen: dict[str, int] = {}
        for track in tracks:
            number = seen[track.game] = seen.get(track.game, -1) + 1
            for piece in _spread(index, track, window, each):
                rows.append(pooled(piece))
                labels.append(index.games.index(track.game))
                numbers.append(number)
        statistics = torch.stack(rows).double() if rows else torch.zeros(0, 0, dtype=torch.float64)
        return cls(statistics, torch.tensor(labels, dtype=torch.long), torch.tensor(numbers, dtype=torch.long))

    def where(self, mask: Tensor) -> "_Examples":
        """Those of the windows that a mask (W,) marks."""
        return _Examples(self.statistics[mask], self.labels[mask], self.tracks[mask])


def _spread(index: LatentIndex, track: LatentTrack, window: int, each: int) -> list[Latents]:
    last = max(track.columns - window, 0)
    count = min(each, last // window + 1)
    starts = [round(number * last / max(count - 1, 1)) for number in range(count)]
    path = index.folder / track.files[index.variants.index(min(index.variants, key=_strangeness))].name
    try:
        return [read_columns(path, 0, first, min(first + window, track.columns)).permute(1, 2, 0) for first in starts]
    except (OSError, SafetensorError) as error:
        raise DataError(f"{path}, the latents of {track.path}, cannot be read: {error}", ENCODE) from error


def _strangeness(variant: tuple[int, bool]) -> tuple[int, bool]:
    return abs(variant[0]), variant[1]


def _fit(examples: _Examples, games: int, shrinkage: float) -> tuple[Tensor, Tensor]:
    """Weights (D, K) and biases (K,) of linear discriminant analysis with equal priors.

    With S the covariance within games, shrunk towards its diagonal, and m_k the mean of game k: W = S^-1 m_k and
    b = -m_k S^-1 m_k / 2, about the common mean (Hastie, Tibshirani and Friedman 2009, section 4.3). A game without an
    example here has the bias -inf.
    """
    x, onehot = examples.statistics, torch.nn.functional.one_hot(examples.labels, games).double()
    centre = x.mean(dim=0)
    counts = onehot.sum(dim=0)
    means = onehot.T @ (x - centre) / counts.clamp_min(1)[:, None]
    inside = x - centre - means[examples.labels]
    covariance = inside.T @ inside / max(len(x) - int((counts > 0).sum()), 1)
    diagonal = covariance.diagonal() + _LEAST_SPREAD**2
    shrunk = (1 - shrinkage) * covariance + shrinkage * torch.diag(diagonal) + _LEAST_SPREAD**2 * torch.eye(len(centre))
    weights = torch.linalg.solve(shrunk, means.T)
    biases = -0.5 * (means.T * weights).sum(dim=0) - centre @ weights
    return weights, biases.masked_fill(counts == 0, -math.inf)


def _chosen(examples: _Examples, games: int) -> tuple[float, float, bool]:
    """The shrinkage and temperature with the best log loss across tracks, and whether there were tracks to judge by.

    A window is judged by a fit without its track, and without a quarter of the others.
    """
    best = (math.inf, SHRINKAGES[3], TEMPERATURES[0])
    for shrinkage in SHRINKAGES:
        scores, labels = [], []
        for fold in range(FOLDS):
            apart = examples.tracks % FOLDS == fold
            fitted_on, judged = examples.where(~apart), examples.where(apart)
            known = torch.isin(judged.labels, fitted_on.labels)
            if len(fitted_on.labels) and known.any():
                weights, biases = _fit(fitted_on, games, shrinkage)
                scores.append(judged.statistics[known] @ weights + biases)
                labels.append(judged.labels[known])
        if not scores:
            return best[1], best[2], False
        losses = {step: _log_loss(torch.cat(scores) * step, torch.cat(labels)) for step in TEMPERATURES}
        step = min(losses, key=lambda own: losses[own])
        best = min(best, (losses[step], shrinkage, step))
    return best[1], best[2], True


def _log_loss(scores: Tensor, labels: Tensor) -> float:
    """The mean of -log of the probability of the right game, nats."""
    return float(torch.nn.functional.cross_entropy(scores, labels))


def _held_out_facts(held_out: _Examples, fitted: tuple[Tensor, Tensor]) -> dict[str, Any]:
    """How often it is right on tracks that it was not fitted on: by window, and by track; and how sure it may be."""
    if not len(held_out.labels):
        return {"held-out tracks": 0}
    probabilities = (held_out.statistics @ fitted[0] + fitted[1]).softmax(dim=1)
    names = held_out.labels * (int(held_out.tracks.max()) + 1) + held_out.tracks
    tracks = [names == name for name in sorted(set(names.tolist()))]
    whole = [bool(probabilities[own].mean(dim=0).argmax() == held_out.labels[own][0]) for own in tracks]
    sure, guess = probabilities.max(dim=1)
    right = guess == held_out.labels
    return {
        "held-out tracks": len(whole),
        "right, of held-out tracks": round(sum(whole) / len(whole), 4),
        "held-out windows": len(right),
        "right, of held-out windows": round(float(right.double().mean()), 4),
        "sureness, of held-out windows": round(float(sure.mean()), 4),
        "right by chance": round(1 / max(len(fitted[1]), 1), 4),
    }


def game_classifier_part(meter: GameClassifier) -> Part:
    """The classifier as a part of a model."""
    tensors = {"weights": meter.weights, "biases": meter.biases}
    facts = {"games": list(meter.games), "window": meter.window, "mix": dict(meter.facts)}
    return Part(PART, {"name": "lda"}, tensors, ("format", "vae"), facts)


def load_game_classifier(folder: Path) -> GameClassifier | None:
    """The classifier in a model's folder; None where the model has none.

    Raises:
        DataError: the folder is no model, or the part is broken or of another model.
    """
    if PART not in read_model_json(folder)["parts"]:
        return None
    description, tensors = read_part(folder, PART)
    facts = description["facts"]
    try:
        return GameClassifier(
            tuple(facts["games"]), facts["window"], tensors["weights"], tensors["biases"], facts["mix"]
        )
    except (KeyError, TypeError) as error:
        raise DataError(f"the mix classifier in {folder} is broken: {error}", "make or copy the model again") from error
