"""What several test files need: a tiny music collection, a project, and the command line."""

import os

# Tiny tensors are computed faster by one thread, and tests may share the machine. Before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("NO_COLOR", "1")

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import hypothesis
import pytest
import torch

from dualdiff import audio, cli
from dualdiff.data import analysis
from dualdiff.project.settings import project_toml
from dualdiff.training import unet

torch.set_num_threads(1)

# The same examples every time, and no failure for being slow on a shared machine.
hypothesis.settings.register_profile("house", deadline=None, derandomize=True)
hypothesis.settings.load_profile("house")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--renew-goldens", action="store_true", help="write tests/golden/ again instead of comparing")


TINY = [
    "vae.base_channels=4",
    "vae.channel_mults=[1,1,1,1]",
    "vae.encoder_blocks=1",
    "vae.decoder_blocks=1",
    "vae.spectral.block_sizes=[8,16]",
    "vae.spectral.overlap=2",
    "vae.train.crop_s=0.3",
    "vae.train.batch_size=4",
    "vae.train.grad_accum_steps=2",
    "unet.base_channels=8",
    "unet.channel_mults=[1,1]",
    "unet.blocks=1",
    "unet.head_channels=8",
    "unet.embedding_channels=16",
    "unet.train.crop_s=1",
    "unet.train.batch_size=4",
    "encode.offsets=2",
    "dataset.min_duration_s=1",
    "dataset.validation_share=0.2",
    "generate.steps=2",
    *(
        f"{kind}.train.{key}"
        for kind in ("vae", "unet")
        for key in ("steps=4", "save_every=1", "warmup_steps=2", "keep_checkpoints=9")
    ),
]
"""Settings under which a stage takes about a second."""

SAMPLE_RATE = 32000
GAMES = {"Bubble Bay": (3, 220.0), "Crystal Caves": (3, 330.0), "Déjà Vu, the Game": (2, 165.0)}
"""The games of the tiny collection: how many tracks each has, and the pitch its melodies circle around."""


def melody(pitch_hz: float, seed: int, duration_s: float = 4.0) -> torch.Tensor:
    """Plucked notes of a pentatonic scale, slightly different left and right, (2, T)."""
    generator = torch.Generator().manual_seed(seed)
    note_length = SAMPLE_RATE // 4
    time_s = torch.arange(note_length) / SAMPLE_RATE
    notes = []
    for _ in range(round(duration_s * 4)):
        step = (0, 2, 4, 7, 9, 12)[int(torch.randint(6, (), generator=generator))]
        phase = 2 * torch.pi * pitch_hz * 2 ** (step / 12) * time_s
        tone = sum(torch.sin(phase * harmonic) / harmonic**1.5 for harmonic in range(1, 7))
        notes.append(tone * torch.exp(-6 * time_s))
    left = torch.cat(notes)
    noise = torch.randn(2, len(left), generator=generator) * 1e-3
    return torch.stack([left, 0.8 * left.roll(200)]) * 0.3 + noise


def write_music(folder: Path) -> Path:
    """The tiny collection as folder/<game>/<track>.flac."""
    for game, (tracks, pitch_hz) in GAMES.items():
        for track in range(tracks):
            path = folder / game / f"{track + 1:02d} tune.flac"
            path.parent.mkdir(parents=True, exist_ok=True)
            audio.write(path, melody(pitch_hz, seed=len(game) + track), SAMPLE_RATE, title=f"Tune {track + 1}")
    return folder


@pytest.fixture(scope="session")
def music(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny collection: eight tracks of 4 s, three games. Shared: to be read only."""
    return write_music(tmp_path_factory.mktemp("collection") / "music")


@pytest.fixture(scope="session", autouse=True)
def short_previews() -> Iterator[None]:
    """Previews of a training last a second, not eight."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(unet, "PREVIEW_S", 1.0)
        yield


@dataclass(frozen=True)
class Outcome:
    """What a command line came to."""

    code: int
    stdout: str
    stderr: str


@pytest.fixture
def run_cli(capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Run one command line in this process: `run_cli("inspect", path)`."""

    def run(*arguments: object) -> Outcome:
        capsys.readouterr()
        code = cli.run([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return Outcome(code, out, err)

    return run


@pytest.fixture
def project(tmp_path: Path, music: Path, run_cli: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a new project (nano) whose music is the tiny collection, not yet scanned."""
    monkeypatch.setattr(analysis, "FILES_PER_PROCESS", 1000)  # so few files are measured sooner than a process starts
    folder = tmp_path / "a project"
    assert run_cli("init", "--preset", "nano", "--project", folder).code == 0
    settings = folder / "dualdiff.toml"
    text = settings.read_text(encoding="utf-8")
    text = text.replace('folder = "music"', f'folder = "{music.as_posix()}"').replace(
        "min_duration_s = 10.0", "min_duration_s = 1.0"
    )
    settings.write_text(text, encoding="utf-8")
    return folder


def tiny_settings() -> list[str]:
    return [part for override in TINY for part in ("--set", override)]


@pytest.fixture(scope="session")
def chain(tmp_path_factory: pytest.TempPathFactory, music: Path) -> Path:
    """A project in a folder with a space in its name, taken through all stages by the commands."""
    folder = tmp_path_factory.mktemp("a project")
    (folder / "dualdiff.toml").write_text(project_toml("nano", "tiny"), encoding="utf-8")
    (folder / "music").symlink_to(music)
    for command in (["dataset", "scan"], ["vae", "train"], ["encode"], ["unet", "train", "--force"]):
        assert cli.run([*command, "--project", str(folder), *tiny_settings()]) == 0, command
    return folder
