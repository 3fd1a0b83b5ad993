"""Loops, lead-ins, clips that go on and clips mended: what is kept is kept, and nothing steps where old meets new."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dualdiff import audio
from dualdiff.core.errors import DataError, UsageError
from dualdiff.core.rng import Stream
from dualdiff.diffusion.sampler import SAMPLERS
from dualdiff.formats.config import MelConfig
from dualdiff.formats.mel import MelFormat
from dualdiff.generation.config import GenerateConfig
from dualdiff.generation.inpainting import FADE_S, limited, morphed, rise, spliced, stretch
from dualdiff.generation.output import given, loop_lost
from dualdiff.generation.pipeline import Pipeline
from dualdiff.generation.request import Given, Request, Rewrite
from dualdiff.model_store.autoencoder import matched
from tests.model_store.test_model import write_model

QUICK = GenerateConfig(steps=2, cfg_scale=1.0, quality="draft")
RATE = 32000


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    return Pipeline.load(write_model(tmp_path_factory.mktemp("models")), device="cpu", precision="float32")


def tone(seconds: float, rate: int = RATE) -> torch.Tensor:
    time_s = torch.arange(round(seconds * rate)) / rate
    return torch.stack([torch.sin(2 * torch.pi * hz * time_s) for hz in (440.0, 660.0)]) * 0.2


def test_a_loop_is_a_whole_number_of_columns_and_sampled_and_decoded_as_a_ring(pipeline):
    request = Request(length_s=2.0, loop=True, config=QUICK)
    clip = next(pipeline.render([request]))
    length = round(2.0 * RATE / pipeline.codec.column) * pipeline.codec.column
    assert clip.waveform.shape == (2, length)
    assert clip.loop == (0, length)
    assert clip.recipe["loop"] is True
    latents = pipeline.sample([request], ring=True)
    around, along = (
        pipeline.decode(latents, Stream(0).seed_for("phase"), "draft", circular=circular) for circular in (True, False)
    )
    gain = (clip.waveform * around).sum() / around.square().sum()
    assert torch.allclose(clip.waveform, gain * around, atol=1e-5), "as a ring has none, in latents and in sound"
    assert (along - around[:, : along.shape[-1]]).norm() > 0.1 * around.norm(), "which is another thing than a line"


def test_an_intro_comes_before_the_same_loop_and_leads_into_it(pipeline):
    request = Request(length_s=1.5, loop=True, config=QUICK)
    alone, led = next(pipeline.render([request])), next(pipeline.render([replace(request, intro_s=0.7)]))
    start, length = led.loop
    fade = round(FADE_S * RATE)
    assert start == round(0.7 * RATE) + fade
    assert led.waveform.shape[-1] == start + length
    body = led.waveform[:, start:].roll(fade, -1)
    gain = (body * alone.waveform).sum() / alone.waveform.square().sum()
    assert torch.allclose(body, gain * alone.waveform, atol=1e-4), "but for one gain, the same loop"
    off = (led.waveform[:, start - fade : start] - gain * alone.waveform[:, :fade]).abs().amax(0)
    left = 1 - rise(fade)  # what is left of the intro, from nearly all of it to nearly nothing
    assert (off <= 2 * left + 1e-4).all(), "the intro fades out over the beginning of the loop"
    assert off[: fade // 4].max() > 1e-2, "which it differs from"
    assert led.waveform[:, : start - fade].std() > 1e-4


def test_a_lead_in_is_new_however_little_its_loop_strays(pipeline, monkeypatch):
    sampler, starts = SAMPLERS[QUICK.sampler], []

    def told(denoise, noise, sigmas, *more):
        starts.append(sigmas[0].item())
        return sampler(denoise, noise, sigmas, *more)

    monkeypatch.setitem(SAMPLERS, QUICK.sampler, told)
    varied = Request(init=Given.of(tone(2.0)), strength=0.3, length_s=1.5, loop=True, intro_s=0.5, config=QUICK)
    next(pipeline.render([varied]))
    assert starts[0] < 1
    assert starts[1] == pytest.approx(pipeline.sigma_max), "of nothing, so from all of the noise"


def test_a_clip_that_goes_on_is_itself_and_then_new(pipeline, tmp_path):
    path = tmp_path / "a.flac"
    audio.write(path, tone(2.0, 44100), 44100)
    clip = given(path, pipeline, keep=True)
    assert (clip.original.shape[-1], clip.original_rate) == (88200, 44100)
    request = Request(rewrite=Rewrite(clip=clip, start_s=2.0, end_s=3.0), length_s=3.0, config=QUICK)
    out = next(pipeline.render([request]))
    assert out.sample_rate == 44100
    assert out.waveform.shape == (2, 3 * 44100)
    kept = 2 * 44100 - round(FADE_S * 44100)
    assert torch.equal(out.waveform[:, :kept], audio.read(path, sample_rate=44100)[:, :kept])
    assert out.waveform[:, 2 * 44100 :].std() > 1e-4
    assert out.recipe["rewrite"] == {
        "file": "a.flac", "sha256": clip.sha256, "start_s": 2.0, "end_s": 3.0, "strength": 1.0
    }  # fmt: skip


def test_a_clip_goes_on_to_where_columns_end(pipeline):
    """Columns decode to a hop less than they span: one more is needed where they would just reach the end."""
    grid_s = pipeline.codec.frame_multiple * pipeline.format.hop_length / RATE
    start_s, end_s = 8 * grid_s, 12 * grid_s
    rewrite = Rewrite(clip=Given.of(tone(start_s), RATE), start_s=start_s, end_s=end_s)
    out = next(pipeline.render([Request(rewrite=rewrite, length_s=end_s, config=QUICK)])).waveform
    assert out.shape == (2, round(end_s * RATE))
    assert out[:, -64:].std() > 1e-4, "new to its end"


def test_a_mended_clip_is_itself_outside_of_the_range(pipeline):
    clip = Given.of(tone(4.0), RATE)
    request = Request(rewrite=Rewrite(clip=clip, start_s=1.5, end_s=2.25), length_s=4.0, config=QUICK)
    out = next(pipeline.render([request])).waveform
    first, last, fade = round(1.5 * RATE), round(2.25 * RATE), round(FADE_S * RATE)
    assert torch.equal(out[:, : first - fade], clip.original[:, : first - fade])
    assert torch.equal(out[:, last + fade :], clip.original[:, last + fade :])
    assert (out - clip.original)[:, first:last].std() > 1e-3


def test_a_mended_loop_stays_a_loop(pipeline, tmp_path):
    path = tmp_path / "loop.wav"
    audio.write(path, tone(4.0), RATE, loop=(RATE, 2 * RATE))
    clip = given(path, pipeline, keep=True)
    parts = {(1.5, 2.25): clip.loop, (0.2, 0.6): clip.loop, (0.8, 1.5): None, (2.5, 3.5): None, (4.0, 4.5): clip.loop}
    for (start_s, end_s), loop in parts.items():
        rewrite = Rewrite(clip=clip, start_s=start_s, end_s=end_s)
        assert (clip.loop if rewrite.spares_the_loop else None) == loop
    rewrite = Rewrite(clip=clip, start_s=1.5, end_s=2.25)
    request = Request(rewrite=rewrite, length_s=4.0, config=QUICK)
    assert next(pipeline.render([request])).loop == (RATE, 2 * RATE)
    mended = next(pipeline.render([request]))
    assert loop_lost(request, mended) == []
    as_mp3 = replace(request, config=replace(QUICK, file_format="mp3"))
    gone = next(pipeline.render([as_mp3]))
    assert gone.loop is None
    assert loop_lost(as_mp3, gone) == ["the loop points of loop.wav are left out: an mp3 file holds none"]


def test_a_loop_whose_end_is_written_anew_is_said_to_be_none(pipeline, tmp_path):
    audio.write(tmp_path / "loop.wav", tone(2.0), RATE, loop=(0, 2 * RATE))
    audio.write(tmp_path / "slow.wav", tone(2.0, 16000), 16000, loop=(0, 32000))
    audio.write(tmp_path / "no.wav", tone(2.0), RATE)
    words = {"loop.wav": "an end of its loop", "slow.wav": "written at 32000 Hz, not at its own", "no.wav": ""}
    for name, why in words.items():
        clip = given(tmp_path / name, pipeline, keep=True)
        request = Request(rewrite=Rewrite(clip=clip, start_s=2.0, end_s=2.5), length_s=2.5, config=QUICK)
        lost = loop_lost(request, next(pipeline.render([request])))
        assert [name in line and why in line for line in lost] == [True] * bool(why)


def test_new_audio_goes_on_in_phase_with_what_is_known():
    made = MelFormat(MelConfig())
    known = tone(3.0)[:, : made.num_samples(360)]
    sample, gap = made.encode(known[None]), slice(32000, 56000)
    holed = known.clone()
    holed[:, gap] = 0
    fresh = made.go_on(sample, holed, gap.start, gap.stop)
    for border in (gap.start, gap.stop):
        around = slice(border - 400, border + 400)
        error = (fresh - known)[:, around].norm() / known[:, around].norm()
        assert error < 0.25, "a phase of its own would be off by more than the tone itself"
    beyond = slice(gap.stop + 1100, gap.stop + 2000)
    assert torch.equal(fresh[:, beyond], known[:, beyond])
    assert torch.equal(fresh[:, : gap.start - 1100], known[:, : gap.start - 1100])
    steps = fresh.diff(dim=-1).abs()
    assert steps[:, gap.start - 1200 : gap.start + 10].max() < 1.5 * known.diff(dim=-1).abs().max()


def test_new_frames_begin_and_end_in_the_colour_of_those_beside_them():
    known = (torch.arange(200) < 50) | (torch.arange(200) >= 150)
    own, fresh = torch.rand(1, 2, 8, 200), torch.rand(1, 2, 8, 200)
    duller = fresh - torch.arange(8.0)[:, None]  # as a VAE would make it
    at_the_border = own.where(known, fresh)
    for off in (50, 149):
        near = slice(46, 50) if off == 50 else slice(150, 154)
        lost = (own - duller)[..., near].mean(-1)
        assert torch.allclose(matched(duller, own, known)[..., off], duller[..., off] + lost, atol=1e-5)
    out = matched(duller, own, known)
    assert torch.equal(out[..., known], own[..., known])
    assert torch.equal(out[..., 95:105], duller[..., 95:105])
    steps = (out - at_the_border)[..., 50:150].diff(dim=-1).abs()
    assert steps.max() < 0.05 * 8  # no step anywhere
    assert torch.equal(matched(duller, own, torch.ones(200, dtype=torch.bool)), own)
    assert torch.equal(matched(duller, own, torch.zeros(200, dtype=torch.bool)), duller)


def test_long_new_audio_goes_on_piece_by_piece(monkeypatch):
    made = MelFormat(MelConfig())
    known = tone(4.0)[:, : made.num_samples(480)]
    monkeypatch.setattr("dualdiff.formats.phase_retrieval.MAX_CELLS", 1025 * 160)
    fresh = made.go_on(made.encode(known[None]), known, 16000, known.shape[-1])
    assert fresh.shape == known.shape
    power = fresh[:, 16000:118000].unfold(-1, 1000, 1000).square().mean((0, 2))
    assert power.min() > 0.6 * power.mean(), "nothing cancels where pieces meet"


def test_what_is_in_phase_keeps_its_level_in_a_crossfade():
    clip = Given.of(tone(2.0), RATE)
    out = spliced(clip, tone(2.0), 0, RATE, 0.5, 1.0)
    assert torch.allclose(out, clip.original, atol=1e-6)
    weights = rise(512)
    assert torch.allclose(weights + weights.flip(0), torch.ones(512), atol=1e-6)
    assert 0 < weights[0] < 1e-4, "no corner where it begins"


def test_what_is_as_loud_as_a_file_can_be_stays_so():
    clip = Given.of(torch.ones(2, 2 * RATE), RATE)
    out = spliced(clip, 3 * torch.ones(2, 2 * RATE), 0, RATE, 0.5, 1.0)
    assert out.abs().max() == 1


def test_the_stretch_that_the_model_sees():
    grid = {"column": 2048, "quantum": 1, "longest": 64, "multiple": 8}
    first, last = 20 * RATE, 21 * RATE
    seen = stretch(first, last, 60 * RATE, **grid)
    assert (first - seen.start) % 2048 == 0, "the new begins where a column does"
    assert seen.columns % 8 == 0
    begins = torch.arange(seen.columns) * 2048 + seen.start
    free = seen.kept == 0
    assert begins[free].min() == first
    assert abs(begins[free].max() + 2048 - last) <= 1024, "and ends as near to a column's end as can be"
    on = stretch(10 * RATE, 14 * RATE, 10 * RATE, **grid)
    assert not on.kept[torch.arange(on.columns) * 2048 + on.start + 2048 > 10 * RATE].any()
    assert stretch(0, RATE, 2 * RATE, **grid).start == 0


@pytest.mark.parametrize("rate", [32000, 44100, 48000, 88200, 37800])
def test_a_stretch_begins_at_a_whole_sample_of_the_clip_and_near_a_column(rate):
    quantum = RATE // math.gcd(RATE, rate)
    for first in (0, 1, 1000, 70001, 20 * RATE + 777):
        seen = stretch(first, first + RATE, 60 * RATE, column=2048, quantum=quantum, longest=64, multiple=8)
        assert 0 <= seen.start <= first
        assert seen.start * rate % RATE == 0
        begins = torch.arange(seen.columns) * 2048 + seen.start
        off = abs(int(begins[seen.kept == 0].min()) - first)
        assert off <= 1024
        if rate == 44100 and first > RATE:
            assert off <= 64, "of the columns' 64 ms, one"


def test_something_is_written_anew_however_short_the_range():
    for first in range(0, 40000, 1111):
        seen = stretch(first, first + 100, 60 * RATE, column=2048, quantum=320, longest=64, multiple=8)
        assert 1 <= (seen.kept == 0).sum() <= 2


def test_a_morph_goes_from_one_to_the_other_at_their_strength():
    generator = torch.Generator().manual_seed(0)
    one, other = torch.randn(2, 1, 4, 32, 100, generator=generator)
    between = morphed(one, other)
    assert torch.allclose(between[..., 0], one[..., 0], atol=0.05)
    assert torch.allclose(between[..., -1], other[..., -1], atol=0.05)
    assert between[..., 45:55].std().item() == pytest.approx(1, abs=0.05)


def test_only_peaks_are_turned_down():
    waveform = tone(0.1)
    loud = waveform.clone()
    loud[:, 1600] = 3.0
    out = limited(loud, 0.9, 100)
    assert out.abs().max() <= 0.9 + 1e-6
    assert torch.equal(out[:, :1300], loud[:, :1300])
    assert torch.equal(limited(waveform, 0.9, 100), waveform)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"loop": True, "length_s": 0.5}, "a loop of 0.5 s"),
        ({"intro_s": 2.0}, "an intro leads into a loop"),
        ({"loop": True, "intro_s": -1.0}, "an intro of -1 s"),
        ({"loop": True, "intro_s": float("nan")}, "an intro of nan s"),
        ({"loop": True, "config": replace(QUICK, file_format="mp3")}, "cannot loop without a gap"),
        ({"morph": Given.of(tone(1.0))}, "begins with a clip"),
        ({"loop": True, "rewrite": Rewrite(clip=Given.of(tone(1.0), RATE), start_s=0, end_s=1)}, "neither a loop"),
    ],
)
def test_what_makes_no_sense_is_refused(change, message):
    with pytest.raises(UsageError, match=message):
        Request(**{"config": QUICK, **change})


@pytest.mark.parametrize("ends", [(2, 1), (1, 1), (-1, 1), (5, 6), (float("nan"), 1), (0, 1e9), (0, float("nan"))])
def test_ranges_that_cannot_be_are_refused(ends):
    with pytest.raises(UsageError, match="nothing lies between|outside of|cannot be"):
        Rewrite(clip=Given.of(tone(2.0), RATE), start_s=ends[0], end_s=ends[1])


def test_silence_cannot_be_worked_on(pipeline, tmp_path: Path):
    audio.write(tmp_path / "silent.flac", torch.zeros(2, RATE), RATE)
    with pytest.raises(DataError, match="is silent"):
        given(tmp_path / "silent.flac", pipeline, keep=True)
