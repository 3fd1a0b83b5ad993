"""What commands import: nothing that they do not use. Counted by modules, not by a clock."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from dualdiff.project.settings import project_toml
from tests.model_store.test_model import write_model

HEAVY = {
    "torch", "torchaudio", "numpy", "scipy", "numba", "safetensors", "soundfile", "accelerate", "tensorboard", "PIL",
    "onnxruntime", "torch._dynamo", "torch._inductor", "torch.utils.tensorboard", "sympy",
}  # fmt: skip
RUN = """
import json, sys
from dualdiff import cli
code = cli.run(sys.argv[1:])
print(json.dumps([code, sorted(sys.modules)]))
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose model knows the games A and B, and a clip that exists."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "dualdiff.toml").write_text(project_toml("nano", "x"), encoding="utf-8")
    write_model(folder).rename(folder / "model")
    (folder / "clips").mkdir()
    (folder / "clips" / "taken.flac").touch()
    (folder / "list.csv").write_text("game,length\nA,2\nNope,2\n", encoding="utf-8")
    return folder


def run(folder: Path, *arguments: str) -> tuple[int, set[str], str]:
    done = subprocess.run([sys.executable, "-c", RUN, *arguments], cwd=folder, capture_output=True, text=True)
    code, modules = json.loads(done.stdout.splitlines()[-1])
    return code, HEAVY & set(modules), done.stderr


def test_init_imports_no_torch(tmp_path: Path) -> None:
    assert run(tmp_path, "init", "--preset", "nano")[:2] == (0, set())
    assert (tmp_path / "dualdiff.toml").is_file()
    code, heavy, errors = run(tmp_path, "init")
    assert (code, heavy) == (2, set())
    assert "exists already" in errors


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--stepz", "3"], "stepz"),
        (["--steps", "0"], "--steps: steps = 0"),
        (["--length", "0.01"], "--length"),
        (["--sampler", "best"], "best"),
        (["--quality", "best"], "best"),
        (["--format", "mp4"], "mp4"),
        (["--cfg-interval", "5:1"], "--cfg-interval"),
        (["--ema", "wide"], "--ema wide"),
        (["--game", "Nope"], '"Nope" is not a game of this model'),
        (["--game", "A:0,B:0"], "are zero"),
        (["--sweep", "A"], "--sweep"),
        (["--sweep", "A..Nope"], "Nope"),
        (["--sweep", "A..B", "--game", "A"], "cannot stand together"),
        (["--steps-between", "3"], "needs a sweep"),
        (["--strength", "0.5"], "needs a clip to vary"),
        (["--intro", "2"], "leads into a loop"),
        (["--loop", "--format", "mp3"], "mp3"),
        (["--loop", "--length", "0.5"], "a loop of 0.5 s"),
        (["--init", "clips/taken.flac", "--game", "Nope"], "Nope"),
        (["--name", "a/b"], "not a file name"),
        (["--name", "taken"], "exists already"),
        (["--set", "generate.steps=0"], "generate.steps"),
        (["--set", "nonsense"], "nonsense"),
        (["--list", "list.csv"], "Nope"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_generate_refuses_is_refused_without_torch(project: Path, flags: list[str], words: str) -> None:
    code, heavy, errors = run(project, "generate", "--model", "model", *flags)
    assert code in (2, 3, 4), errors
    assert words in errors
    assert heavy == set()


def test_generate_loads_what_it_uses(project: Path) -> None:
    flags = ("--model", "model", "--game", "A", "--steps", "1", "--length", "0.6", "--name", "new")
    code, heavy, errors = run(project, "generate", *flags)
    assert code == 0, errors
    assert heavy <= {"torch", "torchaudio", "numpy", "numba", "safetensors", "soundfile"}  # torchaudio: true peaks
