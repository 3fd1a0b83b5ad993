"""What music sounds like, in 200 numbers for every three seconds: the penultimate layer of a music tagger.

It is musicnn (Pons and Serra 2019, "musicnn: Pre-trained convolutional neural networks for music audio tagging") as it
learned from the Million Song Dataset; its weights, 3 MB, travel with the package. Letters: B patches, C channels, T
time in audio samples, N frames, M mel bands.
"""

import functools
from pathlib import Path

import torch
import torchaudio
from torch import Tensor, nn

from dualdiff import audio
from dualdiff.core.tensors import load_into, load_tensors
from dualdiff.core.types import Waveform

WEIGHTS = Path(__file__).parents[1] / "assets" / "musicnn" / "msd.safetensors"
RATE = 16000
N_FFT = 512
HOP = 256
MELS = 96
PATCH = 187
"""Frames that are looked at as one, 3 s."""
FEATURES = 200
AT_ONCE = 16
"""Patches that go through the network together, which bounds memory."""

TAGS = 50
"""What the last layer tells of; their names lie beside the weights."""

_EPSILON = 1e-3  # of the batch normalisations, as TensorFlow has it


class _Block(nn.Module):
    """A convolution over time that keeps its length, its positive part, normalised."""

    def __init__(self, convolution: nn.Conv1d | nn.Conv2d) -> None:
        super().__init__()
        self.convolution = convolution
        norm = nn.BatchNorm2d if isinstance(convolution, nn.Conv2d) else nn.BatchNorm1d
        self.norm = norm(convolution.out_channels, eps=_EPSILON)

    def forward(self, x: Tensor) -> Tensor:
        """Into as many channels as there are filters."""
        missing = self.convolution.kernel_size[0] - 1
        ends = (missing // 2, missing - missing // 2)  # of an even number the larger half behind, as TensorFlow has it
        padded = nn.functional.pad(x, ends if x.ndim == 3 else (0, 0, *ends))
        found: Tensor = self.norm(self.convolution(padded).relu())
        return found


class Tagger(nn.Module):
    """The network. Filters of timbre are tall and short, filters of rhythm flat and long, and both see the input."""

    def __init__(self) -> None:
        super().__init__()
        self.norm_in = nn.BatchNorm2d(1, eps=_EPSILON)
        self.timbral = nn.ModuleList(_Block(nn.Conv2d(1, 204, (7, bands))) for bands in (38, 67))
        self.temporal = nn.ModuleList(_Block(nn.Conv2d(1, 51, (frames, 1))) for frames in (128, 64, 32))
        front = 2 * 204 + 3 * 51
        self.middle = nn.ModuleList(_Block(nn.Conv1d(width, 64, 7)) for width in (front, 64, 64))
        pooled = 2 * (front + 3 * 64)
        self.norm_pooled = nn.BatchNorm1d(pooled, eps=_EPSILON)
        self.dense = nn.Linear(pooled, FEATURES)
        self.norm_out = nn.BatchNorm1d(FEATURES, eps=_EPSILON)
        self.tags = nn.Linear(FEATURES, TAGS)

    def forward(self, patches: Tensor) -> tuple[Tensor, Tensor]:
        """Log-mel patches (B, N, M) to features (B, 200) and the logits of the tags (B, 50)."""
        x = self.norm_in(patches[:, None])
        front = torch.cat([block(x).amax(dim=3) for block in (*self.timbral, *self.temporal)], dim=1)
        first = self.middle[0](front)
        second = self.middle[1](first) + first
        third = self.middle[2](second) + second
        everything = torch.cat([front, first, second, third], dim=1)
        pooled = torch.stack([everything.amax(dim=2), everything.mean(dim=2)], dim=2).flatten(1)
        features = self.norm_out(self.dense(self.norm_pooled(pooled)).relu())
        return features, self.tags(features)


@functools.cache
def tagger() -> Tagger:
    """The network with its weights.

    Raises:
        DataError: the weights that travel with the package are missing or broken.
    """
    made = Tagger()
    kept = {name: tensor for name, tensor in made.state_dict().items() if name.endswith("num_batches_tracked")}
    load_into(made, {**load_tensors(WEIGHTS), **kept}, "the music tagger")
    return made.eval().requires_grad_(False)


def log_mel(waveform: Waveform, sample_rate: int) -> Tensor:
    """A waveform (C, T) as the network sees it, (N, M): one channel, log10(10000 power + 1) in mel bands."""
    mono = audio.resample(waveform.mean(dim=0, keepdim=True).cpu().float(), sample_rate, RATE)[0]
    window = torch.hann_window(N_FFT)
    spectra = torch.stft(mono, N_FFT, HOP, window=window, pad_mode="constant", return_complex=True)
    return (10000 * (spectra.abs().square().T @ _filters()) + 1).log10()


@functools.cache
def _filters() -> Tensor:
    """The mel filters (bins, M)."""
    found: Tensor = torchaudio.functional.melscale_fbanks(
        N_FFT // 2 + 1, 0.0, RATE / 2, MELS, RATE, norm="slaney", mel_scale="slaney"
    )
    return found


def embed(waveform: Waveform, sample_rate: int) -> Tensor:
    """The features (B, 200) of a waveform (C, T): a row for each whole 3 s, and one where there is less."""
    frames = log_mel(waveform, sample_rate)
    missing = PATCH - len(frames)
    if missing > 0:
        frames = torch.nn.functional.pad(frames, (0, 0, 0, missing))
    patches = frames[: len(frames) // PATCH * PATCH].reshape(-1, PATCH, MELS)
    with torch.inference_mode():
        return torch.cat([tagger()(patches[at : at + AT_ONCE])[0] for at in range(0, len(patches), AT_ONCE)])
