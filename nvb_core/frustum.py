"""3D latent grid and view cameras -> features along each view's rays."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from .cameras import FOCAL, RADIUS


def matrices_from_vector(vector: Tensor) -> tuple[Tensor, Tensor]:
    """Camera vectors (…, 16) on any device -> cam2world (…, 4, 4) and intrinsics (…, 3, 3), unchecked."""
    pose = vector[..., :12].unflatten(-1, (3, 4))
    translation = pose[..., 3:] * RADIUS
    bottom = torch.eye(4, device=vector.device, dtype=vector.dtype)[3].expand(*vector.shape[:-1], 1, 4)
    cam2world = torch.cat([torch.cat([pose[..., :3], translation], dim=-1), bottom], dim=-2)
    fx, fy, cx, cy = (vector[..., 12:] * vector.new_tensor([FOCAL, FOCAL, 1, 1])).unbind(-1)
    zero, one = torch.zeros_like(fx), torch.ones_like(fx)
    intrinsics = torch.stack([fx, zero, cx, zero, fy, cy, zero, zero, one], dim=-1).unflatten(-1, (3, 3))
    return cam2world, intrinsics


def frustum_points(cam2world: Tensor, intrinsics: Tensor, extent: float, depth_samples: int, size: int) -> Tensor:
    """World points of a frustum: one ray per feature cell, planes uniform in camera z across the grid's cube.

    The planes run from distance - extent to distance + extent, where distance is the camera's from the origin.
    cam2world (M, 4, 4), intrinsics (M, 3, 3) -> (M, D, size, size, 3) as (x, y, z), float32.
    """
    cam2world, intrinsics = cam2world.float(), intrinsics.float()
    device = cam2world.device
    distance = cam2world[:, :3, 3].norm(dim=-1)
    z = distance[:, None] + torch.linspace(-extent, extent, depth_samples, device=device)  # (M, D)
    centres = (torch.arange(size, device=device, dtype=torch.float32) + 0.5) / size
    x = (centres[None, :] - intrinsics[:, 0, 2, None]) / intrinsics[:, 0, 0, None]  # (M, w)
    y = (centres[None, :] - intrinsics[:, 1, 2, None]) / intrinsics[:, 1, 1, None]  # (M, h)
    shape = (len(z), depth_samples, size, size)
    rays = torch.stack(
        [x[:, None, None, :].expand(shape), y[:, None, :, None].expand(shape), torch.ones(shape, device=device)], dim=-1
    )
    points = rays * z[:, :, None, None, None]
    rotation, origin = cam2world[:, :3, :3], cam2world[:, :3, 3]
    # No matrix product: autocast would round it to half precision.
    turned = (rotation[:, None, None, None] * points[..., None, :]).sum(-1)
    return turned + origin[:, None, None, None, :]


def _trilinear(grid: Tensor, points: Tensor) -> Tensor:
    """Samples of grids (B, C, z, y, x) at points (B, D, h, w, 3) of [-1, 1]³: (B, C, D, h, w)."""
    device = grid.device
    if device.type == "mps":  # torch can do this on Apple's GPUs from 2.9 only
        grid, points = grid.cpu(), points.cpu()
    return F.grid_sample(grid, points, mode="bilinear", padding_mode="zeros", align_corners=False).to(device)


def sample_frustum(
    grid: Tensor, cam2world: Tensor, intrinsics: Tensor, extent: float, depth_samples: int, size: int
) -> tuple[Tensor, Tensor]:
    """Trilinear samples of each face's grid in the frustum of each of its views (paper section 3.2).

    The geometry is computed in float32 whatever the grid's dtype. Points outside the cube read zero.
    grid (B, C, z, y, x), cam2world (B, N, 4, 4), intrinsics (B, N, 3, 3)
    -> features (B·N, C, D, size, size), inside (B·N, D, size, size) bool.
    """
    views = cam2world.shape[1]
    points = frustum_points(cam2world.flatten(0, 1), intrinsics.flatten(0, 1), extent, depth_samples, size)
    unit = points / extent  # the cube is [-1, 1]³ with (x, y, z) along grid_sample's (W, H, D)
    inside = (unit.abs() <= 1).all(dim=-1)
    # All views of a face are stacked along depth: one grid_sample per face, no copy of its grid per view.
    rays = rearrange(unit, "(b n) d h w c -> b (n d) h w c", n=views)
    features = _trilinear(grid.float(), rays)
    features = rearrange(features, "b c (n d) h w -> (b n) c d h w", n=views)
    features = features * inside[:, None]
    return features.to(grid.dtype), inside
