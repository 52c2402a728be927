from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nvb_core.align import crop_cameras
from nvb_core.cameras import FOCAL, RADIUS, Cameras, orbit_rotation, roll_rotation
from nvb_core.errors import CameraError, ConfigError
from training.data.nersemble.crops import HeadCrop, head_crop, moved_cameras

WIDTH, HEIGHT = 2200, 3208
POINTS = torch.tensor(
    [[0.0, 0.0, 0.0], [0.2, 0.1, 0.3], [-0.3, 0.4, 0.1], [0.1, -0.45, 0.2], [-0.2, 0.0, -0.4]], dtype=torch.float64
)  # of a head in EG3D's space


def similarity_of(seed: int, scale: float) -> Tensor:
    """Any rotation, a shift of up to about a third of a camera's distance, and the scale: rig -> EG3D."""
    draw = torch.Generator().manual_seed(seed)
    angles = 360 * torch.rand(3, generator=draw, dtype=torch.float64)
    rotation = orbit_rotation(angles[:1], angles[1:2] / 2 - 90)[0] @ roll_rotation(angles[2:])[0]
    move = torch.eye(4, dtype=torch.float64)
    move[:3, :3] = scale * rotation
    move[:3, 3] = torch.rand(3, generator=draw, dtype=torch.float64) - 0.5
    return move


def rig_of_16(similarity: Tensor) -> Cameras:
    """16 cameras around the head, none looking exactly at it, in the rig's world; pixels not quite square."""
    yaw = [-78.0, -52.0, -39.0, -28.0, -17.0, -6.0, 0.0, 7.0, 15.0, 24.0, 33.0, 41.0, 50.0, 61.0, 70.0, 80.0]
    pitch = [5.0, -15.0, 20.0, 0.0, 12.0, -8.0, 0.0, 25.0, -20.0, 4.0, 9.0, -11.0, 17.0, 2.0, -5.0, 10.0]
    target = torch.linspace(-0.3, 0.3, 48, dtype=torch.float64).reshape(16, 3)
    position = Cameras.from_angles(yaw, pitch, radius=torch.linspace(2.5, 3.2, 16)).cam2world[:, :3, 3]
    cameras = Cameras.look_at(position, target)
    intrinsics = torch.tensor([[8193.0, 0, 1103.5], [0, 8188.0, 1592.0], [0, 0, 1]], dtype=torch.float64)
    intrinsics = intrinsics / torch.tensor([[WIDTH], [HEIGHT], [1]])
    return moved_cameras(Cameras(cameras.cam2world, intrinsics.expand(16, 3, 3)), similarity.inverse())


def crops_of(rig: Cameras, similarity: Tensor) -> list[HeadCrop]:
    return [head_crop(camera, WIDTH, HEIGHT, 1.25) for camera in moved_cameras(rig, similarity)]


def largest_error_px(points: Tensor, rig: Cameras, similarity: Tensor, crops: list[HeadCrop]) -> float:
    """Between points of the rig's world as the rig sees them, and as the crops' cameras see them in EG3D's space."""
    direct = rig.project(points) * torch.tensor([WIDTH, HEIGHT])  # (N, M, 2)
    in_space = points @ similarity[:3, :3].mT + similarity[:3, 3]
    in_crop = Cameras.cat([crop.camera for crop in crops]).project(in_space)
    boxes = torch.tensor([(c.box.center_x, c.box.center_y, c.box.size_px) for c in crops], dtype=torch.float64)
    through = boxes[:, None, :2] + (in_crop - 0.5) * boxes[:, None, 2:]
    return float((through - direct).norm(dim=-1).max())


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10**6), st.floats(0.5, 2.0))
def test_labels_see_points_where_the_rig_sees_them(seed: int, scale: float) -> None:
    similarity = similarity_of(seed, scale)
    rig = rig_of_16(similarity)
    in_rig = (POINTS - similarity[:3, 3]) @ similarity[:3, :3].inverse().mT
    error = largest_error_px(in_rig, rig, similarity, crops_of(rig, similarity))
    assert error < 1e-6  # of 3208 pixels


def test_a_crop_is_centred_on_the_head_and_shows_the_margin() -> None:
    similarity = similarity_of(2, 1.2)
    for camera in moved_cameras(rig_of_16(similarity), similarity):
        crop = head_crop(camera, WIDTH, HEIGHT, 1.25)
        torch.testing.assert_close(
            crop.camera.project(torch.zeros(1, 3))[0, 0], torch.tensor([0.5, 0.5], dtype=torch.float64)
        )
        distance = float(camera.cam2world[0, :3, 3].norm())
        assert float(crop.camera.intrinsics[0, 0, 0]) == pytest.approx(FOCAL * distance / RADIUS / 1.25)
        exact = crop_cameras(camera, crop.box, WIDTH, HEIGHT)
        assert torch.equal(crop.camera.to_eg3d(), exact.to_eg3d())


def test_moved_cameras_see_moved_points_the_same() -> None:
    similarity = similarity_of(3, 0.7)
    rig = rig_of_16(similarity)
    in_rig = (POINTS - similarity[:3, 3]) @ similarity[:3, :3].inverse().mT
    moved = moved_cameras(rig, similarity)
    torch.testing.assert_close(moved.project(POINTS), rig.project(in_rig))
    assert torch.equal(moved.intrinsics, rig.intrinsics)


def test_crops_that_cannot_be_are_refused() -> None:
    camera = Cameras.from_angles(0.0)
    away = Cameras.look_at((0.0, 0.0, 2.7), (0.0, 0.0, 5.0))
    with pytest.raises(CameraError, match="behind the camera"):
        head_crop(away, WIDTH, HEIGHT)
    with pytest.raises(ConfigError, match="one camera"):
        head_crop(Cameras.from_angles([0.0, 1.0]), WIDTH, HEIGHT)
    with pytest.raises(ConfigError, match="margin"):
        head_crop(camera, WIDTH, HEIGHT, 0.0)
