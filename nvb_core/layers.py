"""Building blocks shared by the networks: timestep embedding, attention, feed-forward, modulated normalisation."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

TIME_CHANNELS = 256


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


class TimeEmbedding(nn.Module):
    """Integer timesteps (B,) -> (B, width)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(TIME_CHANNELS, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, timesteps: Tensor) -> Tensor:
        """timesteps (B,) -> (B, width) in the parameters' dtype."""
        return self.mlp(timestep_embedding(timesteps).to(next(self.parameters()).dtype))


class Attention(nn.Module):
    """Multi-head attention from x (B, n, width) to context (B, m, width), or to x itself."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_kv = nn.Linear(width, 2 * width, bias=False)
        self.to_out = nn.Linear(width, width)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """x (B, n, width), context (B, m, width) or None -> (B, n, width)."""
        q = self.to_q(x)
        k, v = self.to_kv(x if context is None else context).chunk(2, dim=-1)
        q, k, v = (rearrange(a, "b n (h d) -> b h n d", h=self.heads) for a in (q, k, v))
        return self.to_out(rearrange(F.scaled_dot_product_attention(q, k, v), "b h n d -> b n (h d)"))


class FeedForward(nn.Sequential):
    """(…, width) -> (…, width) through four times the width."""

    def __init__(self, width: int) -> None:
        super().__init__(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))


class ModulatedNorm(nn.Module):
    """LN(x)·(1 + scale) + shift with scale and shift from a condition (paper Eq. 4), zero-initialised."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.to_scale_shift = nn.Linear(width, 2 * width)
        nn.init.zeros_(self.to_scale_shift.weight)
        nn.init.zeros_(self.to_scale_shift.bias)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """x (B, n, width), condition (B, width) -> (B, n, width)."""
        scale, shift = self.to_scale_shift(F.silu(condition)).unsqueeze(1).chunk(2, dim=-1)
        return self.norm(x) * (1 + scale) + shift
