"""Music made worse on purpose: what a measure of music must tell from the music itself.

Letters: C channels, T audio samples.
"""

import torch
import torchaudio
from torch import Tensor

from dualdiff.core.types import Waveform
from dualdiff.evaluation.rhythm import HOP_S, spectral_flux, tempo_period_s

BEATS_PER_BAR = 4
USUAL_BAR_S = 2.0
"""The length of a bar of music without a beat."""
MOST_SEMITONES = 6
"""A bar is transposed by -6 to +6 semitones."""
PIECE_S = (0.1, 0.7)
"""`scrambled` cuts pieces of a random length between these."""
N_FFT = 2048
"""Of the phase vocoder."""
FADE_S = 0.005
"""What is cut fades in and out over so long, so that no cut is a click."""


def bar_s(waveform: Waveform, sample_rate: int) -> float:
    """The length of four beats of a waveform (C, T) by its measured tempo, seconds."""
    return BEATS_PER_BAR * tempo_period_s(spectral_flux(waveform, sample_rate), HOP_S) or USUAL_BAR_S


def with_shuffled_bars(waveform: Waveform, sample_rate: int, seed: int = 0) -> Waveform:
    """The whole bars of a waveform (C, T) in another order: its beat stays, its form goes."""
    bars = _cut(waveform, [round(bar_s(waveform, sample_rate) * sample_rate)] * waveform.shape[-1])
    return _joined(_permuted(bars, seed), sample_rate)


def with_transposed_bars(waveform: Waveform, sample_rate: int, seed: int = 0) -> Waveform:
    """Each bar of a waveform (C, T) in a key of its own: its beat stays, its harmony and tune go.

    By a phase vocoder, which keeps the time.
    """
    generator = torch.Generator().manual_seed(seed)
    bars = _cut(waveform, [round(bar_s(waveform, sample_rate) * sample_rate)] * waveform.shape[-1])
    moved = []
    for bar in bars:
        steps = int(torch.randint(-MOST_SEMITONES, MOST_SEMITONES + 1, (), generator=generator))
        moved.append(transposed(bar, steps) if steps else bar)
    return _joined(moved, sample_rate)


def transposed(waveform: Waveform, semitones: float) -> Waveform:
    """A waveform (C, T) so many semitones higher, of the same length: a phase vocoder, then linear interpolation."""
    window = torch.hann_window(N_FFT, device=waveform.device)
    hop = N_FFT // 4
    spectra = torch.stft(waveform, N_FFT, hop, window=window, return_complex=True, pad_mode="constant")
    advance = torch.linspace(0, torch.pi * hop, spectra.shape[-2], device=waveform.device)[:, None]
    ratio = 2 ** (semitones / 12)
    longer = torchaudio.functional.phase_vocoder(spectra, 1 / ratio, advance)
    slow = torch.istft(longer, N_FFT, hop, window=window, length=round(waveform.shape[-1] * ratio))
    fitted: Waveform = torch.nn.functional.interpolate(slow[None], waveform.shape[-1], mode="linear")[0]
    return fitted


def scrambled(waveform: Waveform, sample_rate: int, seed: int = 0) -> Waveform:
    """Pieces of 0.1 to 0.7 s of a waveform (C, T) in another order: the timbre stays, the beat goes."""
    generator = torch.Generator().manual_seed(seed)
    low, high = (length * sample_rate for length in PIECE_S)
    most = int(waveform.shape[-1] / low) + 1
    lengths = (low + (high - low) * torch.rand(most, generator=generator)).long().tolist()
    return _joined(_permuted(_cut(waveform, lengths), seed), sample_rate)


def noise_like(waveform: Waveform, seed: int = 0) -> Waveform:
    """White noise of the shape (C, T) and power of a waveform."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(waveform.shape, generator=generator) * waveform.square().mean().sqrt().cpu()


def _cut(waveform: Waveform, lengths: list[int]) -> list[Tensor]:
    """Pieces of these lengths, as many as are whole; all of it where not even one is."""
    pieces, start = [], 0
    for length in lengths:
        if start + length > waveform.shape[-1]:
            break
        pieces.append(waveform[:, start : start + length])
        start += length
    return pieces or [waveform]


def _permuted(pieces: list[Tensor], seed: int) -> list[Tensor]:
    order = torch.randperm(len(pieces), generator=torch.Generator().manual_seed(seed)).tolist()
    return [pieces[place] for place in order]


def _joined(pieces: list[Tensor], sample_rate: int) -> Waveform:
    return torch.cat([_faded(piece, round(FADE_S * sample_rate)) for piece in pieces], dim=-1)


def _faded(piece: Tensor, length: int) -> Tensor:
    ramp = torch.linspace(0, 1, max(1, min(length, piece.shape[-1] // 2)), device=piece.device)
    envelope = torch.ones(piece.shape[-1], device=piece.device)
    envelope[: len(ramp)] = ramp
    envelope[len(envelope) - len(ramp) :] = ramp.flip(0)
    return piece * envelope
