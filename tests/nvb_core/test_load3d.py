from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch

from nvb_core.cameras import DEFAULT_FOV_DEG, RADIUS, Cameras
from nvb_core.errors import CameraError
from nvb_core.load3d import camera_from_load3d, camera_to_load3d

OLD: dict[str, Any] = {
    "position": {"x": 10, "y": 0, "z": 10},
    "target": {"x": 0, "y": 0, "z": 0},
    "zoom": 1,
    "cameraType": "perspective",
}


def angles(camera: Cameras) -> list[float]:
    found = camera.angles()
    return [float(v) for v in (found.yaw_deg, found.pitch_deg, found.roll_deg, found.radius, found.fov_deg)]


def test_the_old_form_gives_direction_only() -> None:
    assert angles(camera_from_load3d(OLD)) == pytest.approx([45, 0, 0, RADIUS, DEFAULT_FOV_DEG])


def test_directions_count_from_the_target() -> None:
    moved = OLD | {"position": {"x": 1, "y": 2 + math.sqrt(2), "z": 4}, "target": {"x": 0, "y": 2, "z": 3}}
    assert angles(camera_from_load3d(moved)) == pytest.approx([45, 45, 0, RADIUS, DEFAULT_FOV_DEG])


def test_a_scale_gives_distance_and_the_viewer_s_field_of_view() -> None:
    new = OLD | {"fov": 35, "aspect": 2.0}
    assert angles(camera_from_load3d(new, 5)) == pytest.approx([45, 0, 0, math.sqrt(200) / 5, 35])
    zoomed = angles(camera_from_load3d(new | {"zoom": 2}, 5))[4]
    assert math.tan(math.radians(zoomed / 2)) == pytest.approx(math.tan(math.radians(17.5)) / 2)
    narrow = angles(camera_from_load3d(new | {"aspect": 0.5}, 5))[4]
    assert narrow == pytest.approx(zoomed)
    assert angles(camera_from_load3d(OLD, 5))[4] == pytest.approx(DEFAULT_FOV_DEG)
    assert angles(camera_from_load3d(new | {"cameraType": "orthographic"}, 5))[4] == pytest.approx(DEFAULT_FOV_DEG)


def test_without_a_scale_the_viewer_s_field_of_view_does_not_count() -> None:
    assert angles(camera_from_load3d(OLD | {"fov": 35, "zoom": 2}))[4] == pytest.approx(DEFAULT_FOV_DEG)


def test_what_is_null_is_as_if_it_were_not_there() -> None:
    empty = OLD | {"zoom": None, "aspect": None, "fov": None, "quaternion": None}
    assert angles(camera_from_load3d(empty, 5)) == pytest.approx(angles(camera_from_load3d(OLD, 5)))


def test_a_small_scene_has_directions_too() -> None:
    near = OLD | {"position": {"x": 1e-4, "y": 0, "z": 1e-4}}
    assert angles(camera_from_load3d(near)) == pytest.approx([45, 0, 0, RADIUS, DEFAULT_FOV_DEG])


def test_the_field_of_view_written_is_the_vertical_one() -> None:
    camera = Cameras.from_angles(0, fov_deg=30)
    intrinsics = camera.intrinsics.clone()
    intrinsics[:, 0, 0] *= 2
    assert camera_to_load3d(Cameras(camera.cam2world, intrinsics))["fov"] == pytest.approx(30)


def test_a_quaternion_brings_the_roll() -> None:
    # three.js: no rotation looks along -z with y up; a quarter turn about z rolls the camera to its left.
    frontal = OLD | {"position": {"x": 0, "y": 0, "z": 3}}
    upright = camera_from_load3d(frontal | {"quaternion": {"x": 0, "y": 0, "z": 0, "w": 1}})
    torch.testing.assert_close(upright.cam2world, Cameras.from_angles(0).cam2world)
    quarter = {"x": 0, "y": 0, "z": math.sqrt(0.5), "w": math.sqrt(0.5)}
    for length in (1, 5, 1e-4):
        scaled = {axis: length * value for axis, value in quarter.items()}
        rolled = camera_from_load3d(frontal | {"quaternion": scaled})
        torch.testing.assert_close(rolled.cam2world, Cameras.from_angles(0, roll_deg=90).cam2world)


@pytest.mark.parametrize(("y", "up"), [(4, -1), (-4, 1)])
def test_from_straight_above_or_below_the_picture_is_as_in_three_js(y: float, up: float) -> None:
    """Whose Matrix4.lookAt moves the eye a little toward +z: what is up in the picture is the head's back or front."""
    cam2world = camera_from_load3d(OLD | {"position": {"x": 0, "y": y, "z": 0}}).cam2world[0]
    expected = torch.tensor([[1, 0, 0], [0, 0, -math.copysign(1, y)], [0, -up, 0]], dtype=torch.float64)
    torch.testing.assert_close(cam2world[:3, :3], expected)
    torch.testing.assert_close(cam2world[:3, 3], torch.tensor([0, math.copysign(RADIUS, y), 0], dtype=torch.float64))


@pytest.mark.parametrize("axis", ["x", "y", "z"])
def test_exact_half_turns(axis: str) -> None:
    turned = torch.tensor([1.0 if name == axis else -1.0 for name in "xyz"], dtype=torch.float64)  # of the axes
    cam2world = torch.eye(4, dtype=torch.float64)
    cam2world[:3, :3] = torch.diag(turned * torch.tensor([1, -1, -1]))  # from OpenGL's axes to OpenCV's
    cam2world[2, 3] = RADIUS * float(turned[2])
    camera = Cameras(cam2world[None], Cameras.from_angles(0).intrinsics)
    assert camera_to_load3d(camera)["quaternion"] == {name: float(name == axis) for name in "xyzw"}


@pytest.mark.parametrize("roll_deg", [0, 30, 180, -170])
@pytest.mark.parametrize(
    ("yaw_deg", "pitch_deg"), [(0, 0), (37, -12), (180, 0), (-90, 80), (120, 89.9), (30, 90), (0, -90)]
)
@pytest.mark.parametrize("scale", [1.0, 3.5])
def test_there_and_back_again_is_the_same_camera(
    yaw_deg: float, pitch_deg: float, roll_deg: float, scale: float
) -> None:
    camera = Cameras.from_angles(yaw_deg, pitch_deg, roll_deg, 3.1, 25)
    info = json.loads(json.dumps(camera_to_load3d(camera, scale)))
    back = camera_from_load3d(info, scale)
    torch.testing.assert_close(back.cam2world, camera.cam2world, atol=1e-9, rtol=0)
    torch.testing.assert_close(back.intrinsics, camera.intrinsics, atol=1e-9, rtol=0)
    assert sum(v**2 for v in info["quaternion"].values()) == pytest.approx(1)
    assert info["quaternion"]["w"] >= 0


def test_the_frontal_camera_is_the_viewer_s_default_rotation() -> None:
    info = camera_to_load3d(Cameras.from_angles(0), 2)
    assert info["position"] == pytest.approx({"x": 0, "y": 0, "z": 2 * RADIUS})
    assert info["quaternion"] == pytest.approx({"x": 0, "y": 0, "z": 0, "w": 1})
    assert info["fov"] == pytest.approx(DEFAULT_FOV_DEG)
    assert OLD.keys() <= info.keys()
    assert (info["zoom"], info["aspect"], info["cameraType"]) == (1, 1, "perspective")


@pytest.mark.parametrize(
    ("info", "scale", "says"),
    [
        (None, 0, "expected an object"),
        ({}, 0, "position: expected an object with x, y, z"),
        (OLD | {"position": {"x": 0, "y": 0}}, 0, "position: expected"),
        (OLD | {"position": {"x": 0, "y": "1", "z": 0}}, 0, "position.y: expected a finite number"),
        (OLD | {"position": {"x": 0, "y": 10**400, "z": 0}}, 0, "position.y: expected a finite number"),
        (OLD | {"position": OLD["target"]}, 0, "same point"),
        (OLD | {"quaternion": {"x": 0, "y": 0, "z": 0, "w": 0}}, 0, "quaternion: all zero"),
        (OLD | {"quaternion": [0, 0, 0, 1]}, 0, "quaternion: expected an object with x, y, z, w"),
        (OLD | {"position": {"x": True, "y": 0, "z": 0}}, 0, "position.x: expected a finite number"),
        (OLD | {"fov": 180}, 1, "fov 180"),
        (OLD | {"fov": 0}, 1, "fov 0"),
        (OLD | {"zoom": -1}, 1, "zoom -1"),
        (OLD, -1, "scene_scale -1"),
        (OLD, math.inf, "scene_scale inf"),
        (OLD, 100, "outside the head"),
    ],
)
def test_a_dictionary_that_is_no_camera_is_one_error(info: Any, scale: float, says: str) -> None:
    with pytest.raises(CameraError, match=says):
        camera_from_load3d(info, scale)


def test_a_viewer_takes_one_camera() -> None:
    with pytest.raises(CameraError, match="2 cameras; a viewer has exactly 1"):
        camera_to_load3d(Cameras.from_angles([0, 1]))
    for scale in (0, math.inf):
        with pytest.raises(CameraError, match=f"scene_scale {scale}"):
            camera_to_load3d(Cameras.from_angles(0), scale)
