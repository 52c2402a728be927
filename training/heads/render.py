"""Render a scene from a batch of cameras."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from nvb_core.cameras import FOCAL, Cameras
from nvb_core.errors import ConfigError

from .scene import VISIBLE_METRES, Scene

SAMPLE_COUNTS = (1, 4, 9, 16)


@dataclass(frozen=True, eq=False)
class Render:
    """N views of H x W pixels, on the CPU."""

    rgb: Tensor  # (N, 3, H, W) in [-1, 1]
    alpha: Tensor  # (N, H, W) share of samples that hit something
    depth: Tensor  # (N, H, W) camera z in world units of the pixel's main class; inf where that is the background
    segmentation: Tensor  # (N, H, W) uint8 of patch.Material, the pixel's main class
    landmarks5_2d: Tensor  # (N, 5, 2) pixels, x right and y down from the image's corner


def render(scene: Scene, cameras: Cameras, size: int, samples: int = 4) -> Render:
    """Square images of `size` pixels with `samples` (1, 4, 9 or 16) rays a pixel on a fixed rotated grid."""
    if samples not in SAMPLE_COUNTS:
        raise ConfigError(f"samples is {samples}; expected one of {', '.join(map(str, SAMPLE_COUNTS))}")
    if not 8 <= size <= 4096:
        raise ConfigError(f"size is {size}; expected 8..4096 pixels")
    from . import kernels
    from .device import wp

    n, device = len(cameras), scene.device
    focal = float(cameras.intrinsics[:, 0, 0].mean())
    outputs = [wp.empty((n, size * size), dtype=t, device=device) for t in (wp.vec3, float, float, wp.uint8)]
    wp.launch(
        kernels.render_kernel,
        (n, size * size),
        inputs=[
            scene.uploaded.geometry,
            kernels.device_look(scene.identity.look),
            kernels.device_lenses(cameras, device),
            size,
            math.isqrt(samples),
            VISIBLE_METRES * FOCAL / (focal * size),
            *outputs,
        ],
        device=device,
    )
    rgb, alpha, depth, segmentation = (torch.from_numpy(output.numpy()) for output in outputs)
    return Render(
        rgb=rgb.view(n, size, size, 3).permute(0, 3, 1, 2).contiguous() * 2 - 1,
        alpha=alpha.view(n, size, size),
        depth=depth.view(n, size, size),
        segmentation=segmentation.view(n, size, size),
        landmarks5_2d=project(scene.landmarks5, cameras) * size,
    )


def project(points: Tensor, cameras: Cameras) -> Tensor:
    """World points (P, 3) -> image coordinates (N, P, 2), 0..1 across the image."""
    rotation, centre = cameras.cam2world[:, :3, :3], cameras.cam2world[:, :3, 3]
    local = torch.einsum("nij,npi->npj", rotation, points.double() - centre[:, None])
    image = torch.einsum("nij,npj->npi", cameras.intrinsics, local)
    return image[..., :2] / image[..., 2:]
