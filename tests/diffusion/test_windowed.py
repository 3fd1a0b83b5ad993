"""Canvases against processes whose denoiser is known: no seam in loops, at window borders, beside what is known."""

import pytest
import torch
from torch import Tensor

from dualdiff.core.rng import Stream
from dualdiff.diffusion.inpainting_guidance import Known, conditioned_on, regressed
from dualdiff.diffusion.preconditioning import guided
from dualdiff.diffusion.sampler import SAMPLERS, draw_noise, sigma_schedule
from dualdiff.diffusion.windowed import lay_out, windowed

SIGMA_DATA, RHO, SIGMA_MIN = 0.5, 0.9, 0.03
SIGMAS = sigma_schedule(16, SIGMA_MIN, 80.0)
STREAMS = [Stream(seed) for seed in range(24)]


def process(x: Tensor, sigma: Tensor, start: float) -> Tensor:
    """The ideal denoiser of rows that are Gaussian, of neighbours correlated by RHO, however many columns it sees."""
    place = torch.arange(x.shape[-1])
    covariance = SIGMA_DATA**2 * RHO ** (place[:, None] - place).abs().double()
    noisy = covariance + sigma[0].double() ** 2 * torch.eye(len(place))
    return (x.double() @ torch.linalg.solve(noisy, covariance)).to(x.dtype)


def noise(columns: int, purpose: str = "noise", streams: list[Stream] = STREAMS) -> Tensor:
    return draw_noise([stream.torch(purpose) for stream in streams], (4, 8, columns), "cpu")


def correlation(a: Tensor, b: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1])


@pytest.mark.parametrize("columns", [24, 40, 100])
def test_a_ring_has_no_seam(columns):
    canvas = lay_out(columns, longest=32, multiple=4, ring=True)
    out = SAMPLERS["dpmpp_2m"](windowed(process, canvas, STREAMS), noise(columns), SIGMAS)
    assert out.shape[-1] == columns
    assert correlation(out[..., -1], out.roll(-1, -1)[..., -1]) > RHO - 0.04
    assert out.std().item() == pytest.approx(SIGMA_DATA, rel=0.1)
    if columns == 24:
        line = SAMPLERS["dpmpp_2m"](process, noise(columns), SIGMAS)
        assert abs(correlation(line[..., -1], line[..., 0])) < 0.3


@pytest.mark.parametrize("columns", [36, 70, 100])
def test_a_long_line_is_as_correlated_at_window_borders_as_within(columns):
    canvas = lay_out(columns, longest=32, multiple=4)
    out = SAMPLERS["dpmpp_2m"](windowed(process, canvas, STREAMS), noise(columns), SIGMAS)
    between = [correlation(out[..., k], out[..., k + 1]) for k in range(columns - 1)]
    assert min(between) > RHO - 0.04
    assert max(between) < RHO + 0.03
    assert abs(correlation(out[..., 0], out[..., -1])) < 0.15
    spread = out.std((0, 1, 2))
    assert spread.min() > 0.85 * SIGMA_DATA
    assert spread.max() < 1.15 * SIGMA_DATA


@pytest.mark.parametrize(("columns", "ring"), [(64, False), (200, False), (9, True), (30, True), (200, True)])
def test_windows_cover_every_column_in_every_step_and_move(columns, ring):
    canvas = lay_out(columns, longest=32, multiple=8, ring=ring)
    assert canvas.window % 8 == 0
    assert canvas.window <= 32
    assert canvas.weights().min() > 0
    seen = set()
    for start in (80.0, 3.0, 0.1):
        starts = canvas.starts(STREAMS[0], start)
        assert starts == canvas.starts(STREAMS[0], start)
        covered = {at + k for place in starts for _, at, n in canvas.runs(place) for k in range(n)}
        assert covered == set(range(columns))
        seen.add(tuple(starts))
    assert len(seen) == (1 if canvas.count == 2 and not ring else 3)


def test_work_grows_linearly_and_what_fits_stays_as_it_is():
    short = lay_out(32, longest=32, multiple=8)
    assert short.is_plain
    assert windowed(process, short, STREAMS) is process
    counts = [lay_out(columns, longest=32, multiple=8).count for columns in (320, 640, 1280)]
    assert counts[1] / counts[0] == pytest.approx(2, abs=0.1)
    assert counts[2] / counts[1] == pytest.approx(2, abs=0.1)


def test_no_more_than_the_window_is_ever_denoised_at_once():
    sizes = set()

    def denoise(x: Tensor, sigma: Tensor, start: float) -> Tensor:
        sizes.add((len(x), len(sigma), x.shape[-1]))
        return x

    canvas = lay_out(200, longest=32)
    windowed(denoise, canvas, STREAMS[:3])(noise(200, streams=STREAMS[:3]), torch.ones(3), 1.0)
    assert sizes == {(3, 3, 32)}


@pytest.mark.parametrize("ring", [False, True])
def test_a_clip_is_the_same_alone_and_in_a_batch(ring):
    canvas = lay_out(80, longest=32, ring=ring)

    def clips(streams: list[Stream]) -> Tensor:
        denoise = windowed(process, canvas, streams)
        return SAMPLERS["heun"](denoise, noise(80, streams=streams), SIGMAS)

    whole = clips(STREAMS[:3])
    torch.testing.assert_close(clips(STREAMS[2:3])[0], whole[2], rtol=1e-5, atol=1e-6)
    assert not torch.allclose(whole[1], whole[2], atol=1e-2)


def test_labels_belong_to_clips():
    def labelled(x: Tensor, sigma: Tensor, labels: Tensor) -> Tensor:
        return labels[:, :1, None, None].expand_as(x)

    labels = torch.tensor([[1.0], [2.0]])
    for scale, expected in ((1.0, labels), (3.0, 3 * labels)):
        denoise = windowed(guided(labelled, labels, scale), lay_out(80, longest=32), STREAMS[:2])
        out = denoise(torch.zeros(2, 1, 1, 80), torch.ones(2), 1.0)
        torch.testing.assert_close(out, expected[:, :, None, None].expand(2, 1, 1, 80))


@pytest.mark.parametrize("longest", [64, 24])
def test_what_is_known_is_kept_and_what_is_free_goes_on_from_it(longest):
    columns, gap = 48, slice(16, 32)
    known = SAMPLERS["dpmpp_2m"](process, noise(columns), SIGMAS)
    keep = torch.ones(columns)
    keep[gap] = 0
    held = Known(known, keep)
    start = held.start(noise(columns, "other"), 80.0)
    denoise = windowed(process, lay_out(columns, longest=longest), STREAMS, held)
    out = SAMPLERS["dpmpp_2m"](denoise, start, SIGMAS)
    kept = keep == 1
    torch.testing.assert_close(
        out[..., kept], (known + SIGMA_MIN * noise(columns, "other"))[..., kept], rtol=1e-3, atol=1e-4
    )
    assert correlation(out[..., 15], out[..., 16]) > RHO - 0.04
    assert correlation(out[..., 31], out[..., 32]) > RHO - 0.04
    assert out[..., gap].std().item() == pytest.approx(SIGMA_DATA, rel=0.1)
    assert correlation(out[..., 23], known[..., 23]) < 0.6, "far from both sides it is new"
    simply = conditioned_on(process, known, keep, iterations=0)
    seam = SAMPLERS["dpmpp_2m"](simply, start, SIGMAS)
    assert correlation(seam[..., 15], seam[..., 16]) < RHO - 0.15, "else the regression would not be needed"


def test_the_regression_is_exact_with_enough_iterations_and_leaves_clips_without_curvature_alone():
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(6, 6, generator=generator, dtype=torch.float64)
    matrix = root @ root.T + torch.eye(6)
    fixed = torch.tensor([1.0, 1, 0, 0, 1, 0], dtype=torch.float64)
    residual = torch.randn(2, 6, generator=generator, dtype=torch.float64) * fixed
    keep = fixed == 1
    expected = torch.linalg.solve(matrix[keep][:, keep], residual[:, keep].T).T @ matrix[keep]
    torch.testing.assert_close(regressed(lambda v: v @ matrix, residual, fixed, 3), expected)
    signs = torch.tensor([[1.0], [-1.0]], dtype=torch.float64)
    bent = regressed(lambda v: signs * (v @ matrix), residual, fixed, 3)
    torch.testing.assert_close(bent[0], expected[0])
    assert not bent[1].any()


def test_all_known_needs_no_denoiser_and_all_free_is_the_denoiser():
    known = torch.randn(1, 1, 2, 8)
    x, sigma = torch.randn(1, 1, 2, 8), torch.ones(1)
    assert torch.equal(conditioned_on(process, known, torch.ones(8))(x, sigma, 1.0), known)
    assert torch.equal(conditioned_on(process, known, torch.zeros(8))(x, sigma, 1.0), process(x, sigma, 1.0))


def test_a_canvas_of_another_size_is_refused():
    denoise = windowed(process, lay_out(80, longest=32), STREAMS[:2])
    with pytest.raises(ValueError, match="not 2 clips of 80 columns"):
        denoise(torch.zeros(2, 1, 1, 64), torch.ones(2), 1.0)
