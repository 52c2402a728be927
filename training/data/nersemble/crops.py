"""Cameras of a rig taken into EG3D's space, and square crops of the head with exact cameras."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nvb_core.align import CropBox, crop_cameras
from nvb_core.cameras import FOCAL, RADIUS, Cameras
from nvb_core.errors import CameraError, ConfigError


@dataclass(frozen=True)
class HeadCrop:
    """An upright square of a picture, in pixels, and its camera (1) in EG3D's space, normalised by the square."""

    box: CropBox
    camera: Cameras


def moved_cameras(cameras: Cameras, similarity: Tensor) -> Cameras:
    """Cameras (N) of a rig in the space that `similarity` (4, 4) [[s·R, t], [0, 1]] takes the rig's world to.

    What they see stays as it is: intrinsics are unchanged. Raises CameraError for one that lands inside the head.
    """
    move = similarity.double()
    cam2world = move @ cameras.cam2world
    cam2world[:, :3, :3] /= torch.linalg.det(move[:3, :3]) ** (1 / 3)
    return Cameras(cam2world, cameras.intrinsics)


def head_crop(camera: Cameras, width: int, height: int, margin: float = 1.0) -> HeadCrop:
    """The square about the projected origin that shows `margin` times the canonical view.

    `camera` (1) is in EG3D's space, of the whole width × height picture. The square may leave the picture. Raises
    CameraError if the origin is behind the camera.
    """
    if len(camera) != 1 or not margin > 0:
        raise ConfigError(f"a head crop needs one camera and a margin above 0; got {len(camera)} and {margin}")
    centre = camera.project(torch.zeros(1, 3, dtype=torch.float64))[0, 0]  # (2)
    if not bool(centre.isfinite().all()):
        raise CameraError("the head (the origin) is behind the camera; check the pose and the similarity")
    distance = float(camera.cam2world[0, :3, 3].norm())
    focal_px = float(camera.intrinsics[0, 0, 0]) * width
    side_px = focal_px / FOCAL * RADIUS / distance * margin
    box = CropBox(float(centre[0]) * width, float(centre[1]) * height, side_px)
    return HeadCrop(box, crop_cameras(camera, box, width, height))
