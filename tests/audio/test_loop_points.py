"""Loop points come back from files: by mutagen, and by a reader of RIFF that was written for this test."""

import struct

import mutagen
import pytest
import torch

from dualdiff import audio
from dualdiff.audio import ogg
from dualdiff.core.errors import DualdiffError

WAVEFORM = torch.randn(2, 50000, generator=torch.Generator().manual_seed(0)) * 0.1


def riff_chunks(content: bytes) -> dict[bytes, bytes]:
    """The chunks of a WAV file, each word-aligned, filling the file to its announced end."""
    assert (content[:4], content[8:12]) == (b"RIFF", b"WAVE")
    assert struct.unpack("<I", content[4:8])[0] == len(content) - 8
    chunks, place = {}, 12
    while place < len(content):
        (size,) = struct.unpack("<I", content[place + 4 : place + 8])
        chunks[content[place : place + 4]] = content[place + 8 : place + 8 + size]
        place += 8 + size + size % 2
    assert place == len(content)
    return chunks


@pytest.mark.parametrize("suffix", [".flac", ".ogg", ".opus"])
@pytest.mark.parametrize(("start", "length"), [(0, 50000), (12345, 7), (64000, 1425152)])
def test_tags_of_flac_and_ogg(tmp_path, suffix, start, length):
    path = tmp_path / f"loop{suffix}"
    comment = '{"recipe": "' + "LOOPSTART=1 license= " * 40 + '"}'
    audio.write(path, WAVEFORM, 48000, title="T", comment=comment, loop=(start, length))
    tags = mutagen.File(path).tags
    assert (tags["LOOPSTART"], tags["LOOPLENGTH"]) == ([str(start)], [str(length)])
    assert not {"copyright", "license"} & set(tags.as_dict())
    info = audio.probe(path)
    assert (info.tags["loopstart"], info.tags["looplength"]) == (str(start), str(length))
    assert (info.tags["title"], info.tags["comment"]) == ("T", comment)
    assert audio.read(path, sample_rate=48000).shape[-1] >= 50000


def reference_checksum(page: bytes) -> int:
    """The CRC of RFC 3533, bit by bit."""
    value = 0
    for byte in page:
        value ^= byte << 24
        for _ in range(8):
            value = ((value << 1) ^ (0x04C11DB7 if value & 0x80000000 else 0)) & 0xFFFFFFFF
    return value


def test_every_page_of_a_looping_ogg_file_has_its_check_sum(tmp_path):
    path = tmp_path / "loop.ogg"
    audio.write(path, WAVEFORM, 32000, comment="c" * 100_000, loop=(100, 200))
    content, place, pages = path.read_bytes(), 0, 0
    while place < len(content):
        count = content[place + 26]
        stop = place + 27 + count + sum(content[place + 27 : place + 27 + count])
        page = content[place : place + 22] + bytes(4) + content[place + 26 : stop]
        assert content[place + 22 : place + 26] == struct.pack("<I", reference_checksum(page))
        assert ogg.checksum(page) == reference_checksum(page)
        place, pages = stop, pages + 1
    assert pages > 2


def test_a_sampler_chunk_of_wav(tmp_path):
    path = tmp_path / "loop.wav"
    audio.write(path, WAVEFORM, 32000, title="T", comment="odd", loop=(12345, 7000))
    chunks = riff_chunks(path.read_bytes())
    assert next(iter(chunks)) == b"fmt "
    values = struct.unpack("<15I", chunks[b"smpl"])
    assert values[2] == 31250, "nanoseconds of a sample"
    assert values[7] == 1, "loops"
    assert values[10:13] == (0, 12345, 12345 + 7000 - 1), "forward, first and last sample"
    assert values[14] == 0, "without end"
    assert audio.probe(path).tags["comment"] == "odd"
    assert torch.allclose(audio.read(path, sample_rate=32000), WAVEFORM, atol=1e-6)
    audio.write(path, WAVEFORM, 32000)
    assert b"smpl" not in riff_chunks(path.read_bytes())


def test_a_file_without_loop_points_has_no_such_tags(tmp_path):
    audio.write(tmp_path / "a.flac", WAVEFORM, 32000)
    assert "loopstart" not in audio.probe(tmp_path / "a.flac").tags


def test_mp3_cannot_loop(tmp_path):
    with pytest.raises(DualdiffError, match="cannot loop without a gap"):
        audio.write(tmp_path / "a.mp3", WAVEFORM, 32000, loop=(0, 100))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["flac", "ogg", "wav"])
def test_loop_points_are_read_back(tmp_path, kind):
    path = tmp_path / f"loop.{kind}"
    audio.write(path, WAVEFORM, 32000, title="T", loop=(12345, 7000))
    assert audio.probe(path).loop == (12345, 7000)
    audio.write(path, WAVEFORM, 32000, title="T")
    assert audio.probe(path).loop is None


def test_loop_points_that_cannot_be_are_none():
    for start, length in (("1", "100"), ("-1", "5"), ("0", "0"), ("x", "5"), ("", ""), ("2", "1e1")):
        info = audio.AudioInfo(1.0, 100, 2, 100, "flac", {"loopstart": start, "looplength": length})
        assert info.loop is None
