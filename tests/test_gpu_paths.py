"""The paths that only GPUs take, on pretended ones: no devices are mixed, and the numbers are those of the CPU."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from dualdiff import audio, cli
from dualdiff.core.device import select_precision
from dualdiff.core.tensors import load_tensors
from dualdiff.generation.config import GenerateConfig
from dualdiff.generation.pipeline import Pipeline
from dualdiff.generation.request import Request
from tests.conftest import Outcome, melody, tiny_settings
from tests.pretend_gpu import OnGPU, pretended

MIX = ("--game", "Bubble Bay:0.7,Crystal Caves:0.3")
QUICK = ("--steps", "2", "--quality", "draft")
AS_THE_CPU = ("--set", f"project.precision={str(select_precision('auto', torch.device('cpu'))).partition('.')[2]!r}")


@pytest.fixture(scope="module")
def on_gpu(chain: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project `chain`, its stages done again on a pretended GPU, with the CPU's precision."""
    folder = tmp_path_factory.mktemp("on a GPU")
    for name in ("dualdiff.toml", "dataset.jsonl"):
        shutil.copy(chain / name, folder / name)
    (folder / "music").symlink_to((chain / "music").resolve())
    with pretended():
        for command in (["vae", "train"], ["encode"], ["unet", "train", "--force"]):
            assert cli.run([*command, "--project", str(folder), *tiny_settings(), *AS_THE_CPU]) == 0, command
    return folder


def test_what_is_pretended_refuses_what_a_gpu_refuses() -> None:
    with pretended():
        x = torch.ones(3, device="cuda")
        assert x.device.type == "cuda"
        assert torch.equal((x + x[0]).cpu(), torch.full((3,), 2.0))
        for refused in (
            lambda: x + torch.ones(3),
            lambda: x.numpy(),
            lambda: torch.randn(3, device="cuda", generator=torch.Generator()),
        ):
            with pytest.raises((RuntimeError, TypeError)):
                refused()
        assert x.double().dtype == torch.float64
    with pretended("mps"), pytest.raises(TypeError, match="float64"):
        torch.ones(3, device="mps").double()


@pytest.mark.parametrize("network", ["vae", "unet"])
def test_a_training_on_a_gpu_learns_what_one_on_a_cpu_learns(chain: Path, on_gpu: Path, network: str) -> None:
    ours, theirs = (load_tensors(folder / "models" / network / f"{network}.safetensors") for folder in (on_gpu, chain))
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert torch.allclose(ours[name], tensor, rtol=1e-3, atol=1e-5), name


@pytest.mark.parametrize(
    "flags",
    [
        (*MIX, "--length", "1", "--count", "3"),
        (*MIX, "--length", "2", "--loop", "--intro", "1", "--sampler", "heun"),
        (*MIX, "--inpaint", "{tune}", "1:2"),
        (*MIX, "--init", "{tune}", "--length", "1", "--guide", "{model}", "--picture"),
    ],
    ids=["several", "loop", "inpaint", "variation and guide"],
)
def test_clips_are_written_on_a_gpu(
    on_gpu: Path, tmp_path: Path, run_cli: Callable[..., Outcome], flags: tuple[str, ...]
) -> None:
    tune = tmp_path / "tune.flac"
    audio.write(tune, melody(220.0, seed=1), 32000)
    told = [flag.format(tune=tune, model=on_gpu / "models" / "unet") for flag in flags]
    with pretended():
        outcome = run_cli("generate", *told, *QUICK, "--sidecar", "--out", tmp_path / "clips", "--project", on_gpu)
    assert outcome.code == 0, outcome.stderr
    for sidecar in (tmp_path / "clips").glob("*.json"):
        assert json.loads(sidecar.read_text(encoding="utf-8"))["recipe"]["device"] == "cuda"
    for clip in (tmp_path / "clips").glob("*.flac"):
        assert audio.read(clip, sample_rate=32000).std() > 1e-4


def test_clips_of_a_gpu_are_sampled_together_and_are_those_of_the_cpu(on_gpu: Path) -> None:
    requests = [
        Request(games={"Bubble Bay": 1.0}, length_s=1.0, seed=seed, config=GenerateConfig(steps=2)) for seed in range(3)
    ]

    def latents(device: str, sizes: list[int]) -> torch.Tensor:
        pipeline = Pipeline.load(on_gpu / "models" / "unet", device=device, precision="float32")
        batches = pipeline.batches(requests)
        assert [len(batch) for batch in batches] == sizes
        return torch.cat([pipeline.sample(batch).cpu() for batch in batches])

    alone = latents("cpu", [1, 1, 1])
    with pretended():
        together = latents("cuda", [3])
    assert not isinstance(together, OnGPU)
    assert torch.allclose(together, alone, atol=1e-3)


@pytest.mark.parametrize(
    "command",
    [
        ("vae", "test", "-n", "1", "--seconds", "1"),
        ("unet", "train", "--force", "--set", "unet.train.grad_accum_steps=0", "--set", 'unet.train.run="automatic"'),
        ("unet", "train", "--force", "--set", "unet.train.steps=5"),
        ("unet", "train", "--check-resume"),
    ],
    ids=["vae test", "micro-batch", "going on", "check of resuming"],
)
def test_commands_that_compute_do_so_on_a_gpu(
    on_gpu: Path, run_cli: Callable[..., Outcome], command: tuple[str, ...]
) -> None:
    own = ("--set", "project.device='cuda'")
    with pretended():
        outcome = run_cli(*command[:2], *tiny_settings(), *own, *AS_THE_CPU, *command[2:], "--project", on_gpu)
    assert outcome.code == 0, outcome.stderr


def test_apples_gpus_are_asked_for_no_wide_numbers(
    on_gpu: Path, tmp_path: Path, run_cli: Callable[..., Outcome]
) -> None:
    with pretended("mps"):
        made = run_cli("generate", *MIX, *QUICK, "--length", "1", "--loop", "--out", tmp_path, "--project", on_gpu)
        shutil.copytree(on_gpu, tmp_path / "project")
        more = ("--set", "vae.train.steps=5", *AS_THE_CPU, "--project", tmp_path / "project")
        trained = run_cli("vae", "train", *tiny_settings(), *more)
    assert made.code == 0, made.stderr
    assert trained.code == 0, trained.stderr
