"""Spectrogram pictures: what is loud is bright, where its time and frequency say."""

import io
import math

import pytest
import torch
from PIL import Image

from dualdiff.core.errors import DualdiffError
from dualdiff.evaluation import spectrogram_image
from dualdiff.evaluation.spectrogram_image import ABOVE, BELOW, HEIGHT, LEFT, RIGHT, WIDTH, SpectrogramRow

RATE = 32000


def tone(frequency: float, duration_s: float = 1.0) -> torch.Tensor:
    time = torch.arange(round(duration_s * RATE), dtype=torch.float64) / RATE
    return torch.sin(2 * math.pi * frequency * time).float().expand(2, -1)


@pytest.mark.parametrize("frequency", [60.0, 1000.0, 12000.0])
def test_a_tone_is_a_line_at_its_height(frequency):
    levels = spectrogram_image.spectrogram_db(tone(frequency), RATE)
    assert levels.shape == (HEIGHT, WIDTH)
    height = math.log(1 + frequency / 700) / math.log(1 + 16000 / 700)
    assert levels[:, WIDTH // 2].argmax().item() == pytest.approx((1 - height) * HEIGHT, abs=1.5)


def test_a_click_is_a_line_at_its_time():
    waveform = torch.zeros(2, RATE)
    waveform[:, RATE // 4] = 1
    assert spectrogram_image.spectrogram_db(waveform, RATE).mean(0).argmax().item() == pytest.approx(WIDTH / 4, abs=3)


def test_colours_get_lighter_all_the_way():
    lightness = [
        0.2126 * red**2.2 + 0.7152 * green**2.2 + 0.0722 * blue**2.2 for red, green, blue in spectrogram_image.COLOURS
    ]
    assert lightness == sorted(lightness)


def test_rows_are_stacked_on_one_scale_of_levels_and_time():
    rows = [SpectrogramRow("long and loud", tone(1000)), SpectrogramRow("短い, short and é", tone(1000, 0.25) / 100)]
    picture = spectrogram_image.spectrogram_picture(rows, RATE, start_s=7.0)
    assert picture.size == (LEFT + WIDTH + RIGHT, 2 * (ABOVE + HEIGHT) + BELOW)
    columns = [picture.crop((LEFT + 100, y, LEFT + 101, y + HEIGHT)) for y in (ABOVE, 2 * ABOVE + HEIGHT)]
    brightest = [max(sum(column.getpixel((0, y))) for y in range(HEIGHT)) for column in columns]
    assert brightest[0] > 2 * brightest[1]
    assert picture.getpixel((LEFT + WIDTH // 2, 2 * ABOVE + HEIGHT + 100)) == spectrogram_image.BACKGROUND


@pytest.mark.parametrize("length", [1, 63, 5000])
def test_silence_and_little_audio_can_be_drawn(tmp_path, length):
    path = tmp_path / "new" / "a.png"
    spectrogram_image.write_spectrograms(path, [SpectrogramRow("nothing", torch.zeros(2, length))], RATE)
    assert Image.open(path).size[0] == LEFT + WIDTH + RIGHT
    assert [file.name for file in path.parent.iterdir()] == ["a.png"]


def test_png_bytes_are_the_picture_and_a_bad_folder_is_an_error(tmp_path):
    picture = spectrogram_image.spectrogram_picture([SpectrogramRow("a", tone(440))], RATE)
    assert Image.open(io.BytesIO(spectrogram_image.png(picture))).tobytes() == picture.tobytes()
    (tmp_path / "file").write_text("")
    with pytest.raises(DualdiffError, match="cannot be written"):
        spectrogram_image.write_spectrograms(tmp_path / "file" / "a.png", [SpectrogramRow("a", tone(440))], RATE)
