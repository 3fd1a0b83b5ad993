"""What a VAE loses beyond its format: nothing where it is perfect, and more the worse it is."""

from pathlib import Path
from types import SimpleNamespace

import torch

from dualdiff import audio
from dualdiff.evaluation.vae_reconstruction import ThroughVAE, reconstruction
from dualdiff.formats.config import MelConfig
from dualdiff.formats.mel import MelFormat

FORMAT = MelFormat(MelConfig(phase_iterations=1))


class Blurred:
    """A VAE of sorts: it adds a constant to what it is given, in latents of 8 frames."""

    reduction = 8

    def __init__(self, error: float) -> None:
        self.error = error

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        return latents + self.error


def model(error: float) -> SimpleNamespace:
    def encode(sample: torch.Tensor) -> torch.Tensor:
        assert sample.shape[-1] % 8 == 0
        return sample

    return SimpleNamespace(format=FORMAT, vae=Blurred(error), encode=encode)


def test_the_loss_is_measured_beside_that_of_the_format_alone(music: Path) -> None:
    paths = sorted(music.rglob("*.flac"))[:2]
    alone, perfect = reconstruction(paths, model(0.0), duration_s=1.0)
    _, blurred = reconstruction(paths, model(0.5), duration_s=1.0)
    assert (alone.name, perfect.name) == ("mel", "mel + VAE")
    assert perfect.metrics == alone.metrics
    assert blurred.metrics["log_mel_distance"] > 1.2 * alone.metrics["log_mel_distance"]


def test_samples_keep_their_length_whatever_the_vae_needs(music: Path) -> None:
    waveform = audio.read(sorted(music.rglob("*.flac"))[0], sample_rate=32000, duration_s=0.5)[None]
    through = ThroughVAE(model(0.0))
    assert torch.equal(through.encode(waveform), FORMAT.encode(waveform))
    assert through.num_samples(through.num_frames(1000)) == FORMAT.num_samples(FORMAT.num_frames(1000))
