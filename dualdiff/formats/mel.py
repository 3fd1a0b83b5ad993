"""The `mel` format: a mel-scaled magnitude spectrogram with as many numbers as the waveform.

Letters: B batch, C channels, T time in audio samples, F mel bands, N frames. What is cut off the nearly Gaussian window
here, to save time, is below what float32 resolves (encoding) or 4e-5 of its sum (the fast way back).
"""

import math
import warnings
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar, Literal

import torch
import torchaudio
from torch import Tensor

from dualdiff.config import setting
from dualdiff.errors import ConfigError
from dualdiff.formats.edges import Edges, Network, cells, true_edges
from dualdiff.formats.phase import Recovery, Source, go_on, recover
from dualdiff.formats.polish import ACCELERATED, Bands, Pace, Polish, Target
from dualdiff.formats.stft import Stft, cut, hann_power_window, magnitude, reflected
from dualdiff.progress import Progress, silent
from dualdiff.types import Quality, Sample, Waveform

ITERATIONS = {
    "pghi": {"draft": 8, "default": 30, "high": 90},
    "fgla": {"draft": 100, "default": 400, "high": 1000},
    "learned": {"draft": 8, "default": 40, "high": 120},
}
"""Of each way back and quality, unless set."""
MONO_SHARE = 0.5
"""For this share of pghi's iterations both channels agree on one phase."""
FREE_HZ, BLEND_HZ = 400.0, 300.0
"""From here on, and by degrees over so much more, only the mel is given to pghi's iterations, not each bin."""
GENTLE = Pace(0.45, 0.45, 1.0)
"""For the iterations behind a network: more momentum takes back what it knew."""
ENCODE_STDS = 5.0
"""Half the length of the window that encodes, in standard deviations: beyond are 4e-6 of its peak."""
DECODE_STDS = 4.0
"""The same for the fast way back: beyond are 3e-4 of its peak."""
CHUNK_FRAMES = 256
"""Frames encoded together on a CPU, over all of the batch: few enough to stay in its cache."""
MEL_GROUPS = 4
"""The filters are applied in so many groups, each to its own range of bins: most of the full matrix is zero."""


@dataclass(frozen=True, kw_only=True)
class MelConfig:
    """The constants of the mel format; a model carries them along."""

    DECODE_ONLY: ClassVar[tuple[str, ...]] = ("phase", "phase_iterations", "phase_model")

    name: Literal["mel"] = setting("mel", "the format")
    sample_rate: int = setting(32000, "audio samples per second, Hz", minimum=8000, maximum=192000)
    n_fft: int = setting(6400, "length of the Fourier transform and its window, samples", minimum=256)
    hop_length: int = setting(256, "samples between frames", minimum=16)
    window_power: int = setting(32, "the window is a periodic Hann to this power", minimum=1)
    n_mels: int = setting(256, "mel bands per channel", minimum=16)
    f_min: float = setting(20.0, "lowest frequency, Hz", minimum=0)
    f_max: float = setting(16000.0, "highest frequency, Hz", above=0)
    magnitude_power: float = setting(0.25, "magnitudes are stored to this power", above=0, maximum=1)
    loudness_lufs: float = setting(
        -20.0, "tracks are brought to this loudness on reading, LUFS", minimum=-60, maximum=0
    )
    mean: float = setting(1.3135, "mean of the powered magnitudes over music at that loudness")
    scale: float = setting(0.4933, "their standard deviation", above=0)
    phase: Literal["pghi", "fgla", "learned"] = setting(
        "pghi", "how the phase is found on the way back: fast, the reference, or by a network"
    )
    phase_iterations: int = setting(-1, "iterations on the way back; -1 is as the quality wants it", minimum=-1)
    phase_model: str = setting("models/phase", "the model folder of that network, which `format train` writes")

    def __post_init__(self) -> None:
        if self.n_fft % 2:
            raise ValueError(f"n_fft = {self.n_fft} is odd: it must be even")
        if self.f_max > self.sample_rate / 2 or self.f_min >= self.f_max:
            raise ValueError(
                f"f_min = {self.f_min:g} and f_max = {self.f_max:g} do not rise within half the sample rate, "
                f"{self.sample_rate / 2:g} Hz"
            )
        if self.hop_length > 2 * self.window_std:
            raise ValueError(
                f"hop_length = {self.hop_length} leaves gaps between windows: at most {2 * self.window_std:.0f}"
            )

    @property
    def window_std(self) -> float:
        """The standard deviation, samples, of the Gaussian that the window nearly is.

        Hann to the power p is cos(pi t / n)^(2p), near exp(-p (pi t / n)^2).
        """
        return self.n_fft / (math.pi * math.sqrt(2 * self.window_power))


class MelFormat:
    """Waveform <-> sample: log-like magnitudes on a mel scale, and the recovery of the phase that they leave out."""

    Config = MelConfig

    def __init__(
        self,
        config: MelConfig = MelConfig(),
        device: str | torch.device = "cpu",
        semitones: float = 0.0,
        network: tuple[Network, int] | None = None,
    ) -> None:
        """A format whose samples are of the music `semitones` higher than it is; see `transposed`."""
        self.config, self.device, self._network = config, torch.device(device), network
        self.sample_rate, self.hop_length = config.sample_rate, config.hop_length
        self.channels, self.bins = 2, config.n_mels
        self.window = hann_power_window(config.n_fft, config.window_power)
        self.filters = mel_filters(config, 2 ** (semitones / 12))
        half = math.ceil(ENCODE_STDS * config.window_std)
        self._stft = Stft(cut(self.window, half), config.n_fft, config.hop_length, self.device)
        self._groups = _grouped(self.filters, self.device)

    def num_frames(self, samples: int) -> int:
        """N of so many audio samples: frames are centred, so both ends have one."""
        return samples // self.hop_length + 1

    def num_samples(self, frames: int) -> int:
        """T of the waveform that so many frames decode to."""
        return max(frames - 1, 0) * self.hop_length

    def frequencies(self) -> Tensor:
        """The centre of each mel band, (F,), Hz."""
        points = torch.linspace(_to_mel(self.config.f_min), _to_mel(self.config.f_max), self.bins + 2)[1:-1]
        return 700 * (10 ** (points / 2595) - 1)

    def transposed(self, semitones: float) -> "MelFormat":
        """The format that encodes music as if it were so many semitones higher, at the same speed.

        Its mel filters lie lower by that interval, from the limits on, so that a tone falls into the band of the higher
        one. Music made lower lacks what lay above half the sample rate: its highest bands are empty.
        """
        return MelFormat(self.config, self.device, semitones, self._network)

    def learned(self, network: Network, context_frames: int) -> "MelFormat":
        """The format whose way back is a network; see `edges`. What it says depends on so many frames on each side."""
        return MelFormat(replace(self.config, phase="learned"), self.device, network=(network, context_frames))

    @torch.no_grad()
    def lesson(self, waveform: Waveform) -> tuple[Tensor, Tensor, Tensor]:
        """What such a network learns from (2, T): the cells that it sees, and changes and magnitudes of their edges.

        Shapes (6, F, N), (4, F, N) and (2, F, N), F bins of the way back; see `edges.cells` and `edges.true_edges`.
        """
        stft, inverse, _ = self._transform
        waveform = waveform.to(self.device, torch.float32)
        magnitudes = (self.mel(self.encode(waveform[None])[0]).transpose(-1, -2) @ inverse).clamp_min_(0)
        spectra = stft.spectra(stft.padded(waveform.mean(0, keepdim=True)), 0, magnitudes.shape[1])[0]
        return cells(magnitudes, stft, self.config.window_std), *true_edges(spectra, stft)

    @torch.no_grad()
    def encode(self, waveform: Waveform) -> Sample:
        """(B, 2, T), at the loudness of the config, to (B, 2, F, N), N = T // hop_length + 1; T is at least 1."""
        batch, channels, length = waveform.shape
        padded = reflected(waveform.reshape(-1, length).to(self.device, torch.float32), self._stft.half)
        frames = self.num_frames(length)
        sample = padded.new_empty(len(padded), self.bins, frames)
        step = max(1, CHUNK_FRAMES // len(padded))
        for first in range(0, frames, step):
            last = min(first + step, frames)
            linear = magnitude(self._stft.spectra(padded, first, last))
            mel = torch.cat([linear[..., low:high] @ matrix for low, high, matrix in self._groups], -1)
            sample[:, :, first:last] = mel.pow_(self.config.magnitude_power).transpose(-1, -2)
        return sample.sub_(self.config.mean).div_(self.config.scale).view(batch, channels, self.bins, frames)

    @torch.no_grad()
    def decode(
        self,
        sample: Sample,
        *,
        seed: int = 0,
        quality: Quality = "default",
        circular: bool = False,
        progress: Progress = silent,
    ) -> Waveform:
        """(B, 2, F, N) to (B, 2, T), T = (N - 1) hop_length, or N hop_length of a loop, which is `circular`.

        The same seed gives each item the same waveform alone.
        """
        recovery = self._recovery(quality)
        waveforms = []
        for index, item in enumerate(sample):

            def tell(done: float, total: float, note: str = "", before: int = index) -> None:
                progress(before * total + done, len(sample) * total, note)

            source = self._source(item)
            waveforms.append(recover(source, item.shape[-1], recovery, seed=seed, circular=circular, progress=tell))
        return torch.stack(waveforms)

    @torch.no_grad()
    def go_on(
        self,
        sample: Sample,
        waveform: Waveform,
        start: int,
        stop: int,
        *,
        seed: int = 0,
        quality: Quality = "default",
        progress: Progress = silent,
    ) -> Waveform:
        """`waveform`, (2, T), with its samples `start` to `stop` made anew from a sample (1, 2, F, N) of all of it.

        The new phase goes on from what is known; see `phase.go_on`.
        """
        source, recovery, known = self._source(sample[0]), self._recovery(quality), waveform.to(self.device)
        return go_on(source, sample.shape[-1], recovery, known, start, stop, seed=seed, progress=progress)

    def _source(self, sample: Sample) -> Source:
        """What the spectra of frames of a sample (2, F, N) should be."""
        inverse = self._transform[1]

        def source(first: int, last: int) -> Target:
            mel = self.mel(sample[..., first:last]).transpose(-1, -2).contiguous()
            return Target((mel @ inverse).clamp_min_(0), mel)

        return source

    def _recovery(self, quality: Quality) -> Recovery:
        config = self.config
        iterations = ITERATIONS[config.phase][quality] if config.phase_iterations < 0 else config.phase_iterations
        stft, _, bands = self._transform
        if config.phase == "fgla":
            return Recovery(Polish(stft, iterations))
        if config.phase == "pghi":
            return Recovery(Polish(stft, iterations, ACCELERATED, MONO_SHARE, bands), config.window_std)
        if self._network is None:
            raise ConfigError('format.phase = "learned" needs a network', "`dualdiff format train` makes one")
        edges = Edges(*self._network, stft, config.window_std)
        return Recovery(Polish(stft, iterations, GENTLE, 0.0, bands), starter=edges.start)

    def mel(self, sample: Sample) -> Tensor:
        """The mel magnitudes (..., F, N) that a sample stands for."""
        powered = sample.to(self.device, torch.float32) * self.config.scale + self.config.mean
        return powered.clamp_min_(0).pow_(1 / self.config.magnitude_power)

    @cached_property
    def _transform(self) -> tuple[Stft, Tensor, Bands]:
        """The way back: its transform, the matrix (F, its bins) from mel to linear magnitudes, mel bands on it."""
        config = self.config
        length = config.n_fft
        if config.phase != "fgla":
            length = min(2 ** math.ceil(math.log2(2 * DECODE_STDS * config.window_std)), config.n_fft)
        stft = Stft(cut(self.window, length // 2), length, config.hop_length, self.device)
        inverse = mel_inverse(self.filters, length).to(self.device)
        bin_hz = config.sample_rate / length
        bands = Bands(
            filters_on(self.filters, length).to(self.device), round(FREE_HZ / bin_hz), round(BLEND_HZ / bin_hz)
        )
        return stft, inverse, bands


def _to_mel(frequency_hz: float) -> float:
    """HTK's mel scale."""
    return 2595 * math.log10(1 + frequency_hz / 700)


def mel_filters(config: MelConfig, ratio: float = 1.0) -> Tensor:
    """HTK mel filters, triangles of peak 1, (n_fft // 2 + 1, F), all edges divided by `ratio`.

    To divide each edge is to multiply the frequency of each bin. Dividing the two limits alone would not do: the scale
    is linear in the bass, so that low notes would move by less than high ones.
    """
    rate = config.sample_rate * ratio if ratio != 1 else config.sample_rate
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="At least one mel filterbank has all zero values")  # as `transposed`
        filters: Tensor = torchaudio.functional.melscale_fbanks(
            config.n_fft // 2 + 1, config.f_min, config.f_max, config.n_mels, rate, norm=None, mel_scale="htk"
        )
    return filters


def mel_inverse(filters: Tensor, n_fft: int) -> Tensor:
    """Least squares back from mel to linear magnitudes, (F, n_fft // 2 + 1), on the bins of a transform of that length.

    The pseudo-inverse of the filters, interpolated linearly where that transform has other bins than the filters have.
    """
    inverse = torch.linalg.pinv(filters.double())
    below, part = _places(filters.shape[0], n_fft)
    return torch.lerp(inverse[:, below], inverse[:, below + 1], part).float()


def filters_on(filters: Tensor, n_fft: int) -> Tensor:
    """The filters for magnitudes on the bins of a shorter transform, (n_fft // 2 + 1, F).

    They see what the filters see in the same magnitudes interpolated linearly to their own bins.
    """
    below, part = _places(n_fft // 2 + 1, 2 * (filters.shape[0] - 1))
    coarse = filters.new_zeros(n_fft // 2 + 1, filters.shape[1], dtype=torch.float64)
    coarse.index_add_(0, below, filters * (1 - part)[:, None])
    return coarse.index_add_(0, below + 1, filters * part[:, None]).float()


def _places(bins: int, n_fft: int) -> tuple[Tensor, Tensor]:
    """Where the bins of a transform lie among others of the same range: which bin is below, and how far behind it."""
    place = torch.linspace(0, bins - 1, n_fft // 2 + 1, dtype=torch.float64)
    below = place.long().clamp_max(bins - 2)
    return below, place - below


def _grouped(filters: Tensor, device: torch.device) -> list[tuple[int, int, Tensor]]:
    """The filters in groups, each as (first bin, last bin, what it holds in between)."""
    groups = []
    for matrix in filters.tensor_split(MEL_GROUPS, dim=1):
        used = matrix.amax(1).nonzero().flatten()
        low, high = (int(used[0]), int(used[-1]) + 1) if len(used) else (0, 1)
        groups.append((low, high, matrix[low:high].contiguous().to(device)))
    return groups
