"""Atomic writing and hashing."""

import hashlib
import os
from pathlib import Path

import pytest

from dualdiff.core.errors import DualdiffError
from dualdiff.core.files import hash_of, sha256_of, write_bytes_atomically, write_json_atomically, write_text_atomically


def test_a_file_is_replaced_whole_and_nothing_else_is_left(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file.txt"
    write_text_atomically(path, "one")
    write_text_atomically(path, "two é")
    assert path.read_text(encoding="utf-8") == "two é"
    assert os.listdir(path.parent) == ["file.txt"]
    assert path.stat().st_mode & 0o777 == 0o666 & ~_umask()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_a_write_that_fails_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file.txt"
    write_text_atomically(path, "old")

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DualdiffError, match=r"file.txt cannot be written: No space left"):
        write_bytes_atomically(path, b"new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file.txt"]


def test_hashes_are_those_of_content(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"abc" * 1_000_000)
    assert sha256_of(path) == hashlib.sha256(b"abc" * 1_000_000).hexdigest()
    assert hash_of({"a": 1, "b": [2.5]}) == hash_of({"b": [2.5], "a": 1})
    assert hash_of({"a": 1}) != hash_of({"a": 1.5})
    write_json_atomically(path, {"name": "Déjà"})
    assert "Déjà" in path.read_text(encoding="utf-8")
