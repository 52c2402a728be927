"""The cameras an identity is seen from: a pure function of its seed."""

from __future__ import annotations

import numpy as np

from nvb_core.cameras import Cameras

WIDE_SHARE, WIDE_YAW_DEG, NARROW_YAW_SIGMA_DEG = 0.75, 60.0, 15.0
PITCH_SIGMA_DEG, MOST_PITCH_DEG = 12.0, 30.0
FIRST_YAW_DEG, FIRST_PITCH_DEG = 20.0, 10.0


def sample_view_cameras(seed: int, views: int) -> Cameras:
    """`views` cameras on EG3D's sphere; the first is near-frontal, the others mostly spread over the sides."""
    rng = np.random.default_rng([seed, 9])
    yaw, pitch = [rng.uniform(-FIRST_YAW_DEG, FIRST_YAW_DEG)], [rng.uniform(-FIRST_PITCH_DEG, FIRST_PITCH_DEG)]
    for _ in range(views - 1):
        wide = rng.random() < WIDE_SHARE
        yaw.append(rng.uniform(-WIDE_YAW_DEG, WIDE_YAW_DEG) if wide else rng.normal(0, NARROW_YAW_SIGMA_DEG))
        pitch.append(np.clip(rng.normal(0, PITCH_SIGMA_DEG), -MOST_PITCH_DEG, MOST_PITCH_DEG))
    return Cameras.from_angles([float(y) for y in yaw], [float(p) for p in pitch])


def with_margin(cameras: Cameras, margin: float) -> Cameras:
    """The same cameras seeing `margin` times as far around the image: focal lengths divided by it."""
    intrinsics = cameras.intrinsics.clone()
    intrinsics[:, 0, 0] /= margin
    intrinsics[:, 1, 1] /= margin
    return Cameras(cameras.cam2world, intrinsics)
