"""Made-up latents on disk, as `encode` would leave them: for tests of what looks at many tracks."""

from pathlib import Path

import torch
from safetensors.torch import save_file

from dualdiff.core.files import sha256_of
from dualdiff.data.config import Variant
from dualdiff.data.latent_dataset import LatentFile, LatentIndex, LatentTrack

CHANNELS, ROWS = 2, 4


def tune(seed: int, columns: int, colour: int = 0, pace: int = 6) -> torch.Tensor:
    """Latents (N, C, F) of notes that each last `pace` columns, around a mean that stands for the instruments."""
    generator = torch.Generator().manual_seed(seed)
    notes = torch.randn(columns // pace + 1, CHANNELS, ROWS, generator=generator).repeat_interleave(pace, 0)[:columns]
    instruments = torch.randn(CHANNELS, ROWS, generator=torch.Generator().manual_seed(1000 + colour))
    return notes + 1.5 * instruments + 0.1 * torch.randn(columns, CHANNELS, ROWS, generator=generator)


def write_latents(folder: Path, tracks: list[tuple[str, str, torch.Tensor]], column_s: float = 0.064) -> LatentIndex:
    """Latents of (game, split, (N, C, F)); or (V, N, C, F), V time shifts."""
    folder.mkdir(parents=True, exist_ok=True)
    found, shifts = [], 1
    for number, (game, split, latents) in enumerate(tracks):
        name = f"{number:04d}.safetensors"
        whole = latents if latents.ndim == 4 else latents[None]
        shifts = whole.shape[0]
        save_file({"latents": whole.half().contiguous()}, folder / name)
        found.append(
            LatentTrack(
                path=f"{game}/{number:03d}.flac", game=game, split=split, columns=whole.shape[1], weight_s=1.0,
                audio_sha256=f"{number:064x}", files=(LatentFile(name, sha256_of(folder / name)),),
            )
        )  # fmt: skip
    index = LatentIndex(
        folder=folder, vae="models/vae", vae_hash="v" * 64, format_hash="f" * 64, offsets=shifts, variants=(Variant(),),
        frame_s=column_s / 8, frames_per_column=8, mean=(0.0,) * CHANNELS, std=(1.0,) * CHANNELS,
        games=tuple(sorted({game for game, _, _ in tracks})), tracks=tuple(found),
    )  # fmt: skip
    index.write()
    return index
