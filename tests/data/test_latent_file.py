"""Files of latents: what was collected in pieces is read by any safetensors reader, and by the slice."""

import os
import resource
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from dualdiff.core.errors import DualdiffError
from dualdiff.data.latent_file import facts_of, read_columns, write_latents


def pieces(*columns: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(sum(columns))
    return [torch.randn(count, 3, 5, generator=generator).half() for count in columns]


def test_pieces_become_one_tensor_of_the_columns_that_all_shifts_have(tmp_path: Path) -> None:
    shifts = [pieces(4, 4, 3), pieces(4, 4, 2), pieces(4, 3, 3)]
    path = tmp_path / "one.safetensors"
    assert write_latents(path, shifts)
    found = load_file(path)["latents"]
    assert torch.equal(found, torch.stack([torch.cat(parts)[:10] for parts in shifts]))
    assert torch.equal(read_columns(path, 1, 3, 7), found[1, 3:7])
    facts = facts_of(path)
    assert facts is not None
    assert (facts["columns"], facts["count"]) == (10, 3 * 10 * 5)
    assert facts["sum"] == pytest.approx(found.double().sum(dim=(0, 1, 3)).tolist())
    assert facts["sum_of_squares"] == pytest.approx(found.double().square().sum(dim=(0, 1, 3)).tolist())
    assert [file.name for file in tmp_path.iterdir()] == ["one.safetensors"]


def test_the_same_numbers_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_latents(tmp_path / name, [pieces(4, 2)])
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_numbers_that_are_not_finite_are_not_written(tmp_path: Path) -> None:
    bad = pieces(4)
    bad[0][2, 1, 1] = float("inf")
    assert not write_latents(tmp_path / "bad", [bad])
    assert not (tmp_path / "bad").exists()


def test_what_is_no_file_of_latents_has_no_facts(tmp_path: Path) -> None:
    write_latents(tmp_path / "good", [pieces(4)])
    (tmp_path / "cut").write_bytes((tmp_path / "good").read_bytes()[:-1])
    (tmp_path / "text").write_text("text")
    assert [facts_of(tmp_path / name) for name in ("cut", "text", "missing")] == [None] * 3


def test_a_full_disk_is_told_in_words(tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
        try:
            write_latents(tmp_path / "large", [pieces(400)])
        except DualdiffError as error:
            os._exit(7 if "cannot be written" in error.message else 1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
