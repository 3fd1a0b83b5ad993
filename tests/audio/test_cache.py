"""Copies of tracks in the cache: what they are called, that they hold the audio, and what pruning deletes."""

from pathlib import Path

import pytest
import soundfile
import torch

from dualdiff import audio
from dualdiff.audio import ffmpeg
from dualdiff.audio.cache import Cache, gain_for, identity
from dualdiff.audio.ffmpeg import Rendering
from dualdiff.core.files import MARKER, sha256_of
from tests import tunes

RENDERING = Rendering(length_s=1.0, fade_s=0.0)


def noise(seconds: float, level: float) -> torch.Tensor:
    return level * torch.randn(2, round(32000 * seconds), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("level", "gain"), [(0.1, 1), (0.6, 4)])
@pytest.mark.parametrize("suffix", [".ogg", ".mp3", ".opus"])
def test_a_copy_holds_the_audio_of_its_file_also_beyond_full_scale(
    tmp_path: Path, suffix: str, level: float, gain: int
) -> None:
    path = tmp_path / f"a{suffix}"
    rate = 48000 if suffix == ".opus" else 32000
    audio.write(path, noise(2, level), rate)
    whole = audio.read(path, sample_rate=rate)
    assert gain_for(whole.abs().max().item()) == gain
    cache, name = Cache(tmp_path / "cache"), identity(path, RENDERING)
    assert name == sha256_of(path)
    cache.store(name, path, RENDERING, gain)
    copy = audio.read_own(cache.path(name), sample_rate=rate)
    assert torch.allclose(copy, whole, atol=gain / 30000)
    excerpt = audio.read_own(cache.path(name), sample_rate=rate, start_s=1.1, duration_s=0.5)
    assert torch.equal(excerpt, copy[:, round(1.1 * rate) :][:, : round(0.5 * rate)])
    assert soundfile.info(cache.path(name)).subtype == "PCM_16"


def test_a_lossless_file_without_a_length_is_copied_to_the_last_bit(tmp_path: Path) -> None:
    path = tmp_path / "a.flac"
    audio.write(path, noise(1, 0.2), 32000)
    content = bytearray(path.read_bytes())
    content[21] &= 0xF0  # the total of STREAMINFO
    content[22:26] = bytes(4)
    path.write_bytes(content)
    whole = audio.read(path, sample_rate=32000)
    assert whole.shape[-1] == 32000
    cache = Cache(tmp_path / "cache")
    cache.store("0" * 64, path, RENDERING, 1)
    assert torch.equal(audio.read_own(cache.path("0" * 64), sample_rate=32000), whole)


@pytest.mark.skipif(not ffmpeg.has_ffmpeg(), reason="needs ffmpeg")
def test_the_identity_of_a_tune_depends_on_what_makes_its_audio(tmp_path: Path) -> None:
    (tmp_path / "a.nsf").write_bytes(tunes.nsf(2))
    (tmp_path / "a.mod").write_bytes(tunes.module(rows=16))
    longer = Rendering(length_s=2.0, fade_s=0.0)
    first, second = tmp_path / "a.nsf#01", tmp_path / "a.nsf#02"
    names = {identity(first, RENDERING), identity(second, RENDERING), identity(first, longer)}
    assert len(names) == 3
    assert identity(tmp_path / "a.mod", RENDERING) == identity(tmp_path / "a.mod", longer)


def test_pruning_deletes_only_copies_in_a_folder_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "a.ogg"
    audio.write(path, noise(0.5, 0.1), 32000)
    cache = Cache(tmp_path / "cache")
    for name in ("0" * 64, "1" * 64):
        cache.store(name, path, RENDERING, 1)
    kept, pruned = cache.path("0" * 64), cache.path("1" * 64)
    users = [cache.folder / name for name in ("song.flac", f"{'0' * 32}.flac", f"my {'0' * 64}.flac", ".notes.tmp")]
    for file in users:
        file.touch()
    left_behind = cache.folder / ".left.0123456789abcdef.tmp.flac"
    left_behind.touch()
    cache.prune({kept.name})
    assert all(file.exists() for file in [*users, kept])
    assert not pruned.exists()
    assert not left_behind.exists()
    (cache.folder / MARKER).unlink()
    cache.prune(())
    assert kept.exists()
