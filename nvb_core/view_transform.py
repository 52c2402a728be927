"""Features of the photo -> features of any view: camera predictor, 3D latent grid, frustum, depth aggregation.

```
features (B, C, h, w) -+-> CameraPredictor --> camera vector (B, 16)
                       +-> FeatureVolume(camera, t) --> grid (B, C, g, g, g); with a PhotoLift g is twice grid_size
grid, view cameras --> sample_frustum --> (B·N, C, D, h, w) --> DepthAggregator(t) --> (B·N, C, h, w)
```

Where a network runs from a part of its weights, what isn't in a layer of `operations` follows the data to its device.
"""

from __future__ import annotations

from typing import cast

import torch
from einops import rearrange
from torch import Tensor, nn

from .config import ModelConfig
from .frustum import sample_frustum
from .layers import Attention, FeedForward, ModulatedNorm, Operations, TimeEmbedding, grid_position, start_constant_
from .lift import PhotoLift

CAMERA_CHANNELS = 16
FRONTAL_CAMERA = (1.0, 0, 0, 0, 0, -1.0, 0, 0, 0, 0, -1.0, 1.0, 1.0, 1.0, 0.5, 0.5)


class CameraPredictor(nn.Module):
    """Attention-pooled features -> camera vector of the photo."""

    def __init__(self, channels: int, heads: int, size: int, operations: Operations = nn) -> None:
        super().__init__()
        self.norm = operations.LayerNorm(channels)
        self.position = nn.Parameter(grid_position(channels, size, size)[None])
        self.query = nn.Parameter(torch.randn(1, 1, channels) * 0.02)
        self.attention = Attention(channels, heads, operations)
        last = operations.Linear(channels, CAMERA_CHANNELS)
        first = operations.Linear(channels, channels)
        self.head = nn.Sequential(operations.LayerNorm(channels), first, nn.SiLU(), last)
        start_constant_(last, FRONTAL_CAMERA)  # before training, every photo is frontal

    def forward(self, features: Tensor) -> Tensor:
        """features (B, C, h, w) -> camera vector (B, 16)."""
        tokens = self.norm(rearrange(features, "b c h w -> b (h w) c")) + self.position.to(features.device)
        pooled = self.attention(self.query.to(features.device).expand(len(tokens), -1, -1), tokens)
        return self.head(pooled[:, 0])


class VolumeBlock(nn.Module):
    """Cross-attention to the photo's features, self-attention in the grid, feed-forward; each modulated (Eq. 4)."""

    def __init__(self, width: int, heads: int, operations: Operations) -> None:
        super().__init__()
        self.norm1, self.norm2, self.norm3 = (ModulatedNorm(width, operations) for _ in range(3))
        self.cross = Attention(width, heads, operations)
        self.self_attention = Attention(width, heads, operations)
        self.feed_forward = FeedForward(width, operations)

    def forward(self, x: Tensor, context: Tensor, condition: Tensor) -> Tensor:
        """x (B, g³, C), context (B, h·w, C), condition (B, C) -> (B, g³, C)."""
        x = x + self.cross(self.norm1(x, condition), context)
        x = x + self.self_attention(self.norm2(x, condition))
        return x + self.feed_forward(self.norm3(x, condition))


class FeatureVolume(nn.Module):
    """Learned queries, one per grid cell, gather the photo's features into a 3D latent grid."""

    def __init__(
        self, channels: int, grid_size: int, blocks: int, heads: int, size: int, operations: Operations = nn
    ) -> None:
        super().__init__()
        self.grid_size = grid_size
        self.queries = nn.Parameter(grid_position(channels, grid_size, grid_size, grid_size))
        self.features_in = nn.Sequential(operations.LayerNorm(channels), operations.Linear(channels, channels))
        self.position = nn.Parameter(grid_position(channels, size, size)[None])
        self.time = TimeEmbedding(channels, operations)
        first, last = operations.Linear(CAMERA_CHANNELS, channels), operations.Linear(channels, channels)
        self.camera = nn.Sequential(first, nn.SiLU(), last)
        self.blocks = nn.ModuleList(VolumeBlock(channels, heads, operations) for _ in range(blocks))
        self.norm_out = operations.LayerNorm(channels)
        self.lift: PhotoLift | None = None

    def forward(self, features: Tensor, camera: Tensor, timesteps: Tensor) -> Tensor:
        """features (B, C, h, w), camera vector (B, 16), timesteps (B,) -> grid (B, C, z, y, x)."""
        condition = self.time(timesteps) + self.camera(camera.to(features.dtype))
        device = features.device
        context = self.features_in(rearrange(features, "b c h w -> b (h w) c")) + self.position.to(device)
        x = self.queries.to(device).expand(len(features), -1, -1)
        for block in self.blocks:
            x = block(x, context, condition)
        grid = rearrange(self.norm_out(x), "b (z y x) c -> b c z y x", z=self.grid_size, y=self.grid_size)
        return grid if self.lift is None else self.lift(grid, features, camera)


class AggregatorBlock(nn.Module):
    """Attention along each ray, attention within each depth plane, feed-forward; each time-modulated."""

    def __init__(self, width: int, heads: int, operations: Operations) -> None:
        super().__init__()
        self.norm1, self.norm2, self.norm3 = (ModulatedNorm(width, operations) for _ in range(3))
        self.along_depth = Attention(width, heads, operations)
        self.across_plane = Attention(width, heads, operations)
        self.feed_forward = FeedForward(width, operations)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """x (B, D, n, width), condition (B, width) -> (B, D, n, width)."""
        x, normed = self._attend(x, condition)
        return x + self.feed_forward(normed)

    def mean_over_depth(self, x: Tensor, condition: Tensor) -> Tensor:
        """What `forward` gives, averaged over D: (B, n, width). The last layer, being linear, follows the mean."""
        x, normed = self._attend(x, condition)
        first, activation, last = self.feed_forward
        return x.mean(dim=1) + last(activation(first(normed)).mean(dim=1))

    def _attend(self, x: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        """Both attentions' result, and what the feed-forward sees of it; (B, D, n, width) each."""
        batch, depth = x.shape[:2]

        def modulated(norm: nn.Module) -> Tensor:
            return rearrange(norm(rearrange(x, "b d n c -> b (d n) c"), condition), "b (d n) c -> b d n c", d=depth)

        rays = rearrange(modulated(self.norm1), "b d n c -> (b n) d c")
        x = x + rearrange(self.along_depth(rays), "(b n) d c -> b d n c", b=batch)
        planes = rearrange(modulated(self.norm2), "b d n c -> (b d) n c")
        x = x + rearrange(self.across_plane(planes), "(b d) n c -> b d n c", b=batch)
        return x, modulated(self.norm3)


class DepthAggregator(nn.Module):
    """Frustum features -> view features: blocks, then the mean over depth (paper Eq. 6)."""

    def __init__(
        self, channels: int, width: int, blocks: int, heads: int, depth: int, size: int, operations: Operations = nn
    ) -> None:
        super().__init__()
        self.proj_in = operations.Linear(channels, width)
        self.position = nn.Parameter(grid_position(width, depth, size, size).unflatten(0, (1, depth, size**2)))
        self.outside = nn.Parameter(torch.zeros(width))
        self.time = TimeEmbedding(width, operations)
        self.blocks = nn.ModuleList(AggregatorBlock(width, heads, operations) for _ in range(blocks))
        self.norm_out = operations.LayerNorm(width)
        self.proj_out = operations.Linear(width, channels)

    def forward(self, frustum: Tensor, inside: Tensor, timesteps: Tensor) -> Tensor:
        """frustum (B, C, D, h, w), inside (B, D, h, w) bool, timesteps (B,) -> (B, C, h, w)."""
        height, device = frustum.shape[-2], frustum.device
        x = self.proj_in(rearrange(frustum, "b c d h w -> b d (h w) c")) + self.position.to(device)
        x = x + rearrange(~inside, "b d h w -> b d (h w) 1").to(x.dtype) * self.outside.to(device)
        condition = self.time(timesteps)
        *blocks, last = cast("list[AggregatorBlock]", list(self.blocks))
        for block in blocks:
            x = block(x, condition)
        x = last.mean_over_depth(x, condition)
        return rearrange(self.proj_out(self.norm_out(x)), "b (h w) c -> b c h w", h=height)


class ViewTransform(nn.Module):
    """Everything that step 2 trains."""

    def __init__(self, config: ModelConfig, operations: Operations = nn) -> None:
        super().__init__()
        view, channels, size = config.view, config.channels, config.feature_size
        self.grid_extent = view.grid_extent
        self.depth_samples = view.depth_samples
        self.feature_size = size
        self.camera_predictor = CameraPredictor(channels, view.camera_predictor_heads, size, operations)
        self.volume = FeatureVolume(channels, view.grid_size, view.volume_blocks, view.volume_heads, size, operations)
        if view.lift_width:
            self.volume.lift = PhotoLift(channels, view.lift_width, view.grid_size, view.grid_extent, operations)
        self.aggregator = DepthAggregator(
            channels,
            view.aggregator_width,
            view.aggregator_blocks,
            view.aggregator_heads,
            view.depth_samples,
            size,
            operations,
        )

    def view_features(self, grid: Tensor, cam2world: Tensor, intrinsics: Tensor, timesteps: Tensor) -> Tensor:
        """grid (B, C, z, y, x), cam2world (B, N, 4, 4), intrinsics (B, N, 3, 3), timesteps (B,) -> (B·N, C, h, w)."""
        views = cam2world.shape[1]
        frustum, inside = sample_frustum(
            grid, cam2world, intrinsics, self.grid_extent, self.depth_samples, self.feature_size
        )
        return self.aggregator(frustum, inside, timesteps.repeat_interleave(views))
