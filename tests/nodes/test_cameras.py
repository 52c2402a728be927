"""The camera nodes."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.nodes.conftest import Pack
from tests.nodes.stand_in import ExecutionBlocker

LENS = {"radius": 0.0, "fov_deg": 0.0, "frame": "face"}


def run(pack: Pack, node_id: str, *args: Any, **inputs: Any) -> Any:
    return pack.node(node_id).execute(*args, **inputs).args[0]


def path(pack: Pack, name: str, views: int = 8, **inputs: Any) -> Any:
    return run(pack, "NVBCameraPath", name, views, **{"yaw_deg": 45.0, "pitch_deg": 15.0, **LENS, **inputs})


def test_pose_leaves_lens_to_the_frame_unless_given(pack: Pack) -> None:
    pose = run(pack, "NVBCameraPose", 10.0, 5.0, 3.0, **LENS)
    assert (pose.yaw_deg.item(), pose.pitch_deg.item(), pose.roll_deg.item()) == (10, 5, 3)
    assert (pose.radius, pose.fov_deg, pose.frame) == (None, None, "face")
    given = run(pack, "NVBCameraPose", 0.0, 0.0, 0.0, radius=3.0, fov_deg=20.0, frame="input")
    assert (given.radius.item(), given.fov_deg.item(), given.frame) == (3, 20, "input")


def test_every_path_of_the_list_has_its_range(pack: Pack) -> None:
    for name in pack.module("nodes.cameras").PATHS:
        poses = path(pack, name, 9, radius=3.0)
        assert len(poses) == 9
        assert poses.yaw_deg.abs().max() <= 45.001
        assert poses.pitch_deg.abs().max() <= 15.001
        assert poses.radius.tolist() == [3.0] * 9
    assert path(pack, "sweep", 3).yaw_deg.tolist() == [-45, 0, 45]
    assert path(pack, "pitch sweep", 3).pitch_deg.tolist() == [-15, 0, 15]


def test_key_poses_are_passed_through_in_their_own_frame(pack: Pack) -> None:
    keys = run(
        pack,
        "NVBCombineCameras",
        run(pack, "NVBCameraPose", -20.0, 0.0, 0.0, radius=0.0, fov_deg=0.0, frame="input"),
        run(pack, "NVBCameraPose", 20.0, 0.0, 0.0, radius=0.0, fov_deg=0.0, frame="input"),
    )
    poses = path(pack, "key poses", 5, key_poses=keys)
    torch.testing.assert_close(poses.yaw_deg, torch.tensor([-20.0, -10, 0, 10, 20], dtype=torch.float64))
    assert poses.frame == "input"
    camera_error = pack.module("nvb_core.errors").CameraError
    with pytest.raises(camera_error, match="connect key_poses"):
        path(pack, "key poses")
    with pytest.raises(camera_error, match="poses in degrees, not cameras"):
        path(pack, "key poses", key_poses=keys.__class__([0, 1]).resolve())
    with pytest.raises(pack.module("nvb_core.errors").ConfigError, match="path 'zigzag'"):
        path(pack, "zigzag")


def test_grid_runs_row_by_row_from_below(pack: Pack) -> None:
    grid = run(pack, "NVBCameraGrid", 3, 2, 30.0, 10.0, **LENS)
    assert grid.yaw_deg.tolist() == [-30, 0, 30] * 2
    assert grid.pitch_deg.tolist() == [-10] * 3 + [10] * 3
    single = run(pack, "NVBCameraGrid", 1, 1, 30.0, 10.0, **LENS)
    assert (single.yaw_deg.tolist(), single.pitch_deg.tolist()) == ([0], [0])


def test_picker_gives_its_keys_or_a_path_through_them(pack: Pack) -> None:
    keys = pack.module("nodes.cameras").DEFAULT_KEYS
    assert run(pack, "NVBCameraPicker", keys, 0).yaw_deg.tolist() == [-45, 0, 45]
    assert len(run(pack, "NVBCameraPicker", keys, 7)) == 7
    validate = pack.node("NVBCameraPicker").validate_inputs
    assert validate(keys) is True
    assert "not JSON" in validate("{")


def test_selection_keeps_cameras_and_pictures_together(pack: Pack) -> None:
    cameras, images = path(pack, "sweep", 4), torch.rand(4, 16, 16, 3)
    chosen, shown = pack.node("NVBSelectViews").execute(cameras, "3,0-1", images).args
    assert chosen.yaw_deg.tolist() == [45, -45, -15]
    assert torch.equal(shown, images[[3, 0, 1]])
    _, missing = pack.node("NVBSelectViews").execute(cameras, "all").args
    assert isinstance(missing, ExecutionBlocker)
    with pytest.raises(pack.module("nvb_core.errors").ConfigError, match="4 images for 3 cameras"):
        pack.node("NVBSelectViews").execute(path(pack, "sweep", 3), "all", images)
    assert "isn't an index" in pack.node("NVBSelectViews").validate_inputs("1;2")


def test_load3d_takes_and_gives_one_camera(pack: Pack) -> None:
    info = run(pack, "NVBCamerasToLoad3D", path(pack, "sweep", 3), 2, 2.0)
    back = run(pack, "NVBCamerasFromLoad3D", info, 2.0)
    assert back.angles().yaw_deg.item() == pytest.approx(45)
    with pytest.raises(pack.module("nvb_core.errors").CameraError, match="index 3 goes beyond the 3 cameras"):
        run(pack, "NVBCamerasToLoad3D", path(pack, "sweep", 3), 3, 2.0)
