"""Time-aware image encoder: lq image (B, 3, H, W) and timesteps (B,) -> features (B, C, h, w)."""

from __future__ import annotations

from itertools import pairwise

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from .config import EncoderConfig
from .layers import Attention, Operations, TimeEmbedding


class TimeResBlock(nn.Module):
    """Residual block of VQGAN with the timestep embedding added between its convolutions."""

    def __init__(
        self, in_channels: int, out_channels: int, time_width: int, norm_groups: int, operations: Operations
    ) -> None:
        super().__init__()
        self.norm1 = operations.GroupNorm(norm_groups, in_channels)
        self.conv1 = operations.Conv2d(in_channels, out_channels, 3, padding=1)
        self.time = operations.Linear(time_width, out_channels)
        self.norm2 = operations.GroupNorm(norm_groups, out_channels)
        self.conv2 = operations.Conv2d(out_channels, out_channels, 3, padding=1)
        self.skip = nn.Identity() if in_channels == out_channels else operations.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """x (B, in, h, w), time (B, time_width) -> (B, out, h, w)."""
        h = self.conv1(F.silu(self.norm1(x)))
        h = h + self.time(F.silu(time))[:, :, None, None]
        return self.skip(x) + self.conv2(F.silu(self.norm2(h)))


class AttentionBlock(nn.Module):
    """Residual self-attention over the pixels of (B, C, h, w)."""

    def __init__(self, channels: int, heads: int, norm_groups: int, operations: Operations) -> None:
        super().__init__()
        self.norm = operations.GroupNorm(norm_groups, channels)
        self.attention = Attention(channels, heads, operations)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C, h, w)."""
        tokens = rearrange(self.norm(x), "b c h w -> b (h w) c")
        return x + rearrange(self.attention(tokens), "b (h w) c -> b c h w", h=x.shape[2])


class Level(nn.Module):
    """Residual blocks at one resolution, attention after each where asked, then a stride-2 convolution unless last."""

    def __init__(
        self, channels: tuple[int, int], config: EncoderConfig, time_width: int, last: bool, operations: Operations
    ) -> None:
        super().__init__()
        widths = [channels[0]] + [channels[1]] * config.blocks_per_level
        groups = config.norm_groups
        self.blocks = nn.ModuleList(TimeResBlock(i, o, time_width, groups, operations) for i, o in pairwise(widths))
        self.attentions = nn.ModuleList(
            AttentionBlock(channels[1], config.attention_heads, groups, operations) for _ in self.blocks if last
        )
        self.down = nn.Identity() if last else operations.Conv2d(channels[1], channels[1], 3, stride=2, padding=1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """(B, in, h, w) -> (B, out, h/2, w/2), or (B, out, h, w) at the last level."""
        for i, block in enumerate(self.blocks):
            x = block(x, time)
            if self.attentions:
                x = self.attentions[i](x)
        return self.down(x)


class ImageEncoder(nn.Module):
    """Stem, levels, middle (block, attention, block) and a convolution to C; VQGAN's layout as CodeFormer uses it.

    Images are in [-1, 1]; nothing is pooled.
    """

    def __init__(self, config: EncoderConfig, operations: Operations = nn) -> None:
        super().__init__()
        channels = [config.base_channels * m for m in config.channel_mult]
        time_width = 4 * config.base_channels
        groups = config.norm_groups
        self.time = TimeEmbedding(time_width, operations)
        self.fold = nn.PixelUnshuffle(config.patch)
        self.stem = operations.Conv2d(3 * config.patch**2, channels[0], 3, padding=1)
        self.levels = nn.ModuleList(
            Level((channels[max(i - 1, 0)], c), config, time_width, i == len(channels) - 1, operations)
            for i, c in enumerate(channels)
        )
        self.mid1 = TimeResBlock(channels[-1], channels[-1], time_width, groups, operations)
        self.mid_attention = AttentionBlock(channels[-1], config.attention_heads, groups, operations)
        self.mid2 = TimeResBlock(channels[-1], channels[-1], time_width, groups, operations)
        self.norm_out = operations.GroupNorm(groups, channels[-1])
        self.conv_out = operations.Conv2d(channels[-1], config.out_channels, 3, padding=1)

    def forward(self, lq: Tensor, timesteps: Tensor) -> Tensor:
        """lq (B, 3, H, W), timesteps (B,) -> (B, C, h, w)."""
        time = self.time(timesteps)
        x = self.stem(self.fold(lq))
        for level in self.levels:
            x = level(x, time)
        x = self.mid2(self.mid_attention(self.mid1(x, time)), time)
        return self.conv_out(F.silu(self.norm_out(x)))
