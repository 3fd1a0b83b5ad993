"""What a GPU has to show, on a real one (`pytest -m gpu`), and rehearsed on the CPU; and the command that measures it.

Each test takes a device. On the CPU the same code runs, compiled without code generation.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from dualdiff.core.tensors import load_tensors
from dualdiff.formats.config import MultiMelConfig
from dualdiff.formats.mel import MultiMelFormat
from dualdiff.generation.config import GenerateConfig
from dualdiff.generation.pipeline import Pipeline
from dualdiff.generation.request import Request
from dualdiff.models.unet import UNet
from dualdiff.project.settings import open_project
from dualdiff.tasks.train import prepare
from dualdiff.training.memory import micro_batch
from dualdiff.training.resume_check import compare_resumed
from tests.conftest import TINY, melody, tiny_settings
from tests.model_store.test_model import write_model
from tests.models.test_unet import inputs, tiny

ROOT = Path(__file__).parents[1]
NEEDED = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA GPU")]
DEVICES = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=NEEDED)])


def on(device: str) -> tuple[UNet, tuple[torch.Tensor, ...]]:
    """A small network whose output is not zero, and inputs of it."""
    unet = tiny(base_channels=32)
    unet.output_gain.data.fill_(1)
    return unet.to(device), tuple(value.to(device) for value in inputs())


@DEVICES
def test_one_compiled_graph_has_the_outputs_and_gradients_of_the_plain_network(device: str) -> None:
    found = []
    for compiled in (False, True):
        torch.compiler.reset()
        torch.manual_seed(0)
        unet, given = on(device)
        backend = "inductor" if device == "cuda" else "aot_eager"
        forward = torch.compile(unet.forward, fullgraph=True, backend=backend) if compiled else unet.forward
        output = forward(*given)
        torch.autograd.backward(output.square().mean())
        gradients = [parameter.grad.flatten() for parameter in unet.parameters() if parameter.grad is not None]
        found.append((output.detach(), torch.cat(gradients)))
    for one, other in zip(*found, strict=True):
        assert (one - other).norm() < 1e-2 * one.norm()


@DEVICES
def test_bfloat16_answers_as_float32_does(device: str) -> None:
    torch.manual_seed(0)
    unet, given = on(device)
    exact = unet(*given)
    unet.compute_dtype = torch.bfloat16
    rough = unet(*given)
    assert 0 < (rough - exact).norm() < 0.03 * exact.norm()


@DEVICES
def test_the_largest_micro_batch_is_found_and_fits(chain: Path, tmp_path: Path, device: str) -> None:
    job = prepare(opened(chain, device), "unet", tmp_path / "run").job
    size = micro_batch(4, job.accelerator.device, job.trial.run, 0)
    assert size == 4
    job.trial.run(size)


@DEVICES
def test_clips_of_a_batch_are_those_that_each_is_alone(tmp_path: Path, device: str) -> None:
    pipeline = Pipeline.load(write_model(tmp_path), device=device, precision="float32")
    requests = [Request(games={"A": 1.0}, length_s=1.0, seed=seed, config=GenerateConfig(steps=3)) for seed in (0, 1)]
    together = pipeline.sample(requests)
    alone = torch.cat([pipeline.sample([request]) for request in requests])
    assert (together - alone).norm() < 1e-3 * alone.norm()
    assert not torch.allclose(together[0], together[1], atol=1e-2)  # each has noise of its own


@DEVICES
def test_a_resumed_training_is_the_straight_one(chain: Path, device: str) -> None:
    """Byte for byte on a CPU; on a GPU, whose sums come in any order, to rounding."""
    project = opened(chain, device)
    proof = compare_resumed(lambda folder: prepare(project, "unet", folder).job, steps=4)
    if device == "cpu":
        assert proof.differences == ()
    far = [line for line in proof.differences if " by up to " in line and float(line.rpartition(" ")[2]) > 1e-2]
    assert not far


@DEVICES
def test_phase_retrieval_comes_as_near_as_on_the_cpu(device: str) -> None:
    config = MultiMelConfig(phase_iterations=8)
    made, reference = MultiMelFormat(config, device), MultiMelFormat(config)
    sample = reference.encode(melody(220.0, 0, 2.0)[None])

    def error(format: MultiMelFormat) -> float:
        again = reference.encode(format.decode(sample).cpu())
        return float((again - sample[..., : again.shape[-1]]).norm() / sample.norm())

    assert error(made) < 1.1 * error(reference) + 1e-3


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA GPU")
def test_two_streams_of_one_batch_do_not_mix() -> None:
    unet, given = on("cuda")
    halves = [[value[part] for value in given] for part in (slice(0, 1), slice(1, 2))]
    with torch.inference_mode():
        expected = [unet(*half) for half in halves]
        streams = [torch.cuda.Stream() for _ in halves]
        torch.cuda.synchronize()
        found = []
        for stream, half in zip(streams, halves, strict=True):
            with torch.cuda.stream(stream):
                found.append(unet(*half))
        torch.cuda.synchronize()
    for one, other in zip(found, expected, strict=True):
        assert torch.allclose(one, other, atol=1e-4)


def opened(chain: Path, device: str):  # type: ignore[no-untyped-def]
    """The project with the smallest networks, on a device."""
    music = open_project(chain).path(open_project(chain).settings.dataset.folder)
    own = [f'dataset.folder="{music}"', f'project.device="{device}"', 'project.precision="float32"']
    return open_project(chain, [*TINY, *own])


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, str(ROOT / "benchmarks" / "gpu.py"), *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})


def test_the_measurements_are_rehearsed_on_the_cpu(tmp_path: Path) -> None:
    done = command("measure", "--tiny", "--device", "cpu", "--preset", "nano", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))
    assert set(found["nano: 1 s of music"]) == {"sampling", "VAE", "phase retrieval"}
    assert all(seconds > 0 for seconds in found["nano: 1 s of music"].values())
    assert float(found["nano: training, eager"]["samples/s"]) > 0
    assert found["left out"] == []
    assert "## nano: training, eager" in (tmp_path / "gpu.md").read_text(encoding="utf-8")


def test_what_has_no_time_left_is_named(tmp_path: Path) -> None:
    done = command("measure", "--tiny", "--device", "cpu", "--preset", "nano", "--seconds", 0, "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Left out: nano: 1 s of music, nano: training, eager." in (tmp_path / "gpu.md").read_text(encoding="utf-8")


def test_the_training_to_take_away_is_rehearsed_on_the_cpu(chain: Path, tmp_path: Path) -> None:
    sets = [word for word in tiny_settings() if "train.steps" not in word or word == "--set"]
    sets = [*zip(sets[::2], sets[1::2], strict=False)]
    flags = [word for pair in sets if pair[1].startswith("unet") for word in pair]
    place = ("train", chain / "latents", "--vae", chain / "models" / "vae", "--minutes", 0.02, "--device", "cpu")
    done = command(*place, *flags, "--preset", "nano", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    (weights,) = (tmp_path / "weights").glob("unet-*.safetensors")
    assert weights.name == "unet-1-of-1.safetensors"
    whole = load_tensors(tmp_path / "project" / "models" / "unet" / "unet.safetensors")
    for name, half in load_file(weights).items():
        assert torch.equal(half, whole[name].half())
    assert (tmp_path / "weights" / "metrics.jsonl").is_file()


def test_weights_are_split_into_files_that_are_small_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import gpu

    tensors = {name: torch.full((10,), float(number)) for number, name in enumerate("abcde")}
    paths = gpu.parts_of(tensors, tmp_path, most_bytes=45)
    assert [path.name for path in paths] == [f"unet-{number}-of-3.safetensors" for number in (1, 2, 3)]
    found = {name: half for path in paths for name, half in load_file(path).items()}
    assert all(torch.equal(found[name], tensor.half()) for name, tensor in tensors.items())
