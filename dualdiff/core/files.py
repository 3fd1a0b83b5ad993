"""Write, replace and delete files, so that an interruption never leaves half of one and nothing of the user's is lost.

This is the only module of the package that deletes, renames or opens files for writing. It deletes a file only if the
program can prove that it wrote it: the whole name matches a pattern of the program's own, and the file lies in a
folder with the program's marker (`own_folder`). Temporary names are of one pattern, `TEMPORARY`.
"""

import hashlib
import json
import os
import re
import secrets
import shutil
import stat
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, BinaryIO

from dualdiff.core.errors import DataError, DualdiffError, UsageError

MARKER = ".dualdiff-folder"
"""The file that marks a folder as the program's own: JSON with the kind of the folder."""

TEMPORARY = re.compile(r"\..{1,40}\.[0-9a-f]{16}\.tmp(\.[a-z0-9]{1,5})?")
"""The names of files and folders that are being written; a kill leaves them behind."""

RETIRED = re.compile(r"\..{1,40}\.[0-9a-f]{16}\.old")
"""The names of folders that were just replaced; a kill leaves them behind."""

_UNCHANGED = "nothing already there was changed; check space and permissions"


# --- the program's own folders ---------------------------------------------------------------------------------------


def own_folder(folder: Path, kind: str, is_ours: Callable[[Path], bool] = lambda _: False) -> bool:
    """Make a folder of the program's own: create it, or mark it if it is empty or `is_ours` proves that it is.

    Returns whether it is marked; a folder with files of others stays as it is.

    Raises:
        DualdiffError: the folder cannot be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if kind_of(folder) is None and (next(folder.iterdir(), None) is None or is_ours(folder)):
            mark(folder, kind)
    except OSError as error:
        raise DualdiffError(f"{folder} cannot be written to: {error.strerror or error}", _UNCHANGED) from error
    return kind_of(folder) is not None


def mark(folder: Path, kind: str) -> None:
    """Write the marker of a folder that is known to be the program's own."""
    write_json_atomically(folder / MARKER, {"dualdiff_folder": 1, "kind": kind, "scanned_as_music": False})


def kind_of(folder: Path) -> str | None:
    """What a folder's marker says that it holds; None where there is no marker of the program."""
    try:
        found = json.loads((folder / MARKER).read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    kind = found.get("kind") if isinstance(found, dict) and "dualdiff_folder" in found else None
    return kind if isinstance(kind, str) else None


def discard(folder: Path, pattern: re.Pattern[str], inside: str = "", keep: Collection[str] = ()) -> None:
    """Delete the files of a marked folder whose whole names match `pattern`, but not those in `keep`.

    `inside` names a subfolder. Without the marker nothing is deleted; what cannot be deleted stays.
    """
    for path in _own(folder, pattern, inside):
        if path.name not in keep and (path.is_symlink() or not path.is_dir()):
            with suppress(OSError):
                path.unlink()


def discard_folders(
    folder: Path, pattern: re.Pattern[str], content: re.Pattern[str], inside: str = "", keep: Collection[str] = ()
) -> None:
    """Delete the folders in a marked folder whose whole names match `pattern`, and in them the files of `content`.

    A folder that holds anything else stays, with that.
    """
    for path in _own(folder, pattern, inside):
        if path.name not in keep and path.is_dir() and not path.is_symlink():
            with suppress(OSError):
                for file in path.iterdir():
                    if content.fullmatch(file.name) or TEMPORARY.fullmatch(file.name):
                        file.unlink()
                path.rmdir()


def _own(folder: Path, pattern: re.Pattern[str], inside: str) -> list[Path]:
    if kind_of(folder) is None or not (folder / inside).is_dir():
        return []
    return sorted(path for path in (folder / inside).iterdir() if pattern.fullmatch(path.name))


# --- one file --------------------------------------------------------------------------------------------------------


@contextmanager
def staged(path: Path) -> Iterator[Path]:
    """A temporary name next to `path`, to write a file under that takes the place of `path` when the block ends well.

    The file exists, empty, and its suffix is that of `path`. A link stays a link: the file that it leads to is
    replaced. The permissions of a file that is replaced stay.

    Raises:
        DualdiffError: the folder cannot be written to, or the disk is full.
    """
    temporary = None
    try:
        target = path.resolve() if path.is_symlink() else path
        target.parent.mkdir(parents=True, exist_ok=True)
        suffix = target.suffix.lower() if re.fullmatch(r"\.[a-z0-9]{1,5}", target.suffix.lower()) else ""
        temporary = target.with_name(f"{_temporary_name(target.stem)}{suffix}")
        with open(temporary, "xb"):
            pass
        yield temporary
        with open(temporary, "r+b") as file:
            os.fsync(file.fileno())
        os.chmod(temporary, stat.S_IMODE(target.stat().st_mode) if target.exists() else 0o666 & ~_umask())
        os.replace(temporary, target)
        temporary = None
    except OSError as error:
        raise DualdiffError(f"{path} cannot be written: {error.strerror or error}", _UNCHANGED) from error
    finally:
        if temporary is not None:
            with suppress(OSError):
                temporary.unlink()


def _temporary_name(stem: str, end: str = "tmp") -> str:
    """A name of the pattern `TEMPORARY` or `RETIRED`, below the length that file systems take."""
    short = stem.encode()[:40].decode(errors="ignore")[:40] or "file"
    return f".{short}.{secrets.token_hex(8)}.{end}"


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a file to write under a temporary name; it takes the place of `path` when the block ends without an error.

    Raises:
        DualdiffError: the folder cannot be written to, or the disk is full.
    """
    with staged(path) as temporary, open(temporary, "r+b") as file:
        yield file


@contextmanager
def editing(temporary: Path) -> Iterator[BinaryIO]:
    """Open a file of `staged` to read and change it in place.

    Raises:
        ValueError: the name is not one of `staged`.
    """
    if not TEMPORARY.fullmatch(temporary.name):
        raise ValueError(f"{temporary} is not a temporary file: only those are changed in place")
    with open(temporary, "r+b") as file:
        yield file


def append_text(path: Path, text: str) -> None:
    """Append UTF-8 text to a record; the file and its folder are made where there is none.

    Raises:
        OSError: it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a", encoding="utf-8", newline="\n") as file:
        file.write(text)


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
    """Write a file so that readers see the old one or the new one, whole; see `staged`.

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


# --- whole folders ---------------------------------------------------------------------------------------------------


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A temporary folder next to `target`, which must not exist; it takes that name when the block ends well.

    Raises:
        OSError: it cannot be written, or the name is taken.
    """
    staging = target.with_name(_temporary_name(target.name))
    staging.mkdir(parents=True)  # so all in it is of this block
    try:
        yield staging
        os.rename(staging, target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


@contextmanager
def replacing_folder(
    folder: Path,
    kind: str,
    is_ours: Callable[[Path], bool],
    own: Collection[str] = (),
    retire: Callable[[Path], Path | None] = lambda _: None,
) -> Iterator[Path]:
    """A sibling folder to write; it takes the place of `folder` when the block ends without an error.

    What the old folder holds besides the names in `own` and what was written again is carried over. `retire` may name a
    place where the old folder is to be kept; else it is deleted. A kill leaves the old or the new folder, whole:
    between two renames the old one has a name of the pattern `RETIRED`, and `restore_folder` puts it back.

    Raises:
        DataError: `folder` holds something, and not what the program wrote.
        DualdiffError: it cannot be written or replaced.
    """
    folder = folder.resolve()
    staging = folder.with_name(_temporary_name(folder.name))
    try:
        restore_folder(folder)
        _clear_leftovers(folder, retire)
        if folder.exists() and not own_folder(folder, kind, is_ours):
            raise DataError(f"{folder} holds files that dualdiff did not write", "choose another name, or move them")
        mark(staging, kind)
        yield staging
        _carry(folder, staging, own)
        _swap(folder, staging, retire)
    except OSError as error:
        raise DualdiffError(f"{folder} cannot be replaced: {error.strerror or error}", _UNCHANGED) from error
    finally:
        _remove_tree(staging)


def restore_folder(folder: Path) -> None:
    """Put back a folder whose replacement was killed between its two renames; do nothing where it is there."""
    if folder.exists():
        return
    with suppress(OSError):
        for retired in _siblings(folder, RETIRED):
            if kind_of(retired) is not None:
                os.rename(retired, folder)
                return


def _siblings(folder: Path, pattern: re.Pattern[str]) -> list[Path]:
    """The folders next to `folder` that its replacements left, by their names' pattern."""
    start = len(_temporary_name(folder.name)) - len("0123456789abcdef.tmp")
    named = [path for path in folder.parent.iterdir() if pattern.fullmatch(path.name)]
    same = [path for path in named if path.name[:start] == _temporary_name(folder.name)[:start]]
    return sorted(path for path in same if len(path.name) == start + 20 and path.is_dir() and not path.is_symlink())


def _clear_leftovers(folder: Path, retire: Callable[[Path], Path | None]) -> None:
    if folder.exists():
        for path in _siblings(folder, TEMPORARY):
            _remove_tree(path)
        for path in _siblings(folder, RETIRED):
            if kind_of(path) is None:
                _remove_tree(path)
            else:
                _put_away(path, retire)


def _carry(old: Path, new: Path, own: Collection[str]) -> None:
    """Give a new folder what only the old one has: as links to the same files, or as copies."""
    for path in old.iterdir() if old.exists() else ():
        place = new / path.name
        if path.name in own or place.exists() or TEMPORARY.fullmatch(path.name):
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.copytree(path, place, symlinks=True, copy_function=link_or_copy)
        else:
            link_or_copy(path, place)


def link_or_copy(source: Path | str, target: Path | str) -> None:
    """Give a file a second name, or copy it where the file system cannot; files are never changed in place.

    Raises:
        OSError: it cannot be read or written, or the name is taken.
    """
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:
        shutil.copy2(source, target, follow_symlinks=False)


def _swap(folder: Path, staging: Path, retire: Callable[[Path], Path | None]) -> None:
    for _ in range(3):  # a reader that finds the name free puts the old folder back
        old = folder.with_name(_temporary_name(folder.name, "old"))
        if folder.exists():
            os.rename(folder, old)
        try:
            os.rename(staging, folder)
        except OSError:
            restore_folder(folder)
            continue
        if old.exists():
            _put_away(old, retire)
        return
    raise OSError("another process uses it")


def _put_away(old: Path, retire: Callable[[Path], Path | None]) -> None:
    """Keep a folder that was replaced where `retire` says, or delete it: what was not ours is in the new one."""
    place = retire(old)
    if place is not None and not place.exists():
        place.parent.mkdir(parents=True, exist_ok=True)
        os.rename(old, place)
    else:
        _remove_tree(old)


def _remove_tree(folder: Path) -> None:
    """Delete a folder with a temporary name and a marker; without the marker only what is empty or temporary in it."""
    if not (TEMPORARY.fullmatch(folder.name) or RETIRED.fullmatch(folder.name)):
        return
    is_marked = kind_of(folder) is not None
    with suppress(OSError):
        for path in folder.iterdir():  # the marker goes last: what a kill leaves is deleted the next time
            if is_marked and path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif TEMPORARY.fullmatch(path.name) or (is_marked and path.name != MARKER):
                path.unlink()
        if is_marked:
            (folder / MARKER).unlink()
        folder.rmdir()


# --- names, hashes, JSON ---------------------------------------------------------------------------------------------
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


def size_of(path: Path) -> int:
    """The bytes of a file, or of all files below a folder; 0 for what is not there."""
    if path.is_dir():
        return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return path.stat().st_size if path.exists() else 0


def hash_of(value: Any) -> str:
    """The SHA-256 of a JSON value, independent of the order of keys, in hexadecimal."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def has_key(path: Path, key: str, if_broken: bool = False) -> bool:
    """Whether a JSON file holds an object with `key`, which is how the program knows its own; `if_broken` if unread."""
    if not path.is_file():
        return False
    try:
        found = read_json(path)
    except DataError:
        return if_broken
    return isinstance(found, dict) and key in found


def parse_json(text: str | bytes) -> Any:
    """A JSON value from a text.

    Raises:
        ValueError: it is not JSON, or nested more deeply than any value here.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        DataError: it is missing or is not JSON.
    """
    try:
        return parse_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing", "the folder is not whole: make or copy it again") from error
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} cannot be read as JSON: {error}", "make or copy it again") from error
