"""Format and VAE as one: waveforms to normalised latents and back, whole or as a part of what is known.

Letters: B clips of a batch, C latent channels, F rows, N columns, T audio samples; of samples, F bins and N frames.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from dualdiff.core.errors import DataError
from dualdiff.core.progress import Progress, silent
from dualdiff.core.quality import Quality
from dualdiff.core.types import Latents, Sample, Waveform
from dualdiff.formats.base import Continuing, Format
from dualdiff.model_store.latent_space import LatentSpace
from dualdiff.model_store.model import VAEModel
from dualdiff.models.chunked import in_pieces, windows

PIECE = 256
"""Columns of latents that go through the VAE at once: some 16 s."""

MARGIN_FRAMES = 5
"""Frames farther than this from what is new see nothing of it, nearly."""

BORDER_FRAMES, MATCHED_FRAMES = 4, 40
"""Known frames that new ones are matched to, and how many new ones are: 32 ms and 0.3 s."""


CHUNK_S = 30.0
"""Audio goes through format and VAE in chunks of this length, seconds: what bounds the memory."""

GRID = 64
"""Frames that chunks are multiples of, whatever the VAE's reduction (8)."""

FORMAT_CONTEXT_S = 0.5
"""What a chunk of audio gets on both sides: more than half of any format's window."""


class TrackEncoder(Protocol):
    """A format and a VAE that belong together."""

    @property
    def format(self) -> Format:
        """The format that makes samples."""

    @property
    def format_hash(self) -> str:
        """What names the format."""

    @property
    def vae_hash(self) -> str:
        """What names the VAE."""

    @property
    def context_frames(self) -> int:
        """Frames on each side that a latent sees at most."""

    @property
    def reduction(self) -> int:
        """Frames per column of latents."""

    def encode(self, sample: Sample) -> Latents:
        """(1, 2, F, N) to the mode of its latents, (1, C, F/k, N/k); N is a multiple of the reduction k."""


@dataclass(frozen=True)
class Chunk:
    """Latents (C, F, N) of a chunk of audio, by mirroring and time shift; and the frames of audio done with it."""

    latents: dict[tuple[bool, int], Latents]
    frames: int


def encoded_chunks(
    vae: TrackEncoder,
    blocks: Iterable[Waveform],
    *,
    format: Format | None = None,
    chunk_s: float = CHUNK_S,
    offsets: int = 1,
    mirrored: Sequence[bool] = (False,),
) -> Iterator[Chunk]:
    """Audio in blocks (2, T), at the format's rate and loudness, to latents: the only road there is.

    It ends as the audio does: the format reflects the last half window, and frames that fill no column are left out.
    To rounding, nothing depends on how the audio is cut into blocks or chunks.

    Args:
        vae: the format and the VAE.
        blocks: the audio.
        format: another format than the VAE's own, such as that of a pitch variant.
        chunk_s: what goes through at once, seconds.
        offsets: time shifts in frames, 0 to below this, each of which gives latents of its own.
        mirrored: whether left and right are swapped; each of them gives latents of its own.
    """
    fmt = format or vae.format
    length = on_grid(chunk_s * fmt.sample_rate / fmt.hop_length)
    frames = 0
    for window in windows(_samples(blocks, fmt, length), length, on_grid(vae.context_frames)):
        first, last = window.before // vae.reduction, (window.before + window.length) // vae.reduction
        frames += window.length
        latents = {}
        for is_mirrored in mirrored:
            sample = _mirrored(window.tensor) if is_mirrored else window.tensor
            for offset in range(offsets):
                shifted = sample[..., offset:]
                shifted = shifted[..., : shifted.shape[-1] // vae.reduction * vae.reduction]
                if shifted.shape[-1]:
                    latents[is_mirrored, offset] = vae.encode(shifted)[0, :, :, first:last]
        yield Chunk(latents, frames)


def latents_of(vae: TrackEncoder, blocks: Iterable[Waveform]) -> Latents:
    """The latents (C, F, N) of audio in blocks (2, T); see `encoded_chunks`.

    Raises:
        DataError: it is shorter than a column of latents.
    """
    found = [chunk.latents[False, 0] for chunk in encoded_chunks(vae, blocks) if chunk.latents]
    if not sum(latents.shape[-1] for latents in found):
        raise DataError("the audio is shorter than a column of latents", "take a longer piece")
    return torch.cat(found, dim=-1)


def _samples(blocks: Iterable[Waveform], fmt: Format, length: int) -> Iterator[Sample]:
    """The sample (1, 2, F, N) of audio in blocks, in chunks of so many frames."""
    hop = fmt.hop_length
    context = on_grid(FORMAT_CONTEXT_S * fmt.sample_rate / hop) * hop
    for window in windows(blocks, length * hop, context):
        sample = fmt.encode(window.tensor[None])
        first = window.before // hop
        yield sample[..., first:] if window.is_last else sample[..., first : first + window.length // hop]


def _mirrored(sample: Sample) -> Sample:
    """The sample of the music with left and right swapped: the halves of its channels."""
    left, right = sample.chunk(2, 1)
    return torch.cat([right, left], 1)


def on_grid(frames: float) -> int:
    """At least so many frames, a multiple of `GRID`."""
    return max(1, math.ceil(frames / GRID)) * GRID


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
        """A waveform (2, T) at the format's rate and loudness to normalised latents (1, C, F, N); see `encoded_chunks`.

        Raises:
            DataError: it is shorter than a column of latents.
        """
        return self.space.normalise(latents_of(self.vae_model, [waveform])[None].to(self.device))

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
