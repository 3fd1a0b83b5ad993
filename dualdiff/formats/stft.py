"""Short-time Fourier transforms that go piece by piece, so that they stay in the cache and in bounded memory.

Letters: C channels, T time in audio samples, N frames, F frequency bins, W window length. Spectra are frame-major,
(C, N, F), as the transform makes them.
"""

from typing import Any, Protocol

import torch
from torch import Tensor

from dualdiff.core.types import Waveform


def hann_power_window(length: int, power: int) -> Tensor:
    """The periodic Hann window to a power, (length,), float64."""
    return torch.hann_window(length, dtype=torch.float64) ** power


def cut(window: Tensor, half_length: int) -> Tensor:
    """The middle of a periodic window, (2 half_length,), or all of it where it is not longer."""
    middle = len(window) // 2
    return window[max(0, middle - half_length) : middle + half_length]


def reflected(waveform: Waveform, margin: int) -> Waveform:
    """(C, T) to (C, T + 2 margin), mirrored at both ends, as often as a margin beyond T needs; T is at least 1."""
    length = waveform.shape[-1]
    if margin < length:
        padded: Waveform = torch.nn.functional.pad(waveform[None], (margin, margin), mode="reflect")[0]
        return padded
    period = max(2 * (length - 1), 1)
    place = torch.arange(-margin, length + margin, device=waveform.device) % period
    return waveform[:, torch.minimum(place, period - place) if length > 1 else place]


def wrapped(waveform: Waveform, margin: int) -> Waveform:
    """(C, T) to (C, T + 2 margin), a loop that goes on at both ends, as often as a margin beyond T needs."""
    place = torch.arange(-margin, waveform.shape[-1] + margin, device=waveform.device) % waveform.shape[-1]
    return waveform[:, place]


def magnitude(spectra: Tensor) -> Tensor:
    """|spectra|, several times faster than `abs`, which guards against overflow. Overwrites its input."""
    parts = torch.view_as_real(spectra).square_()
    return (parts[..., 0] + parts[..., 1]).sqrt_()


def with_magnitude(spectra: Tensor, magnitudes: Tensor | float = 1.0) -> Tensor:
    """Spectra with other magnitudes, in place; zero stays zero."""
    parts = torch.view_as_real(spectra)
    squares = parts.square()
    parts *= (squares[..., 0] + squares[..., 1]).clamp_min_(1e-30).rsqrt_().mul_(magnitudes)[..., None]
    return spectra


class Transform(Protocol):
    """What the way back needs of a transform; see `Stft`, whose methods these are."""

    window: Tensor
    hop_length: int
    half: int
    overlaps: int
    bins: int

    def padded(self, waveform: Waveform, circular: bool = False) -> Waveform:
        """What the first and last frames see beyond the ends, too."""
        ...

    def spectra(self, padded: Waveform, first: int, last: int) -> Tensor:
        """(C, last - first, F), complex."""
        ...

    def sides(self, padded: Waveform, first: int, last: int) -> tuple[Tensor, Tensor]:
        """The whole spectra of the transform for the bass, which may have no bins, and of the other."""
        ...

    def shares(self) -> tuple[Tensor, Tensor]:
        """Which of their bins, the lowest of one and the highest of the other, make up `spectra`: their weights."""
        ...

    def pieces(self, sides: tuple[Tensor, Tensor]) -> list[tuple[Tensor, Tensor]]:
        """The frames of both as waveforms, each with the window that weights them, for each part of a buffer."""
        ...

    def empty(self, channels: int, frames: int) -> Any:
        """A buffer."""
        ...

    def add(self, buffer: Any, spectra: Tensor, first: int) -> None:
        """Overlap-add."""
        ...

    def envelope(self, frames: int, circular: bool = False) -> Any:
        """What `finished` divides by."""
        ...

    def finished(self, buffer: Any, envelope: Any, circular: bool = False) -> Waveform:
        """The least-squares waveform."""
        ...


class Stft:
    """A centred transform: frame n is weighted by the window around audio sample n * hop_length.

    The window's length W is even and at most `n_fft`; its phase counts from the window's first sample. With
    `hop_length` samples between frames, N frames stand for (N - 1) hop_length samples on the way back, and for
    N hop_length samples of a loop, which is `circular`.
    """

    def __init__(self, window: Tensor, n_fft: int, hop_length: int, device: str | torch.device = "cpu") -> None:
        self.window = window.to(device, torch.float32)
        self.n_fft, self.hop_length, self.half = n_fft, hop_length, len(window) // 2
        self.overlaps = -(-len(window) // hop_length)
        """How many frames cover one audio sample, at most."""
        self.bins = n_fft // 2 + 1

    def padded(self, waveform: Waveform, circular: bool = False) -> Waveform:
        """(C, T) to (C, T + 2 half): what its first and last frames see beyond its ends."""
        return (wrapped if circular else reflected)(waveform, self.half)

    def spectra(self, padded: Waveform, first: int, last: int) -> Tensor:
        """Frames `first` to `last` of a waveform already `padded`, (C, last - first, F), complex."""
        start = first * self.hop_length
        part = padded[:, start : start + (last - first - 1) * self.hop_length + len(self.window)]
        spectra: Tensor = torch.fft.rfft(part.unfold(-1, len(self.window), self.hop_length) * self.window, n=self.n_fft)
        return spectra

    def sides(self, padded: Waveform, first: int, last: int) -> tuple[Tensor, Tensor]:
        """No bass by itself, and `spectra`."""
        spectra = self.spectra(padded, first, last)
        return spectra[..., :0].contiguous(), spectra

    def shares(self) -> tuple[Tensor, Tensor]:
        """All bins, as they are."""
        return self.window.new_ones(0), self.window.new_ones(self.bins)

    def pieces(self, sides: tuple[Tensor, Tensor]) -> list[tuple[Tensor, Tensor]]:
        """The frames as waveforms, (C, n, n_fft), and the window."""
        return [(torch.fft.irfft(sides[1], n=self.n_fft), self.window)]

    def empty(self, channels: int, frames: int) -> Tensor:
        """A buffer to `add` so many frames to."""
        return self.window.new_zeros(channels, frames + self.overlaps - 1, self.hop_length)

    def add(self, buffer: Tensor, spectra: Tensor, first: int) -> None:
        """Overlap-add the frames of `spectra`, (C, n, F), to a buffer, from frame `first` on."""
        pieces = torch.fft.irfft(spectra, n=self.n_fft)[..., : len(self.window)] * self.window
        self._add(buffer, pieces, first)

    def _add(self, buffer: Tensor, pieces: Tensor, first: int) -> None:
        missing = self.overlaps * self.hop_length - pieces.shape[-1]
        if missing:
            pieces = torch.nn.functional.pad(pieces, (0, missing))
        parts = pieces.reshape(*pieces.shape[:2], self.overlaps, self.hop_length)
        for shift in range(self.overlaps):
            buffer[:, first + shift : first + shift + parts.shape[1]] += parts[:, :, shift]

    def envelope(self, frames: int, circular: bool = False, margin: int = 0) -> Tensor:
        """What the windows, squared, of so many frames add up to, (1, T + 2 margin)."""
        buffer = self.empty(1, frames)
        self._add(buffer, self.window.square().expand(1, frames, -1), 0)
        return self._laid_out(buffer, circular, margin).clamp_min(1e-8)

    def finished(self, buffer: Tensor, envelope: Tensor, circular: bool = False, margin: int = 0) -> Waveform:
        """The least-squares waveform of the frames in a buffer (Griffin and Lim 1984), (C, T + 2 margin)."""
        return self._laid_out(buffer, circular, margin).div_(envelope)

    def _laid_out(self, buffer: Tensor, circular: bool, margin: int) -> Tensor:
        """A copy of what lies in a buffer, (C, T), and a margin around it.

        In a loop, which has no margin, what lies beyond the ends is added at the other end.
        """
        frames = buffer.shape[1] - self.overlaps + 1
        flat = buffer.flatten(1)
        if not circular:
            return flat[:, self.half - margin : self.half + (frames - 1) * self.hop_length + margin].clone()
        length = frames * self.hop_length
        turns = torch.nn.functional.pad(flat, (0, -flat.shape[-1] % length)).view(len(flat), -1, length)
        return turns.sum(1).roll(-self.half, -1)
