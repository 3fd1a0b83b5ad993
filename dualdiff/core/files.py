"""Reading, writing and hashing files so that an interruption never leaves half of one."""

import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, BinaryIO, cast

from dualdiff.core.errors import DataError, DualdiffError, UsageError


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to write under a temporary name beside `path`; it takes that place when the block ends without an error.

    Raises:
        DualdiffError: the folder cannot be written to, or the disk is full.
    """
    temporary = ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name[:40]}.", delete=False) as file:
            temporary = file.name
            yield cast(BinaryIO, file)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
        temporary = ""
    except OSError as error:
        raise DualdiffError(
            f"{path} cannot be written: {error.strerror or error}",
            "nothing already there was changed; check space and permissions",
        ) from error
    finally:
        if temporary:
            Path(temporary).unlink(missing_ok=True)


def refuse_existing(paths: Iterable[Path], force: bool, hint: str = "") -> None:
    """Refuse to overwrite files, best before the work that goes into them.

    Args:
        paths: files that are to be written.
        force: overwrite them without complaint.
        hint: what to do instead of `--force`, for the error.

    Raises:
        UsageError: one of them exists and `force` is off.
    """
    for path in paths:
        if path.exists() and not force:
            raise UsageError(f"{path} exists already", hint or "add --force to overwrite it, or name another file")


def write_bytes_atomically(path: Path, content: bytes) -> None:
    """Write a file under a temporary name beside `path`, then rename it: readers see the old file or the new one.

    Raises:
        DualdiffError: the folder cannot be written to, or the disk is full.
    """
    with replacing(path) as file:
        file.write(content)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_text_atomically(path: Path, text: str) -> None:
    """Write UTF-8 text atomically; see `write_bytes_atomically`."""
    write_bytes_atomically(path, text.encode("utf-8"))


def write_json_atomically(path: Path, value: Any) -> None:
    """Write a value as indented JSON, atomically; see `write_bytes_atomically`."""
    write_text_atomically(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def is_file_name(text: str) -> bool:
    """Whether a text from a file of unknown origin names a file and no place: no folder, drive or control letters."""
    bare = PurePosixPath(text).name == text == PureWindowsPath(text).name
    return bare and text.isprintable() and text not in ("", ".", "..")


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def hash_of(value: Any) -> str:
    """The SHA-256 of a JSON value, independent of the order of keys, in hexadecimal."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


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
