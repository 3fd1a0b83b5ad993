"""Files as programs really write them: all read to their end, and those that are cut off named."""

import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from dualdiff import audio
from dualdiff.audio import ffmpeg
from dualdiff.core.errors import DataError

HARD = Path(__file__).parents[1] / "hard"
RATE = 8000
needs_ffmpeg = pytest.mark.skipif(not ffmpeg.has_ffmpeg(), reason="needs ffmpeg")


def tones(seconds: float = 3.0, channels: int = 2, rate: int = RATE) -> np.ndarray:
    time = np.arange(round(seconds * rate)) / rate
    return np.stack([0.4 * np.sin(2 * np.pi * (300 + 100 * channel) * time) for channel in range(channels)], 1)


def written(path: Path, subtype: str | None = None, seconds: float = 3.0, rate: int = RATE, **options: object) -> Path:
    with soundfile.SoundFile(path, "w", rate, 2, subtype, **options) as file:
        file.write(tones(seconds, rate=rate))
    return path


def converted(source: Path, target: Path, *arguments: str) -> Path:
    subprocess.run(["ffmpeg", "-v", "error", "-y", "-i", source, *arguments, target], check=True)
    return target


def piped(source: Path, target: Path, kind: str, *arguments: str) -> Path:
    """What ffmpeg writes to a pipe, where it cannot return to the header."""
    command = ["ffmpeg", "-v", "error", "-i", source, *arguments, "-f", kind, "pipe:1"]
    target.write_bytes(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return target


def frames(path: Path) -> int:
    """How many frames a file holds by `probe`, `read` and `blocks`, which must agree."""
    info = audio.probe(path)
    whole = audio.read(path, sample_rate=info.sample_rate)
    joined = torch.cat(list(audio.blocks(path, sample_rate=info.sample_rate, block_s=0.7)), -1)
    assert torch.equal(whole, joined)
    assert whole.shape[-1] == info.frames
    return info.frames


@pytest.mark.parametrize(
    ("suffix", "subtypes"),
    [
        (".wav", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW", "IMA_ADPCM", "MS_ADPCM"]),
        (".aiff", ["PCM_S8", "PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW"]),
        (".au", ["PCM_S8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW"]),
        (".w64", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "ULAW", "IMA_ADPCM"]),
        (".caf", ["PCM_S8", "PCM_16", "PCM_24", "FLOAT", "ULAW", "ALAC_16"]),
    ],
)
def test_every_way_to_store_samples_is_read_as_libsndfile_wrote_it(
    tmp_path: Path, suffix: str, subtypes: list[str]
) -> None:
    for subtype in subtypes:
        path = written(tmp_path / f"a{suffix}", subtype)
        expected, _ = soundfile.read(path, dtype="float32")
        assert np.array_equal(audio.read(path, sample_rate=RATE).T.numpy(), expected), subtype
        excerpt = audio.read(path, sample_rate=RATE, start_s=1.0, duration_s=0.5)
        assert np.array_equal(excerpt.T.numpy(), expected[RATE:][: RATE // 2]), subtype


@pytest.mark.parametrize("endian", ["LITTLE", "BIG"])
@pytest.mark.parametrize(("suffix", "kind"), [(".aiff", "AIFF"), (".au", "AU"), (".caf", "CAF"), (".wav", "RF64")])
def test_byte_orders_and_the_large_wav(tmp_path: Path, suffix: str, kind: str, endian: str) -> None:
    if kind == "RF64" and endian == "BIG":
        return
    path = written(tmp_path / f"a{suffix}", "PCM_16", format=kind, endian=endian if kind != "RF64" else None)
    expected, _ = soundfile.read(path, dtype="float32")
    assert np.array_equal(audio.read(path, sample_rate=RATE).T.numpy(), expected)


CUTTABLE: dict[str, Callable[[Path], Path]] = {
    "wav": lambda folder: written(folder / "a.wav"),
    "rf64": lambda folder: written(folder / "a.wav", format="RF64"),
    "aiff": lambda folder: written(folder / "a.aiff"),
    "au": lambda folder: written(folder / "a.au"),
    "w64": lambda folder: written(folder / "a.w64"),
    "caf": lambda folder: written(folder / "a.caf"),
    "wav, adpcm": lambda folder: written(folder / "a.wav", "IMA_ADPCM"),
    "flac": lambda folder: written(folder / "a.flac"),
    "ogg": lambda folder: written(folder / "a.ogg", "VORBIS"),
    "opus": lambda folder: written(folder / "a.opus", "OPUS", format="OGG"),
}
CUT_BY_FFMPEG = {"wma": "a.wma", "wavpack": "a.wv", "m4a": "a.m4a", "tta": "a.tta"}


@pytest.mark.parametrize("share", [0.5, 0.93])
@pytest.mark.parametrize("kind", CUTTABLE)
def test_a_file_that_is_cut_off_is_named_and_not_read_as_a_shorter_one(tmp_path: Path, kind: str, share: float) -> None:
    path = CUTTABLE[kind](tmp_path)
    assert 0 <= frames(path) - 3 * audio.probe(path).sample_rate < 1000  # ADPCM fills its last block
    path.write_bytes(path.read_bytes()[: round(path.stat().st_size * share)])
    with pytest.raises(DataError, match="cut off") as caught:
        audio.read(path, sample_rate=RATE)
    assert str(path) in caught.value.message
    with pytest.raises(DataError, match="cut off"):
        list(audio.blocks(path, sample_rate=RATE, block_s=1.0))


@needs_ffmpeg
@pytest.mark.parametrize("kind", CUT_BY_FFMPEG)
def test_a_cut_off_file_that_ffmpeg_plays_is_named(tmp_path: Path, kind: str) -> None:
    source = written(tmp_path / "a.wav", seconds=12.0, rate=44100)
    arguments = ["-movflags", "+faststart"] if kind == "m4a" else []
    path = converted(source, tmp_path / CUT_BY_FFMPEG[kind], *arguments)
    assert audio.probe(path).duration_s == pytest.approx(12.0, abs=0.15)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError):
        audio.read(path, sample_rate=RATE)


def test_an_mp3_that_is_cut_off_is_named_where_its_header_says_how_long_it_is(tmp_path: Path) -> None:
    path = written(tmp_path / "a.mp3", seconds=20.0, rate=44100, bitrate_mode="VARIABLE")
    assert frames(path) == pytest.approx(20 * 44100, abs=2000)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError, match="cut off"):
        audio.read(path, sample_rate=RATE)


@pytest.mark.parametrize("data_size", [0, 0x7FFFFFFF, 0x7FFFF000, 0x7FFFFFFF - 36, 0x80000000, 0xFFFFFFFF, 0xFFFFFFF8])
@pytest.mark.parametrize("riff_size", [0, 0x7FFFFFFF, 0xFFFFFFFF])
def test_wav_sizes_of_programs_that_write_to_a_pipe(tmp_path: Path, data_size: int, riff_size: int) -> None:
    path = written(tmp_path / "a.wav", "PCM_16")
    content = bytearray(path.read_bytes())
    place = content.index(b"data") + 4
    content[place : place + 4], content[4:8] = struct.pack("<I", data_size), struct.pack("<I", riff_size)
    path.write_bytes(content)
    assert frames(path) == 3 * RATE


@needs_ffmpeg
@pytest.mark.parametrize("kind", ["wav", "w64", "aiff", "au", "caf", "flac", "ogg", "opus", "mp3"])
def test_what_ffmpeg_writes_to_a_pipe_is_read_whole(tmp_path: Path, kind: str) -> None:
    source = written(tmp_path / "a.wav", rate=48000)
    if kind in ("aiff", "caf"):  # ffmpeg refuses, or writes no length
        arguments = ["-f", kind, "pipe:1"]
        done = subprocess.run(["ffmpeg", "-v", "error", "-i", source, *arguments], stdout=subprocess.PIPE, check=False)
        if done.returncode or not done.stdout:
            pytest.skip("ffmpeg does not write this to a pipe")
    path = piped(source, tmp_path / f"b.{kind}", kind)
    assert frames(path) == pytest.approx(3 * 48000, abs=3000)


@pytest.mark.parametrize("junk", [b"text behind the end\n" * 3, b"TAG" + bytes(125), b"ID3\x04" + bytes(16)])
@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg", "a.mp3", "a.aiff", "a.au", "a.w64", "a.caf", "a.opus"])
def test_what_lies_behind_the_audio_does_no_harm(tmp_path: Path, name: str, junk: bytes) -> None:
    rate = 48000 if name == "a.opus" else RATE
    options = {"format": "OGG", "subtype": "OPUS"} if name == "a.opus" else {}
    path = written(tmp_path / name, rate=rate, **options)
    expected = frames(path)
    path.write_bytes(path.read_bytes() + junk)
    assert frames(path) == expected


@pytest.mark.parametrize("name", ["a.flac", "a.mp3"])
def test_an_id3_tag_in_front_does_no_harm_and_is_read(tmp_path: Path, name: str) -> None:
    path = written(tmp_path / name, rate=44100)
    expected = frames(path)
    frame = b"TIT2" + struct.pack(">I", 6) + b"\0\0" + b"\x00Title"
    path.write_bytes(b"ID3\x03\0\0" + bytes([0, 0, 2, 0]) + frame.ljust(256, b"\0") + path.read_bytes())
    assert frames(path) == expected
    assert name == "a.flac" or audio.probe(path).tags["title"] == "Title"


@pytest.mark.parametrize("order", ["before", "after"])
@pytest.mark.parametrize("padded", [True, False])
def test_a_chunk_of_odd_length(tmp_path: Path, order: str, padded: bool) -> None:
    path = written(tmp_path / "a.wav", "PCM_16")
    content = path.read_bytes()
    text = b"INFOINAM" + struct.pack("<I", 5) + b"Title"
    chunk = b"LIST" + struct.pack("<I", len(text)) + text + (b"\0" if padded else b"")
    place = content.index(b"data") if order == "before" else len(content)
    path.write_bytes(content[:place] + chunk + content[place:])
    assert frames(path) == 3 * RATE
    assert audio.probe(path).tags["title"] == "Title"


def without_xing(path: Path) -> None:
    """Take the first frame away, if it is no audio but a header."""
    content = path.read_bytes()
    place = content.index(b"Xing") if b"Xing" in content[:4096] else content.index(b"Info")
    start = content.rindex(b"\xff", 0, place - 4)
    following = content.index(content[start : start + 2], place)
    path.write_bytes(content[following:])


def test_vbr_mp3_without_a_header_is_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.mp3"
    quiet, loud = np.zeros((20 * 44100, 2)), np.random.default_rng(0).normal(0, 0.3, (5 * 44100, 2))
    with soundfile.SoundFile(path, "w", 44100, 2, bitrate_mode="VARIABLE") as file:
        file.write(np.concatenate([loud, quiet, loud]).clip(-1, 1))
    without_xing(path)
    assert soundfile.info(path).frames < 28 * 44100, "what libsndfile takes from the size"
    assert frames(path) == pytest.approx(30 * 44100, abs=3000)


def test_an_mp3_whose_header_says_too_little_and_one_with_junk_between_its_frames(tmp_path: Path) -> None:
    path = written(tmp_path / "a.mp3", rate=44100, bitrate_mode="VARIABLE", seconds=10.0)
    content = bytearray(path.read_bytes())
    place = content.index(b"Xing") + 8 if b"Xing" in content else content.index(b"Info") + 8
    content[place : place + 4] = struct.pack(">I", 20)
    path.write_bytes(content)
    assert frames(path) == pytest.approx(10 * 44100, abs=3000)
    path.write_bytes(content + content)  # a second file, with a header and all, behind the first
    assert frames(path) == pytest.approx(20 * 44100, abs=6000)
    middle = content.index(content[:2], len(content) // 2)
    path.write_bytes(content[:middle] + b"junk in the middle" * 30 + content[middle:])
    assert frames(path) == pytest.approx(10 * 44100, abs=9000)


@needs_ffmpeg
def test_mpeg_audio_in_a_wav_file(tmp_path: Path) -> None:
    source = written(tmp_path / "a.wav", rate=44100, seconds=6.0)
    path = converted(source, tmp_path / "b.wav", "-c:a", "libmp3lame")
    assert frames(path) == pytest.approx(6 * 44100, abs=4000)


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
@pytest.mark.parametrize("rates", [(48000, 48000), (48000, 24000), (24000, 48000)])
def test_chained_ogg_is_read_to_the_end_also_where_the_rate_changes(
    tmp_path: Path, subtype: str, rates: tuple[int, int]
) -> None:
    parts = [
        written(tmp_path / f"{number}.ogg", subtype, seconds=2.0, rate=rate, format="OGG")
        for number, rate in enumerate(rates)
    ]
    path = tmp_path / "a.ogg"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    info = audio.probe(path)
    assert info.sample_rate == (48000 if subtype == "OPUS" else rates[0])
    assert frames(path) == pytest.approx(4 * info.sample_rate, abs=20)
    alone = audio.read(parts[1], sample_rate=info.sample_rate)
    assert torch.allclose(audio.read(path, sample_rate=info.sample_rate)[:, -alone.shape[-1] :], alone, atol=1e-3)


@pytest.mark.parametrize("input_rate", [0, 8000, 16000, 44100, 192000])
def test_opus_is_decoded_at_48_khz_whatever_its_header_says(tmp_path: Path, input_rate: int) -> None:
    path = written(tmp_path / "a.opus", "OPUS", rate=48000, format="OGG")
    expected = audio.read(path, sample_rate=48000)
    content = bytearray(path.read_bytes())
    place = content.index(b"OpusHead") + 12
    content[place : place + 4] = struct.pack("<I", input_rate)
    from dualdiff.audio import ogg

    end = 28 + content[27]
    content[22:26] = bytes(4)
    content[22:26] = struct.pack("<I", ogg.checksum(bytes(content[:end])))
    path.write_bytes(content)
    assert audio.probe(path).sample_rate == 48000
    assert torch.equal(audio.read(path, sample_rate=48000), expected)


@needs_ffmpeg
def test_opus_that_ffmpeg_makes_of_vorbis_is_read_whole(tmp_path: Path) -> None:
    source = written(tmp_path / "a.ogg", "VORBIS", seconds=9.0, rate=44100)
    path = converted(source, tmp_path / "b.opus")
    assert frames(path) == pytest.approx(9 * 48000, abs=2000)


def test_a_page_of_ogg_that_fails_its_checksum_is_damage(tmp_path: Path) -> None:
    path = written(tmp_path / "a.ogg", "VORBIS", seconds=20.0)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(DataError, match="fail their checksums"):
        audio.read(path, sample_rate=RATE)


@pytest.mark.parametrize("rate", [0, 8, 300, 2_000_000, 0xFFFFFFFF])
def test_a_sample_rate_that_cannot_be_is_named(tmp_path: Path, rate: int) -> None:
    for suffix, place in ((".wav", 24), (".au", 16)):
        path = written(tmp_path / f"a{suffix}")
        content = bytearray(path.read_bytes())
        content[place : place + 4] = struct.pack("<I" if suffix == ".wav" else ">I", rate)
        path.write_bytes(content)
        with pytest.raises(DataError, match=f"sample rate is {rate} Hz"):
            audio.probe(path)


OUTCOMES = {
    "clip-copied-by-ffmpeg.ogg": (1.0, 32000),
    "flac-written-to-a-pipe.flac": (12.0, 8000),
    "mp3-xing-says-1e12-frames.mp3": (0.45, 22050),
    "ogg-two-streams-joined.ogg": (12.0, 32000),
    "opus-input-rate-0.opus": (12.0, 48000),
    "opus-made-from-vorbis.opus": (8.7, 48000),
    "two-songs.mod": (15.4, 48000),
    "two-songs.mod#02": (15.4, 48000),
    "vbr-without-xing.mp3": (12.0, 32000),
    "wav-data-size-0.wav": (12.0, 8000),
    "wav-odd-chunk-not-padded.wav": (12.0, 8000),
    "wav-text-after-the-end.wav": (12.0, 8000),
    "wav-with-mp3-inside.wav": (12.0, 32000),
}


@pytest.mark.parametrize("name", OUTCOMES)
def test_hard_files_are_read_whole(name: str) -> None:
    if ".mod" in name and not ffmpeg.has_ffmpeg():
        pytest.skip("needs ffmpeg")
    info = audio.probe(HARD / name)
    seconds, rate = OUTCOMES[name]
    assert info.sample_rate == rate
    assert info.duration_s == pytest.approx(seconds, abs=0.1)
    assert frames(HARD / name) == info.frames


@pytest.mark.parametrize(
    ("name", "words"),
    [("wav-info-subchunk-hangs.wav", "text of 4294967288 bytes"), ("wav-rate-8.wav", "sample rate is 8 Hz")],
)
def test_hard_files_that_are_damaged_are_named(name: str, words: str) -> None:
    for look in (audio.probe, lambda path: audio.read(path, sample_rate=RATE)):
        with pytest.raises(DataError, match=words) as caught:
            look(HARD / name)
        assert str(HARD / name) in caught.value.message


def test_the_opus_without_an_input_rate_keeps_its_bandwidth() -> None:
    waveform = audio.read(HARD / "opus-input-rate-0.opus", sample_rate=48000)
    spectrum = torch.fft.rfft(waveform[0]).abs().square()
    assert spectrum[len(spectrum) // 6 :].sum() > 0.01 * spectrum.sum(), "there is sound above 4 kHz"
