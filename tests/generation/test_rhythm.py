"""Tempos and beats of clips: asked for, drawn, of a loop, of what a clip goes on from; and one grid in all windows."""

from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
import torch

from dualdiff.core.errors import UsageError
from dualdiff.diffusion.inpainting_guidance import columns_of
from dualdiff.diffusion.windowed import lay_out
from dualdiff.generation import rhythm
from dualdiff.generation.config import GenerateConfig
from dualdiff.generation.output import again, write_clip
from dualdiff.generation.pipeline import Pipeline
from dualdiff.generation.request import Given, Request, Rewrite
from tests.model_store.test_model import write_model

TEMPOS = {"A": [[100.0, 4], [120.0, 4]], "B": [[90.0, 0]]}
QUICK = GenerateConfig(steps=2, cfg_scale=1.5)
COLUMN_S = 0.064


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    made = Pipeline.load(write_model(tmp_path_factory.mktemp("models")), device="cpu", precision="float32")
    made.model = replace(made.model, facts=MappingProxyType({**made.model.facts, "tempos": TEMPOS}))
    return made


def settled(knows_rhythm: bool = True, **values: object) -> Request:
    return rhythm.settled(Request(**values), knows_rhythm, TEMPOS)  # type: ignore[arg-type]


def test_the_seed_draws_one_of_the_games_own_tempos() -> None:
    drawn = {(own.bpm, own.beats_per_bar) for own in (settled(games={"A": 1}, seed=seed) for seed in range(30))}
    assert drawn == {(100.0, 4), (120.0, 4)}
    assert {settled(games={"B": 1}, seed=seed).bpm for seed in range(9)} == {90.0}
    assert {settled(seed=seed).bpm for seed in range(60)} == {90.0, 100.0, 120.0}
    assert settled(seed=5) == settled(seed=5)
    mostly = [settled(games={"A": 0.1, "B": 0.9}, seed=seed).bpm == 90 for seed in range(200)]
    assert 0.8 < np.mean(mostly) < 0.97


def test_a_settled_request_stays_as_it_is() -> None:
    for own in (settled(seed=3), settled(bpm=128.0, bars=8), settled(bpm=128.0, loop=True, length_s=9.0)):
        assert rhythm.settled(own, True, TEMPOS) == own


def test_bars_say_the_length() -> None:
    assert settled(bpm=120.0, bars=8).length_s == pytest.approx(16)
    assert settled(games={"B": 1}, bars=2).length_s == pytest.approx(2 * 4 * 60 / 90)
    assert settled(bpm=120.0, length_s=7.3).length_s == 7.3


@pytest.mark.parametrize("bpm", [83.0, 128.0, 171.0])
def test_a_loop_is_a_whole_number_of_bars(bpm: float) -> None:
    own = settled(games={"A": 1}, bpm=bpm, loop=True, length_s=9.0)
    bars = own.length_s * bpm / 240
    assert bars == pytest.approx(round(bars))
    assert abs(own.length_s - 9) <= 120 / bpm + 1e-6
    columns = round(own.length_s / COLUMN_S)
    grid = rhythm.grid_of(own, COLUMN_S, columns)
    assert grid is not None
    waves = rhythm.channels(grid, COLUMN_S, 2 * columns)
    assert waves[:, columns:] == pytest.approx(waves[:, :columns], abs=2e-3), "round the ring it fits"
    level = grid.bpm / bpm
    assert level * 2.0 ** -round(np.log2(level)) == pytest.approx(1, abs=0.004), (
        "and the tempo is nearly what was asked"
    )


def test_what_cannot_be_is_one_line() -> None:
    with pytest.raises(UsageError, match="trained without beats"):
        settled(knows_rhythm=False, bpm=100.0)
    with pytest.raises(UsageError, match="no tempo of its games"):
        rhythm.settled(Request(bars=4), True, {})
    with pytest.raises(UsageError, match="a tempo of 300 cannot be"):
        Request(bpm=300.0)
    with pytest.raises(UsageError, match="that clip's tempo"):
        Request(bpm=100.0, init=Given.of(torch.zeros(2, 32000)))
    assert settled(knows_rhythm=False).bpm is None
    assert rhythm.settled(Request(), True, {}).bpm is None


def test_a_clip_depends_on_its_tempo_and_says_it(pipeline: Pipeline) -> None:
    def clip(**values: object):
        return next(pipeline.render([Request(games={"A": 1}, length_s=1.3, config=QUICK, **values)]))  # type: ignore[arg-type]

    own, other, same = clip(bpm=100.0), clip(bpm=140.0), clip(bpm=100.0)
    assert torch.equal(own.waveform, same.waveform)
    assert not torch.equal(own.waveform, other.waveform)
    assert (own.recipe["bpm"], own.recipe["beats_per_bar"]) == (100.0, 4)
    assert clip(seed=1).recipe["bpm"] in (100.0, 120.0)
    assert torch.equal(clip(seed=1).waveform, clip(seed=1, bpm=clip(seed=1).recipe["bpm"]).waveform)


def test_the_recipe_renders_the_tempo_again(pipeline: Pipeline, tmp_path: Path) -> None:
    request = Request(games={"A": 1}, bpm=150.0, bars=1, loop=True, config=QUICK)
    clip = next(pipeline.render([request]))
    write_clip(tmp_path / "clip.flac", clip)
    read = again(tmp_path / "clip.flac", pipeline, None).request
    assert (read.bpm, read.beats_per_bar) == (150.0, 4)
    assert torch.equal(next(pipeline.render([read])).waveform, clip.waveform)


def test_windows_see_their_part_of_one_grid() -> None:
    canvas = lay_out(100, longest=32, multiple=4)
    beats = torch.arange(2 * 9 * 100).reshape(2, 9, 100)
    windows = [(1, canvas.runs(20)), (0, canvas.runs(68))]
    seen = columns_of(beats, windows)
    assert seen[0].equal(beats[1, :, 20:52])
    assert seen[1].equal(beats[0, :, 68:100])
    ring = lay_out(40, longest=64, multiple=4, ring=True)
    assert columns_of(beats[..., :40], [(0, ring.runs(30))])[0, 0, :14].equal(
        torch.cat([beats[0, 0, 30:40], beats[0, 0, :4]])
    )


def test_long_clips_keep_one_grid_through_all_windows(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each window gets the rhythm of the columns that it sees: asked through the network itself."""
    monkeypatch.setattr(Pipeline, "longest", property(lambda self: 16))
    request = pipeline.settled(Request(games={"A": 1}, length_s=4.0, bpm=97.0, config=replace(QUICK, cfg_scale=1.0)))
    whole = pipeline._beats([request], 64)
    assert whole is not None
    seen: list[torch.Tensor] = []
    network = pipeline.model.unet.forward

    def forward(x: torch.Tensor, c_noise: torch.Tensor, games: torch.Tensor, beats: torch.Tensor) -> torch.Tensor:
        seen.append(beats)
        return network(x, c_noise, games, beats)

    monkeypatch.setattr(pipeline.model.unet, "forward", forward)
    pipeline.sample([request])
    assert len(seen) > 4
    for beats in seen:
        assert any(beats[0].equal(whole[0, :, start : start + 16]) for start in range(64 - 15))


def test_what_goes_on_keeps_the_beats_of_the_clip(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    time = torch.arange(12 * 32000) / 32000
    kicks = torch.sin(2 * torch.pi * 60 * time) * torch.exp(-30 * (time % 0.5))
    clip = Given.of(0.3 * torch.stack([kicks, kicks]), 32000)
    grid = rhythm.grid_of_clip(clip, 32000)
    assert grid is not None
    assert grid.bpm == pytest.approx(120, rel=0.005)
    asked: list[torch.Tensor] = []
    sample = Pipeline.sample

    def listen(self: Pipeline, requests, **options):
        asked.append(options["beats"])
        return sample(self, requests, **options)

    monkeypatch.setattr(Pipeline, "sample", listen)
    request = Request(rewrite=Rewrite(clip=clip, start_s=12.0, end_s=13.0), length_s=13.0, config=QUICK)
    next(pipeline.render([request]))
    (beats,) = asked
    phase = torch.atan2(beats[0, 1], beats[0, 0]) / (2 * torch.pi)
    steps = (phase.diff() + 0.5) % 1 - 0.5
    assert steps == pytest.approx(torch.full_like(steps, COLUMN_S * 2), abs=0.003), "120 a minute, all along"
