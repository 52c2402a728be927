"""Building blocks shared by the networks: timestep embedding, attention, feed-forward, modulated normalisation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

TIME_CHANNELS = 256

Operations = Any
"""Where layers come from: a namespace that has them under torch.nn's names, such as torch.nn.

Inside ComfyUI it is comfy.ops.disable_weight_init, whose layers can run while their weights are off the GPU.
"""


def timestep_embedding(timesteps: Tensor, channels: int = TIME_CHANNELS) -> Tensor:
    """Sinusoidal embedding of integer timesteps, cosines first, as in DDPM.

    timesteps (B,) -> (B, channels) float32.
    """
    half = channels // 2
    frequencies = torch.exp(
        -math.log(10000.0) * torch.arange(half, device=timesteps.device, dtype=torch.float32) / half
    )
    angles = timesteps.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def grid_position(channels: int, *sizes: int) -> Tensor:
    """Sine-cosine code of the cells of a grid with 1 to 3 axes, to start a learned position from: (cells, channels).

    Cells are in row-major order. Each axis has its own channels, with wavelengths from twice the axis to three cells;
    what doesn't divide evenly stays zero.
    """
    per_axis = channels // (2 * len(sizes))
    code = torch.zeros(*sizes, channels)
    for axis, size in enumerate(sizes):
        frequencies = torch.logspace(math.log10(math.pi / size), math.log10(2 * math.pi / 3), per_axis)
        angles = (torch.arange(size) + 0.5)[:, None] * frequencies  # (size, per_axis)
        values = torch.cat([angles.cos(), angles.sin()], dim=-1)
        shape = [size if i == axis else 1 for i in range(len(sizes))]
        code[..., 2 * per_axis * axis : 2 * per_axis * (axis + 1)] = values.view(*shape, 2 * per_axis)
    return code.flatten(0, -2)


class PositionedConv(nn.Module):
    """A convolution to `size`×`size` cells whose output gets a learned position, so that attention knows where it is.

    The zeros around a picture are all that tells a plain U-Net; a pretrained one has learned to use them.
    """

    def __init__(self, conv: nn.Conv2d, size: int) -> None:
        super().__init__()
        self.conv = conv
        self.position = nn.Parameter(grid_position(conv.out_channels, size, size).T.unflatten(1, (size, size)).clone())

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, size, size) -> (B, out, size, size)."""
        return self.conv(x) + self.position


def start_constant_(layer: nn.Module, bias: Sequence[float] = ()) -> None:
    """Fill a new linear layer with zeros and its bias with the given values.

    Layers of some operations have no parameters before they are loaded; those are left as they are.
    """
    for name, parameter in layer.named_parameters():
        parameter.data.zero_()
        if name == "bias" and bias:
            parameter.data.copy_(torch.tensor(bias))


class TimeEmbedding(nn.Module):
    """Integer timesteps (B,) -> (B, width)."""

    def __init__(self, width: int, operations: Operations = nn) -> None:
        super().__init__()
        self.mlp = nn.Sequential(operations.Linear(TIME_CHANNELS, width), nn.SiLU(), operations.Linear(width, width))

    def forward(self, timesteps: Tensor) -> Tensor:
        """timesteps (B,) -> (B, width) in the parameters' dtype."""
        return self.mlp(timestep_embedding(timesteps).to(next(self.parameters()).dtype))


class Attention(nn.Module):
    """Multi-head attention from x (B, n, width) to context (B, m, width), or to x itself."""

    def __init__(self, width: int, heads: int, operations: Operations = nn) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = operations.Linear(width, width, bias=False)
        self.to_kv = operations.Linear(width, 2 * width, bias=False)
        self.to_out = operations.Linear(width, width)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """x (B, n, width), context (B, m, width) or None -> (B, n, width)."""
        q = self.to_q(x)
        k, v = self.to_kv(x if context is None else context).chunk(2, dim=-1)
        q, k, v = (rearrange(a, "b n (h d) -> b h n d", h=self.heads) for a in (q, k, v))
        return self.to_out(rearrange(F.scaled_dot_product_attention(q, k, v), "b h n d -> b n (h d)"))


class FeedForward(nn.Sequential):
    """(…, width) -> (…, width) through four times the width."""

    def __init__(self, width: int, operations: Operations = nn) -> None:
        super().__init__(operations.Linear(width, 4 * width), nn.GELU(), operations.Linear(4 * width, width))


class ModulatedNorm(nn.Module):
    """LN(x)·(1 + scale) + shift with scale and shift from a condition (paper Eq. 4), zero-initialised."""

    def __init__(self, width: int, operations: Operations = nn) -> None:
        super().__init__()
        self.norm = operations.LayerNorm(width, elementwise_affine=False)
        self.to_scale_shift = operations.Linear(width, 2 * width)
        start_constant_(self.to_scale_shift)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """x (B, n, width), condition (B, width) -> (B, n, width)."""
        scale, shift = self.to_scale_shift(F.silu(condition)).unsqueeze(1).chunk(2, dim=-1)
        return self.norm(x) * (1 + scale) + shift
