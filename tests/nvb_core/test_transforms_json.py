from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from nvb_core.cameras import FOCAL, Cameras
from nvb_core.errors import CameraError
from nvb_core.transforms_json import transforms_object

WIDTH, HEIGHT = 200, 100


def project(frame: dict[str, object], top: dict[str, float], point: np.ndarray) -> tuple[float, float]:
    """Pixel of a world point as nerfstudio has it: an OpenGL camera, which looks along its -z with y up."""
    x, y, z, _ = np.linalg.inv(np.array(frame["transform_matrix"])) @ np.append(point, 1)
    return top["cx"] + top["fl_x"] * x / -z, top["cy"] - top["fl_y"] * y / -z


def test_the_frontal_camera_is_exact() -> None:
    written = transforms_object(Cameras.from_angles(0), ["a.png"], 128, 128)
    assert written == {
        "camera_model": "PINHOLE",
        "w": 128,
        "h": 128,
        "fl_x": FOCAL_PX,
        "fl_y": FOCAL_PX,
        "cx": 64.0,
        "cy": 64.0,
        "frames": [
            {
                "file_path": "a.png",
                # Upright on +z, looking back at the origin: OpenGL's axes are the world's.
                "transform_matrix": [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 2.7], [0, 0, 0, 1]],
            }
        ],
    }


FOCAL_PX = float(Cameras.from_angles(0).intrinsics[0, 0, 0]) * 128


def test_the_focal_length_is_in_pixels() -> None:
    assert pytest.approx(FOCAL * 128, rel=1e-9) == FOCAL_PX


def test_points_land_on_the_pixels_that_our_cameras_put_them_on() -> None:
    cameras = Cameras.from_angles([0, 35, -80], [10, -20, 45], [0, 12, -30], [2.7, 3, 2], 20)
    points = torch.tensor([[0.1, 0.2, 0.3], [-0.2, 0.05, 0.1]], dtype=torch.float64)
    ours = cameras.project(points) * torch.tensor([WIDTH, HEIGHT])  # (N, M, 2)
    written = json.loads(json.dumps(transforms_object(cameras, ["a", "b", "c"], WIDTH, HEIGHT)))
    assert (written["w"], written["h"]) == (WIDTH, HEIGHT)
    for frame, expected in zip(written["frames"], ours.tolist(), strict=True):
        found = [project(frame, written, point) for point in points.numpy()]
        np.testing.assert_allclose(found, expected, atol=1e-9)


def test_intrinsics_that_differ_stand_in_each_frame() -> None:
    cameras = Cameras.cat([Cameras.from_angles(0, fov_deg=20), Cameras.from_angles(0, fov_deg=30)])
    written = transforms_object(cameras, ["a", "b"], WIDTH, HEIGHT)
    assert "fl_x" not in written
    for frame, camera in zip(written["frames"], cameras, strict=True):
        assert frame["fl_x"] == float(camera.intrinsics[0, 0, 0]) * WIDTH
        assert (frame["cx"], frame["cy"]) == (WIDTH / 2, HEIGHT / 2)


def test_every_camera_needs_its_file() -> None:
    with pytest.raises(CameraError, match="1 files for 2 cameras"):
        transforms_object(Cameras.from_angles([0, 1]), ["a"], WIDTH, HEIGHT)
