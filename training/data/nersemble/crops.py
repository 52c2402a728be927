"""Cameras of a rig taken into EG3D's space, and square crops of the head with exact cameras."""

from __future__ import annotations

from collections.abc import Sequence
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


def reprojection_error_px(
    points: Tensor, intrinsics_px: Tensor, world_2_cam: Tensor, similarity: Tensor, crops: Sequence[HeadCrop]
) -> float:
    """Largest distance, in the pictures' pixels, between points (M, 3) of the rig's world seen in two ways.

    One is the rig's own: intrinsics_px (N, 3, 3), world_2_cam (N, 4, 4). The other is `similarity` (4, 4), then the
    camera and box of each of the N crops. NaN if a point is behind a camera.
    """
    world = torch.cat((points.double(), torch.ones(len(points), 1, dtype=torch.float64)), dim=1)  # (M, 4)
    seen = (world @ world_2_cam.double().mT)[..., :3] @ intrinsics_px.double().mT  # (N, M, 3)
    direct = torch.where(seen[..., 2:] > 0, seen[..., :2] / seen[..., 2:], torch.nan)
    in_crop = Cameras.cat([crop.camera for crop in crops]).project((world @ similarity.double().mT)[:, :3])
    boxes = torch.tensor([(c.box.center_x, c.box.center_y, c.box.size_px) for c in crops], dtype=torch.float64)
    through = boxes[:, None, :2] + (in_crop - 0.5) * boxes[:, None, 2:]  # (N, M, 2)
    return float((through - direct).norm(dim=-1).max())
