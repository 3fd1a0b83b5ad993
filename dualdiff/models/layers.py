"""Magnitude-preserving layers: at initialisation, and by design ever after, activations keep unit variance.

Source: Karras et al. 2023 (arXiv 2312.02696), sections 2.2 to 2.4 and appendix B.
Letters: B batch, C channels, F frequency rows, N columns of time, E width of an embedding.
"""

import math
from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

SILU_RMS = 0.596
"""The RMS of silu(x) for x ~ N(0, 1)."""

RESIDUAL_SHARE = 0.3
"""How much of a block's output is new: the t of its `mp_sum`."""

ACTIVATION_LIMIT = 256.0
"""Activations beyond this are clamped, so that bfloat16 never overflows into nonsense."""


UNIT_EPSILON = 1e-4
"""Added to an RMS before anything is divided by it."""

LEAST_RMS = 1e-20
"""What a slope is divided by at least: products with it are still no numbers that a processor may take for 0."""


def unit(x: Tensor, dims: int | tuple[int, ...] = 1, scale: float = 1.0) -> Tensor:
    """Scale `x` to RMS `scale` over `dims`; the norm is taken in float32: scale x / (eps + RMS(x)) (EDM2 eq. 66)."""
    scaled: Tensor = _Unit.apply(x, (dims,) if isinstance(dims, int) else dims, scale)
    return scaled


class _Unit(torch.autograd.Function):
    """`unit` in two passes over memory, and its gradient in four, where autograd's own takes fifteen.

    Over n elements with r = RMS(x) and f = scale/(eps + r), y = f x, and by dr/dx = x/(n r) the gradient of a loss with
    slopes g is f g - x (g . x) f/((eps + r) n r).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, dims: tuple[int, ...], scale: float) -> Tensor:
        exact = torch.float64 if x.dtype == torch.float64 else torch.float32
        norm = torch.linalg.vector_norm(x, dim=dims, keepdim=True, dtype=exact)
        count = x.numel() // norm.numel()
        rms = norm / math.sqrt(count)
        factor = scale / (rms + UNIT_EPSILON)
        ctx.save_for_backward(x, rms, factor)
        ctx.dims, ctx.count = dims, count
        scaled: Tensor = x * factor.to(x.dtype)
        return scaled

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slopes: Tensor) -> tuple[Tensor, None, None]:
        x, rms, factor = ctx.saved_tensors
        along = (slopes * x).sum(ctx.dims, keepdim=True, dtype=rms.dtype)
        along = along * factor / ((rms + UNIT_EPSILON) * ctx.count * rms.clamp_min(LEAST_RMS))
        return torch.addcmul(slopes * factor.to(x.dtype), x, along.to(x.dtype), value=-1), None, None


def mp_silu(x: Tensor) -> Tensor:
    """SiLU that keeps unit variance (EDM2 eq. 81)."""
    return F.silu(x) / SILU_RMS


def mp_sum_scales(t: float) -> tuple[float, float]:
    """What `mp_sum` multiplies its two sides by."""
    norm = math.sqrt((1 - t) ** 2 + t**2)
    return (1 - t) / norm, t / norm


def mp_sum(a: Tensor, b: Tensor, t: float = 0.5) -> Tensor:
    """Blend two tensors of unit variance into one: ((1-t) a + t b) / sqrt((1-t)^2 + t^2) (EDM2 eq. 88)."""
    keep, new = mp_sum_scales(t)
    return a * keep + b * new


def mp_cat(a: Tensor, b: Tensor, t: float = 0.5) -> Tensor:
    """Concatenate along channels so that each side contributes by t, whatever its width (EDM2 eq. 103)."""
    na, nb = a.shape[1], b.shape[1]
    k = math.sqrt((na + nb) / ((1 - t) ** 2 + t**2))
    return torch.cat([a * (k * (1 - t) / math.sqrt(na)), b * (k * t / math.sqrt(nb))], dim=1)


class MPConv(nn.Module):
    """A convolution (or, with kernel 0, a linear layer) without bias whose used weight rows have unit norm.

    The stored weight is raw, N(0, 1) at first. The forward pass normalises it differentiably, which projects the
    gradient onto the sphere; `renormalise` puts the stored weight back on the sphere after each optimizer step (EDM2
    section 2.3); `bake` stores the used weight once and for all, for inference. Where `normalises` is False, the
    forward pass of training takes the stored weight as it is, and the gradient keeps its part along the weight. Outside
    of training the weight is normalised always: an average of weights on the sphere lies inside of it.
    """

    baked: bool
    normalises: bool

    def __init__(self, in_channels: int, out_channels: int, kernel: int = 3, rows: bool = True) -> None:
        """`rows` says whether the kernel reaches over rows, too: it is (kernel, kernel), else (1, kernel)."""
        super().__init__()
        shape = (out_channels, in_channels, kernel if rows else 1, kernel) if kernel else (out_channels, in_channels)
        weight = torch.randn(shape)
        self.weight = nn.Parameter(weight.contiguous(memory_format=torch.channels_last) if kernel else weight)
        self.padding = (kernel // 2 if rows else 0, kernel // 2)
        self.baked, self.normalises = False, True

    def used_weight(self, dtype: torch.dtype, gain: float = 1.0) -> Tensor:
        """The weight as the forward pass applies it: rows of norm `gain`."""
        if self.baked:
            weight = self.weight.to(dtype)
            return weight if gain == 1.0 else weight * gain
        scale = gain / math.sqrt(self.weight[0].numel())
        if self.training and not self.normalises:
            return (self.weight * scale).to(dtype)
        return unit(self.weight, tuple(range(1, self.weight.ndim)), scale).to(dtype)

    def forward(self, x: Tensor, gain: float = 1.0) -> Tensor:
        """(B, in, F, N) to (B, out, F, N), or (B, in) to (B, out), times `gain`.

        Scaling the weight costs less than scaling activations, which are larger.
        """
        weight = self.used_weight(x.dtype, gain)
        return F.conv2d(x, weight, padding=self.padding) if weight.ndim == 4 else F.linear(x, weight)


@torch.no_grad()
def renormalise(module: nn.Module) -> None:
    """Put every stored weight back to unit RMS rows, after an optimizer step; outputs do not change by it."""
    layers = [layer for layer in module.modules() if isinstance(layer, MPConv) and not layer.baked]
    weights = [layer.weight.data for layer in layers]
    norms = [torch.linalg.vector_norm(weight, dim=tuple(range(1, weight.ndim)), keepdim=True) for weight in weights]
    torch._foreach_div_(norms, [math.sqrt(weight[0].numel()) for weight in weights])
    torch._foreach_add_(norms, UNIT_EPSILON)
    torch._foreach_div_(weights, norms)


def normalise_after_updates_only(module: nn.Module) -> None:
    """Let the forward pass of training take stored weights as they are; `renormalise` alone keeps them normalised."""
    renormalise(module)
    for layer in module.modules():
        if isinstance(layer, MPConv):
            layer.normalises = False


@torch.no_grad()
def bake(module: nn.Module, dtype: torch.dtype) -> None:
    """Replace every stored weight by the one used in evaluation mode, convolutions in `dtype`: for inference only."""
    for layer in module.eval().modules():
        if isinstance(layer, MPConv) and not layer.baked:
            kept = dtype if layer.weight.ndim == 4 else torch.float32  # the embedding path stays float32
            layer.weight = nn.Parameter(layer.used_weight(kept), requires_grad=False)
            layer.baked = True


class FourierFeatures(nn.Module):
    """sqrt(2) cos(f_k x + phase_k): a smooth code of a number, with unit variance (EDM2 eq. 75).

    The frequencies are fixed at the quantiles of a normal law, f_k = pi erfinv(u_k), with phases alternating between 0
    and pi/2, so that the inner product of two codes falls smoothly with the distance of the numbers. The first feature
    has frequency 0: with phase 0 it is constant, the one offset that layers without bias have; with pi/2 it were dead.
    """

    frequencies: Tensor
    phases: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        quantiles = torch.arange(width, dtype=torch.float64) / (width - 1) * (1 - 1e-3)
        self.register_buffer("frequencies", (math.pi * torch.erfinv(quantiles)).float(), persistent=False)
        self.register_buffer(
            "phases", torch.tensor([0.0, math.pi / 2]).repeat(width // 2 + 1)[:width], persistent=False
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B,) to (B, width)."""
        return math.sqrt(2) * torch.cos(x.float()[:, None] * self.frequencies + self.phases)


class Attention(nn.Module):
    """Self-attention with q, k and v each of unit RMS over a head's channels (EDM2 eq. 38).

    `along` says who attends to whom: all positions of the plane, those of the same row (time), or of the same column
    (frequency). Rows or columns alone cost linear memory in the other direction.
    """

    def __init__(self, channels: int, head_channels: int, along: Literal["plane", "row", "column"] = "plane") -> None:
        super().__init__()
        most = max(1, channels // head_channels)
        self.heads = max(count for count in range(1, most + 1) if channels % count == 0)
        self.along = along
        self.qkv = MPConv(channels, 3 * channels, kernel=1)
        self.out = MPConv(channels, channels, kernel=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, F, N) to the same, blended with `x`."""
        b, c, f, n = x.shape
        folded = {"plane": (b, 1, f * n), "row": (b, f, n), "column": (b, n, f)}[self.along]
        qkv = self.qkv(x).permute(0, 3, 2, 1) if self.along == "column" else self.qkv(x).permute(0, 2, 3, 1)
        qkv = qkv.reshape(folded[0] * folded[1], folded[2], 3, self.heads, c // self.heads)
        q, k, v = unit(qkv, dims=4).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2)
        if self.along == "column":
            y = y.reshape(b, n, f, c).permute(0, 3, 2, 1)
        else:
            y = y.reshape(b, f, n, c).permute(0, 3, 1, 2)
        return mp_sum(x, self.out(y), RESIDUAL_SHARE)


class Block(nn.Module):
    """A residual block of the encoder or decoder kind, with optional modulation and attention (EDM2 figure 21).

    Encoder: resample, 1x1 to the new width, unit norm over channels, residual branch. Decoder: resample, residual
    branch, 1x1 on the skip path, no norm. The modulation gain starts at 0.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kind: Literal["encoder", "decoder"],
        *,
        resample: Literal["keep", "down", "up"] = "keep",
        embedding: int = 0,
        dropout: float = 0.0,
        attention: Iterable[Attention] = (),
        rows: bool = True,
    ) -> None:
        """`rows` says whether convolutions and resampling reach over rows, or along columns of time only."""
        super().__init__()
        self.kind, self.resample, self.dropout = kind, resample, dropout
        self.halves = (2, 2) if rows else (1, 2)
        self.skip = MPConv(in_channels, out_channels, kernel=1) if in_channels != out_channels else None
        self.conv1 = MPConv(out_channels if kind == "encoder" else in_channels, out_channels, rows=rows)
        self.conv2 = MPConv(out_channels, out_channels, rows=rows)
        self.modulation = MPConv(embedding, out_channels, kernel=0) if embedding else None
        self.gain = nn.Parameter(torch.zeros(())) if embedding else None
        self.attention = nn.ModuleList(attention)

    def _halves(self, x: Tensor) -> tuple[int, int]:
        """What rows and frames of x (B, C, F, N) are resampled by; a single row, a waveform, stays one."""
        return self.halves if x.shape[2] > 1 else (1, 2)

    def forward(self, x: Tensor, embedding: Tensor | None = None) -> Tensor:
        """(B, in, F, N) to (B, out, F', N'); `embedding` (B, E) modulates where the block was made with one."""
        if self.resample == "down":
            x = F.avg_pool2d(x, self._halves(x))
        elif self.resample == "up":
            x = F.interpolate(x, scale_factor=tuple(map(float, self._halves(x))), mode="nearest")
        if self.kind == "encoder":
            x = unit(self.skip(x) if self.skip is not None else x)
        y = self.conv1(F.silu(x), gain=1 / SILU_RMS)
        if self.modulation is not None and self.gain is not None and embedding is not None:
            scale = 1 + self.gain * self.modulation(embedding)
            y = y * scale[:, :, None, None].to(y.dtype)
        y = F.silu(y)
        if self.training and self.dropout:
            y = F.dropout(y, self.dropout) * math.sqrt(1 - self.dropout)
        if self.kind == "decoder" and self.skip is not None:
            x = self.skip(x)
        # mp_sum(x, conv2(mp_silu(y)), t), with the scalars of the branch inside its weight
        keep, new = mp_sum_scales(RESIDUAL_SHARE)
        x = torch.add(self.conv2(y, gain=new / SILU_RMS), x, alpha=keep)
        for attend in self.attention:
            x = attend(x)
        return F.hardtanh(x, -ACTIVATION_LIMIT, ACTIVATION_LIMIT)  # a clamp whose gradient is one kernel, not four


def position_channels(frequencies: Tensor, with_octave: bool = True) -> Tensor:
    """The two constant input channels, (1, 2, F, 1): log2 of the row's frequency, z-scored, and ones.

    They tell a convolution its pitch, and give it an offset in place of the bias that no layer has. Without the
    octave, that channel is zero: the network then knows no row from another but by the borders.
    """
    octave = torch.log2(frequencies.double())
    deviation = octave.std(correction=0).clamp_min(1e-9)  # a row alone has none
    octave = (octave - octave.mean()) / deviation * with_octave
    return torch.stack([octave.float(), torch.ones_like(octave).float()])[None, :, :, None]


def with_positions(x: Tensor, positions: Tensor) -> Tensor:
    """(B, C, F, N) and the channels of `position_channels` to (B, C + 2, F, N), in channels-last memory."""
    b, _, f, n = x.shape
    extra = positions.to(x.dtype).expand(b, 2, f, n)
    return torch.cat([x, extra], dim=1).contiguous(memory_format=torch.channels_last)
