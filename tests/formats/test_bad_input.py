"""Audio of every odd kind goes through `format roundtrip`: a clear line or a finite result, never a crash."""

import json
import math

import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dualdiff import audio
from dualdiff.formats.config import MelConfig
from dualdiff.formats.mel import MelFormat

ALONE = ["--no-baselines", "--quality", "draft"]


def odd(kind: str, rate: int = 32000) -> torch.Tensor:
    """A second of something odd, (C, T)."""
    wave = torch.zeros(2, rate)
    time_s = torch.arange(rate) / rate
    if kind == "DC":
        wave += 0.5
    elif kind == "impulse":
        wave[:, rate // 2] = 1
    elif kind == "clipped":
        wave += (20 * torch.sin(2 * math.pi * 300 * time_s)).clamp(-1, 1)
    elif kind == "20 ms":
        wave = 0.3 * torch.sin(2 * math.pi * 300 * time_s[: rate // 50]).expand(2, -1)
    elif kind == "one sample":
        wave = torch.full((2, 1), 0.3)
    elif kind == "mono":
        wave = 0.3 * torch.sin(2 * math.pi * 300 * time_s)[None]
    elif kind == "one side":
        wave[0] = 0.3 * torch.sin(2 * math.pi * 300 * time_s)
    elif kind == "music":
        wave += 0.2 * torch.sin(2 * math.pi * 300 * time_s) * torch.sin(9 * time_s).square()
    return wave


KINDS = ["silence", "DC", "impulse", "clipped", "20 ms", "one sample", "mono", "one side"]
CASES = [*((kind, 32000) for kind in KINDS), *(("music", rate) for rate in (8000, 44100, 96000, 192000))]


@pytest.mark.parametrize(("kind", "rate"), CASES)
def test_odd_audio_goes_round(run_cli, tmp_path, kind, rate):
    file = tmp_path / f"{kind} {rate}.wav"
    waveform = odd(kind, rate)
    soundfile.write(file, waveform.T.numpy(), rate, subtype="FLOAT")
    outcome = run_cli("format", "roundtrip", file, "--out", tmp_path / "out", "--json", *ALONE)
    assert outcome.code == 0, outcome.stderr
    assert ("is mono" in outcome.stderr) == (kind == "mono")
    (found,) = json.loads(outcome.stdout)["files"]
    assert all(isinstance(value, float) and math.isfinite(value) for value in found["metrics"].values())
    again = audio.read(tmp_path / "out" / f"{kind} {rate}-roundtrip.flac", sample_rate=32000)
    assert again.shape == (2, math.ceil(waveform.shape[-1] * 32000 / rate))
    assert torch.isfinite(again).all()
    if kind == "silence":
        assert again.abs().max() == 0


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_a_number_is_refused_by_name(run_cli, tmp_path, value):
    wave = odd("music")
    wave[1, 9000] = value
    soundfile.write(tmp_path / "broken.wav", wave.T.numpy(), 32000, subtype="FLOAT")
    outcome = run_cli("format", "roundtrip", tmp_path / "broken.wav", *ALONE)
    assert outcome.code == 3
    assert "broken.wav holds samples that are not finite numbers" in outcome.stderr
    assert "Traceback" not in outcome.stderr


def test_a_folder_of_links_to_itself_is_not_music(run_cli, tmp_path):
    folder = tmp_path / "game"
    folder.mkdir()
    (folder / "again").symlink_to(folder, target_is_directory=True)
    outcome = run_cli("format", "roundtrip", folder / "again" / "again", *ALONE)
    assert outcome.code == 3
    assert "is a folder, not an audio file" in outcome.stderr
    loop = tmp_path / "loop.flac"
    loop.symlink_to(loop)
    outcome = run_cli("format", "roundtrip", loop, *ALONE)
    assert outcome.code == 3
    assert str(loop) in outcome.stderr


@settings(max_examples=25, deadline=None)
@given(
    batch=st.integers(1, 2),
    length=st.integers(1, 9000),
    level_db=st.floats(-200, 60),
    circular=st.booleans(),
    kind=st.sampled_from(["pghi", "fgla"]),
    seed=st.integers(0, 9),
)
def test_any_shape_at_any_level_goes_round(batch, length, level_db, circular, kind, seed):
    made = MelFormat(MelConfig(phase=kind, phase_iterations=2))
    noise = torch.randn(batch, 2, length, generator=torch.Generator().manual_seed(seed))
    sample = made.encode(noise * 10 ** (level_db / 20))
    decoded = made.decode(sample, seed=seed, circular=circular)
    frames = length // 256 + 1
    assert sample.shape == (batch, 2, 256, frames)
    assert decoded.shape == (batch, 2, 256 * (frames if circular else frames - 1))
    assert torch.isfinite(sample).all()
    assert torch.isfinite(decoded).all()
