"""How long a clip takes from the shell prompt, and where the time goes, in bfloat16 and in float32.

    python benchmarks/generate.py MODEL_FOLDER > benchmarks/generate.md

The whole is the command `dualdiff generate --length 45` as a process of its own, imports included, on all cores: the
median of `REPEATS`, each by turns in both precisions. The parts are those of one more process that calls the same
functions in the same order with a clock between them. MODEL_FOLDER is one of the preset nano that was trained, such as
demo/models/unet after `make demo`; training changes no time.
"""

import datetime
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

LENGTH_S = 45.0
REPEATS = 3
PRECISIONS = ("bfloat16", "float32")
PARTS = "--parts"


def whole(model: Path, precision: str, folder: Path, number: int) -> float:
    """Seconds of the command."""
    (folder / "dualdiff.toml").write_text(f'[project]\nprecision = "{precision}"\n', encoding="utf-8")
    flags = ["--model", str(model), "--length", str(LENGTH_S), "--name", f"{precision}-{number}"]
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "dualdiff", "-q", "generate", *flags],
        cwd=folder,
        check=True,
        stdout=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    )
    return time.perf_counter() - start


def parts(model: str, precision: str) -> dict[str, float]:
    """Seconds of each part, in a process that has just started."""
    marks = [("", time.perf_counter())]

    def mark(name: str) -> None:
        marks.append((name, time.perf_counter()))

    import torch

    mark("import torch")
    from dualdiff.generation import output
    from dualdiff.generation.pipeline import Pipeline
    from dualdiff.generation.request import Request
    from dualdiff.project.settings import open_project  # noqa: F401

    mark("import the rest")
    pipeline = Pipeline.load(model, "cpu", precision)
    mark("load the model")
    request = Request(games={pipeline.games[0]: 0.7, pipeline.games[-1]: 0.3}, length_s=LENGTH_S)
    latents = pipeline.sample([request])
    mark(f"sample, {request.config.steps} steps")
    with torch.inference_mode():
        sample = pipeline.model.vae_model.vae.decode(pipeline.model.space.restore(latents))
    mark("decode to a sample (VAE)")
    waveform = pipeline.format.decode(sample, seed=1, quality=request.config.quality)[0]
    mark("recover the phase")
    clip = pipeline._finished(request, waveform[:, : round(LENGTH_S * pipeline.format.sample_rate)])
    mark("set the level")
    with tempfile.TemporaryDirectory() as folder:
        output.write_clip(Path(folder) / "clip.flac", clip)
    mark("write the file")
    return {name: now - before for (_, before), (name, now) in pairwise(marks)}


def main() -> None:
    """Measure and print the tables as Markdown."""
    if PARTS in sys.argv:
        sys.stdout.write(json.dumps(parts(*sys.argv[2:4])))
        return
    model = Path(sys.argv[1]).resolve()
    times: dict[str, list[float]] = {precision: [] for precision in PRECISIONS}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(REPEATS):
            for precision in PRECISIONS:
                times[precision].append(whole(model, precision, Path(folder), number))
    split = {
        precision: json.loads(
            subprocess.run(
                [sys.executable, __file__, PARTS, str(model), precision], check=True, capture_output=True, text=True
            ).stdout
        )
        for precision in PRECISIONS
    }
    import torch

    from dualdiff.core.device import cpu_bfloat16

    units = f"{torch.backends.cpu.get_cpu_capability()}, bfloat16 by {cpu_bfloat16() or 'no instruction'}"
    print("# A clip, from the shell prompt\n")
    print(f"{datetime.date.today()}, {os.cpu_count()} CPU cores, {units}, torch {torch.__version__}, preset nano,")
    print(f"{LENGTH_S:g} s of stereo, default settings. `python benchmarks/generate.py {sys.argv[1]}`.\n")
    print("| seconds | " + " | ".join(PRECISIONS) + " |\n|---|---|---|")
    middle = {precision: statistics.median(times[precision]) for precision in PRECISIONS}
    print(f"| whole command, median of {REPEATS} | " + " | ".join(f"{middle[p]:.1f}" for p in PRECISIONS) + " |")
    for name in split[PRECISIONS[0]]:
        print(f"| {name} | " + " | ".join(f"{split[p][name]:.1f}" for p in PRECISIONS) + " |")
    ratio = middle["bfloat16"] / middle["float32"]
    print(f"\nbfloat16 takes {ratio:.2f} of the time of float32. Not measured on a GPU.")
    print("The parts are of one run of their own.")


if __name__ == "__main__":
    main()
