"""Audio files and levels: what is read back, what is refused, what is measured."""

import json
import math
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import soundfile
import torch

from dualdiff import audio
from dualdiff.audio import writer
from dualdiff.core.errors import DataError, DualdiffError

MUSIC = Path(__file__).parents[2] / "examples" / "music"
OGG = MUSIC / "Noiz2sa" / "stg5.ogg"  # libsndfile cannot seek in this one
RECIPE = json.dumps({"games": {"Pokémon": 0.7, "日本": 0.3}, "seed": 7, "notes": "x" * 3000}, ensure_ascii=False)


def tone(frequency: float, sample_rate: int, duration_s: float = 1.0, amplitude: float = 0.5) -> torch.Tensor:
    time = torch.arange(round(duration_s * sample_rate), dtype=torch.float64) / sample_rate
    wave = (amplitude * torch.sin(2 * math.pi * frequency * time)).float()
    return torch.stack([wave, 0.5 * wave])


@pytest.mark.parametrize("suffix", audio.WRITABLE)
def test_tags_come_back(tmp_path, suffix):
    path = tmp_path / f"clip{suffix}"
    audio.write(path, tone(440, 48000), 48000, title="Tïtle", comment=RECIPE, artist="A", album="日本")
    info = audio.probe(path)
    assert info.tags["title"] == "Tïtle"
    assert info.tags["comment"] == RECIPE
    assert (info.tags["artist"], info.tags["album"]) == ("A", "日本")
    assert (info.sample_rate, info.channels, info.frames, info.duration_s) == (48000, 2, 48000, 1.0)
    assert info.format == {".opus": "ogg"}.get(suffix, suffix[1:])


@pytest.mark.parametrize(("suffix", "error"), [(".flac", 1e-6), (".wav", 1e-6), (".ogg", 0.02), (".mp3", 0.02)])
def test_samples_come_back(tmp_path, suffix, error):
    wave = tone(440, 32000)
    audio.write(tmp_path / f"a{suffix}", wave, 32000)
    again = audio.read(tmp_path / f"a{suffix}", sample_rate=32000)
    assert again.shape == wave.shape
    assert again.dtype == torch.float32
    assert (again - wave)[:, 2000:-2000].abs().max() < error
    assert [file.name for file in tmp_path.iterdir()] == [f"a{suffix}"]


@pytest.mark.parametrize("suffix", [".mp3", ".opus"])
def test_bitrate_is_near_what_was_asked(tmp_path, suffix):
    music = audio.read(MUSIC / "Freedoom" / "E1M1.ogg", sample_rate=48000, duration_s=10)
    path = tmp_path / f"a{suffix}"
    audio.write(path, music * 0.5, 48000, bitrate_kbps=64)
    assert path.stat().st_size * 8 / 10_000 == pytest.approx(64, rel=0.15)


@pytest.mark.parametrize("rate", [32000, 44100, 22050, 22254])
def test_an_excerpt_equals_that_part_of_the_whole(rate):
    whole = audio.read(OGG, sample_rate=rate)
    assert whole.shape[-1] == pytest.approx(soundfile.info(OGG).duration * rate, abs=2)
    for start_s in (0.0, 0.3, 31.0):
        excerpt = audio.read(OGG, sample_rate=rate, start_s=start_s, duration_s=0.5)
        first = round(start_s * rate)
        assert torch.allclose(excerpt, whole[:, first : first + excerpt.shape[-1]], atol=1e-5)
        assert excerpt.shape[-1] == round(0.5 * rate)


@pytest.mark.parametrize("rate", [32000, 44100])
def test_blocks_joined_equal_the_whole(rate):
    blocks = list(audio.blocks(OGG, sample_rate=rate, block_s=13.0))
    assert torch.allclose(torch.cat(blocks, -1), audio.read(OGG, sample_rate=rate), atol=1e-5)
    assert {block.shape[-1] for block in blocks[:-1]} == {13 * rate}


def test_an_excerpt_is_shorter_at_the_end_and_refused_behind_it(tmp_path):
    audio.write(tmp_path / "a.flac", tone(440, 32000), 32000)
    assert audio.read(tmp_path / "a.flac", sample_rate=32000, start_s=0.75, duration_s=5).shape == (2, 8000)
    with pytest.raises(DataError, match=r"ends before 2 s"):
        audio.read(tmp_path / "a.flac", sample_rate=32000, start_s=2)


def test_resampling_keeps_a_tone_and_removes_what_would_alias():
    kept = audio.resample(tone(1000, 44100), 44100, 32000)
    assert torch.allclose(kept[:, 500:-500], tone(1000, 32000)[:, 500:-500], atol=2e-3)
    assert audio.resample(tone(19000, 44100), 44100, 32000)[:, 9000:-9000].abs().max() < 1e-4


def test_mono_is_doubled_and_stereo_is_averaged(tmp_path):
    wave = tone(440, 32000)
    audio.write(tmp_path / "mono.flac", wave[:1], 32000)
    audio.write(tmp_path / "stereo.flac", wave, 32000)
    both = audio.read(tmp_path / "mono.flac", sample_rate=32000)
    assert both.shape[0] == 2
    assert torch.equal(both[0], both[1])
    mixed = audio.read(tmp_path / "stereo.flac", sample_rate=32000, channels=1)
    assert torch.allclose(mixed, wave.mean(0, keepdim=True), atol=1e-6)


@pytest.mark.parametrize("channels", range(3, 10))
def test_more_channels_are_mixed_to_two_without_clipping(tmp_path, channels):
    ones = torch.ones(1000, channels).numpy()
    soundfile.write(tmp_path / "a.wav", ones, 32000, "FLOAT")
    mixed = audio.read(tmp_path / "a.wav", sample_rate=32000)
    assert mixed.shape == (2, 1000)
    assert torch.allclose(mixed, torch.ones(2, 1000), atol=1e-6)


def test_the_centre_of_five_one_is_heard_on_both_sides(tmp_path):
    surround = torch.zeros(1000, 6)
    surround[:, 2] = 1
    soundfile.write(tmp_path / "a.wav", surround.numpy(), 32000, "FLOAT")
    mixed = audio.read(tmp_path / "a.wav", sample_rate=32000)
    assert torch.equal(mixed[0], mixed[1])
    assert mixed.min() > 0.25


def broken(folder: Path, kind: str) -> Path:
    path = folder / {"missing": "a.ogg", "folder": "a.ogg", "ogg": "a.ogg", "wav": "a.wav", "nan": "a.wav"}.get(
        kind, "a.flac"
    )
    if kind == "empty":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("not music\n" * 100)
    elif kind == "folder":
        path.mkdir()
    elif kind == "ogg":
        path.write_bytes(OGG.read_bytes()[:300_000])
    elif kind == "nan":
        wave = tone(440, 32000)
        wave[0, 5000] = math.nan
        soundfile.write(path, wave.T.numpy(), 32000, "FLOAT")
    elif kind != "missing":
        audio.write(path, tone(440, 32000), 32000)
        path.write_bytes(path.read_bytes()[: 30_000 if kind != "no frames" else 86])
    return path


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("missing", "does not exist"),
        ("folder", "is a folder"),
        ("empty", r"is empty \(0 bytes\)"),
        ("text", "is not audio"),
        ("ogg", "is cut off"),
        ("wav", "is cut off"),
        ("flac", "damaged or cut off"),
        ("no frames", "cut off"),
        ("nan", r"not finite numbers \(NaN"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_by_name(tmp_path, kind, words):
    path = broken(tmp_path, kind)
    with pytest.raises(DataError, match=words) as caught:
        audio.read(path, sample_rate=32000)
    assert str(path) in caught.value.message
    with pytest.raises(DataError, match=words):
        list(audio.blocks(path, sample_rate=44100, block_s=0.3))


def test_probe_refuses_what_it_can_see_without_decoding(tmp_path):
    for kind in ("missing", "folder", "empty", "text", "ogg", "wav"):
        (tmp_path / kind).mkdir()
        with pytest.raises(DataError):
            audio.probe(broken(tmp_path / kind, kind))


def test_what_cannot_be_written_leaves_nothing_and_changes_nothing(tmp_path):
    path = tmp_path / "a.flac"
    audio.write(path, tone(440, 32000), 32000)
    before = path.read_bytes()
    bad = tone(440, 32000)
    bad[0, 3] = math.inf
    for wave, words in (
        (bad, "not finite"),
        (tone(440, 32000, amplitude=1.5), "clip"),
        (torch.zeros(2, 0), "no audio"),
    ):
        with pytest.raises(DataError, match=words):
            audio.write(path, wave, 32000)
    with pytest.raises(DualdiffError, match=r"\.xyz is not a known format"):
        audio.write(tmp_path / "a.xyz", tone(440, 32000), 32000)
    with pytest.raises(DualdiffError, match=r"a\.opus cannot be written: \.opus at 32100 Hz"):
        audio.write(tmp_path / "a.opus", tone(440, 32100), 32100)
    (tmp_path / "b.wav").mkdir()
    with pytest.raises(DualdiffError, match=r"b\.wav cannot be written"):
        audio.write(tmp_path / "b.wav", tone(440, 32000), 32000)
    assert path.read_bytes() == before
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.flac", "b.wav"]


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write everywhere")
def test_a_read_only_folder_is_named(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(DualdiffError, match="Permission denied"):
        audio.write(tmp_path / "a.flac", tone(440, 32000), 32000)


@pytest.mark.parametrize("rate", [32000, 44100, 48000])
def test_loudness_of_the_standards_reference_tone(rate):
    """BS.1770-4: 997 Hz at full scale in one channel is -3.01 LUFS."""
    wave = tone(997, rate, 5.0, 1.0)
    wave[1] = 0
    assert audio.loudness_lufs(wave, rate) == pytest.approx(-3.01, abs=0.02)


def test_loudness_gates_silence_and_measures_beyond_full_scale():
    wave = tone(997, 32000, 4.0, 0.1)
    reference = audio.loudness_lufs(wave, 32000)
    gated = audio.loudness_lufs(torch.cat([wave, torch.zeros(2, 400_000)], -1), 32000)
    assert gated == pytest.approx(reference, abs=0.3)
    assert audio.loudness_lufs(wave * 100, 32000) == pytest.approx(reference + 40, abs=1e-3)


def test_loudness_in_pieces_equals_loudness_at_once():
    music = audio.read(OGG, sample_rate=8000)
    once = audio.loudness_lufs(music, 8000)
    twice = audio.loudness_lufs(torch.cat([music, music], -1), 8000)
    assert twice == pytest.approx(once, abs=0.05)


def test_loudness_of_nothing_and_of_very_little():
    assert audio.loudness_lufs(torch.zeros(2, 32000), 32000) == -math.inf
    assert audio.loudness_lufs(torch.zeros(2, 0), 32000) == -math.inf
    short = audio.loudness_lufs(tone(997, 32000, 0.05), 32000)
    assert short == pytest.approx(audio.loudness_lufs(tone(997, 32000, 2.0), 32000), abs=1.0)


def test_true_peak_sees_between_samples():
    """A tone at a quarter of the rate, sampled 45 degrees off its crests, peaks 3 dB above its samples."""
    wave = torch.sin(math.pi / 2 * torch.arange(32000) + math.pi / 4)[None]
    fade = torch.hann_window(32000)
    assert audio.true_peak_db(wave * fade, 32000) == pytest.approx(0.0, abs=0.05)
    assert audio.true_peak_db(torch.zeros(2, 100), 32000) == -math.inf


def test_gain_and_levelling():
    wave = tone(997, 32000, 2.0)
    quieter = audio.gain_to(wave, audio.loudness_lufs(wave, 32000), -20.0)
    assert audio.loudness_lufs(quieter, 32000) == pytest.approx(-20.0, abs=0.01)
    assert torch.equal(audio.gain_to(wave, -math.inf, -20.0), wave)
    assert audio.loudness_lufs(audio.levelled(wave, 32000, -23.0), 32000) == pytest.approx(-23.0, abs=0.01)
    assert audio.true_peak_db(audio.levelled(wave, 32000, 6.0), 32000) == pytest.approx(-1.0, abs=0.01)
    assert torch.equal(audio.levelled(torch.zeros(2, 9), 32000, -16.0), torch.zeros(2, 9))


def test_a_disk_that_fills_up_is_told_as_such(tmp_path, monkeypatch):
    def refused(*_):
        raise soundfile.LibsndfileError(30)  # what libsndfile makes of a write that fails

    monkeypatch.setattr(writer, "_encode", refused)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=100))
    with pytest.raises(DualdiffError, match=r"clip.flac cannot be written: no space is left on the disk"):
        audio.write(tmp_path / "clip.flac", torch.zeros(2, 1000), 32000)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("block_s", [0.5, 3.0, 60.0])
def test_an_mp3_whose_length_is_only_guessed_is_read_to_its_end(tmp_path, block_s):
    path, seconds = tmp_path / "guessed.mp3", 10
    generator = torch.Generator().manual_seed(0)
    audio.write(path, torch.randn(2, 44100 * seconds, generator=generator) * 0.1, 44100, bitrate_kbps=32)
    whole = audio.read(path, sample_rate=44100)
    assert audio.probe(path).frames == whole.shape[-1] >= 44100 * seconds
    joined = torch.cat(list(audio.blocks(path, sample_rate=44100, block_s=block_s)), -1)
    assert torch.equal(joined, whole)
    excerpt = audio.read(path, sample_rate=44100, start_s=3.3, duration_s=2)
    assert torch.equal(excerpt, whole[:, round(3.3 * 44100) : round(5.3 * 44100)])


@pytest.mark.parametrize(("suffix", "length"), [(".flac", 70000), (".ogg", 70000), (".opus", 7000)])
def test_a_game_tag_is_read_from_flac_and_ogg(tmp_path, suffix, length):
    path = tmp_path / f"a{suffix}"
    audio.write(path, tone(440, 48000), 48000, title="T" * length, artist="GAME=no", album="Album")
    tags = audio.probe(path).tags
    assert (tags["title"], tags["artist"], tags["album"]) == ("T" * length, "GAME=no", "Album")
    assert "game" not in audio.probe(path).tags
    if suffix == ".flac":  # pages of Ogg would need new checksums
        path.write_bytes(path.read_bytes().replace(b"album=Album", b"Game=Zelda!"))
        assert audio.probe(path).tags["game"] == "Zelda!"
