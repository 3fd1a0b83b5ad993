"""The `mel` format: a mel-scaled magnitude spectrogram with as many numbers as the waveform."""

from dataclasses import dataclass
from typing import Literal

from dualdiff.config import setting


@dataclass(frozen=True, kw_only=True)
class MelConfig:
    """The constants of the mel format; a model carries them along."""

    name: Literal["mel"] = setting("mel", "the format")
    sample_rate: int = setting(32000, "audio samples per second, Hz", minimum=8000, maximum=192000)
    n_fft: int = setting(6400, "Fourier transform length, samples", minimum=256)
    hop_length: int = setting(256, "samples between frames", minimum=16)
    window_power: int = setting(32, "the window is a periodic Hann to this power", minimum=1)
    n_mels: int = setting(256, "mel bands per channel", minimum=16)
    f_min: float = setting(20.0, "lowest frequency, Hz", minimum=0)
    f_max: float = setting(16000.0, "highest frequency, Hz", above=0)
    magnitude_power: float = setting(0.25, "magnitudes are stored to this power", above=0, maximum=1)
    loudness_lufs: float = setting(-20.0, "tracks are brought to this loudness on reading, LUFS", minimum=-60, maximum=0)
    mean: float = setting(0.0, "mean of the powered magnitudes over music at that loudness")
    scale: float = setting(1.0, "their standard deviation", above=0)
    phase: Literal["pghi", "fgla"] = setting("pghi", "how the phase is found on the way back")
    phase_iterations: int = setting(40, "iterations on the way back (the fgla reference: 400)", minimum=0)
