"""Atomic writing and hashing."""

import hashlib
import os
import re
from functools import partial
from pathlib import Path

import pytest

from dualdiff.core import files
from dualdiff.core.errors import DataError, DualdiffError
from dualdiff.core.files import hash_of, sha256_of, write_bytes_atomically, write_json_atomically, write_text_atomically
from tests.kills import CHANGES, killed_after


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


def test_a_link_stays_a_link_and_permissions_stay(tmp_path: Path) -> None:
    real = tmp_path / "there" / "real.txt"
    write_text_atomically(real, "one")
    real.chmod(0o600)
    (tmp_path / "link.txt").symlink_to(real)
    write_text_atomically(tmp_path / "link.txt", "two")
    assert (tmp_path / "link.txt").is_symlink()
    assert real.read_text() == "two"
    assert real.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("name", ["a", ".a", "ä" * 100 + ".flac", "x" * 250, "a.b.json", "no suffix."])
def test_temporary_names_are_of_the_pattern(tmp_path: Path, name: str) -> None:
    with files.staged(tmp_path / name) as temporary:
        assert files.TEMPORARY.fullmatch(temporary.name)
        assert temporary.parent == tmp_path
        assert temporary.exists()
    assert os.listdir(tmp_path) == [name]


def test_only_temporary_files_are_changed_in_place(tmp_path: Path) -> None:
    (tmp_path / "song.wav").write_bytes(b"music")
    with pytest.raises(ValueError, match="not a temporary file"), files.editing(tmp_path / "song.wav"):
        pass
    with files.staged(tmp_path / "new.wav") as temporary:
        with files.editing(temporary) as file:
            file.write(b"12")
        with files.editing(temporary) as file:
            file.seek(1)
            file.write(b"3")
    assert (tmp_path / "new.wav").read_bytes() == b"13"


def test_nothing_is_deleted_without_marker_and_pattern(tmp_path: Path) -> None:
    names = ["0001.txt", "0002.txt", "0001.txt.bak", "my 0001.txt", ".git"]
    folder = tmp_path / "own"
    folder.mkdir()
    for name in names[:-1]:
        (folder / name).touch()
    (folder / ".git").mkdir()
    files.discard(folder, re.compile(r"\d{4}\.txt"))
    assert sorted(os.listdir(folder)) == sorted(names), "the folder is not marked"
    assert not files.own_folder(folder, "run"), "and it is not, as long as others' files are in it"
    files.mark(folder, "run")
    files.discard(folder, re.compile(r"\d{4}\.txt"), keep=["0002.txt"])
    assert sorted(os.listdir(folder)) == sorted([*names[1:], files.MARKER])
    files.discard(folder, re.compile(r".*"), keep=[files.MARKER])
    assert sorted(os.listdir(folder)) == [files.MARKER, ".git"], "folders are no files"


def test_a_folder_goes_only_with_nothing_else_in_it(tmp_path: Path) -> None:
    files.own_folder(tmp_path / "run", "run")
    for step in ("0001", "0002", "0003", "notes"):
        (tmp_path / "run" / "steps" / step).mkdir(parents=True)
        (tmp_path / "run" / "steps" / step / "weights").touch()
    (tmp_path / "run" / "steps" / "0002" / "my notes").touch()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "weights").touch()
    (tmp_path / "run" / "steps" / "0004").symlink_to(tmp_path / "elsewhere")
    pattern, content = re.compile(r"\d{4}"), re.compile("weights")
    files.discard_folders(tmp_path / "run", pattern, content, "steps", keep=["0003"])
    left = sorted(path.relative_to(tmp_path / "run").as_posix() for path in (tmp_path / "run" / "steps").rglob("*"))
    assert left == [
        *("steps/0002", "steps/0002/my notes", "steps/0003", "steps/0003/weights", "steps/0004"),
        *("steps/notes", "steps/notes/weights"),
    ]
    assert (tmp_path / "elsewhere" / "weights").exists()


@pytest.mark.parametrize("text", ["", "[]", "{", '{"kind": "run"}', '{"dualdiff_folder": 1, "kind": 7}', "[" * 10**5])
def test_a_marker_that_is_none_marks_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / files.MARKER).write_text(text)
    assert files.kind_of(tmp_path) is None


OWN = ("facts.json", "weights")


def write_model(folder: Path, content: str) -> None:
    with files.replacing_folder(folder, "model", lambda place: (place / "facts.json").exists(), OWN) as staging:
        write_text_atomically(staging / "facts.json", content)
        write_text_atomically(staging / "weights", content)


def content_of(folder: Path) -> str:
    files.restore_folder(folder)
    found = {(folder / name).read_text() for name in OWN}
    assert len(found) == 1, "the parts are of one model"
    return found.pop()


@pytest.mark.parametrize("is_old", [False, True])
def test_a_folder_killed_at_every_call_is_the_old_or_the_new_one(
    tmp_path: Path, is_old: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)  # a kill is no power cut
    seen, was_killed, number = set(), True, 0
    while was_killed:
        number += 1
        folder = tmp_path / str(number) / "model.v1"
        write_model(folder, "old")
        (folder / "LICENCE").write_text("mine")
        if is_old:  # of a version that did not mark its folders
            (folder / files.MARKER).unlink()
        write_model(tmp_path / str(number) / "model", "another")
        was_killed = killed_after(number, partial(write_model, folder, "new"), CHANGES)
        seen.add(content_of(folder))
        assert content_of(folder) in ("old", "new")
        assert (folder / "LICENCE").read_text() == "mine"
        write_model(folder, "next")
        assert content_of(folder) == "next"
        assert content_of(tmp_path / str(number) / "model") == "another"
        assert (folder / "LICENCE").read_text() == "mine"
        assert sorted(os.listdir(folder.parent)) == ["model", "model.v1"], "what the kill left is gone"
    assert seen == {"old", "new"}
    assert number > 20


def test_a_folder_of_others_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "thesis.tex").write_text("years of work")
    with pytest.raises(DataError, match="did not write"):
        write_model(tmp_path / "model", "new")
    assert os.listdir(tmp_path / "model") == ["thesis.tex"]
    assert os.listdir(tmp_path) == ["model"]


def test_a_replacement_that_fails_leaves_the_old_folder(tmp_path: Path) -> None:
    write_model(tmp_path / "model", "old")

    def fail() -> None:
        with files.replacing_folder(tmp_path / "model", "model", lambda _: True, OWN) as staging:
            write_text_atomically(staging / "weights", "new")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert content_of(tmp_path / "model") == "old"
    assert os.listdir(tmp_path) == ["model"]


def test_what_is_replaced_may_be_kept(tmp_path: Path) -> None:
    write_model(tmp_path / "model", "old")
    (tmp_path / "model" / "samples").mkdir()
    (tmp_path / "model" / "samples" / "a.txt").write_text("mine")
    keep = tmp_path / "kept" / "one"
    with files.replacing_folder(tmp_path / "model", "model", lambda _: True, OWN, lambda _: keep) as staging:
        write_text_atomically(staging / "facts.json", "new")
        write_text_atomically(staging / "weights", "new")
    assert (content_of(keep), content_of(tmp_path / "model")) == ("old", "new")
    assert (tmp_path / "model" / "samples" / "a.txt").read_text() == "mine"


def test_a_model_folder_that_is_a_link_stays_one(tmp_path: Path) -> None:
    write_model(tmp_path / "disk" / "model", "old")
    (tmp_path / "model").symlink_to(tmp_path / "disk" / "model")
    write_model(tmp_path / "model", "new")
    assert (tmp_path / "model").is_symlink()
    assert content_of(tmp_path / "disk" / "model") == "new"
