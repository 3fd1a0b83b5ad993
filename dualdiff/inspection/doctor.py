"""What this machine can do for dualdiff, found out by trying: what `doctor` shows."""

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from dualdiff.core.device import cpu_bfloat16, has_fast_bfloat16, select_device
from dualdiff.core.errors import DualdiffError

LEAST_PYTHON = (3, 10)
LEAST_FREE_GIB = 5.0
"""Below this a training's checkpoints, and the latents of a collection, may not fit."""

TRIAL_S = 0.02
"""How long a convolution is measured in each precision."""

DISAGREES = 1.3
"""From this ratio of times on, the chosen precision counts as the slower one: below, it may be noise."""

CODEC_SUFFIXES = (".flac", ".wav", ".ogg", ".mp3")

State = Literal["ok", "note", "missing"]


@dataclass(frozen=True)
class Check:
    """One thing looked at: "ok", "note" (works without, but see the hint) or "missing" (does not work without)."""

    name: str
    state: State
    found: str
    hint: str = ""


def examine(folder: Path) -> list[Check]:
    """Look at everything that dualdiff needs or can use, with `folder` as the project's folder."""
    on_folder = [check_disk, check_writable]
    return [check() for check in MACHINE_CHECKS] + [check(folder) for check in on_folder]


def check_python() -> Check:
    """The interpreter."""
    found = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    if sys.version_info < LEAST_PYTHON:
        return Check("python", "missing", found, "install Python 3.10 or newer")
    return Check("python", "ok", found)


def check_torch() -> Check:
    """The tensor library."""
    return Check("torch", "ok", torch.__version__)


def check_torchaudio() -> Check:
    """The audio companion of torch, which has to match it."""
    try:
        import torchaudio
    except (ImportError, OSError, RuntimeError) as error:
        return Check("torchaudio", "missing", f"{error}", 'pip install "torch>=2.11,<2.15" "torchaudio>=2.11"')
    return Check("torchaudio", "ok", torchaudio.__version__)


def check_device() -> Check:
    """The device that `auto` means."""
    device = select_device("auto")
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        return Check("device", "ok", f"cuda: {properties.name}, {properties.total_memory / 2**30:.0f} GiB")
    if device.type == "mps":
        return Check("device", "ok", "mps: the GPU of this Mac")
    return Check("device", "note", f"cpu: {_processor()}", "without a GPU only the nano preset trains in minutes")


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def check_precision() -> Check:
    """The precision that `auto` means here, and whether a convolution measured in both agrees."""
    device = select_device("auto")
    chosen = "bfloat16" if has_fast_bfloat16(device) else "float32"
    times = {name: convolution_s(getattr(torch, name), device) for name in ("float32", "bfloat16")}
    other = "float32" if chosen == "bfloat16" else "bfloat16"
    ratio = times[chosen] / times[other]
    by = f" ({cpu_bfloat16()})" if device.type == "cpu" and cpu_bfloat16() else ""
    found = f"{chosen}{by}; a convolution takes {1 / ratio:.2g} times as long in {other}"
    if ratio > DISAGREES:
        hint = f'auto goes by what the processor has; if this repeats, set project.precision = "{other}"'
        return Check("precision", "note", found, hint)
    return Check("precision", "ok", found)


def convolution_s(dtype: torch.dtype, device: torch.device) -> float:
    """Return the seconds that one convolution in a type takes: the least of a few, 64 channels to 64, 3 by 3."""
    x, weight = (
        torch.ones(*shape).to(device, dtype).contiguous(memory_format=torch.channels_last)
        for shape in ((1, 64, 32, 64), (64, 64, 3, 3))
    )
    times_s: list[float] = []
    until_s = time.perf_counter() + TRIAL_S
    with torch.inference_mode():
        while len(times_s) < 3 or time.perf_counter() < until_s:
            start_s = time.perf_counter()
            torch.nn.functional.conv2d(x, weight, padding=1)[0, 0, 0, 0].item()  # waits for a GPU to be done
            times_s.append(time.perf_counter() - start_s)
    return min(times_s)


def check_threads() -> Check:
    """How many CPU cores there are, and how many of them torch uses."""
    return Check("threads", "ok", f"torch uses {torch.get_num_threads()} of {os.cpu_count() or 1} cores")


def check_codecs() -> Check:
    """The kinds of audio files that can be written and read back, by doing it."""
    try:
        from dualdiff import audio
    except (ImportError, OSError, RuntimeError) as error:
        return Check("codecs", "missing", f"{error}", 'pip install --force-reinstall "soundfile>=0.13"')
    tone = torch.sin(torch.arange(16000) * 0.1).mul(0.5).expand(2, -1)
    working, broken = [], []
    with tempfile.TemporaryDirectory() as folder:
        for suffix in CODEC_SUFFIXES:
            path = Path(folder) / f"tone{suffix}"
            try:
                audio.write(path, tone, 32000)
                audio.read(path, sample_rate=32000)
            except DualdiffError:
                broken.append(suffix[1:])
            else:
                working.append(suffix[1:])
    found = f"soundfile {importlib.metadata.version('soundfile')}: {' '.join(working)}"
    if broken:
        return Check("codecs", "missing", f"{found}; not {' '.join(broken)}", 'pip install --upgrade "soundfile>=0.13"')
    return Check("codecs", "ok", found)


def check_ffmpeg() -> Check:
    """The converter for kinds of audio files that dualdiff does not read by itself."""
    path = shutil.which("ffmpeg")
    if path:
        return Check("ffmpeg", "ok", path)
    hint = "it turns m4a, console music (spc, nsf, vgm) and modules into flac for the scan; Debian: apt install ffmpeg"
    return Check("ffmpeg", "note", "not here", hint)


def check_compile() -> Check:
    """Whether torch.compile has the compiler it calls."""
    if torch.cuda.is_available() and importlib.util.find_spec("triton") is not None:
        return Check("torch.compile", "ok", "triton")
    candidates = [os.environ.get("CXX", ""), "g++", "clang++", "c++", "cl"]
    path = next((found for name in candidates if name and (found := shutil.which(name))), None)
    if path:
        return Check("torch.compile", "ok", path)
    hint = "everything works without; a C++ compiler (on Debian: apt install g++) lets torch.compile speed up networks"
    return Check("torch.compile", "note", "no C++ compiler", hint)


def check_disk(folder: Path) -> Check:
    """The free space where the project is."""
    there = next(parent for parent in [folder.resolve(), *folder.resolve().parents] if parent.exists())
    free_gib = shutil.disk_usage(there).free / 2**30
    found = f"{free_gib:.0f} GiB free at {there}"
    if free_gib < LEAST_FREE_GIB:
        return Check("disk", "note", found, f"below {LEAST_FREE_GIB:g} GiB latents and checkpoints may not fit")
    return Check("disk", "ok", found)


def check_writable(folder: Path) -> Check:
    """Whether files can be made in the project's folder."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            return Check("folder", "ok", f"{folder.resolve()} can be written to")
    except OSError as error:
        found = f"{folder.resolve()}: {error.strerror}"
        return Check("folder", "missing", found, "go to a folder of yours, or name one with --project")


MACHINE_CHECKS: tuple[Callable[[], Check], ...] = (
    check_python,
    check_torch,
    check_torchaudio,
    check_device,
    check_precision,
    check_threads,
    check_codecs,
    check_ffmpeg,
    check_compile,
)
