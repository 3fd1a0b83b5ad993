"""Help answers at once: showing it imports nothing heavy."""

import subprocess
import sys

import pytest

HEAVY = (
    "torch", "torchaudio", "numpy", "soundfile", "accelerate", "safetensors", "rich", "tomli", "tensorboard", "numba",
    "PIL", "dualdiff.project.settings", "dualdiff.core.config",
    "dualdiff.generation.pipeline", "dualdiff.training", "dualdiff.evaluation",
)  # fmt: skip

COMMANDS = (
    "", "init", "doctor", "dataset", "dataset scan", "format", "format roundtrip", "format test", "vae", "vae train",
    "vae test", "encode", "unet", "unet train", "unet test", "generate", "inspect",
)  # fmt: skip

SCRIPT = """
import sys
from dualdiff.cli import run
codes = [run([*command.split(), "--help"]) for command in sys.argv[2].split(",")]
print("CODES", set(codes), "HEAVY", [name for name in sys.argv[1].split(",") if name in sys.modules])
"""


@pytest.fixture(scope="module")
def shown() -> str:
    arguments = [sys.executable, "-c", SCRIPT, ",".join(HEAVY), ",".join(COMMANDS)]
    return subprocess.run(arguments, capture_output=True, text=True, check=True).stdout


def test_help_imports_nothing_heavy(shown):
    assert shown.endswith("CODES {0} HEAVY []\n")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(shown, command):
    usage = f"Usage: dualdiff {command} ".replace("  ", " ")
    assert usage in shown
    assert "\n\n  " in shown.split(usage)[1]


def test_importing_the_package_imports_nothing_but_itself():
    new = "{name.split('.')[0] for name in set(sys.modules) - before} - sys.stdlib_module_names"
    script = f"import sys; before = set(sys.modules); import dualdiff; print(sorted({new}))"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert found.strip() == "['dualdiff']"
