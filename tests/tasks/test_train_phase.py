"""The learned way back: beliefs about changes of the phase, their integration, the network, and its training."""

import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from dualdiff import cli
from dualdiff.core.errors import ConfigError, DataError
from dualdiff.formats import edges
from dualdiff.formats.mel import MelConfig, MelFormat
from dualdiff.losses.edges import by_loudness, misses, von_mises_nll
from dualdiff.model_store.components import read_model_json
from dualdiff.model_store.model import load_format, load_model, open_format
from dualdiff.models.phase import INPUTS, PhaseNet, PhaseNetConfig
from dualdiff.project.settings import open_project, project_toml
from dualdiff.tasks.train_phase import train_phase
from tests.formats.test_phase_retrieval import excerpt
from tests.test_chain import TINY as TINY_CHAIN

TINY = [*TINY_CHAIN, "format.name=mel"]
"""Only the mel format has a way back to learn."""
CONFIG = MelConfig()
MEL = MelFormat()
SMALL = ["phase.base_channels=8", "phase.dilations=[1,2]", "phase.train.steps=4", "phase.train.save_every=2"]
SMALL += ["phase.train.batch_size=2", "phase.train.warmup_steps=2", "phase.train.keep_checkpoints=9"]


def oracle(waveform: torch.Tensor):
    """A network that knows: the true changes of a waveform (1, 2, T), all of one concentration."""
    _, changes, _ = MEL.lesson(waveform[0])
    return lambda seen: 5 * changes[None]


def mel_error(decoded: torch.Tensor, sample: torch.Tensor) -> float:
    found, wanted = MEL.mel(MEL.encode(decoded)), MEL.mel(sample)
    return ((found - wanted).norm() / wanted.norm()).item()


FLOOR = 1e-4


def test_true_changes_lead_to_the_true_phase_without_any_iterations():
    waveform = excerpt()
    sample = MEL.encode(waveform)
    stft, inverse = MEL._short_stft, MEL._back.inverse
    magnitudes = (MEL.mel(sample[0]).transpose(-1, -2) @ inverse).clamp_min_(0)
    believing = edges.Edges(oracle(waveform), 0, stft, CONFIG.window_std)
    found = believing(magnitudes, {}, torch.Generator().manual_seed(0), False)[0]
    spectra = stft.spectra(stft.padded(waveform[0].mean(0, keepdim=True)), 0, magnitudes.shape[1])[0]
    turned = found * spectra.conj()
    loud = spectra.abs() > 0.02 * spectra.abs().max()
    # all that is loud hangs together: one unknown turn for all of it
    agreement = turned[loud].sum().abs() / turned[loud].abs().sum()
    assert agreement > 0.95


def test_what_knows_better_sounds_better():
    waveform = excerpt()
    sample = MEL.encode(waveform)
    rule, known = (
        MelFormat(MelConfig(phase_iterations=0)),
        MEL.learned(oracle(waveform), 0),
    )
    decoded = known.decode(sample)
    assert decoded.shape == (1, 2, waveform.shape[-1] // 256 * 256)
    assert mel_error(decoded, sample) < 0.6 * mel_error(rule.decode(sample), sample)


def test_the_compiled_growth_equals_the_plain_one():
    generator = torch.Generator().manual_seed(0)
    frames, bins = 12, 9
    mid = torch.rand(frames, bins, generator=generator)
    mid[3, 4] = 0
    forth, up = (torch.view_as_complex(torch.randn(frames, bins, 2, generator=generator)) for _ in range(2))
    for count, circular in ((0, False), (3, False), (0, True)):
        known = torch.arange(frames) % 9 < count  # the first three, and those from the ninth on
        phases = [torch.rand(frames, bins, generator=torch.Generator().manual_seed(1)) for _ in range(2)]
        edges.grow(mid, forth, up, phases[0], known, FLOOR, circular)
        before = edges._compiled
        edges._compiled = lambda: edges.spread
        try:
            edges.grow(mid, forth, up, phases[1], known, FLOOR, circular)
        finally:
            edges._compiled = before
        np.testing.assert_allclose(*phases, atol=1e-5)
        start = torch.rand(frames, bins, generator=torch.Generator().manual_seed(1))
        torch.testing.assert_close(phases[0][known], start[known])
        assert phases[0][3, 4] == start[3, 4]  # too quiet: as it came


def test_growth_follows_the_surer_edge():
    """Two ways lead to the far corner of a square, one of them unsure and wrong."""
    mid = torch.tensor([[1.0, 0.9], [0.9, 0.8]])
    one = torch.ones(2, 2, dtype=torch.complex64)
    forth, up = one.clone(), one.clone()
    up[1, 0] = 0.1 * torch.polar(torch.ones(1), torch.tensor([2.0]))[0]  # from (1, 0) to (1, 1)
    phase = torch.zeros(2, 2)
    edges.grow(mid, forth, up, phase, torch.zeros(2, dtype=torch.bool), FLOOR, False)
    assert phase.abs().max() < 1e-6


def test_agreement_makes_the_whole_likelier_and_keeps_what_is_known():
    generator = torch.Generator().manual_seed(0)
    forth, up = (torch.view_as_complex(torch.randn(20, 15, 2, generator=generator)) for _ in range(2))
    forth[-1], up[:, -1] = 0, 0
    unit = torch.polar(torch.ones(20, 15), 6 * torch.rand(20, 15, generator=generator))

    known = torch.arange(20) % 18 < 2

    def likelihood(u):
        return (
            (forth[:-1] * u[:-1] * u[1:].conj()).real.sum() + (up[:, :-1] * u[:, :-1] * u[:, 1:].conj()).real.sum()
        ).item()

    values = [likelihood(edges.agreed(unit, forth, up, known, sweeps)) for sweeps in (0, 1, 3, 10)]
    assert values == sorted(values)
    assert values[-1] > values[0] + 100
    torch.testing.assert_close(edges.agreed(unit, forth, up, known, 10)[known], unit[known])


def test_a_loop_and_a_long_track_decode_by_a_network(monkeypatch):
    from dualdiff.formats import phase_retrieval as phase

    network = PhaseNet(PhaseNetConfig(base_channels=4, dilations=(1, 2))).eval()
    made = MEL.learned(network, network.context_frames)
    sample = MEL.encode(excerpt(2.0))
    assert made.decode(sample, circular=True).shape[-1] == sample.shape[-1] * 256
    whole = made.decode(sample)
    monkeypatch.setattr(phase, "MAX_CELLS", 140 * 1025)
    pieces = made.decode(sample)
    assert pieces.shape == whole.shape
    assert mel_error(pieces, sample) < 1.3 * mel_error(whole, sample)
    torch.testing.assert_close(made.decode(sample, seed=1), made.decode(sample, seed=1))
    assert made.decode(torch.zeros_like(sample) - CONFIG.mean / CONFIG.scale).abs().max() < 1e-3


def test_a_new_network_believes_the_rule():
    network = PhaseNet(PhaseNetConfig(base_channels=4, rows=8))
    seen = torch.randn(2, INPUTS, 50, 7)
    torch.testing.assert_close(network(seen), seen[:, 2:])
    with torch.no_grad():
        network.gain.fill_(1)
        beliefs = network(seen)
    assert not torch.allclose(beliefs[:, :, :32], seen[:, 2:, :32])
    torch.testing.assert_close(beliefs[:, :, 32:], seen[:, 2:, 32:])


def test_an_output_sees_no_further_than_it_says():
    network = PhaseNet(PhaseNetConfig(base_channels=4, rows=4, dilations=(1, 3)))
    torch.nn.init.ones_(network.gain)
    seen = torch.randn(1, INPUTS, 16, 40, requires_grad=True)
    network(seen)[..., 20].sum().backward()
    reached = seen.grad.abs().sum((0, 1, 2)).nonzero().flatten()
    assert (int(reached[0]), int(reached[-1])) == (20 - network.context_frames, 20 + network.context_frames)


def test_the_likelihood_is_that_of_a_von_mises_distribution():
    beliefs = torch.randn(1, 4, 3, 5, dtype=torch.float64)
    angles = torch.linspace(-math.pi, math.pi, 4001, dtype=torch.float64)[:-1]
    totals = []
    for angle in angles:
        changes = torch.stack([angle.cos(), angle.sin()] * 2)[None, :, None, None].expand(1, 4, 3, 5)
        totals.append((-von_mises_nll(beliefs, changes)).exp())
    torch.testing.assert_close(torch.stack(totals).mean(0), torch.ones(1, 2, 3, 5, dtype=torch.float64))
    assert misses(beliefs, beliefs / beliefs.reshape(1, 2, 2, 3, 5).norm(dim=2).repeat_interleave(2, 1)).max() < 1e-6


def test_silent_examples_do_not_count():
    values, magnitudes = torch.rand(2, 2, 3, 4), torch.rand(2, 2, 3, 4)
    magnitudes[1] = 0
    torch.testing.assert_close(by_loudness(values, magnitudes), by_loudness(values[:1], magnitudes[:1]))
    assert (by_loudness(values, magnitudes * 0) == 0).all()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, music: Path) -> Path:
    folder = tmp_path_factory.mktemp("learned")
    (folder / "dualdiff.toml").write_text(project_toml("nano", "tiny"), encoding="utf-8")
    overrides = [part for override in [*TINY, *SMALL] for part in ("--set", override)]
    for command in (["dataset", "scan", str(music)], ["format", "train"]):
        assert cli.run([*command, "--project", str(folder), *overrides]) == 0, command
    return folder


def test_training_resumes_exactly_and_its_rule_is_measured_beside_it(trained: Path, tmp_path: Path) -> None:
    for name in ("dualdiff.toml", "dataset.jsonl"):
        shutil.copy(trained / name, tmp_path / name)
    folder = f'dataset.folder="{open_project(trained).path(open_project(trained).settings.dataset.folder)}"'
    for steps in (2, 4):
        train_phase(open_project(tmp_path, [*TINY, *SMALL, f"phase.train.steps={steps}", folder]))
    for name in ("model.safetensors", "ema.safetensors"):
        place = Path("runs") / "phase" / "checkpoints" / "00000004" / name
        assert (trained / place).read_bytes() == (tmp_path / place).read_bytes()
    record = (trained / "runs" / "phase" / "metrics.jsonl").read_text()
    assert "validation/rule_miss_along_frames" in record
    assert list((trained / "runs" / "phase" / "demos").glob("*-learned.flac"))


def test_its_previews_are_written_again_by_the_command_beside_them(trained: Path) -> None:
    demos = trained / "runs" / "phase" / "demos"
    assert (demos / "00000004.txt").read_text() == "made by: dualdiff format train --preview 4\n"
    before = {path.name: path.read_bytes() for path in demos.glob("*.flac")}
    assert {f"{Path(name).stem}.png" for name in before} == {path.name for path in demos.glob("*.png")}
    for path in demos.glob("*.flac"):
        path.unlink()
    overrides = [part for override in [*TINY, *SMALL] for part in ("--set", override)]
    assert cli.run(["format", "train", "--preview", "4", "--project", str(trained), *overrides]) == 0
    assert {path.name: path.read_bytes() for path in demos.glob("*.flac")} == before


def test_a_model_carries_the_network_and_plays_by_it(trained: Path) -> None:
    learned = [*TINY, "format.phase=learned"]
    overrides = [part for override in learned for part in ("--set", override)]
    for command in ("vae train", "encode", "unet train"):
        assert cli.run([*command.split(), "--project", str(trained), *overrides]) == 0, command
    model = load_model(trained / "models" / "unet")
    parts = read_model_json(trained / "models" / "unet")["parts"]
    assert parts["phase"] == read_model_json(trained / "models" / "phase")["parts"]["phase"]
    sample = MEL.encode(excerpt(0.5))
    expected = open_format(MelConfig(phase="learned"), trained).decode(sample)
    torch.testing.assert_close(model.vae_model.format.decode(sample), expected)
    torch.testing.assert_close(load_format(trained / "models" / "phase").decode(sample), expected)
    assert not torch.allclose(MEL.decode(sample), expected)


def test_a_network_that_is_missing_mixed_up_or_of_another_format_is_refused(trained: Path, tmp_path: Path) -> None:
    learned = MelConfig(phase="learned")
    with pytest.raises(DataError, match="there is no network of the learned way back") as found:
        open_format(learned, tmp_path)
    assert "format train" in found.value.hint
    with pytest.raises(DataError, match="no phase network for this format"):
        open_format(MelConfig(phase="learned", n_mels=128), trained)
    shutil.copytree(trained / "models" / "phase", tmp_path / "models" / "phase")
    weights = tmp_path / "models" / "phase" / "phase.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\0")
    with pytest.raises(DataError, match="is not the one that its model.json names"):
        open_format(learned, tmp_path)
    with pytest.raises(ConfigError, match="needs a network"):
        MelFormat(learned).decode(torch.zeros(1, 2, 256, 8))
    with pytest.raises(ConfigError, match="has no way back to learn"):
        train_phase(open_project(trained, [*TINY, *SMALL, "format.name=mdct"]))
