from __future__ import annotations

import pytest
import torch

from nvb_core.camera_paths import CameraPoses
from nvb_core.cameras import DEFAULT_FOV_DEG, RADIUS, Cameras
from nvb_core.errors import CameraError, ConfigError
from nvb_core.view_lists import join_views, parse_selection, path_through, take_views


def test_poses_of_one_frame_stay_poses() -> None:
    joined = join_views([CameraPoses([1, 2], frame="input"), CameraPoses(3, 4, 5, frame="input")])
    assert isinstance(joined, CameraPoses)
    assert joined.frame == "input"
    assert joined.yaw_deg.tolist() == [1, 2, 3]
    assert joined.roll_deg.tolist() == [0, 0, 5]
    assert joined.radius is None


def test_joined_poses_of_the_face_fill_in_the_default_lens() -> None:
    joined = join_views([CameraPoses(1), CameraPoses(2, radius=3, fov_deg=20)])
    assert isinstance(joined, CameraPoses)
    assert joined.radius is not None
    assert joined.fov_deg is not None
    assert joined.radius.tolist() == [RADIUS, 3]
    torch.testing.assert_close(joined.fov_deg, torch.tensor([DEFAULT_FOV_DEG, 20], dtype=torch.float64))


def test_cameras_and_poses_of_the_face_become_cameras() -> None:
    joined = join_views([Cameras.from_angles([10, 20]), CameraPoses(30)])
    assert isinstance(joined, Cameras)
    assert joined.angles().yaw_deg.tolist() == pytest.approx([10, 20, 30])


@pytest.mark.parametrize("other", [Cameras.from_angles(0), CameraPoses(0), CameraPoses(0, radius=3, frame="input")])
def test_poses_that_count_from_the_photo_join_only_their_like(other: Cameras | CameraPoses) -> None:
    with pytest.raises(CameraError, match='frame "input"'):
        join_views([CameraPoses(0, frame="input"), other])
    with pytest.raises(CameraError, match="no cameras to join"):
        join_views([])


def test_some_of_them_in_any_order() -> None:
    poses = CameraPoses([0, 1, 2, 3], radius=[3, 4, 5, 6], frame="input")
    taken = take_views(poses, [2, 0, 2])
    assert isinstance(taken, CameraPoses)
    assert taken.yaw_deg.tolist() == [2, 0, 2]
    assert taken.radius is not None
    assert taken.radius.tolist() == [5, 3, 5]
    assert taken.fov_deg is None
    assert taken.frame == "input"
    cameras = Cameras.from_angles([0, 10, 20])
    some = take_views(cameras, [2, 1])
    assert isinstance(some, Cameras)
    assert torch.equal(some.cam2world, cameras.cam2world[[2, 1]])


def test_a_path_needs_poses() -> None:
    assert path_through(CameraPoses([0, 10]), 3).yaw_deg.tolist() == pytest.approx([0, 5, 10])
    with pytest.raises(CameraError, match="poses in degrees, not cameras"):
        path_through(Cameras.from_angles([0, 10]), 3)


@pytest.mark.parametrize(
    ("text", "indices"),
    [
        ("all", [0, 1, 2, 3, 4, 5]),
        (" ", [0, 1, 2, 3, 4, 5]),
        ("3", [3]),
        ("3, 0,3", [3, 0, 3]),
        ("1-4", [1, 2, 3, 4]),
        ("0-5/2", [0, 2, 4]),
        ("5,0 - 4 / 3", [5, 0, 3]),
    ],
)
def test_selection(text: str, indices: list[int]) -> None:
    assert parse_selection(text, 6) == indices


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("6", "'6' goes beyond the 6 views, 0 to 5"),
        ("0-6", "goes beyond"),
        ("0-999999999999", "goes beyond"),
        ("4-2", "is empty"),
        ("0-4/0", "is empty"),
        ("-1", "isn't an index or a range"),
        ("1,,2", "isn't an index"),
        ("1:3", "isn't an index"),
        ("one", "'one' isn't an index"),
        ("9" * 5000, "isn't an index"),
    ],
)
def test_a_selection_of_nothing_is_one_error(text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        parse_selection(text, 6)


def test_the_form_of_a_selection_is_checked_without_views() -> None:
    assert parse_selection("0-99999999999999") == []
    with pytest.raises(ConfigError, match="isn't an index"):
        parse_selection("1;2")
