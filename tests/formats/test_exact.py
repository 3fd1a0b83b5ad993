"""The formats that keep the phase: exact ways back, and a VAE that learns on each of them through the chain."""

import math
from pathlib import Path

import hypothesis
import hypothesis.strategies as st
import pytest
import torch

from dualdiff import audio, cli
from dualdiff.core.config import build, plain
from dualdiff.core.errors import ConfigError
from dualdiff.formats.base import FORMATS, PhaseKeeping
from dualdiff.formats.config import MDCTConfig, WaveformConfig
from dualdiff.formats.lapped import Lapped, MDCTFormat
from dualdiff.formats.waveform import WaveformFormat
from dualdiff.generation.pipeline import Pipeline
from dualdiff.project.settings import open_project, project_toml
from dualdiff.tasks.train import train
from tests.test_chain import TINY

MUSIC = Path(__file__).parents[2] / "examples" / "music"
EXACT = {
    "waveform, one row": WaveformFormat(WaveformConfig(rows=1)),
    "waveform": WaveformFormat(),
    "mdct": MDCTFormat(),
    "mclt": FORMATS["mclt"](),
}


def snr_db(estimate: torch.Tensor, target: torch.Tensor) -> float:
    return (10 * torch.log10(target.square().sum() / (estimate - target).square().sum().clamp_min(1e-30))).item()


@pytest.mark.parametrize("name", EXACT)
@hypothesis.given(length=st.integers(1, 3000), level_db=st.floats(-80, 0), seed=st.integers(0, 99))
@hypothesis.settings(max_examples=20)
def test_the_way_back_is_exact_for_any_length_and_level(name, length, level_db, seed):
    made = EXACT[name]
    waveform = torch.randn(2, 2, length, generator=torch.Generator().manual_seed(seed)) * 10 ** (level_db / 20)
    sample = made.encode(waveform)
    assert sample.shape == (2, made.channels, made.bins, made.num_frames(length))
    decoded = made.decode(sample)
    assert decoded.shape == (2, 2, made.num_samples(sample.shape[-1]))
    assert snr_db(decoded[..., :length], waveform) > 90


@pytest.mark.parametrize("name", EXACT)
def test_frames_and_audio_samples_agree_and_silence_stays_silence(name):
    made = EXACT[name]
    assert made.num_frames(made.num_samples(64)) == 64
    assert made.frequencies().shape == (made.bins,)
    assert (made.frequencies() > 0).all()
    silence = made.decode(made.encode(torch.zeros(1, 2, 1000)))
    assert silence.abs().max() == 0
    assert isinstance(made, PhaseKeeping)
    assert not isinstance(FORMATS["mel"](), PhaseKeeping)
    assert build(made.Config, plain(made.config)) == made.config


@pytest.mark.parametrize("name", EXACT)
def test_samples_of_music_have_mean_0_and_variance_1(name):
    made, sums = EXACT[name], []
    for path in sorted(MUSIC.glob("*/*.ogg"))[::2]:
        waveform = audio.read(path, sample_rate=32000, start_s=20, duration_s=3)
        sample = made.encode(audio.gain_to(waveform, audio.loudness_lufs(waveform, 32000), -20.0)[None])
        sums.append([sample.mean(), sample.square().mean()])
    mean, square = torch.tensor(sums).mean(0)
    assert abs(mean) < 0.15
    assert 0.8 < square < 1.25


@pytest.mark.parametrize("name", EXACT)
def test_a_loop_goes_on_from_its_end_to_its_start(name):
    """What is encoded of a loop played twice, from its middle on, decodes to a loop without a seam."""
    made = EXACT[name]
    loop = torch.randn(1, 2, 8 * made.hop_length, generator=torch.Generator().manual_seed(1))
    once = made.encode(loop.repeat(1, 1, 3))[..., 8:16]
    torch.testing.assert_close(made.decode(once, circular=True), loop, atol=1e-5, rtol=0)


def test_the_mdct_of_a_tone_is_where_its_frequency_is_and_keeps_its_energy():
    time = torch.arange(25600) / 32000
    tone = torch.sin(2 * math.pi * 3000 * time).expand(1, 1, -1)
    coefficients = Lapped(256, torch.device("cpu")).forward(tone, 1)[0, 0, 0]
    energy = coefficients.square().sum(1)
    loudest = (MDCTFormat().frequencies()[energy.argmax()] - 3000).abs()
    assert loudest <= 32000 / 512
    assert energy.sum() == pytest.approx(tone.square().sum().item(), rel=1e-4)


def test_the_mclt_of_a_tone_has_a_steady_magnitude_where_the_mdct_beats():
    tone = torch.sin(2 * math.pi * 3000.7 * torch.arange(25600) / 32000).expand(1, 1, -1)
    parts = Lapped(256, torch.device("cpu")).forward(tone, 2)[0, 0, :, 47, 10:-10]  # the bin around 2969 Hz
    magnitude = parts.square().sum(0).sqrt()
    assert magnitude.std() < 0.1 * magnitude.mean()
    assert parts[0].abs().std() > 0.3 * parts[0].abs().mean()


def test_left_and_right_are_the_halves_of_the_channels():
    made = EXACT["mclt"]
    waveform = torch.randn(1, 2, 2048, generator=torch.Generator().manual_seed(0))
    swapped = made.encode(waveform.flip(1))
    torch.testing.assert_close(made.encode(waveform).roll(3, 1), swapped)


def test_mdct_coefficients_are_powered_with_their_sign():
    plain_made, powered = (MDCTFormat(MDCTConfig(power=power, tilt=0, scale=1)) for power in (1.0, 0.5))
    waveform = torch.randn(1, 2, 1024, generator=torch.Generator().manual_seed(0))
    expected = plain_made.encode(waveform)
    torch.testing.assert_close(powered.encode(waveform), expected.sign() * expected.abs().sqrt())


LOSS = ['vae.loss.reconstruction="spectral_1d"', "vae.spectral_1d.block_sizes=[32,256,2048]"]


@pytest.fixture(scope="module")
def scanned(tmp_path_factory: pytest.TempPathFactory, music: Path) -> Path:
    folder = tmp_path_factory.mktemp("formats")
    (folder / "dualdiff.toml").write_text(project_toml("nano", "tiny"), encoding="utf-8")
    overrides = [part for override in TINY for part in ("--set", override)]
    assert cli.run(["dataset", "scan", str(music), "--project", str(folder), *overrides]) == 0
    return folder


@pytest.mark.parametrize(
    "chosen",
    [
        ['format.name="waveform"', "format.rows=1", "unet.channel_mults=[1]", "unet.attention_levels=0"],
        ['format.name="waveform"'],
        ['format.name="mdct"', "encode.mirror=true"],
        ['format.name="mclt"', "encode.mirror=true"],
    ],
    ids=["one row", "waveform", "mdct", "mclt"],
)
def test_the_chain_runs_on_every_format_and_its_vae_learns(scanned: Path, chosen: list[str]) -> None:
    run = "-".join(chosen[:2]).replace('"', "").replace("=", "").replace(".", "")
    names = [f"vae.train.run={run}", f"unet.train.run={run}-unet", f"encode.vae=models/{run}", f"encode.folder={run}"]
    settings = [*TINY, *LOSS, *chosen, *names, "vae.train.steps=12", "vae.train.save_every=12", "unet.train.steps=1"]
    project = open_project(scanned, settings)
    train(project, "vae")
    record = (scanned / "runs" / run / "metrics.jsonl").read_text()
    assert "validation/phase" in record
    for command in ("encode", "unet train --force"):
        overrides = [part for override in settings for part in ("--set", override)]
        assert cli.run([*command.split(), "--project", str(scanned), *overrides]) == 0, command
    clip = Pipeline.load(scanned / "models" / f"{run}-unet", "cpu").generate(length_s=0.5, seed=1)
    assert clip.waveform.shape == (2, 16000)
    assert clip.waveform.isfinite().all()


def test_a_loss_of_waveforms_is_refused_for_a_format_without_phase(scanned: Path) -> None:
    with pytest.raises(ConfigError, match="mel does not keep the phase") as found:
        train(open_project(scanned, [*TINY, 'vae.loss.reconstruction="spectral_1d"']), "vae")
    assert "waveform, mdct, mclt" in found.value.hint
    long = open_project(scanned, [*TINY, 'format.name="mdct"', LOSS[0], "vae.spectral_1d.block_sizes=[65536]"])
    with pytest.raises(ConfigError, match="no block that fits"):
        train(long, "vae")


def test_one_choice_of_a_format_in_place_of_another_drops_what_the_file_says_of_the_other(scanned: Path) -> None:
    chosen = open_project(scanned, ["format.name=mdct", "format.bins=128"]).settings.format
    assert chosen == MDCTConfig(bins=128)
    kept = open_project(scanned, ["format.name=mel"])
    assert kept.settings.format == FORMATS["mel"].Config()
