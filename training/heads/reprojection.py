"""How well two views of a scene agree where both see the same skin: one view warped into the other by its depth."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from nvb_core.cameras import Cameras

from .patch import Material
from .render import Render, project, render
from .scene import Scene

SAME_SURFACE = 0.02  # world units: deeper than that is another surface


def skin_psnr(scene: Scene, pair: Cameras, size: int, samples: int) -> float:
    """PSNR in dB (peak 1) on skin of the first of two views against the second warped into it; nan without skin."""
    views = render(scene, pair, size, samples)
    points = unproject(views.depth[0], pair[0])
    grid = (project(points.reshape(-1, 3), pair[1])[0] * 2 - 1).float().view(1, size, size, 2)
    warped = F.grid_sample(views.rgb[1:2], grid, align_corners=False)[0]
    shared = _shared_skin(views, points, grid, pair[1])
    error = ((warped - views.rgb[0]) / 2)[:, shared]
    return float(-10 * torch.log10(error.square().mean()))


def unproject(depth: Tensor, camera: Cameras) -> Tensor:
    """World points (H, W, 3) of camera-z depths (H, W); where nothing was hit they lie far behind the camera."""
    size = depth.shape[0]
    steps = (torch.arange(size, dtype=torch.float64) + 0.5) / size
    k = camera.intrinsics[0]
    z = depth.double().nan_to_num(posinf=-1e3)
    x = (steps[None, :] - k[0, 2]) / k[0, 0] * z
    y = (steps[:, None] - k[1, 2]) / k[1, 1] * z
    local = torch.stack([x, y, z], -1)
    return local @ camera.cam2world[0, :3, :3].T + camera.cam2world[0, :3, 3]


def _shared_skin(views: Render, points: Tensor, grid: Tensor, other: Cameras) -> Tensor:
    """(H, W) bool: skin in the first view whose point the second view also sees as skin."""
    z = (points - other.cam2world[0, :3, 3]) @ other.cam2world[0, :3, 2]
    depth = views.depth[1].nan_to_num(posinf=-1e3)[None, None]
    seen = F.grid_sample(depth, grid, mode="nearest", align_corners=False)[0, 0]
    kind = F.grid_sample(views.segmentation[1:2, None].float(), grid, mode="nearest", align_corners=False)[0, 0]
    skin = (views.segmentation[0] == Material.SKIN) & (kind == Material.SKIN)
    return skin & ((seen - z.float()).abs() < SAME_SURFACE)
