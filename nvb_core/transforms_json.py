"""Cameras as nerfstudio's `transforms.json`, which 3D Gaussian splatting and NeRF trainers read.

There a camera's axes are OpenGL's (x right, y up, z backward) where ours are OpenCV's (x right, y down, z forward), and
intrinsics are in pixels. The world stays ours: y up, origin at the head's centre.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from .cameras import Cameras
from .errors import CameraError

OPENGL_AXES = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0], dtype=torch.float64))


def transforms_object(cameras: Cameras, files: Sequence[str], width: int, height: int) -> dict[str, Any]:
    """JSON-able form of N cameras of the N picture files of `width` × `height` pixels.

    Intrinsics that all frames share stand at the top, as most readers expect; others stand in each frame.
    """
    if len(files) != len(cameras):
        raise CameraError(f"{len(files)} files for {len(cameras)} cameras; give one for each")
    intrinsics = [_pixels(matrix, width, height) for matrix in cameras.intrinsics.tolist()]
    shared = all(entry == intrinsics[0] for entry in intrinsics)
    frames = [
        {"file_path": file, "transform_matrix": matrix} | ({} if shared else own)
        for file, matrix, own in zip(files, (cameras.cam2world @ OPENGL_AXES).tolist(), intrinsics, strict=True)
    ]
    top: dict[str, Any] = {"camera_model": "PINHOLE", "w": width, "h": height}
    return top | (intrinsics[0] if shared else {}) | {"frames": frames}


def _pixels(matrix: list[list[float]], width: int, height: int) -> dict[str, float]:
    return {
        "fl_x": matrix[0][0] * width,
        "fl_y": matrix[1][1] * height,
        "cx": matrix[0][2] * width,
        "cy": matrix[1][2] * height,
    }
