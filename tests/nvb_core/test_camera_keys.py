from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from nvb_core.camera_keys import read_camera_keys
from nvb_core.cameras import DEFAULT_FOV_DEG, RADIUS
from nvb_core.errors import CameraError


def text(*keys: Any, **changes: Any) -> str:
    return json.dumps({"format": "nvb-camera-keys", "version": 1, "frame": "face", "keys": list(keys), **changes})


def test_a_full_key_is_read_as_written() -> None:
    poses = read_camera_keys(text({"yaw_deg": 10, "pitch_deg": -5.5, "roll_deg": 2, "radius": 3, "fov_deg": 20}))
    assert poses.frame == "face"
    assert [float(getattr(poses, n)) for n in ("yaw_deg", "pitch_deg", "roll_deg", "radius", "fov_deg")] == [
        10,
        -5.5,
        2,
        3,
        20,
    ]


def test_only_yaw_is_needed() -> None:
    poses = read_camera_keys(text({"yaw_deg": -45}, {"yaw_deg": 45, "radius": None}, frame="input"))
    assert poses.frame == "input"
    assert poses.yaw_deg.tolist() == [-45, 45]
    assert poses.pitch_deg.tolist() == poses.roll_deg.tolist() == [0, 0]
    assert poses.radius is None
    assert poses.fov_deg is None


def test_a_missing_lens_beside_others_is_the_default_in_frame_face() -> None:
    poses = read_camera_keys(text({"yaw_deg": 0, "radius": 4}, {"yaw_deg": 1, "fov_deg": 30}))
    assert poses.radius is not None
    assert poses.fov_deg is not None
    assert poses.radius.tolist() == [4, RADIUS]
    torch.testing.assert_close(poses.fov_deg, torch.tensor([DEFAULT_FOV_DEG, 30], dtype=torch.float64))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "expected an object"),
        (text({"yaw_deg": 0}, format="other"), "format: expected 'nvb-camera-keys', found 'other'"),
        (text({"yaw_deg": 0}, version=2), "version: expected 1, found 2"),
        (text({"yaw_deg": 0}, frame="world"), 'frame: expected "face" or "input", found \'world\''),
        (text({"yaw_deg": 0}, frame=["face"]), "frame: expected"),
        (text({"yaw_deg": 0}, colour=1), "'colour' isn't known"),
        (text(), "keys: expected a list of at least one key"),
        (text(keys={"yaw_deg": 0}), "keys: expected a list"),
        (text({"yaw_deg": 0}, 5), r"keys\[1\]: expected an object with yaw_deg, found 5"),
        (text({"pitch_deg": 0}), r"keys\[0\]: needs yaw_deg"),
        (text({"yaw_deg": "10"}), r"keys\[0\]\.yaw_deg: expected a finite number, found '10'"),
        (text({"yaw_deg": None}), r"keys\[0\]\.yaw_deg: expected a finite number, found None"),
        (text({"yaw_deg": True}), r"keys\[0\]\.yaw_deg: expected a finite number, found True"),
        (text({"yaw_deg": 10**400}), r"keys\[0\]\.yaw_deg: expected a finite number, found 10+"),
        (text({"yaw_deg": float("nan")}), r"keys\[0\]\.yaw_deg: expected a finite number, found nan"),
        (text({"yaw_deg": 0, "yaw": 0}), r"keys\[0\]: 'yaw' isn't known; expected yaw_deg, pitch_deg"),
        (text({"yaw_deg": 0}, {"yaw_deg": 0, "radius": 0.2}), "camera keys: camera 1: radius 0.2 must be above 0.7"),
        (text({"yaw_deg": 0, "fov_deg": 180}), "fov_deg 180 must be between"),
        (text({"yaw_deg": 0, "radius": 3}, {"yaw_deg": 1}, frame="input"), r"keys\[1\]\.radius: missing while"),
    ],
)
def test_anything_else_is_one_error_that_names_the_place(content: str, says: str) -> None:
    with pytest.raises(CameraError, match=says) as caught:
        read_camera_keys(content)
    assert str(caught.value).startswith("camera keys: ")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 250
