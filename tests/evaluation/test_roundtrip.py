"""Round trips: files written and kept, numbers that mean what they say, baselines beside them."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from dualdiff import audio
from dualdiff.core.errors import DataError, UsageError
from dualdiff.evaluation import baselines
from dualdiff.evaluation.metrics import METRICS
from dualdiff.evaluation.roundtrip import compare, roundtrip
from dualdiff.formats.config import MelConfig
from dualdiff.formats.mel import MelFormat

MUSIC = Path(__file__).parents[2] / "examples" / "music"
TRACK = MUSIC / "Pekka Kana 2" / "song05.ogg"
LOUD = MUSIC / "Noiz2sa" / "stg1.ogg"  # with peaks above full scale


@pytest.fixture(scope="module")
def quick() -> MelFormat:
    return MelFormat(MelConfig(phase_iterations=6))


def test_a_round_trip_writes_audio_and_picture_and_measures(tmp_path, quick):
    told = []
    result = roundtrip(
        LOUD,
        quick,
        out=tmp_path / "out",
        start_s=20,
        duration_s=1.5,
        progress=lambda done, total, note="": told.append(done / total),
    )
    assert result.audio == tmp_path / "out" / "stg1-roundtrip.flac"
    assert result.picture == tmp_path / "out" / "stg1-roundtrip.png"
    info = audio.probe(result.audio)
    assert (info.frames, info.sample_rate, info.channels) == (48000, 32000, 2)
    assert Image.open(result.picture).size[0] > 500
    assert list(result.metrics) == list(METRICS)
    assert result.metrics["chroma_cosine"] > 0.9
    assert abs(result.metrics["loudness_difference_lu"]) < 1
    assert result.duration_s == 1.5
    assert result.real_time_factor == (result.encode_s + result.decode_s) / 1.5
    assert 0 < result.encode_s < result.decode_s
    assert told[-1] == 1.0


def test_nothing_is_overwritten_without_force(tmp_path, quick):
    target = tmp_path / "song05-roundtrip.png"
    target.write_text("mine")
    with pytest.raises(UsageError, match=r"song05-roundtrip\.png exists already"):
        roundtrip(TRACK, quick, out=tmp_path, duration_s=0.5)
    assert target.read_text() == "mine"
    assert len(list(tmp_path.iterdir())) == 1
    roundtrip(TRACK, quick, out=tmp_path, duration_s=0.5, force=True)
    assert target.read_bytes()[:4] == b"\x89PNG"


def test_without_a_folder_nothing_is_written(quick, tmp_path):
    audio.write(tmp_path / "tiny.wav", torch.randn(2, 100) * 0.1, 32000)
    result = roundtrip(tmp_path / "tiny.wav", quick)
    assert (result.audio, result.picture) == (None, None)
    assert len(list(tmp_path.iterdir())) == 1


def test_silence_goes_round(tmp_path, quick):
    audio.write(tmp_path / "silence.wav", torch.zeros(2, 9000), 32000)
    metrics = roundtrip(tmp_path / "silence.wav", quick).metrics
    assert metrics["log_mel_distance"] == 0
    assert metrics["loudness_difference_lu"] == 0


def test_baselines_are_compared_on_the_same_audio(quick):
    told = []
    names = ("fgla-2", "griffin-lim-3", "mp3-64", "opus-64")
    rows = compare(
        [TRACK, LOUD],
        quick,
        names,
        duration_s=1.0,
        progress=lambda done, total, note="": told.append((done, total, note)),
    )
    by_name = {row.name: row for row in rows}
    assert list(by_name) == ["mel", *names]
    for row in rows:
        assert (row.files, row.audio_s) == (2, 2.0)
        assert row.real_time_factor == (row.encode_s + row.decode_s) / 2.0
        assert list(row.metrics) == list(METRICS)
        assert row.metrics["chroma_cosine"] > 0.5
    error = {name: row.metrics["spectral_convergence"] for name, row in by_name.items()}
    assert error["mp3-64"] < error["mel"] < error["fgla-2"]
    assert by_name["mel"].bitrate_kbps is None
    for codec in ("mp3-64", "opus-64"):
        assert by_name[codec].bitrate_kbps == pytest.approx(64, rel=0.3)
    assert told[0] == (0, 10, "mel")
    assert told[-1] == (10, 10, "")


def test_all_ways_are_judged_on_the_same_excerpts(quick):
    heard = []
    rows = compare(
        [TRACK, LOUD, TRACK],
        quick,
        ["griffin-lim-1", "fgla-1"],
        duration_s=0.5,
        listener=lambda excerpt, way, waveform: heard.append((excerpt.path, excerpt.start_s, way)),
    )
    assert {(row.files, row.audio_s) for row in rows} == {(3, 1.5)}
    excerpts = {row.name: [(path, start_s) for path, start_s, way in heard if way == row.name] for row in rows}
    assert len(excerpts) == 3
    assert all(own == excerpts["mel"] for own in excerpts.values())


@pytest.mark.parametrize("name", ["mp3-64", "opus-64"])
def test_codecs_give_back_every_sample_at_its_time(name):
    original = audio.read(TRACK, sample_rate=32000, start_s=20, duration_s=1)
    passed = baselines.baseline(name)(original, 32000, lambda *_: None)
    assert passed.waveform.shape == original.shape
    similarity = torch.nn.functional.cosine_similarity(passed.waveform.flatten(), original.flatten(), dim=0)
    assert similarity > 0.9


def test_ways_keep_rate_length_and_seed():
    original = audio.read(TRACK, sample_rate=44100, start_s=20, duration_s=0.7)
    for name in ("fgla-1", "griffin-lim-1"):
        first, again, other = (
            baselines.baseline(name, seed)(original, 44100, lambda *_: None).waveform for seed in (1, 1, 2)
        )
        assert first.shape == original.shape
        assert torch.equal(first, again)
        assert not torch.allclose(first, other, atol=1e-3)


@pytest.mark.parametrize("name", ["mp4-64", "mp3", "mp3-x", "fgla-0", ""])
def test_an_unknown_baseline_is_refused(name, quick):
    with pytest.raises(UsageError, match=f'no baseline "{name}"'):
        compare([TRACK], quick, [name])


def test_a_codec_that_is_not_there_is_left_out_or_refused(monkeypatch, quick):
    monkeypatch.setattr(audio, "can_write", lambda suffix: suffix != ".opus")
    assert baselines.available() == ["fgla-400", "griffin-lim-32", "mp3-64", "mp3-128"]
    with pytest.raises(UsageError, match="needs a libsndfile that writes opus"):
        baselines.baseline("opus-64")


def test_no_files_are_an_error(quick):
    with pytest.raises(DataError, match="no files"):
        compare([], quick)
