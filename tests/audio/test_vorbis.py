"""Ogg Vorbis read from the middle equals the same samples of the whole file, also in files cut out of longer ones."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from dualdiff import audio
from dualdiff.audio import reader, vorbis

MUSIC = Path(__file__).parents[2] / "examples" / "music"
RATE = 16000


def write(path: Path, duration_s: float = 20.0, channels: int = 2, **options: object) -> Path:
    """Noise in bursts, so that long and short blocks alternate."""
    draw = np.random.default_rng(channels)
    time = np.arange(round(duration_s * RATE)) / RATE
    bursts = (np.sin(2 * np.pi * 1.7 * time) > 0.6)[:, None] * draw.normal(0, 0.2, (len(time), channels))
    with soundfile.SoundFile(path, "w", RATE, channels, **options) as file:
        for first in range(0, len(time), RATE):
            file.write((bursts + 0.2 * np.sin(2 * np.pi * 330 * time)[:, None])[first : first + RATE].clip(-1, 1))
    return path


def decoded_from(path: Path, frame: int, count: int) -> tuple[torch.Tensor, int]:
    """What a decoder gives of the part of a file, and at which frame it begins."""
    part = vorbis.spliced(path, frame)
    assert part is not None
    with soundfile.SoundFile(part) as file:
        reader._read_only_forward(file)
        file.read(frame - part.first_frame, dtype="float32")
        return torch.from_numpy(file.read(count, dtype="float32", always_2d=True)), part.first_frame


@pytest.mark.parametrize("channels", [1, 2])
def test_a_part_decodes_to_the_same_samples_and_begins_nearby(tmp_path: Path, channels: int) -> None:
    path = write(tmp_path / "a.ogg", channels=channels)
    whole = torch.from_numpy(soundfile.read(path, dtype="float32", always_2d=True)[0])
    for frame in np.random.default_rng(0).integers(5 * RATE, 15 * RATE, 20).tolist():
        piece, first_frame = decoded_from(path, frame, 4000)
        assert torch.equal(piece, whole[frame : frame + 4000])
        assert 0 < first_frame <= frame < first_frame + 4 * RATE


@pytest.mark.parametrize("name", ["Noiz2sa/stg2.ogg", "Noiz2sa/stg3.ogg", "Freedoom/E1M1.ogg"])
def test_what_pages_say_of_their_position_does_not_matter(name: str) -> None:
    path = MUSIC / name  # the first two were cut out of longer files: their pages count from elsewhere
    whole = torch.from_numpy(soundfile.read(path, dtype="float32", always_2d=True)[0])
    for frame in np.random.default_rng(1).integers(200_000, 1_800_000, 12).tolist():
        assert torch.equal(decoded_from(path, frame, 4000)[0], whole[frame : frame + 4000])


@pytest.mark.parametrize("rate", [RATE, 32000])
def test_excerpts_equal_the_whole_up_to_the_very_end(tmp_path: Path, rate: int) -> None:
    path = write(tmp_path / "a.ogg")
    whole = audio.read(path, sample_rate=rate)
    for start_s in (0.0, 0.01, 3.3, 12.345, 18.9, 19.0):
        first = round(start_s * rate)
        excerpt = audio.read(path, sample_rate=rate, start_s=start_s, duration_s=1.0)
        assert torch.equal(excerpt, whole[:, first : first + rate])


def test_what_is_no_plain_vorbis_is_left_to_the_decoder(tmp_path: Path) -> None:
    path = write(tmp_path / "a.ogg")
    chained = tmp_path / "chained.ogg"
    chained.write_bytes(path.read_bytes() + write(tmp_path / "b.ogg", channels=1).read_bytes())
    opus = write(tmp_path / "a.opus", format="OGG", subtype="OPUS")
    flac = write(tmp_path / "a.flac")
    torn = tmp_path / "torn.ogg"
    torn.write_bytes(path.read_bytes()[:100])
    assert [vorbis.spliced(other, 8 * RATE) for other in (chained, opus, flac, torn)] == [None] * 4
    assert vorbis.spliced(path, 10) is None, "nothing lies before the first page"
    assert torch.equal(
        audio.read(opus, sample_rate=48000, start_s=8, duration_s=1),
        audio.read(opus, sample_rate=48000)[:, 8 * 48000 : 9 * 48000],
    )


def test_a_part_behaves_as_a_file(tmp_path: Path) -> None:
    path = write(tmp_path / "a.ogg")
    part = vorbis.spliced(path, 15 * RATE)
    assert part is not None
    content = part.read()
    assert path.read_bytes().endswith(content[-5000:])
    assert path.read_bytes().startswith(content[:2000])
    assert part.seek(0, 2) == len(content)
    assert part.read(5) == b""
    assert part.seek(-7, 1) == part.tell() == len(content) - 7
    assert part.read(3) == content[-7:-4]
    assert part.seek(1990)
    assert part.read(3000) == content[1990:4990]
    with pytest.raises(OSError, match="only read"):
        part.write(b"")
