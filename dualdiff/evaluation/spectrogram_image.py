"""Pictures of sound: spectrograms, one above the other on the same scales, as PNG.

Frequencies are on a mel scale, levels in dB below the loudest point of all rows.
"""

import io
import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from dualdiff.core.files import write_bytes_atomically
from dualdiff.core.types import Waveform
from dualdiff.formats.stft import Stft, magnitude, reflected

WIDTH, HEIGHT = 1000, 256
"""Of one spectrogram, pixels."""
RANGE_DB = 80.0
"""What is this far below the loudest point is black."""
N_FFT = 4096
LEFT, RIGHT, ABOVE, BELOW = 52, 64, 20, 22
"""Margins, pixels: Hz, the scale of levels, a caption, seconds."""
TICKS_HZ = (50, 200, 500, 1000, 2000, 4000, 8000, 16000, 32000)
BACKGROUND, INK, GRID = (250, 250, 248), (40, 40, 44), (120, 120, 128)
# Dark to bright, the lightness rising evenly, also for eyes that confuse red and green: night, violet, red, cream.
COLOURS = (
    (4, 4, 14),
    (25, 14, 62),
    (62, 17, 104),
    (105, 26, 113),
    (149, 40, 103),
    (190, 60, 82),
    (222, 91, 55),
    (241, 133, 34),
    (248, 181, 49),
    (244, 226, 112),
    (253, 253, 218),
)
Font: TypeAlias = ImageFont.FreeTypeFont | ImageFont.ImageFont
_CHUNK_FRAMES = 2048


@dataclass(frozen=True)
class SpectrogramRow:
    """One spectrogram of a picture: what it is, and the waveform (C, T); channels are added up in power."""

    caption: str
    waveform: Waveform


def spectrogram_picture(rows: Sequence[SpectrogramRow], sample_rate: int, start_s: float = 0.0) -> Image.Image:
    """Draw spectrograms one above the other, captions above each; times count from `start_s`."""
    longest = max((row.waveform.shape[-1] for row in rows), default=0)
    widths = [max(1, round(WIDTH * row.waveform.shape[-1] / max(longest, 1))) for row in rows]
    levels = [spectrogram_db(row.waveform, sample_rate, width) for row, width in zip(rows, widths, strict=True)]
    top = max((float(level.max()) for level in levels), default=0.0)
    height = len(rows) * (ABOVE + HEIGHT) + BELOW
    picture = Image.new("RGB", (LEFT + WIDTH + RIGHT, height), BACKGROUND)
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default()
    for index, (row, level) in enumerate(zip(rows, levels, strict=True)):
        y = index * (ABOVE + HEIGHT) + ABOVE
        draw.text((LEFT, y - ABOVE + 4), _drawable(row.caption), INK, font)
        picture.paste(_image((level - top) / RANGE_DB + 1), (LEFT, y))
        _draw_frequencies(draw, font, y, sample_rate)
    _draw_times(draw, font, height - BELOW, start_s, longest / sample_rate)
    _draw_scale(picture, draw, font)
    return picture


def write_spectrograms(path: Path, rows: Sequence[SpectrogramRow], sample_rate: int, start_s: float = 0.0) -> None:
    """Write the picture as PNG, atomically.

    Raises:
        DualdiffError: the folder cannot be written to.
    """
    write_bytes_atomically(path, png(spectrogram_picture(rows, sample_rate, start_s)))


def png(picture: Image.Image) -> bytes:
    """A picture as the bytes of a PNG file."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def spectrogram_db(waveform: Waveform, sample_rate: int, width: int = WIDTH) -> Tensor:
    """Levels (HEIGHT, width), dB, the highest frequency first; each pixel is the mean power of its time and band."""
    hop_length = min(max(waveform.shape[-1] // width, 64), N_FFT // 4)
    stft = Stft(torch.hann_window(N_FFT), N_FFT, hop_length)
    padded = reflected(waveform.detach().float().cpu(), stft.half)
    frames = (padded.shape[-1] - N_FFT) // hop_length + 1
    bands = []
    for first in range(0, frames, _CHUNK_FRAMES):
        spectra = stft.spectra(padded, first, min(first + _CHUNK_FRAMES, frames))
        bands.append(_in_bands(magnitude(spectra).square_().mean(0), sample_rate))
    power = torch.nn.functional.interpolate(torch.cat(bands).T[None], size=width, mode="area")[0]
    return 10 * power.clamp_min(1e-10).log10().flip(0)


def _in_bands(power: Tensor, sample_rate: int) -> Tensor:
    """Mean power (N, HEIGHT) between the edges of the pixel rows, of power (N, F): bins may be wider or narrower."""
    below = torch.nn.functional.pad(power.double().cumsum(-1), (1, 0))
    edges = torch.tensor([_frequency(row / HEIGHT, sample_rate) for row in range(HEIGHT + 1)], dtype=torch.float64)
    place = (edges / (sample_rate / 2) * (power.shape[-1] - 1)).clamp(0, power.shape[-1])
    whole = place.long().clamp_max(power.shape[-1] - 1)
    reached = torch.lerp(below[:, whole], below[:, whole + 1], place - whole)
    return (reached.diff() / place.diff()).float()


def _frequency(height: float, sample_rate: int) -> float:
    """The frequency, Hz, at a height from 0 (0 Hz) to 1 (half the sample rate) of a mel scale."""
    return float(700 * ((1 + sample_rate / 1400) ** height - 1))


def _height(frequency_hz: float, sample_rate: int) -> float:
    """The inverse of `_frequency`."""
    return math.log(1 + frequency_hz / 700) / math.log(1 + sample_rate / 1400)


def _drawable(text: str) -> str:
    """Text in the letters that Pillow's own font has: without accents, and a question mark for other scripts."""
    plain = "".join(letter for letter in unicodedata.normalize("NFKD", text) if not unicodedata.combining(letter))
    return plain.encode("ascii", "replace").decode()


def _image(values: Tensor) -> Image.Image:
    """Colours for values from 0 (dark) to 1 (bright), (H, W)."""
    table = torch.tensor(COLOURS, dtype=torch.float32)
    place = values.clamp(0, 1) * (len(COLOURS) - 1)
    whole = place.long().clamp_max(len(COLOURS) - 2)
    colours = torch.lerp(table[whole], table[whole + 1], (place - whole)[..., None])
    return Image.fromarray(colours.round().to(torch.uint8).numpy(), "RGB")


def _draw_frequencies(draw: ImageDraw.ImageDraw, font: Font, y: int, sample_rate: int) -> None:
    for frequency in TICKS_HZ:
        if frequency <= sample_rate / 2:
            tick = y + round((1 - _height(frequency, sample_rate)) * (HEIGHT - 1))
            label = f"{frequency // 1000} kHz" if frequency >= 1000 else f"{frequency} Hz"
            draw.line((LEFT - 5, tick, LEFT - 1, tick), GRID)
            draw.text((LEFT - 8, tick), label, INK, font, anchor="rm")


def _draw_times(draw: ImageDraw.ImageDraw, font: Font, y: int, start_s: float, length_s: float) -> None:
    if length_s <= 0:
        return
    step = next((step for step in (0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600) if length_s / step <= 12), 1800)
    for index in range(math.ceil(start_s / step), math.floor((start_s + length_s) / step) + 1):
        x = LEFT + round((index * step - start_s) / length_s * (WIDTH - 1))
        draw.line((x, y, x, y + 4), GRID)
        draw.text((x, y + 6), f"{index * step:g} s", INK, font, anchor="ma")


def _draw_scale(picture: Image.Image, draw: ImageDraw.ImageDraw, font: Font) -> None:
    x, height = LEFT + WIDTH + 12, HEIGHT
    picture.paste(_image(torch.linspace(1, 0, height)[:, None].expand(-1, 10)), (x, ABOVE))
    for share in (0.0, 0.5, 1.0):
        y = ABOVE + round(share * (height - 1))
        draw.text((x + 14, y), f"{0 - share * RANGE_DB:.0f} dB", INK, font, anchor="lm")
