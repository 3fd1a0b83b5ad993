"""Feed mutated input to every reader of foreign bytes: audio headers, settings, `--game` texts, recipes, model files.

    python benchmarks/fuzz.py [--scale 1.0] [--seed 0] > benchmarks/fuzz.md

A case passes if it ends within 10 s, either in success or in an error with an exit code that is documented for it. A
crash of the process, a traceback, "this is a bug" or a hang fails. Cases run in a child process, which is replaced when
it hangs or dies, so that one bad case costs one line of the table. Each case is a function of (kind, seed, number).
"""

import argparse
import contextlib
import datetime
import faulthandler
import io
import json
import multiprocessing as mp
import random
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import soundfile
import torch

from dualdiff import audio, cli
from dualdiff.core.errors import DataError, DualdiffError
from dualdiff.core.files import write_json_atomically
from dualdiff.generation.label_weights import parse_games
from dualdiff.generation.recipe import sealed
from dualdiff.project.settings import project_toml

LIMIT_S = 10.0
AUDIO = ("wav", "flac", "ogg", "opus", "mp3", "aiff")
COUNTS = {**dict.fromkeys(AUDIO, 334), "settings": 1000, "games": 500, "recipes": 150, "models": 150}
"""Cases of each kind: 2,000 audio headers in all, 300 recipes and model files."""

ALLOWED = {"settings": {0, 3, 4}, "games": {0, 2}, "recipes": {0, 2, 3}, "models": {0, 3}}
"""Exit codes that a case may end in. Audio is read by functions, whose only documented error is DataError."""

EXTREMES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFF8, 0xFFFFFFFF)
GAMES = ("Chrono Trigger", "Zelda: A Link to the Past", "Déjà Vu, the Game", "A", "a:b,c")


def mutated(data: bytes, draw: random.Random, header: int) -> bytes:
    """`data` with one to four changes in its first `header` bytes, or cut off anywhere."""
    result = bytearray(data)
    for _ in range(draw.randint(1, 4)):
        at = draw.randrange(max(1, min(header, len(result))))
        change = draw.randrange(6)
        if change == 0:
            result[at : at + 1] = bytes([draw.randrange(256)])
        elif change == 1:
            size = draw.choice((1, 2, 4, 8))
            value = draw.choice(EXTREMES) % 256**size
            result[at : at + size] = value.to_bytes(size, draw.choice(("little", "big")))
        elif change == 2:
            del result[at : at + draw.randint(1, 16)]
        elif change == 3:
            result[at:at] = draw.randbytes(draw.randint(1, 16))
        elif change == 4:
            result[at:at] = result[at : at + draw.randint(1, 64)]
        else:
            del result[draw.randrange(1, len(result) + 1) :]
            break
    return bytes(result)


def mutated_text(text: str, draw: random.Random) -> str:
    """`text` with one to three lines or characters changed, so that most of it can still be parsed."""
    lines = text.splitlines()
    for _ in range(draw.randint(1, 3)):
        at = draw.randrange(len(lines))
        change = draw.randrange(7)
        if change == 0:
            lines[at] = lines[at].swapcase()
        elif change == 1 and "=" in lines[at]:
            values = ("-1", "1e400", "nan", '""', '"\\u0000"', "[]", "[[[[]]]]", "{}", "true", "9" * 400, "1979-05-27")
            lines[at] = lines[at].partition("=")[0] + "= " + draw.choice(values)
        elif change == 2:
            lines.insert(at, lines[draw.randrange(len(lines))])
        elif change == 3:
            del lines[at]
            lines = lines or [""]
        elif change == 4:
            lines[at] = "".join(draw.sample(lines[at], len(lines[at])))
        elif change == 5:
            lines.insert(at, draw.choice(("[", "]]", "a.b.c = 1", "\x00", "\ud7ff", "[" * 2000, "x = " + "[" * 2000)))
        else:
            lines[at] = lines[at][: draw.randrange(len(lines[at]) + 1)]
    return "\n".join(lines)


def mutated_value(value: object, draw: random.Random) -> object:
    """A JSON value with one part replaced, at any depth."""
    if isinstance(value, dict) and value and draw.random() < 0.8:
        key = draw.choice(sorted(value))
        return {**value, key: mutated_value(value[key], draw)}
    if isinstance(value, list) and value and draw.random() < 0.8:
        at = draw.randrange(len(value))
        return [mutated_value(one, draw) if index == at else one for index, one in enumerate(value)]
    deep: object = []
    for _ in range(500):
        deep = [deep]
    choices = (None, True, -1, 0, 1e308, 10**400, "", "x" * 5000, "../../etc", [], {}, deep, "\x1b[31m", 0.5, "nan")
    return draw.choice(choices)


def quietly(arguments: list[str]) -> tuple[int, str]:
    """Run a command; returns the exit code, and its output."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        code = cli.run(arguments)
    return code, output.getvalue()


class Cases:
    """The seeds of mutation in a folder of their own, and one method per kind: the outcome of case `number`."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.seed = folder, seed
        self.work = folder / "work"
        self.work.mkdir(exist_ok=True)

    def draw(self, kind: str, number: int) -> random.Random:
        """The random numbers of a case."""
        return random.Random(f"{self.seed}/{kind}/{number}")

    def outcome(self, kind: str, number: int) -> str:
        """The outcome of a case: "read", "refused", or, beginning with "!", a failure."""
        draw = self.draw(kind, number)
        if kind in AUDIO:
            return self.audio(kind, draw)
        code, text = getattr(self, kind)(draw)
        if "this is a bug" in text or "Traceback" in text:
            (line, *_) = [line for line in text.splitlines() if "this is a bug" in line or "Error" in line] or [text]
            return f"! {line.strip()[:200]}"
        return ("read" if code == 0 else "refused") if code in ALLOWED[kind] else f"! exit code {code}: {text[:200]}"

    def audio(self, kind: str, draw: random.Random) -> str:
        """Probe and read a file whose header is mutated."""
        path = self.work / f"case.{kind}"
        path.write_bytes(mutated((self.folder / f"seed.{kind}").read_bytes(), draw, 512))
        try:
            audio.probe(path)
            audio.read(path, sample_rate=32000)
        except DataError:
            return "refused"
        return "read"

    def settings(self, draw: random.Random) -> tuple[int, str]:
        """Open a project whose settings are mutated."""
        project = self.work / "project"
        project.mkdir(exist_ok=True)
        text = mutated_text(project_toml("nano", "fuzz"), draw)
        (project / "dualdiff.toml").write_text(text, encoding="utf-8", errors="replace")
        return quietly(["encode", "--project", str(project)])

    def games(self, draw: random.Random) -> tuple[int, str]:
        """Parse a mix of games."""
        parts = [*GAMES, *(name.upper() for name in GAMES), ",", ":", ":0.5", ":-1", ":1e308", ":1e39", ":nan", ":inf"]
        parts += [" ", "\t", "\n", "\x1b[2J", "é", "e\u0301", "\u202e", "", "0.7", ":0", "::", ",,", "x" * 3000, "\x00"]
        joint = draw.choice(("", "", ",", ":0.5,"))
        texts = [joint.join(draw.choices(parts, k=draw.randint(0, 6))) for _ in range(draw.randint(1, 3))]
        texts += draw.choice(([], [draw.choice(GAMES)]))
        try:
            parse_games(texts, GAMES)
        except DualdiffError as error:
            return error.exit_code, error.message
        return 0, ""

    def recipes(self, draw: random.Random) -> tuple[int, str]:
        """Render from a recipe that is mutated, half of them with a checksum that fits."""
        recipe = json.loads((self.folder / "recipe.json").read_text(encoding="utf-8"))
        changed = mutated_value(recipe, draw)
        if draw.random() < 0.5 and isinstance(changed, dict):
            with contextlib.suppress(ValueError, TypeError, OverflowError, RecursionError):
                changed = sealed({name: value for name, value in changed.items() if name != "checksum"})
        clip = self.work / "clip.flac"
        shutil.copy(self.folder / "seed.flac", clip)
        text = json.dumps(changed)
        sidecar = text if draw.random() < 0.8 else mutated(text.encode(), draw, len(text)).decode(errors="replace")
        clip.with_suffix(".json").write_text(sidecar, encoding="utf-8")
        out = str(self.work / "clips")
        return quietly(["generate", "--from", str(clip), "--model", str(self.folder / "no model"), "--out", out])

    def models(self, draw: random.Random) -> tuple[int, str]:
        """Inspect a model one of whose files is mutated."""
        model = self.work / "model"
        shutil.rmtree(model, ignore_errors=True)
        shutil.copytree(self.folder / "model", model)
        path = draw.choice(sorted(path for path in model.iterdir() if path.suffix in (".json", ".safetensors")))
        if path.suffix == ".json" and draw.random() < 0.5:
            value = mutated_value(json.loads(path.read_text(encoding="utf-8")), draw)
            path.write_text(json.dumps(value), encoding="utf-8")
        else:
            path.write_bytes(mutated(path.read_bytes(), draw, 2048))
        return quietly(
            ["generate", "--model", str(model), "--steps", "1", "--length", "0.6", "--out", str(self.work), "--force"]
        )


def write_seeds(folder: Path) -> None:
    """The files that are mutated: 2 s of tones in each kind of audio file, a recipe, and an untrained model."""
    time_s = torch.arange(64000) / 32000
    tones = torch.stack([torch.sin(440 * 6.283 * time_s), torch.sin(660 * 6.283 * time_s)]) * 0.3
    for kind in AUDIO[:-1]:
        rate = 48000 if kind == "opus" else 32000
        audio.write(folder / f"seed.{kind}", tones, rate, title="A title", comment="A comment")
    soundfile.write(folder / "seed.aiff", tones.T.numpy(), 32000)
    make_model(folder / "model")
    code, text = quietly(["generate", "--model", str(folder / "model"), "--steps", "1", "--length", "0.6", "--sidecar",
                          "--out", str(folder / "clips")])  # fmt: skip
    if code:
        sys.exit(f"no clip to take a recipe from: {text}")
    (sidecar,) = (folder / "clips").glob("*.json")
    write_json_atomically(folder / "recipe.json", json.loads(sidecar.read_text(encoding="utf-8")))


def make_model(folder: Path) -> None:
    """An untrained model of a few thousand parameters."""
    from dualdiff.core.tensors import tensors_of
    from dualdiff.formats.base import FORMATS
    from dualdiff.formats.config import MultiMelConfig
    from dualdiff.model_store.model import load_vae, save_unet, save_vae
    from dualdiff.models.unet import UNet, UNetConfig
    from dualdiff.models.vae import VAE, VAEConfig

    torch.manual_seed(0)
    fmt = FORMATS["multimel"](MultiMelConfig())
    small = VAEConfig(base_channels=4, channel_mults=(1, 1, 1, 1), encoder_blocks=1, decoder_blocks=1)
    vae = VAE(small, channels=fmt.channels, frequencies=fmt.frequencies())
    save_vae(folder, fmt, vae, tensors_of(vae), {"steps": 0}, "# fuzz\n")
    config = UNetConfig(base_channels=8, channel_mults=(1, 1), blocks=1, head_channels=8, embedding_channels=16)
    unet = UNet(config, channels=4, games=2, frequencies=vae.latent_frequencies)
    facts = {"games": ["A", "B"], "latent_mean": [0.0] * 4, "latent_std": [1.0] * 4, "sigma_min": 0.03}
    save_unet(folder, load_vae(folder), unet, tensors_of(unet), facts, "# fuzz\n")


def serve(connection: Connection, folder: Path, seed: int) -> None:
    """Run the cases that come over a connection, and send back the outcome of each."""
    faulthandler.enable()
    torch.set_num_threads(1)
    cases = Cases(folder, seed)
    while (case := connection.recv()) is not None:
        try:
            outcome = cases.outcome(*case)
        except BaseException as error:  # noqa: BLE001 - whatever escapes is what this looks for
            where = traceback.extract_tb(error.__traceback__)[-1]
            outcome = f"! {type(error).__name__}: {str(error)[:120]} ({Path(where.filename).name}:{where.lineno})"
        connection.send(outcome)


class Child:
    """A process that runs cases, replaced after a hang or a crash."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.arguments = (folder, seed)
        self._start()

    def _start(self) -> None:
        context = mp.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs, *self.arguments))
        self.process.start()
        theirs.close()

    def run(self, kind: str, number: int, limit_s: float) -> str:
        """The outcome of a case."""
        self.connection.send((kind, number))
        try:
            if self.connection.poll(limit_s):
                return str(self.connection.recv())
            outcome = f"! hang: over {limit_s:g} s"
        except EOFError:
            outcome = "! crash of the process"
        self.stop()
        self._start()
        return outcome

    def stop(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.join()


def run(counts: dict[str, int], seed: int, say: Callable[[str], None]) -> dict[str, Counter[str]]:
    """The outcomes of all cases, counted by kind; failures are said at once, with what reproduces them."""
    found: dict[str, Counter[str]] = {kind: Counter() for kind in counts}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_seeds(folder)
        child = Child(folder, seed)
        child.run("games", 0, 120.0)  # imports take long, once
        for kind, count in counts.items():
            for number in range(count):
                outcome = child.run(kind, number, LIMIT_S)
                found[kind][outcome.split(" ")[0]] += 1
                if outcome.startswith("!"):
                    say(f"{kind} {number} (seed {seed}) {outcome}")
        child.stop()
    return found


def main() -> int:
    """Run all cases and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, default=1.0, help="share of the cases to run")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    started_s = time.monotonic()
    counts = {kind: max(1, round(count * options.scale)) for kind, count in COUNTS.items()}
    failures: list[str] = []

    def say(text: str) -> None:
        failures.append(text)
        print(text, file=sys.stderr, flush=True)

    found = run(counts, options.seed, say)
    print(f"# Mutated input ({datetime.date.today()})\n")
    print(
        f"`python benchmarks/fuzz.py --scale {options.scale:g} --seed {options.seed}`: {sum(counts.values())} cases in"
    )
    print(
        f"{(time.monotonic() - started_s) / 60:.0f} min. A case fails if it hangs for over {LIMIT_S:g} s, crashes, ends"
    )
    print("in a traceback or in an exit code that is not documented.\n")
    print("| kind | cases | read | refused in one line | failed |\n|---|---|---|---|---|")
    for kind, outcomes in found.items():
        cells = (kind, sum(outcomes.values()), outcomes["read"], outcomes["refused"], outcomes["!"])
        print(f"| {' | '.join(map(str, cells))} |")
    print("\n## Failures\n\n" + "\n".join(f"* {line}" for line in failures) if failures else "\nNo case failed.")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
