"""Latents on disk: piece by piece as in one go, once per track, whole whatever happens; and crops of them."""

import itertools
import json
import os
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from dualdiff import audio
from dualdiff.audio.beat_grid import BeatGrid
from dualdiff.core.errors import DataError
from dualdiff.core.files import MARKER
from dualdiff.core.rng import Stream
from dualdiff.core.types import RHYTHM_CHANNELS
from dualdiff.data.config import EncodeConfig, Variant
from dualdiff.data.encode import Encoded, encode_tracks
from dualdiff.data.latent_dataset import LatentCrops, LatentIndex, damage_of, require_whole
from dualdiff.data.loader import load
from dualdiff.data.manifest import Row
from dualdiff.data.waveform_dataset import at_loudness
from dualdiff.formats.config import MelConfig
from dualdiff.formats.mel import MelFormat
from dualdiff.model_store import autoencoder
from dualdiff.model_store.autoencoder import latents_of
from dualdiff.models.chunked import windows

RATE, HOP, CHANNELS = 8000, 64, 3
AS_IT_IS = Variant()
CONFIG = EncodeConfig(offsets=8, chunk_s=1.0)  # pieces of 128 frames
VARIANTS = [Variant(pitch, mirrored) for pitch in (-2, 0, 1) for mirrored in (False, True)]


class TinyVAE:
    """Three strided convolutions after a real format: 8 x 8 smaller, a latent sees 14 frames beside its own 8."""

    context_frames, reduction = 14, 8

    def __init__(self, seed: int = 0) -> None:
        config = MelConfig(sample_rate=RATE, n_fft=1024, hop_length=HOP, n_mels=32, f_max=4000.0)
        self.format = MelFormat(config)
        self.format_hash, self.vae_hash = "format", f"vae {seed}"
        self.encoded = 0
        generator = torch.Generator().manual_seed(seed)
        self.weights = [
            torch.randn(outputs, inputs, 6, 6, generator=generator) / (36 * inputs) ** 0.5
            for inputs, outputs in ((2, 8), (8, 8), (8, CHANNELS))
        ]

    def encode(self, sample: torch.Tensor) -> torch.Tensor:
        assert sample.shape[-1] % 8 == 0
        self.encoded += 1
        for weight in self.weights:
            sample = nn.functional.silu(nn.functional.conv2d(sample, weight, stride=2, padding=2)) * 1.5
        return sample


def track(folder: Path, path: str, seed: int, samples: int, split: str = "train") -> Row:
    time = torch.arange(samples) / RATE
    noise = torch.randn(2, samples, generator=torch.Generator().manual_seed(seed))
    sweep = torch.sin(2 * torch.pi * (200 + 100 * seed + 50 * time) * time)
    waveform = 0.2 * sweep + 0.05 * noise.clamp(-3, 3) * torch.tensor([[1.0], [0.3]])
    (folder / path).parent.mkdir(parents=True, exist_ok=True)
    audio.write(folder / path, waveform, RATE)
    return Row(
        path=path,
        state="used",
        split=split,  # type: ignore[arg-type]
        game=path.partition("/")[0],
        duration_s=samples / RATE,
        loudness_lufs=audio.loudness_lufs(waveform, RATE),
        sha256=f"sha of {path} {seed}",
    )


@pytest.fixture(scope="module")
def music(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("music")


@pytest.fixture(scope="module")
def rows(music: Path) -> list[Row]:
    return [
        track(music, "B/1.wav", 1, 20_000),
        track(music, "B/2.wav", 2, 3 * 128 * HOP),  # whole pieces, so that one frame is left over
        track(music, "A/1.wav", 3, 16_000),
        track(music, "A/2.wav", 4, 12_000, split="validation"),
    ]


@pytest.fixture(scope="module")
def vae() -> TinyVAE:
    return TinyVAE()


@pytest.fixture(scope="module")
def encoded(rows: list[Row], music: Path, vae: TinyVAE, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Latents to be read only."""
    folder = tmp_path_factory.mktemp("shared") / "latents"
    encode_tracks(rows, music, folder, vae, replace(CONFIG, mirror=True, pitch_semitones=(-2, 0, 1)))
    return folder


@pytest.fixture
def again(rows: list[Row], music: Path, vae: TinyVAE, tmp_path: Path) -> Callable[..., Encoded]:
    """Encode into a folder of the test's own, with changes."""

    def run(
        chosen: list[Row] = rows, using: TinyVAE = vae, config: EncodeConfig = CONFIG, **options: object
    ) -> Encoded:
        return encode_tracks(chosen, music, tmp_path / "latents", using, config, **options)  # type: ignore[arg-type]

    return run


def names_in(index: LatentIndex) -> set[str]:
    return {file.name for entry in index.tracks for file in entry.files}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != MARKER}


def whole(row: Row, music: Path, vae: TinyVAE, offset: int, variant: Variant = AS_IT_IS) -> torch.Tensor:
    """A variant of a track's latents (C, F, N), made in one go."""
    waveform = at_loudness(audio.read(music / row.path, sample_rate=RATE), row, vae.format.config.loudness_lufs)
    sample = vae.format.transposed(variant.pitch_semitones).encode(waveform[None])[..., offset:]
    sample = sample[..., : sample.shape[-1] // 8 * 8]
    return vae.encode(sample.flip(1) if variant.mirrored else sample)[0]


# Windows


@pytest.mark.parametrize("total", [1, 9, 10, 11, 20, 23, 40])
@pytest.mark.parametrize("piece", [1, 7, 100])
@pytest.mark.parametrize("context", [1, 3, 25])
def test_windows_cover_a_stream_once_with_context(total: int, piece: int, context: int) -> None:
    stream = torch.arange(total)[None]
    found = list(windows(stream.split(piece, dim=-1), 10, context))
    cores = [window.tensor[..., window.before : window.before + window.length] for window in found]
    assert torch.equal(torch.cat(cores, dim=-1), stream)
    assert [window.is_last for window in found] == [False] * (len(found) - 1) + [True]
    for window, core in zip(found, cores, strict=True):
        first, last = int(core[0, 0]), int(core[0, -1])
        assert window.tensor[0].tolist() == list(range(max(0, first - context), min(total, last + 1 + context)))
        assert window.length == 10 or window.is_last


def test_windows_hold_no_more_of_the_stream_than_they_need() -> None:
    made = Counter[str]()

    def pieces() -> Iterator[torch.Tensor]:
        while True:
            made["pieces"] += 1
            yield torch.zeros(1, 5)

    stream = windows(pieces(), 10, 3)
    assert max(next(stream).tensor.shape[-1] for _ in range(50)) == 16
    assert made["pieces"] <= 50 * 2 + 1


def test_an_empty_stream_has_no_window() -> None:
    assert not list(windows([], 10, 3))


# Encoding


@pytest.mark.parametrize("number", [0, 1, 2, 3])
def test_pieces_equal_the_track_in_one_go(
    encoded: Path, rows: list[Row], music: Path, vae: TinyVAE, number: int
) -> None:
    row = rows[number]
    entry = next(entry for entry in LatentIndex.open(encoded).tracks if entry.path == row.path)
    frames = round(row.duration_s * RATE) // HOP + 1
    assert frames > 128, "more than one piece"
    assert entry.columns == (frames - 7) // 8
    files = [load_file(encoded / file.name)["latents"].float() for file in entry.files]
    assert len(files) == len(VARIANTS)
    for variant, stored in zip(VARIANTS, files, strict=True):
        assert stored.shape == (8, entry.columns, CHANNELS, 4)
        for offset in range(8):
            expected = whole(row, music, vae, offset, variant)[..., : entry.columns]
            assert (stored[offset].permute(1, 2, 0) - expected).abs().max() < 1e-3
    differences = [(one - other).abs().max() for one, other in itertools.combinations(files, 2)]
    assert min(differences) > 0.01, "variants differ"


@pytest.mark.parametrize("samples", [128 * HOP - 1, 128 * HOP, 128 * HOP + 1, 128 * HOP + 7 * HOP, 2 * 128 * HOP + 3])
def test_pieces_that_end_anywhere_equal_the_track_in_one_go(
    music: Path, vae: TinyVAE, tmp_path: Path, samples: int
) -> None:
    row = track(music, f"C/{samples}.wav", 9, samples)
    index = encode_tracks([row], music, tmp_path, vae, CONFIG).index
    stored = load_file(tmp_path / index.tracks[0].files[0].name)["latents"].float()
    for offset in (0, 7):
        expected = whole(row, music, vae, offset)[..., : stored.shape[1]]
        assert (stored[offset].permute(1, 2, 0) - expected).abs().max() < 1e-3


def test_without_its_context_a_piece_would_not_equal_the_whole(
    rows: list[Row], music: Path, vae: TinyVAE, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(autoencoder, "windows", lambda pieces, length, context: windows(pieces, length, 8))
    index = encode_tracks(rows[:1], music, tmp_path, vae, CONFIG).index
    stored = load_file(tmp_path / index.tracks[0].files[0].name)["latents"].float()
    expected = whole(rows[0], music, vae, 0)[..., : stored.shape[1]]
    assert (stored[0].permute(1, 2, 0) - expected).abs().max() > 1e-2


def test_rounding_to_float16_is_far_below_the_noise_of_any_vae() -> None:
    latents = torch.randn(100_000, generator=torch.Generator().manual_seed(0))
    noise = (1 / (32**2 + 1)) ** 0.5  # of the most precise VAE on record, r = 32
    assert (latents.half().float() - latents).square().mean().sqrt() < noise / 100


def test_the_index_holds_who_made_what_and_the_statistics_of_the_training_split(
    encoded: Path, rows: list[Row], vae: TinyVAE
) -> None:
    index = LatentIndex.open(encoded)
    assert (index.vae_hash, index.format_hash, index.vae) == (vae.vae_hash, vae.format_hash, CONFIG.vae)
    assert (index.offsets, index.frames_per_column, index.frame_s) == (8, 8, HOP / RATE)
    assert list(index.variants) == VARIANTS
    assert index.games == ("A", "B")
    assert [entry.path for entry in index.tracks] == ["A/1.wav", "A/2.wav", "B/1.wav", "B/2.wav"]
    assert [entry.split for entry in index.tracks] == ["train", "validation", "train", "train"]
    training = [
        load_file(encoded / file.name)["latents"].double() for entry in index.tracks_of("train") for file in entry.files
    ]
    values = torch.cat([latents.permute(2, 0, 1, 3).flatten(1) for latents in training], dim=1)
    assert index.mean == pytest.approx(values.mean(1).tolist(), abs=1e-9)
    assert index.std == pytest.approx(values.std(1, correction=0).tolist(), abs=1e-9)
    assert index.has("train", 20)
    assert not index.has("validation", 200)


def test_the_result_depends_on_no_order_and_no_number_of_processes(
    again: Callable[..., Encoded], rows: list[Row], music: Path, vae: TinyVAE, tmp_path: Path
) -> None:
    again()
    folder, barrier = tmp_path / "two", threading.Barrier(2)
    done: dict[int, Encoded] = {}

    def process(rank: int) -> None:
        own = TinyVAE()
        done[rank] = encode_tracks(
            rows[::-1], music, folder, own, CONFIG, rank=rank, world=2, wait_for_all=lambda: (barrier.wait(), None)[1]
        )

    threads = [threading.Thread(target=process, args=(rank,)) for rank in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert contents(folder) == contents(tmp_path / "latents")
    assert {rank: own.encoded for rank, own in done.items()} == {0: 2, 1: 2}


def test_only_what_changed_is_encoded(
    again: Callable[..., Encoded], rows: list[Row], music: Path, vae: TinyVAE, tmp_path: Path
) -> None:
    assert again(rows[:3]).encoded == 3
    before = contents(tmp_path / "latents")
    assert again(rows[:3]).encoded == 0
    assert contents(tmp_path / "latents") == before
    assert again(rows).encoded == 1
    moved = [replace(row, game="Z", split="train", path=row.path) for row in rows]
    assert again(moved).encoded == 0
    assert again(moved).index.games == ("Z",)
    changed = [replace(rows[0], sha256="other"), *rows[1:]]
    assert again(changed).encoded == 1
    assert again([replace(rows[0], loudness_lufs=-30.0), *rows[1:]]).encoded == 1


def test_what_left_the_index_is_deleted_if_it_is_ours(
    again: Callable[..., Encoded], rows: list[Row], tmp_path: Path
) -> None:
    folder = tmp_path / "latents"
    gone = again().index.tracks[0].files[0].name
    theirs = ["notes.txt", "weights.safetensors", "0123456789abcdef0123456789abcdef.safetensors"]
    for name in theirs:
        (folder / name).write_text("the user's")
    kept = again(rows[:2]).index
    assert {path.name for path in folder.iterdir()} == {"index.json", MARKER, *theirs, *names_in(kept)}
    assert gone not in names_in(kept)


def test_another_vae_is_refused_by_name_and_replaces_the_latents_once_it_is_through(
    again: Callable[..., Encoded], rows: list[Row], music: Path, tmp_path: Path
) -> None:
    index = again().index
    index.require(vae_hash="vae 0", format_hash="format")
    with pytest.raises(DataError, match=r"another VAE \(models/vae, VAE vae 0\)") as caught:
        index.require(vae_hash="vae 1", format_hash="format")
    assert "dualdiff encode" in caught.value.hint
    with pytest.raises(DataError, match="another format"):
        index.require(vae_hash="vae 0", format_hash="other")

    def stop(done: float, total: float, note: str = "") -> None:
        if note == rows[0].path:
            raise KeyboardInterrupt

    other = TinyVAE(seed=1)
    with pytest.raises(KeyboardInterrupt):
        again(using=other, progress=stop)
    assert check(tmp_path / "latents") == index
    now = again(using=other)
    assert 0 < now.encoded < 4, "what the interrupted run made is used"
    assert now.index.vae_hash == "vae 1"
    assert len(contents(tmp_path / "latents")) == 5


@pytest.mark.parametrize("calls", [1, 4, 8])
def test_a_killed_run_leaves_nothing_wrong(
    again: Callable[..., Encoded], rows: list[Row], music: Path, tmp_path: Path, calls: int
) -> None:
    folder = tmp_path / "latents"
    expected = contents(again().index.folder)
    shutil.rmtree(folder)
    again(rows[:1])
    before = LatentIndex.open(folder)
    child = os.fork()
    if child == 0:
        torch.set_num_threads(1)  # a forked process cannot use its parent's others
        seen = Counter[str]()

        def die(done: float, total: float, note: str = "") -> None:
            seen["calls"] += 1
            if seen["calls"] == calls:
                os.kill(os.getpid(), signal.SIGKILL)

        again(progress=die)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert check(folder) == before
    again()
    assert contents(folder) == expected


def test_kills_at_any_moment_lose_the_file_in_work_and_nothing_else(
    again: Callable[..., Encoded], music: Path, tmp_path: Path
) -> None:
    many = [track(music, f"K/{number}.wav", number, 9000 + 400 * number) for number in range(12)]
    config = replace(CONFIG, mirror=True)
    folder = tmp_path / "latents"
    started_s = time.monotonic()
    expected = contents(again(many, config=config).index.folder)
    whole_s = time.monotonic() - started_s
    shutil.rmtree(folder)
    delays = Stream(0).numpy("kills").uniform(0.1, 0.5, 5) * whole_s
    kills, done = 0, set[str]()
    for delay_s in delays:
        child = os.fork()
        if child == 0:
            torch.set_num_threads(1)  # a forked process cannot use its parent's others
            again(many, config=config)
            os._exit(0)
        killer = threading.Timer(delay_s, os.kill, (child, signal.SIGKILL))
        killer.start()
        kills += os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        killer.cancel()
        killer.join()
        names = {path.name for path in folder.glob("[0-9a-f]*.safetensors")} if folder.exists() else set()
        assert done <= names, "what was done stays done"
        assert all((folder / name).read_bytes() == expected[name] for name in names), "whole, or not there"
        done = names
    assert kills > 0
    assert again(many, config=config).encoded <= len(many) - len(done) // 2
    assert contents(folder) == expected


def test_a_new_variant_is_made_beside_the_others(again: Callable[..., Encoded], vae: TinyVAE, tmp_path: Path) -> None:
    again()
    before = contents(tmp_path / "latents")

    def pieces_for(config: EncodeConfig) -> int:
        first = vae.encoded
        again(config=config)
        return vae.encoded - first

    probe = pieces_for(CONFIG)
    once = pieces_for(replace(CONFIG, mirror=True)) - probe
    assert pieces_for(replace(CONFIG, mirror=True, pitch_semitones=(0, 3))) - probe == 2 * once, "only the new pitch"
    after = contents(tmp_path / "latents")
    assert before.keys() < after.keys()
    assert all(after[name] == content for name, content in before.items() if name != "index.json")
    assert pieces_for(CONFIG) == probe
    assert contents(tmp_path / "latents") == before, "what is no longer asked for goes"


def test_no_piece_grows_with_the_track(music: Path, tmp_path: Path) -> None:
    longest: dict[int, list[int]] = {}

    class Watched:
        context_frames, reduction, format_hash, vae_hash = 14, 8, "format", "watched"

        def __init__(self) -> None:
            self.vae = TinyVAE()
            self.format = self.vae.format
            self.seen: list[int] = []

        def encode(self, sample: torch.Tensor) -> torch.Tensor:
            self.seen.append(sample.shape[-1])
            return self.vae.encode(sample)

    for seconds in (4, 40):
        watched = Watched()
        row = track(music, f"L/{seconds}.wav", 5, seconds * RATE)
        encode_tracks([row], music, tmp_path / str(seconds), watched, replace(CONFIG, offsets=1))
        longest[seconds] = watched.seen
    assert max(longest[40]) == max(longest[4]) == 128 + 2 * 64
    assert len(longest[40]) > 8 * len(longest[4])


@pytest.mark.parametrize("semitones", [(1,), (0, 0)])
def test_pitches_hold_the_original_once(semitones: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="must hold 0"):
        EncodeConfig(pitch_semitones=semitones)


def test_a_format_without_pitch_variants_is_refused(again: Callable[..., Encoded], vae: TinyVAE) -> None:
    class Fixed:
        def __init__(self) -> None:
            self.config, self.sample_rate, self.hop_length = vae.format.config, RATE, HOP
            self.channels, self.bins, self.encode = 2, 32, vae.format.encode
            self.num_frames, self.num_samples = vae.format.num_frames, vae.format.num_samples

    other = TinyVAE()
    other.format = Fixed()  # type: ignore[assignment]
    assert again(using=other).encoded == 4
    with pytest.raises(DataError, match="the format mel has no pitch variants") as caught:
        again(using=other, config=replace(CONFIG, pitch_semitones=(0, 1)))
    assert "pitch_semitones = [0]" in caught.value.hint


def test_progress_counts_seconds_of_what_is_left_to_do(again: Callable[..., Encoded], rows: list[Row]) -> None:
    again(rows[:1])
    told: list[tuple[float, float, str]] = []
    again(progress=lambda done, total, note="": told.append((done, total, note)))
    assert {total for _, total, _ in told} == {sum(row.duration_s for row in rows[1:])}
    assert [done for done, _, _ in told] == sorted(done for done, _, _ in told)
    assert told[-1][0] == pytest.approx(told[-1][1], abs=0.05)
    assert {note for _, _, note in told} == {row.path for row in rows[1:]}


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda latents: latents * float("nan"), "not finite"),
        (lambda latents: latents * 1e30, "not finite"),
        (lambda latents: torch.cat([latents[:, :2], 0 * latents[:, 2:]], 1), "channel 2 of the latents does not vary"),
    ],
)
def test_a_vae_that_makes_nonsense_is_refused(again: Callable[..., Encoded], spoil, words: str) -> None:
    class Spoilt:
        context_frames, reduction = 14, 8

        def __init__(self) -> None:
            self.vae = TinyVAE()
            self.format, self.format_hash, self.vae_hash = self.vae.format, "format", "spoilt"

        def encode(self, sample: torch.Tensor) -> torch.Tensor:
            return spoil(self.vae.encode(sample))

    with pytest.raises(DataError, match=words) as caught:
        again(using=Spoilt())
    assert "dualdiff vae train" in caught.value.hint


def test_tracks_that_cannot_be_encoded_are_named(again: Callable[..., Encoded], rows: list[Row], music: Path) -> None:
    with pytest.raises(DataError, match=r"B/gone\.wav does not exist"):
        again([*rows, replace(rows[0], path="B/gone.wav", sha256="gone")])
    with pytest.raises(DataError, match=r"C/tiny\.wav is too short"):
        again([*rows, track(music, "C/tiny.wav", 1, 5 * HOP)])
    with pytest.raises(DataError, match="no track is for training"):
        again([replace(row, split="validation") for row in rows])


# The folder


def check(folder: Path) -> LatentIndex:
    index = LatentIndex.open(folder)
    require_whole(damage_of(index))
    return index


def test_check_finds_what_changed_or_is_gone(again: Callable[..., Encoded], tmp_path: Path) -> None:
    index = again().index
    assert check(tmp_path / "latents") == index
    path = tmp_path / "latents" / index.tracks[2].files[0].name
    good = path.read_bytes()
    path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    with pytest.raises(DataError, match=r"the latents of B/1\.wav, is not what was written"):
        check(tmp_path / "latents")
    (tmp_path / "latents" / index.tracks[0].files[0].name).rename(tmp_path / "aside")
    with pytest.raises(DataError, match=r"A/1\.wav, is missing \(and 1 more like it\)"):
        check(tmp_path / "latents")
    (tmp_path / "aside").rename(tmp_path / "latents" / index.tracks[0].files[0].name)
    path.unlink()
    with pytest.raises(DataError, match=r"the latents of B/1\.wav, is missing"):
        check(tmp_path / "latents")
    assert again().encoded == 1
    assert path.read_bytes() == good
    check(tmp_path / "latents")
    path.write_bytes(good[:100])
    assert again().encoded == 1, "a file cut short is made again"


@pytest.mark.parametrize(
    ("text", "words", "hint"),
    [
        (None, "there are no latents in", "make them: dualdiff encode"),
        ("{", "cannot be read", "delete it"),
        ('{"dualdiff_latents": 1}', "is broken", "delete it"),
        ('{"books": []}', "is not an index of latents", "another folder"),
        ('{"dualdiff_latents": 2}', "is of version 2", "update dualdiff"),
    ],
)
def test_a_folder_without_latents_is_refused_in_words(
    again: Callable[..., Encoded], tmp_path: Path, text: str | None, words: str, hint: str
) -> None:
    folder = tmp_path / "latents"
    folder.mkdir()
    if text is not None:
        (folder / "index.json").write_text(text)
        with pytest.raises(DataError, match=words):
            again()
        assert (folder / "index.json").read_text() == text
    with pytest.raises(DataError, match=words) as caught:
        LatentIndex.open(folder)
    assert hint in caught.value.hint


# Crops


def test_an_example_depends_on_its_number_and_the_seed_alone(encoded: Path) -> None:
    index = LatentIndex.open(encoded)
    batch = LatentCrops(index, "train", 6, seed=1).examples(0, 12)
    assert batch.tensors["latents"].shape == (12, CHANNELS, 4, 6)
    part = LatentCrops(index, "train", 6, seed=1).examples(5, 3)
    assert torch.equal(part.tensors["latents"], batch.tensors["latents"][5:8])
    assert part.names == batch.names[5:8]
    assert LatentCrops(index, "train", 6, seed=2).examples(0, 12).names != batch.names
    shared = list(load(LatentCrops(index, "train", 6, seed=1), [(0, 6), (6, 6)], 2, start_method="fork"))
    assert torch.equal(torch.cat([own.tensors["latents"] for own in shared]), batch.tensors["latents"])


def test_a_crop_is_the_slice_it_is_named_for_normalised_with_its_label(encoded: Path) -> None:
    index = LatentIndex.open(encoded)
    files = {
        (entry.path, str(variant)): load_file(encoded / file.name)["latents"].float()
        for entry in index.tracks
        for variant, file in zip(index.variants, entry.files, strict=True)
    }
    mean, std = (torch.tensor(values)[:, None, None] for values in (index.mean, index.std))
    batch = LatentCrops(index, "train", 6, seed=1).examples(0, 80)
    drawn = set()
    for latents, label, name in zip(batch.tensors["latents"], batch.tensors["labels"], batch.names, strict=True):
        path, _, place = name.partition("@")
        start_s, _, variant = place.partition("s")
        frame = round(float(start_s) * RATE / HOP)
        drawn.add((frame % 8, variant))
        piece = files[path, variant][frame % 8, frame // 8 : frame // 8 + 6].permute(1, 2, 0)
        assert torch.allclose(latents, (piece - mean) / std * 0.5, atol=1e-5)
        assert label.tolist() == [float(path.startswith(game)) for game in index.games]
    assert len(drawn) > 30, "shifts and variants are drawn too"
    assert {variant for _, variant in drawn} == set(map(str, VARIANTS))


def test_audio_at_hand_is_encoded_as_the_tracks_are(encoded: Path, rows: list[Row], music: Path, vae: TinyVAE) -> None:
    row = rows[1]
    waveform = at_loudness(audio.read(music / row.path, sample_rate=RATE), row, vae.format.config.loudness_lufs)
    found = latents_of(vae, waveform.split(777, dim=-1))
    assert torch.allclose(found, whole(row, music, vae, 0), atol=1e-4)
    with pytest.raises(DataError, match="shorter than a column"):
        latents_of(vae, [waveform[:, :100]])


def test_normalised_latents_have_the_standard_deviation_of_diffusion(encoded: Path) -> None:
    latents = LatentCrops(LatentIndex.open(encoded), "train", 6, seed=1).examples(0, 200).tensors["latents"]
    assert latents.mean(dim=(0, 2, 3)).abs().max() < 0.1
    assert latents.std(dim=(0, 2, 3)).tolist() == pytest.approx([0.5] * CHANNELS, abs=0.1)


def test_splits_lengths_and_games_are_respected(encoded: Path) -> None:
    index = LatentIndex.open(encoded)
    held_out = LatentCrops(index, "validation", 6, seed=1).examples(0, 8)
    assert {name.partition("@")[0] for name in held_out.names} == {"A/2.wav"}
    longest = max(entry.columns for entry in index.tracks)
    long = LatentCrops(index, "train", longest, seed=1)
    assert [entry.path for entry in long.left_out] == ["A/1.wav", "B/1.wav"]
    assert {name.partition("@")[0] for name in long.examples(0, 8).names} == {"B/2.wav"}
    with pytest.raises(DataError, match=rf"a crop of {longest + 1} columns .* the longest has {longest}"):
        LatentCrops(index, "train", longest + 1, seed=1)
    with pytest.raises(DataError, match="have no validation track"):
        LatentCrops(replace(index, tracks=tuple(index.tracks_of("train"))), "validation", 6, seed=1)
    alike = LatentCrops(index, "train", 6, seed=1, temperature=0.0).examples(0, 300)
    assert alike.tensors["labels"].mean(0).tolist() == pytest.approx([0.5, 0.5], abs=0.1)


def test_a_track_is_drawn_by_what_it_counts_for(
    again: Callable[..., Encoded], rows: list[Row], music: Path, tmp_path: Path
) -> None:
    loops, once = replace(rows[0], weight_s=0.5), replace(rows[1], weight_s=1.5)
    index = again([loops, once]).index
    names = LatentCrops(index, "train", 6, seed=1).examples(0, 400).names
    assert sum(name.startswith(loops.path) for name in names) / len(names) == pytest.approx(0.25, abs=0.06)


def test_a_rendered_track_is_read_where_it_was_rendered(
    again: Callable[..., Encoded], rows: list[Row], music: Path, tmp_path: Path
) -> None:
    rendered = replace(rows[0], path="B/tune.spc", rendered=str(music / rows[0].path))
    assert again([rendered]).index.tracks[0].path == "B/tune.spc"


def test_a_broken_file_is_named(again: Callable[..., Encoded]) -> None:
    index = again().index
    (index.folder / index.tracks[0].files[0].name).write_bytes(b"x")
    with pytest.raises(DataError, match=r"the latents of A/1\.wav, cannot be read"):
        LatentCrops(index, "train", 6, seed=1).examples(0, 40)


def test_the_index_repeats_byte_for_byte(encoded: Path) -> None:
    text = (encoded / "index.json").read_text()
    LatentIndex.open(encoded).write()
    assert (encoded / "index.json").read_text() == text
    assert json.loads(text)["dualdiff_latents"] == 1


# Beats


def test_crops_carry_the_rhythm_of_their_columns(again: Callable[..., Encoded], rows: list[Row]) -> None:
    grid = BeatGrid((0.1, 10.1), (0.0, 20.0), beats_per_bar=4)
    index = again(grids={"B/1.wav": grid}).index
    assert {track.path for track in index.tracks if track.grid} == {"B/1.wav"}
    assert next(track.grid for track in index.tracks if track.grid) == grid
    crops = LatentCrops(index, "train", 3, seed=0)
    batch = crops.examples(0, 40)
    found = 0
    for name, rhythm in zip(batch.names, batch.tensors["rhythm"], strict=True):
        assert rhythm.shape == (RHYTHM_CHANNELS, 3)
        if not name.startswith("B/1.wav"):
            assert not rhythm.any()
            continue
        found += 1
        centres = float(name.partition("@")[2].partition("s")[0]) + (torch.arange(3) + 0.5) * 8 * HOP / RATE
        beat = (centres - 0.1) * 2
        assert rhythm[0] == pytest.approx(2**0.5 * torch.cos(2 * torch.pi * beat), abs=0.02)
        assert rhythm[5] == pytest.approx(2**0.5 * torch.sin(2 * torch.pi * beat / 4), abs=0.02)
        assert rhythm[8].eq(1).all()
    assert found > 5
    made = again(grids={}).encoded
    assert made == 0, "another grid needs no other latents"
