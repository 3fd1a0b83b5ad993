"""Small songs with a beat, a tune and a form: for tests of measures of music."""

import torch

RATE = 32000
SCALE = (0, 2, 4, 5, 7, 9, 11, 12)


def song(bars: int = 8, bpm: float = 120.0, seed: int = 0, tonic_hz: float = 261.6, drums: float = 0.2) -> torch.Tensor:
    """A tune in major over a drum on each beat, (2, T); its bars come again as A B A B, each of eight notes."""
    generator = torch.Generator().manual_seed(seed)
    tunes = torch.randint(len(SCALE), (2, 8), generator=generator).tolist()
    note = round(RATE * 60 / bpm / 2)
    time_s = torch.arange(note) / RATE
    parts = []
    for bar in range(bars):
        for place, degree in enumerate(tunes[bar % 2]):
            pitch_hz = tonic_hz * 2 ** (SCALE[degree] / 12)
            tone = sum(torch.sin(2 * torch.pi * pitch_hz * k * time_s) / k**1.5 for k in range(1, 6))
            hit = torch.randn(note, generator=generator) * (-60 * time_s).exp() * (place % 2 == 0)
            parts.append(0.2 * tone * (-5 * time_s).exp() + drums * hit)
    mono = torch.cat(parts)
    return torch.stack([mono, 0.9 * mono]) + 1e-4 * torch.randn(2, len(mono), generator=generator)
