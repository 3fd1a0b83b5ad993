"""Format and VAE as one: every road from a waveform to latents is the same one, up to its end."""

from pathlib import Path

import torch
from safetensors.torch import load_file

from dualdiff import audio
from dualdiff.data.config import EncodeConfig
from dualdiff.data.encode import encode_tracks
from dualdiff.data.manifest import Row
from dualdiff.generation.inpainting import followed
from dualdiff.generation.output import given
from dualdiff.generation.pipeline import Pipeline
from dualdiff.inspection.clip_analysis import ClipAnalyser
from dualdiff.inspection.project_context import ProjectContext
from dualdiff.model_store.model import load_vae
from tests.conftest import melody
from tests.model_store.test_model import write_model

RATE = 32000


def test_tracks_variations_and_inspected_clips_have_the_same_latents_to_the_last_column(tmp_path: Path) -> None:
    folder, path = write_model(tmp_path / "models"), tmp_path / "music" / "A" / "tune.wav"
    path.parent.mkdir(parents=True)
    audio.write(path, melody(220.0, 1, duration_s=7.0)[:, : 7 * RATE + 123], RATE)
    lufs = audio.loudness_lufs(audio.read(path, sample_rate=RATE), RATE)
    row = Row(path="A/tune.wav", state="used", split="train", game="A", duration_s=7.0, loudness_lufs=lufs)
    vae = load_vae(folder)
    chunks = EncodeConfig(offsets=1, chunk_s=5.0)
    index = encode_tracks([row], path.parents[1], tmp_path / "latents", vae, chunks).index
    track = load_file(tmp_path / "latents" / index.tracks[0].files[0].name)["latents"][0].permute(1, 2, 0).float()
    pipeline = Pipeline.load(folder, "cpu", precision="float32")
    varied = pipeline.model.space.restore(pipeline.encode(given(path, pipeline).waveform))[0]
    inspected = ClipAnalyser(ProjectContext(tmp_path), copies=False)._encoded(
        folder, audio.read(path, sample_rate=RATE), RATE, {}
    )
    assert track.shape == varied.shape == inspected.shape
    assert track.shape[-1] == (7 * RATE // 256 + 1) // 8
    for other in (varied, inspected):
        assert (other - track).abs().max() < 2e-2, "float16 on disk"
    assert torch.allclose(varied, inspected, atol=2e-3)


def test_latents_that_lack_columns_go_on_and_then_end() -> None:
    latents = torch.arange(1.0, 11)[None, None, None]
    assert followed(latents, 4).flatten().tolist() == [1, 2, 3, 4]
    assert followed(latents, 12).flatten().tolist() == [*range(1, 11), 10, 9]
    assert followed(latents, 20).flatten().tolist() == [*range(1, 11), *range(10, 2, -1), 0, 0]
    assert followed(latents[..., :2], 6).flatten().tolist() == [1, 2, 2, 1, 0, 0]
