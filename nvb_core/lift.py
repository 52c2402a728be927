"""Lift a photo's features into its 3D grid: each cell is told what the photo shows on the ray through it.

The paper's cells only attend to the photo's features, and have to learn where to look for what. Camera and cells are
known, though: as in PIFu (Saito et al. 2019) and pixelNeRF (Yu et al. 2021), here the features are also sampled where
each cell's centre is seen, along the whole ray, since depth isn't known. A small network, which sees what attention has
put into the cell as well, decides what to add. All values are chosen.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from .frustum import matrices_from_vector
from .layers import Operations, start_constant_

FINER = 2
"""Cells of the lifted grid on a side, per cell of the one that attends."""
PLACE_CHANNELS = 6


class PhotoLift(nn.Module):
    """Grid of a photo -> finer grid with the photo's features added; before training it adds nothing."""

    def __init__(self, channels: int, width: int, grid_size: int, extent: float, operations: Operations = nn) -> None:
        super().__init__()
        self.size, self.extent = FINER * grid_size, extent
        self.norm = operations.LayerNorm(channels)
        self.from_photo = operations.Linear(channels, width)
        self.from_cell = operations.Linear(channels, width, bias=False)
        self.from_place = operations.Linear(PLACE_CHANNELS, width, bias=False)
        self.out = operations.Linear(width, channels)
        start_constant_(self.out)

    def forward(self, grid: Tensor, features: Tensor, camera: Tensor) -> Tensor:
        """grid (B, C, z, y, x), features (B, C, h, w), camera vector (B, 16) of the photo -> (B, C, 2z, 2y, 2x)."""
        fine = resampled(grid.float(), self.size).to(grid.dtype)
        position, depth = project_cells(camera, self.size, self.extent)
        seen = ((position >= 0) & (position <= 1)).all(dim=-1)  # (B, M³)
        photo = self.norm(features.movedim(1, -1)).movedim(-1, 1).float()
        sampled = F.grid_sample(
            photo, 2 * position[:, None] - 1, mode="bilinear", padding_mode="border", align_corners=False
        )
        lifted = self.from_photo(sampled[:, :, 0].movedim(1, -1).to(grid.dtype)) * seen[..., None].to(grid.dtype)
        place = place_code(position * features.shape[-1], seen, depth / self.extent).to(grid.dtype)
        hidden = lifted + self.from_cell(rearrange(fine, "b c z y x -> b (z y x) c")) + self.from_place(place)
        return fine + rearrange(self.out(F.silu(hidden)), "b (z y x) c -> b c z y x", z=self.size, y=self.size)


def resampled(grid: Tensor, size: int) -> Tensor:
    """Grid (B, C, g, g, g) with `size` cells on a side, trilinearly; as it is if it has as many."""
    if grid.shape[-1] == size:
        return grid
    return F.interpolate(grid, size=(size,) * 3, mode="trilinear", align_corners=False)


def project_cells(camera: Tensor, size: int, extent: float) -> tuple[Tensor, Tensor]:
    """Where a photo shows the centres of a grid's cells, in float32 whatever the camera vector's (B, 16) dtype.

    -> position (B, size³, 2) as (x, y) in picture sizes, at most one size outside the picture, and depth (B, size³)
    beyond the origin's, along the camera's axis.
    """
    cam2world, intrinsics = matrices_from_vector(camera.float())
    axis = ((torch.arange(size, device=camera.device, dtype=torch.float32) + 0.5) / size * 2 - 1) * extent
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    centres = torch.stack([x, y, z], dim=-1).flatten(0, 2)  # (M³, 3)
    rotation, origin = cam2world[:, None, :3, :3], cam2world[:, None, :3, 3]
    # No matrix product: autocast would round it to half precision.
    local = ((centres - origin)[..., None] * rotation).sum(-2)  # (B, M³, 3), by the rotation's transpose
    depth = local[..., 2].clamp(min=0.1)
    focal, principal = intrinsics[:, None, [0, 1], [0, 1]], intrinsics[:, None, :2, 2]
    position = local[..., :2] / depth[..., None] * focal + principal
    return position.clamp(-1, 2), depth - origin.norm(dim=-1)


def place_code(position: Tensor, seen: Tensor, depth: Tensor) -> Tensor:
    """Position (B, M³, 2) in feature cells, seen (B, M³) and depth (B, M³) -> (B, M³, PLACE_CHANNELS).

    Within which part of a feature cell a centre lies is what bilinear samples of features can't say.
    """
    angle = 2 * math.pi * position.frac()
    (x, y) = angle.unbind(-1)
    return torch.stack([x.sin(), x.cos(), y.sin(), y.cos(), seen.float(), depth], dim=-1)
