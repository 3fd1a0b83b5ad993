"""The words of the chain: what a tensor means at each stage, with its shape, range and unit.

All are plain `torch.Tensor`; the names say which one a function takes and gives. Letters, here and everywhere:
B batch, C channels, T time in audio samples, F frequency bins, N frames, K labels.

* `Waveform`: audio, (B, C, T) or (C, T) where said, float32, full scale is [-1, 1].
* `Sample`:   what a format makes of a waveform, (B, C, F, N), float32, mean 0 and variance 1 over music on average.
* `Latents`:  what a VAE makes of a sample, (B, latent channels, F/8, N/8), float32, the mode of each latent.
* `Rhythm`:   where the beats of each column of latents lie, (B, 9, N/8), float32; all 0 where that is not known.
* `Sigma`:    noise levels, (B,), float32, the standard deviation of the noise in the units of the data.
"""

from typing import TypeAlias

from torch import Tensor

Waveform: TypeAlias = Tensor
Sample: TypeAlias = Tensor
Latents: TypeAlias = Tensor
Sigma: TypeAlias = Tensor
Rhythm: TypeAlias = Tensor

RHYTHM_CHANNELS = 9
"""Cosine and sine of the beat, of its half, of the bar, of its half; and a flag that there is a grid."""
