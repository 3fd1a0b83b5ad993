"""Fingerprints of a model's training music, a part of its folder: its clips are compared with them.

They say which training track a clip comes near, but no music can be made of them: 32 bits for each eighth of a second.

Letters: W words of all fingerprints together, N tracks.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from dualdiff.core.errors import DataError
from dualdiff.core.progress import Progress, silent
from dualdiff.data.config import Variant
from dualdiff.data.fingerprint import WORDS_PER_S, Fingerprint
from dualdiff.data.latent_dataset import LatentIndex, LatentTrack
from dualdiff.data.manifest import Row
from dualdiff.evaluation.feature_spaces import Space, audio_space
from dualdiff.evaluation.memorization import Calibration, MemorizationTest, calibrate, calibration_from_json
from dualdiff.model_store.components import Part, add_part, read_model_json, read_part

PART = "fingerprints"
LARGEST_BYTES = 3_000_000
"""What fingerprints may add to a model: some 25 hours of music."""


def save_fingerprints(
    folder: Path, rows: Sequence[Row], prints: Mapping[str, Fingerprint], progress: Progress = silent
) -> int:
    """Add the fingerprints of tracks to a whole model folder; returns how many tracks that are.

    Args:
        folder: of the model.
        rows: the tracks that it was trained on.
        prints: their fingerprints, by the SHA-256 of the audio.
        progress: of the calibration, which looks for tracks in all others.

    Raises:
        DataError: a track has no fingerprint, or together they are too large.
    """
    missing = [row.path for row in rows if row.sha256 not in prints]
    if missing or not rows:
        what = f"{missing[0]} has no fingerprint" if missing else "there are no tracks to take fingerprints of"
        raise DataError(what, "run dualdiff dataset scan")
    words = np.concatenate([prints[row.sha256] for row in rows]).astype("<u4")
    if words.nbytes > LARGEST_BYTES:
        problem = f"the fingerprints of {len(rows)} tracks take {words.nbytes / 1e6:.1f} MB"
        raise DataError(problem, f"{LARGEST_BYTES / 1e6:.0f} MB are the most that a model carries")
    lengths = [len(prints[row.sha256]) for row in rows]
    index = _index(folder, [(row.path, row.game) for row in rows], lengths)
    calibration = calibrate(index, [_space(index, words)], progress)
    tensors = {
        "words": torch.from_numpy(words.view("<i4").copy()),  # (W,)
        "lengths": torch.tensor(lengths),  # (N,)
    }
    tracks = [[row.path, row.game] for row in rows]
    config = {"tracks": tracks, "calibration": asdict(calibration)}
    add_part(folder, Part(PART, config, tensors, ["unet"], {}))
    return len(rows)


def has_fingerprints(folder: Path) -> bool:
    """Return whether a model folder carries fingerprints of its training music.

    Raises:
        DataError: it is no model folder.
    """
    return PART in read_model_json(folder)["parts"]


def load_fingerprints(folder: Path) -> MemorizationTest:
    """Open the fingerprints of a model folder, ready to compare clips with: by the space "audio" alone.

    Raises:
        DataError: there are none, or they are broken.
    """
    description, tensors = read_part(folder, PART)
    try:
        stored = description["config"]
        calibration: Calibration = calibration_from_json(stored["calibration"])
        index = _index(folder, [(path, game) for path, game in stored["tracks"]], tensors["lengths"].tolist())
        space = _space(index, tensors["words"].numpy().view("<u4"))
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"the fingerprints in {folder} are broken: {error}", "make or copy the model again") from error
    return MemorizationTest(index, [space], calibration=calibration)


def _index(folder: Path, tracks: Sequence[tuple[str, str]], lengths: Sequence[int]) -> LatentIndex:
    """The tracks as an index whose columns are words, all of them for training."""
    rows = [
        LatentTrack(
            path=path, game=game, split="train", columns=length, weight_s=length / WORDS_PER_S,
            audio_sha256=str(number), files=(),
        )
        for number, ((path, game), length) in enumerate(zip(tracks, lengths, strict=True))
    ]  # fmt: skip
    games = tuple(sorted({game for _, game in tracks}))
    return LatentIndex(
        folder=folder, vae="", vae_hash="", format_hash="", offsets=1, variants=(Variant(),),
        frame_s=1 / WORDS_PER_S, frames_per_column=1, mean=(), std=(), games=games, tracks=tuple(rows),
    )  # fmt: skip


def _space(index: LatentIndex, words: Fingerprint) -> Space:
    ends = np.cumsum([track.columns for track in index.tracks])
    parts = np.split(words, ends[:-1])
    space = audio_space(index, {track.audio_sha256: part for track, part in zip(index.tracks, parts, strict=True)})
    assert space is not None
    return space
