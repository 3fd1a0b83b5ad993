"""Crops of tracks: which, where, how loud; the same for everyone who asks."""

import pickle
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from dualdiff import audio
from dualdiff.core.errors import DataError
from dualdiff.data.loader import load
from dualdiff.data.manifest import Row
from dualdiff.data.sampling import TrackDraw
from dualdiff.data.waveform_dataset import TrackCrops

RATE, HOP = 8000, 80
FORMAT = SimpleNamespace(
    sample_rate=RATE, config=SimpleNamespace(loudness_lufs=-20.0), num_samples=lambda frames: (frames - 1) * HOP
)
CROP_FRAMES = 51  # half a second


def track(folder: Path, path: str, seed: int, duration_s: float, rate: int = RATE) -> Row:
    """Write noise that swells, so that no two places are alike."""
    time = torch.linspace(0, 1, round(duration_s * rate))
    noise = torch.randn(2, len(time), generator=torch.Generator().manual_seed(seed))
    waveform = (0.02 + 0.1 * time) * noise.clamp(-4, 4)
    (folder / path).parent.mkdir(parents=True, exist_ok=True)
    audio.write(folder / path, waveform, rate)
    return Row(
        path=path,
        state="used",
        game=path.partition("/")[0],
        duration_s=waveform.shape[-1] / rate,
        sample_rate=rate,
        loudness_lufs=audio.loudness_lufs(waveform, rate),
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("music")


@pytest.fixture(scope="module")
def rows(folder: Path) -> list[Row]:
    return [
        track(folder, "A/1.flac", 1, 2.0),
        track(folder, "A/2.ogg", 2, 3.0),
        track(folder, "B/1.wav", 3, 1.5, rate=11025),
        track(folder, "B/short.wav", 4, 0.4),
    ]


def crops(rows: list[Row], folder: Path, frames: int = CROP_FRAMES, seed: int = 5, **options: object) -> TrackCrops:
    return TrackCrops(rows, folder, FORMAT, frames, seed, **options)  # type: ignore[arg-type]


def test_an_example_depends_on_its_number_and_the_seed_alone(rows: list[Row], folder: Path) -> None:
    whole = crops(rows, folder).examples(0, 12)
    assert whole.tensors["waveform"].shape == (12, 2, 4000)
    part = crops(rows, folder).examples(7, 2)
    assert torch.equal(part.tensors["waveform"], whole.tensors["waveform"][7:9])
    assert part.names == whole.names[7:9]
    assert crops(rows, folder, seed=6).examples(0, 12).names != whole.names
    assert len(set(whole.names)) == 12


def test_a_crop_is_the_excerpt_it_is_named_for_at_the_loudness_of_the_format(rows: list[Row], folder: Path) -> None:
    batch = crops(rows, folder, cache_bytes=0).examples(0, 8)
    loudness = {row.path: row.loudness_lufs for row in rows}
    for waveform, name in zip(batch.tensors["waveform"], batch.names, strict=True):
        path, _, place = name.partition("@")
        near = round(float(place.removesuffix("s")) * RATE)  # a name tells the place to a millisecond
        whole = audio.read(folder / path, sample_rate=RATE) * 10 ** ((-20.0 - loudness[path]) / 20)
        excerpts = [whole[:, start : start + 4000] for start in range(max(0, near - 4), near + 5)]
        assert any(torch.allclose(waveform, excerpt, atol=1e-5) for excerpt in excerpts if excerpt.shape[-1] == 4000)


def test_tracks_kept_decoded_give_the_same_crops(rows: list[Row], folder: Path) -> None:
    kept, read = crops(rows, folder), crops(rows, folder, cache_bytes=0)
    assert torch.allclose(kept.examples(0, 12).tensors["waveform"], read.examples(0, 12).tensors["waveform"], atol=1e-5)
    before = kept.examples(0, 12)
    copy = pickle.loads(pickle.dumps(kept))
    assert len(pickle.dumps(kept)) < 10_000, "a worker gets no audio along"
    assert torch.equal(copy.examples(0, 12).tensors["waveform"], before.tensors["waveform"])


def test_workers_make_the_same_crops(rows: list[Row], folder: Path) -> None:
    ranges = [(0, 3), (3, 3), (6, 3)]
    alone = list(load(crops(rows, folder), ranges))
    shared = list(load(crops(rows, folder), ranges, 2, start_method="fork"))
    for a, b in zip(alone, shared, strict=True):
        assert a.names == b.names
        assert torch.equal(a.tensors["waveform"], b.tensors["waveform"])


def test_shorter_tracks_are_left_out_and_named(rows: list[Row], folder: Path) -> None:
    source = crops(rows, folder)
    assert [row.path for row in source.left_out] == ["B/short.wav"]
    assert not any("short" in name for name in source.examples(0, 50).names)
    exact = crops(rows, folder, frames=301)
    assert [row.path for row in exact.rows] == ["A/2.ogg"]
    assert exact.examples(0, 2).names == ["A/2.ogg@0.000s"] * 2


def test_a_crop_longer_than_every_track_names_both_lengths(rows: list[Row], folder: Path) -> None:
    with pytest.raises(DataError, match=r"a crop of 3\.01 s is longer than every track: the longest lasts 3\.00 s"):
        crops(rows, folder, frames=302)
    with pytest.raises(DataError, match="there is no track"):
        crops([], folder)


@pytest.mark.parametrize("cache_bytes", [0, 1 << 30])
def test_a_track_that_shrank_or_went_is_named(rows: list[Row], folder: Path, tmp_path: Path, cache_bytes: int) -> None:
    row = track(tmp_path, "A/1.flac", 1, 2.0)
    source = crops([row], tmp_path, cache_bytes=cache_bytes)
    track(tmp_path, "A/1.flac", 1, 0.1)
    with pytest.raises(DataError, match=r"A/1\.flac"):
        source.examples(0, 4)
    (tmp_path / "A/1.flac").unlink()
    with pytest.raises(DataError, match=r"A/1\.flac"):
        crops([row], tmp_path, cache_bytes=cache_bytes).examples(0, 1)


def test_starts_are_spread_over_the_whole_track(rows: list[Row], folder: Path) -> None:
    source = crops(rows[:1], folder)
    starts = [float(name.partition("@")[2].removesuffix("s")) for name in source.examples(0, 200).names]
    assert min(starts) < 0.1
    assert max(starts) > 1.4
    assert max(starts) <= 1.5
    assert sum(starts) / len(starts) == pytest.approx(0.75, abs=0.1)


@pytest.mark.parametrize(("temperature", "share_of_a"), [(1.0, 0.9), (0.5, 0.75), (0.0, 0.5)])
def test_games_are_drawn_by_their_share_to_the_temperature(temperature: float, share_of_a: float) -> None:
    draw = TrackDraw(["A", "A", "B"], [6.0, 3.0, 1.0], temperature)
    assert draw.probabilities.tolist() == pytest.approx([share_of_a * 2 / 3, share_of_a / 3, 1 - share_of_a])
    drawn = Counter(draw.track((i + 0.5) / 900) for i in range(900))
    assert [drawn[i] for i in range(3)] == pytest.approx([900 * p for p in draw.probabilities], abs=1)


def test_every_quantile_draws_a_track() -> None:
    draw = TrackDraw(["A"] * 3, [0.1, 0.2, 0.3], 1.0)
    assert draw.track(0.0) == 0
    assert draw.track(1.0 - 2**-53) == 2
