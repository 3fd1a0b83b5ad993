"""Outputs that a change of the code must not change without notice, compared with the files in `tests/golden/`."""

import json
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import typer

import dualdiff
from dualdiff import audio, cli
from dualdiff.formats.base import FORMATS
from tests.conftest import Outcome, tiny_settings

GOLDEN = Path(__file__).parent / "golden"
TRACK = Path(__file__).parents[1] / "examples" / "music" / "Pekka Kana 2" / "song05.ogg"

EXACT = ("--set", "project.precision=float32", "--set", "project.device=cpu")
"""Settings of everything that is computed here: no rounding that depends on what the processor is fast at."""
RELATIVE, ABSOLUTE = 2e-3, 2e-4
"""Tolerance of floats: processors order their sums differently."""
BYTES = 0.02
"""Relative tolerance of file sizes: records hold times."""
OF_THE_MACHINE = ("step_s", "memory_mib")
"""Measures of a run that no golden holds."""
LEVEL_DB = 0.5
"""Tolerance of a clip's band levels: its samples differ between processors, as the order of phase integration does."""


def differences(golden: Any, now: Any, place: str = "") -> Iterator[str]:
    """Where two JSON values differ beyond the tolerances, one line each."""
    if isinstance(golden, dict) and isinstance(now, dict):
        for key in [*golden, *(key for key in now if key not in golden)]:
            if key in golden and key in now:
                yield from differences(golden[key], now[key], f"{place}/{key}")
            else:
                yield f"{place}/{key}: only {'before' if key in golden else 'now'}"
    elif isinstance(golden, list) and isinstance(now, list) and len(golden) == len(now):
        for index, (one, other) in enumerate(zip(golden, now, strict=True)):
            yield from differences(one, other, f"{place}/{index}")
    elif not is_close(golden, now, place):
        yield f"{place}: {golden!r} before, {now!r} now"


def is_close(golden: Any, now: Any, place: str) -> bool:
    if isinstance(golden, float) and isinstance(now, float):
        relative, absolute = (0.0, LEVEL_DB) if "_db" in place else (RELATIVE, ABSOLUTE)
        return math.isclose(golden, now, rel_tol=relative, abs_tol=absolute)
    if place.endswith("/bytes") and golden and now:
        return math.isclose(golden, now, rel_tol=BYTES)
    return bool(golden == now)


@pytest.fixture
def compare(request: pytest.FixtureRequest) -> Callable[[str, Any], None]:
    """Compare a value with a golden file; with `--renew-goldens`, write it instead."""

    def compared(name: str, value: Any) -> None:
        path = GOLDEN / name
        if request.config.getoption("--renew-goldens"):
            text = json.dumps(value, indent=1, ensure_ascii=False)
            path.write_text(re.sub(r"(?<=[\[\d,])\n\s+(?=[-\d\]])", "", text) + "\n", encoding="utf-8")
        assert not list(differences(json.loads(path.read_text(encoding="utf-8")), value)), name

    return compared


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, music: Path) -> Path:
    """A project taken through all stages in float32, every step recorded."""
    folder = tmp_path_factory.mktemp("golden") / "project"
    assert cli.run(["init", "--preset", "nano", "--project", str(folder)]) == 0
    settings = [*tiny_settings(), *EXACT, "--set", "vae.train.report_every=1", "--set", "unet.train.report_every=1"]
    for command in (["dataset", "scan", str(music)], ["vae", "train"], ["encode"], ["unet", "train", "--force"]):
        assert cli.run([*command, "--project", str(folder), *settings]) == 0, command
    return folder


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clip of the model that ships, with its recipe beside it."""
    folder = tmp_path_factory.mktemp("golden clip")
    flags = ["--game", "Freedoom:0.7,Noiz2sa:0.3", "--length", "4", "--seed", "5", "--steps", "8"]
    files = ["--model", "nano", "--out", str(folder), "--name", "clip", "--format", "wav", "--sidecar"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert cli.run(["generate", *flags, *files, *EXACT]) == 0
    return folder / "clip.wav"


def portable(value: Any, **names: Path) -> Any:
    """A JSON value without what differs between machines: paths, hashes (numbered as they come), the version."""
    text = json.dumps(value, ensure_ascii=False)
    for name, path in names.items():
        text = text.replace(path.as_posix(), name)
    hashes: dict[str, str] = {}
    text = re.sub(r"\b[0-9a-f]{64}\b", lambda match: hashes.setdefault(match[0], f"hash {len(hashes) + 1}"), text)
    return json.loads(text.replace(f'"{dualdiff.__version__}"', '"VERSION"'))


def commands(command: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield words
    for name, below in getattr(command, "commands", {}).items():
        yield from commands(below, (*words, name))


def test_help_of_every_command(run_cli, monkeypatch, compare):
    monkeypatch.setenv("COLUMNS", "100")
    texts = {
        " ".join(words): run_cli(*words, "--help").stdout.split("\n")
        for words in commands(typer.main.get_command(cli.app))
    }
    assert len(texts) >= 12
    compare("help.json", texts)


@pytest.mark.parametrize("part", ["", "dataset.jsonl", "latents", "runs/vae", "runs/unet", "models/vae", "models/unet"])
def test_inspection_of_a_project(part, trained, music, run_cli, compare):
    outcome: Outcome = run_cli("inspect", trained / part, "--json")
    assert outcome.code == 0
    found = portable(json.loads(outcome.stdout), PROJECT=trained, MUSIC=music)
    if "measures" in found:
        found["measures"] = [row for row in found["measures"] if row["measure"] not in OF_THE_MACHINE]
    compare(f"inspect-{part.replace('/', '-').removesuffix('.jsonl') or 'project'}.json", found)


@pytest.mark.parametrize("network", ["vae", "unet"])
def test_losses_of_four_steps(network, trained, compare):
    lines = (trained / "runs" / network / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    compare(f"losses-{network}.json", [json.loads(line) for line in lines])


@pytest.mark.parametrize("name", list(FORMATS))
def test_samples_of_two_seconds(name, compare):
    """Means and standard deviations by channel, a sixteenth of the bins, and a fifth of the frames."""
    own = FORMATS[name](FORMATS[name].Config())
    waveform = audio.read(TRACK, sample_rate=own.sample_rate, start_s=10.0, duration_s=2.0)
    with torch.no_grad():
        sample = own.encode(waveform[None])[0].double()
    cells = [torch.stack([cell.mean(), cell.std()]) for part in sample.chunk(16, 1) for cell in part.chunk(5, 2)]
    fingerprint = [[round(number, 6) for number in cell.tolist()] for cell in cells]
    compare(f"samples-{name}.json", {"shape": list(sample.shape), "mean, deviation": fingerprint})


def levels_db(waveform: torch.Tensor, sample_rate: int) -> list[list[float]]:
    """Levels of octave bands from 31 Hz in parts of half a second, dB."""
    spectra = torch.stft(waveform, 2048, 1024, window=torch.hann_window(2048), return_complex=True).abs().square()
    bands = torch.log2(torch.arange(1025) * sample_rate / 2048 / 31.25).clamp(0, 8.99).long()
    power = torch.zeros(9, spectra.shape[-1]).index_add_(0, bands, spectra.mean(0))
    parts = [part.mean(1) for part in power.split(sample_rate // 2048, dim=1)]
    return [[round(float(level), 2) for level in 10 * torch.log10(part + 1e-9)] for part in parts]


def test_levels_of_a_clip_of_the_shipped_model(clip, compare):
    compare("clip-levels.json", {"levels_db": levels_db(audio.read(clip, sample_rate=32000), 32000)})


def test_samples_of_a_clip_of_the_shipped_model(clip, compare, request):
    recipe = json.loads(clip.with_suffix(".json").read_text(encoding="utf-8"))["recipe"]
    now = {key: recipe[key] for key in ("machine", "torch", "waveform")}
    if not request.config.getoption("--renew-goldens"):
        before = json.loads((GOLDEN / "clip-samples.json").read_text(encoding="utf-8"))
        if any(before[key] != now[key] for key in ("machine", "torch")):
            pytest.skip(f"the golden clip was rendered on {before['machine']}, torch {before['torch']}")
    compare("clip-samples.json", now)


def test_a_recipe(clip, compare):
    kept = json.loads(clip.with_suffix(".json").read_text(encoding="utf-8"))
    for key in ("machine", "torch", "waveform", "check"):
        assert kept["recipe"].pop(key)
    compare("recipe.json", portable(kept))
