"""The fingerprints of a collection, kept beside its ledger, so that tracks added later are compared with all others.

W is the number of words of all fingerprints together, N the number of tracks.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

from dualdiff.core.files import write_bytes_atomically
from dualdiff.data.fingerprint import Fingerprint
from dualdiff.data.manifest import CACHES, LEDGER_NAME

PRINTS_NAME = "fingerprints.safetensors"


def prints_path(project: Path) -> Path:
    """Where the scan of a project keeps its fingerprints; where an older version kept them, as long as only that is."""
    path, old = project / CACHES / PRINTS_NAME, project / f".{LEDGER_NAME}.fingerprints"
    return old if old.exists() and not path.exists() else path


def read_prints(path: Path) -> dict[str, Fingerprint]:
    """The fingerprints in a file of `write_prints`, by the SHA-256 of the audio; none where there is no whole file."""
    try:
        tensors = safetensors.numpy.load_file(path)
        words, ends = tensors["words"], np.cumsum(tensors["lengths"])
        hashes = [row.tobytes().hex() for row in tensors["hashes"]]
    except (OSError, SafetensorError, KeyError):
        return {}
    return dict(zip(hashes, np.split(words, ends[:-1]), strict=True)) if hashes else {}


def write_prints(path: Path, prints: Mapping[str, Fingerprint]) -> None:
    """Keep fingerprints by the SHA-256 of their audio: "words" (W,), "lengths" (N,) and "hashes" (N, 32).

    Raises:
        DualdiffError: the folder cannot be written to.
    """
    ordered = sorted(prints)
    hashes = np.frombuffer(bytes.fromhex("".join(ordered)), np.uint8).reshape(-1, 32)
    lengths = np.array([len(prints[key]) for key in ordered], np.int64)
    words = np.concatenate([np.zeros(0, np.uint32), *(prints[key] for key in ordered)])
    write_bytes_atomically(path, safetensors.numpy.save({"words": words, "lengths": lengths, "hashes": hashes}))
