"""The package: what goes into wheel and sdist, one version, and no call at import that only POSIX systems have."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
import tomli

import dualdiff

ROOT = Path(__file__).parent.parent
PYPROJECT = tomli.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
CACHES = shutil.ignore_patterns("__pycache__", "*.pyc", ".*", "*.egg-info", "build", "dist", "demo", "runs")

IMPORT_ALL = """
import builtins, importlib, os, pkgutil, signal, sys
import accelerate, numba, PIL.Image, rich, safetensors.torch, soundfile, tensorboard, tomli, torch, torchaudio, typer
import torch.utils.tensorboard

for name in ("sched_getaffinity", "fork", "forkpty", "wait3", "wait4", "getuid", "geteuid", "getpgid", "killpg", "nice",
             "setsid", "mkfifo", "uname", "sysconf", "statvfs", "chown", "pread", "posix_fadvise", "getloadavg"):
    if hasattr(os, name):
        delattr(os, name)
for name in ("SIGKILL", "SIGHUP", "SIGALRM", "SIGUSR1", "SIGUSR2", "SIGCONT", "SIGSTOP", "SIGPIPE", "alarm",
             "setitimer", "pthread_sigmask", "sigwait"):
    if hasattr(signal, name):
        delattr(signal, name)
POSIX = {"fcntl", "resource", "pwd", "grp", "termios", "tty", "pty", "posix", "syslog"}
for name in POSIX:
    sys.modules.pop(name, None)
original = builtins.__import__

def on_windows(name, scope=None, *rest):
    asks = (scope or {}).get("__name__", "")
    if name in POSIX and asks.startswith("dualdiff"):
        raise ModuleNotFoundError(f"{asks} imports {name}, which Windows has not")
    return original(name, scope, *rest)

builtins.__import__ = on_windows
import dualdiff
names = [module.name for module in pkgutil.walk_packages(dualdiff.__path__, "dualdiff.")]
for name in names:
    importlib.import_module(name)
print(len(names))
"""


def test_every_module_imports_where_there_is_no_posix():
    command, environment = [sys.executable, "-c", IMPORT_ALL], {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == len(list((ROOT / "dualdiff").rglob("*.py"))) - 1  # without the package's own


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The names in the wheel and in the sdist, and the wheel's entry points and metadata."""
    pytest.importorskip("setuptools", minversion="77", reason="there is no setuptools of 77 or newer")
    place = tmp_path_factory.mktemp("package")
    source = place / "source"
    shutil.copytree(ROOT, source, ignore=CACHES)
    code = "import setuptools.build_meta as b; print(b.build_wheel('..')); print(b.build_sdist('..'))"
    done = subprocess.run([sys.executable, "-c", code], cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    wheel, sdist = next(place.glob("*.whl")), next(place.glob("*.tar.gz"))
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        metadata = archive.read(next(name for name in names if name.endswith("METADATA"))).decode()
        commands = archive.read(next(name for name in names if name.endswith("entry_points.txt"))).decode()
    with tarfile.open(sdist) as archive:
        sources = {name.partition("/")[2] for name in archive.getnames()}
    return names, sources, metadata, commands


def files(folder):
    wanted = [path for path in (ROOT / folder).rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    return {path.relative_to(ROOT).as_posix() for path in wanted}


def test_the_wheel_holds_the_package_and_nothing_else(built):
    names, _, metadata, commands = built
    assert {name for name in names if ".dist-info/" not in name} == files("dualdiff")
    assert "dualdiff = dualdiff.__main__:main" in commands
    assert f"Version: {dualdiff.__version__}\n" in metadata
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_the_sdist_holds_what_the_tests_need(built):
    _, sources, _, _ = built
    for folder in ("dualdiff", "tests", "benchmarks", "docs", "examples"):
        assert files(folder) <= sources
    assert {"CHANGELOG.md", "LICENSE", "Makefile", "README.md", "dualdiff.toml.example", "pyproject.toml"} <= sources
    assert not [name for name in sources if "__pycache__" in name]


def test_the_version_has_one_source():
    assert PYPROJECT["project"]["dynamic"] == ["version"]
    assert PYPROJECT["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "dualdiff.__version__"}
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    newest = re.search(r"^## (\S+?),? ", changes, re.MULTILINE)
    assert newest
    assert newest[1] == dualdiff.__version__


def test_what_is_installed_is_of_this_version():
    try:
        assert version("dualdiff") == dualdiff.__version__
    except PackageNotFoundError:
        pytest.skip("dualdiff is run without having been installed")


def test_assets_travel_with_their_licences():
    for folder in (ROOT / "dualdiff" / "assets").iterdir():
        assert any((folder / name).is_file() for name in ("LICENSE", "README.md")), folder.name
