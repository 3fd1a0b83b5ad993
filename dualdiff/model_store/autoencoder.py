"""Format and VAE as one: waveforms to normalised latents and back, whole or as a part of what is known.

Letters: B clips of a batch, C latent channels, F rows, N columns, T audio samples; of samples, F bins and N frames.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from dualdiff.core.progress import Progress, silent
from dualdiff.core.quality import Quality
from dualdiff.core.types import Latents, Sample, Waveform
from dualdiff.formats.base import Continuing, Format
from dualdiff.model_store.latent_space import LatentSpace
from dualdiff.model_store.model import VAEModel
from dualdiff.models.chunked import in_pieces

PIECE = 256
"""Columns of latents that go through the VAE at once: some 16 s."""

MARGIN_FRAMES = 5
"""Frames farther than this from what is new see nothing of it, nearly."""

BORDER_FRAMES, MATCHED_FRAMES = 4, 40
"""Known frames that new ones are matched to, and how many new ones are: 32 ms and 0.3 s."""


@dataclass(frozen=True)
class Codec:
    """What turns waveforms into the latents that a UNet denoises, and back.

    `column_multiple` is the whole multiple of columns that the UNet takes.
    """

    vae_model: VAEModel
    space: LatentSpace
    column_multiple: int
    device: torch.device

    @property
    def format(self) -> Format:
        """The format of its samples."""
        return self.vae_model.format

    @property
    def frame_multiple(self) -> int:
        """A clip's frames are a whole multiple of this: what VAE and UNet together halve."""
        return int(self.vae_model.vae.reduction * self.column_multiple)

    @property
    def column(self) -> int:
        """Audio samples per column of latents."""
        return int(self.vae_model.vae.reduction * self.format.hop_length)

    def shape(self, columns: int) -> tuple[int, int, int]:
        """(C, F, N) of so many columns."""
        vae = self.vae_model.vae
        return vae.config.latent_channels, len(vae.latent_frequencies), columns

    def num_columns(self, samples: int) -> int:
        """The columns of latents that so many audio samples need, a whole multiple."""
        frames = max(self.format.num_frames(samples), 1)
        while self.format.num_samples(frames) < samples:
            frames += 1
        return -(-frames // self.frame_multiple) * self.column_multiple

    def num_samples(self, columns: int) -> int:
        """The audio samples that so many columns decode to."""
        return self.format.num_samples(columns * self.vae_model.vae.reduction)

    def encode(self, waveform: Waveform) -> Latents:
        """A waveform (2, T) at the format's rate to normalised latents (1, C, F, N), N a whole multiple.

        It is followed by silence up to where these columns decode to; what is beyond, less than a hop, is left out.
        """
        frames = -(-self.format.num_frames(waveform.shape[-1]) // self.frame_multiple) * self.frame_multiple
        missing = self.format.num_samples(frames) - waveform.shape[-1]
        fitted = torch.nn.functional.pad(waveform, (0, missing))[None]  # or cut, where that is below 0
        vae = self.vae_model
        sample = self.format.encode(fitted.to(self.device))
        piece = PIECE * vae.vae.reduction
        return self.space.normalise(in_pieces(vae.encode, sample, piece=piece, context=vae.context_frames))

    def decode(
        self,
        latents: Latents,
        seed: int = 0,
        quality: Quality = "default",
        circular: bool = False,
        progress: Progress = silent,
    ) -> Waveform:
        """Normalised latents (1, C, F, N) to a waveform (2, T) at the format's loudness, on the CPU."""
        sample = self._sample(latents, circular)
        return self.format.decode(sample, seed=seed, quality=quality, circular=circular, progress=progress)[0].cpu()

    def fill(
        self,
        latents: Latents,
        known: Waveform,
        start: int,
        stop: int,
        seed: int = 0,
        quality: Quality = "default",
        progress: Progress = silent,
    ) -> Waveform:
        """`known` (2, T), its samples `start` to `stop` made from latents (1, C, F, N) of all of it; on the CPU.

        Frames that see only known audio are its own; those beside them begin in their colour.
        """
        sample = self._sample(latents)
        if not isinstance(self.format, Continuing):
            return self.format.decode(sample, seed=seed, quality=quality, progress=progress)[0].cpu()
        own, margin = self.format.encode(known[None].to(self.device)), MARGIN_FRAMES * self.format.hop_length
        centres = torch.arange(sample.shape[-1], device=sample.device) * self.format.hop_length
        outside = (centres <= start - margin) | (centres >= stop + margin)
        whole = matched(sample, own[..., : sample.shape[-1]], outside)
        return self.format.go_on(whole, known, start, stop, seed=seed, quality=quality, progress=progress).cpu()

    def _sample(self, latents: Latents, circular: bool = False) -> Sample:
        vae = self.vae_model.vae
        with torch.inference_mode():
            restored = self.space.restore(latents)
            return in_pieces(vae.decode, restored, piece=PIECE, context=vae.decoder_context, circular=circular)


def matched(fresh: Sample, own: Sample, known: Tensor) -> Sample:
    """A sample (B, C, F, N): `own` where frames are `known` (N,), else `fresh`, which goes over into it on both sides.

    A VAE blurs, so that what comes through it is of another colour than what did not. By how much is seen in the known
    frames at the border: their mean difference is added to the new ones there, and less and less farther off.
    """
    out = torch.where(known, own, fresh)
    new = (~known).nonzero()[:, 0]
    if not len(new):
        return out
    first, last = int(new[0]), int(new[-1])
    places = torch.arange(len(known), device=fresh.device)
    sides = (
        (slice(max(first - BORDER_FRAMES, 0), first), places - first),
        (slice(last + 1, last + 1 + BORDER_FRAMES), last - places),
    )
    for border, away in sides:
        if own[..., border].shape[-1]:
            share = ((away.clamp(0, MATCHED_FRAMES) * (math.pi / MATCHED_FRAMES)).cos() + 1) / 2
            out = out + (own - fresh)[..., border].mean(-1, keepdim=True) * share * ~known
    return out
