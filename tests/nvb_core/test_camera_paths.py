from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nvb_core.camera_paths import (
    CameraPoses,
    figure_eight,
    grid,
    keyframes,
    orbit,
    pitch_sweep,
    spiral,
    yaw_sweep,
)
from nvb_core.cameras import DEFAULT_FOV_DEG, FOCAL, RADIUS, Cameras
from nvb_core.errors import CameraError

F64 = torch.float64
QUICK = settings(deadline=None, max_examples=40)
ORIGIN = torch.zeros(1, 3)


def close(actual: torch.Tensor, expected: object, atol: float = 1e-6) -> None:
    torch.testing.assert_close(actual, torch.as_tensor(expected, dtype=actual.dtype), atol=atol, rtol=0)


def angle(low: float, high: float) -> st.SearchStrategy[float]:
    return st.floats(low, high, allow_nan=False, width=32)


def angles_of(cameras: Cameras) -> torch.Tensor:
    angles = cameras.angles()
    return torch.stack((angles.yaw_deg, angles.pitch_deg, angles.roll_deg), dim=1)


# ---- frames ----


def test_face_frame_is_from_angles() -> None:
    cameras = CameraPoses([0, 20], 10, [0, 5], radius=3.0, fov_deg=[20, 30]).resolve()
    assert torch.equal(cameras.to_eg3d(), Cameras.from_angles([0, 20], 10, [0, 5], 3.0, [20, 30]).to_eg3d())


def test_face_frame_has_defaults_and_ignores_the_source() -> None:
    source = Cameras.from_angles(50, radius=4, fov_deg=40)
    cameras = CameraPoses([0, 20]).resolve(source)
    assert torch.equal(cameras.to_eg3d(), Cameras.from_angles([0, 20]).to_eg3d())


off_centre = Cameras.look_at((0.8, 0.5, 2.5), target=(0.02, -0.03, 0.01), roll_deg=7, fov_deg=15)
SOURCE = Cameras(
    off_centre.cam2world, off_centre.intrinsics + torch.tensor([[0, 0, 0.02], [0, 0.1, -0.03], [0, 0, 0.0]])
)


def test_input_frame_at_zero_is_exactly_the_source() -> None:
    resolved = CameraPoses([0.0, 5.0, 0.0], [0.0, 0.0, 0.0], frame="input").resolve(SOURCE)
    assert torch.equal(resolved[0].to_eg3d(), SOURCE.to_eg3d())
    assert torch.equal(resolved[2].to_eg3d(), SOURCE.to_eg3d())


@QUICK
@given(angle(-60, 60), angle(-40, 40), angle(-30, 30), angle(-100, 100), angle(-45, 45), angle(-90, 90))
def test_input_frame_adds_angles(
    yaw: float, pitch: float, roll: float, dyaw: float, dpitch: float, droll: float
) -> None:
    source = Cameras.from_angles(yaw, pitch, roll, radius=3.1, fov_deg=17)
    resolved = CameraPoses(dyaw, dpitch, droll, frame="input").resolve(source)
    expected = Cameras.from_angles(yaw + dyaw, pitch + dpitch, roll + droll, radius=3.1, fov_deg=17)
    close(resolved.to_eg3d(), expected.to_eg3d())


@QUICK
@given(angle(-100, 100), angle(-45, 45), angle(-90, 90))
def test_input_frame_keeps_intrinsics_radius_and_the_heads_place(dyaw: float, dpitch: float, droll: float) -> None:
    resolved = CameraPoses(dyaw, dpitch, 0.0, frame="input").resolve(SOURCE)
    assert torch.equal(resolved.intrinsics, SOURCE.intrinsics)
    close(resolved.angles().radius, SOURCE.angles().radius, 1e-9)
    close(resolved.project(ORIGIN), SOURCE.project(ORIGIN), 1e-9)  # a head rotating about its centre in the picture
    rolled = CameraPoses(dyaw, dpitch, droll, frame="input").resolve(SOURCE)
    close(rolled.cam2world[:, :3, 2:], resolved.cam2world[:, :3, 2:], 1e-9)  # same place, same optical axis


def test_input_frame_roll_turns_the_picture_clockwise() -> None:
    source = Cameras.from_angles(20, 10)
    up = torch.tensor([[0.0, 0.1, 0.0]], dtype=F64)
    resolved = CameraPoses(0, 0, 30, frame="input").resolve(source)
    assert resolved.project(up)[0, 0, 0] > source.project(up)[0, 0, 0]


def test_input_frame_radius_and_fov_override() -> None:
    resolved = CameraPoses([0, 10], radius=3.5, fov_deg=DEFAULT_FOV_DEG, frame="input").resolve(SOURCE)
    close(resolved.angles().radius, [3.5, 3.5], 1e-9)
    close(resolved.intrinsics[:, 0, 0], [FOCAL, FOCAL], 1e-9)
    ratio = SOURCE.intrinsics[0, 1, 1] / SOURCE.intrinsics[0, 0, 0]
    close(resolved.intrinsics[0, 1, 1] / resolved.intrinsics[0, 0, 0], ratio, 1e-9)
    assert torch.equal(resolved.intrinsics[:, :2, 2], SOURCE.intrinsics[:, :2, 2].repeat(2, 1))


@pytest.mark.parametrize("source", [None, Cameras.from_angles([0, 1])])
def test_input_frame_needs_one_source(source: Cameras | None) -> None:
    with pytest.raises(CameraError, match=r'frame "input" need exactly 1 source camera, got [02]'):
        CameraPoses(0, frame="input").resolve(source)


# ---- paths ----


def test_sweeps() -> None:
    close(yaw_sweep(5, -40, 40, pitch_deg=7).yaw_deg, [-40, -20, 0, 20, 40])
    close(yaw_sweep(2, pitch_deg=7).pitch_deg, [7, 7])
    close(pitch_sweep(3, -10, 20, yaw_deg=4).pitch_deg, [-10, 5, 20])
    close(pitch_sweep(3, yaw_deg=4).yaw_deg, [4, 4, 4])
    close(yaw_sweep(1, -40, 40).yaw_deg, [-40])


def test_default_paths() -> None:
    close(yaw_sweep(3).yaw_deg, [-45, 0, 45])
    close(pitch_sweep(3).pitch_deg, [-20, 0, 20])
    close(orbit(4).yaw_deg, [0, 30, 0, -30])
    close(orbit(4).pitch_deg, [15, 0, -15, 0])
    close(figure_eight(8).yaw_deg[:3], [0, 30 / math.sqrt(2), 30])
    close(figure_eight(8).pitch_deg[:3], [0, 15, 0])
    close(spiral(9).yaw_deg[[1, 5]], [30 / 8, 30 * 5 / 8])  # a quarter of a turn, and one more turn
    close(spiral(9).pitch_deg[[4, 8]], [15 / 2, 15])


def test_orbit_positions_match_the_closed_form() -> None:
    positions = orbit(12, yaw_deg=40, pitch_deg=20).resolve().cam2world[:, :3, 3]
    for i, position in enumerate(positions):
        phi = 2 * math.pi * i / 12
        yaw, pitch = math.radians(40) * math.sin(phi), math.radians(20) * math.cos(phi)
        direction = (math.cos(pitch) * math.sin(yaw), math.sin(pitch), math.cos(pitch) * math.cos(yaw))
        close(position, [RADIUS * v for v in direction])
    close(positions[3], [RADIUS * math.sin(math.radians(40)), 0, RADIUS * math.cos(math.radians(40))])  # quarter: +yaw


@pytest.mark.parametrize("path", [orbit, figure_eight])
def test_loops_close_without_repeating_the_first_view(path: object) -> None:
    poses = path(16)  # type: ignore[operator]
    points = torch.stack((poses.yaw_deg, poses.pitch_deg), dim=1)
    steps = torch.linalg.vector_norm(points.roll(-1, 0) - points, dim=1)
    assert steps.min() > 1
    # The step from the last view back to the first is like the mirrored one at the start.
    close(steps[-1], steps[0])


def test_figure_eight() -> None:
    poses = figure_eight(8, 30, 10)
    half = 30 / math.sqrt(2)
    close(poses.yaw_deg, [0, half, 30, half, 0, -half, -30, -half])
    close(poses.pitch_deg, [0, 10, 0, -10, 0, 10, 0, -10])


def test_grid_is_row_major_by_pitch() -> None:
    poses = grid([-10, 0, 10], [5, -5], frame="input")
    close(poses.yaw_deg, [-10, 0, 10, -10, 0, 10])
    close(poses.pitch_deg, [5, 5, 5, -5, -5, -5])
    assert poses.frame == "input"


def test_spiral_grows_evenly_from_the_centre_to_the_ellipse() -> None:
    poses = spiral(33, 40, 20, turns=2)
    reach = torch.hypot(poses.yaw_deg / 40, poses.pitch_deg / 20)
    close(reach, [i / 32 for i in range(33)])
    close(torch.stack((poses.yaw_deg[16], poses.pitch_deg[16])), [0, 10])  # one turn, upwards
    close(torch.stack((poses.yaw_deg[-1], poses.pitch_deg[-1])), [0, 20])


@pytest.mark.parametrize("path", [yaw_sweep, pitch_sweep, orbit, figure_eight, spiral])
def test_paths_have_the_asked_number_of_views_and_frame(path: object) -> None:
    for views in (1, 2, 7, 10_000):
        poses = path(views, frame="input")  # type: ignore[operator]
        assert (len(poses), poses.frame) == (views, "input")
        assert torch.stack((poses.yaw_deg, poses.pitch_deg)).isfinite().all()


# ---- key poses ----


def test_keyframes_slerp_along_a_great_circle() -> None:
    keys = CameraPoses([0, 90], [0, 0], [0, 10], radius=[2, 4], fov_deg=[10, 20])
    poses = keyframes(keys, 4)
    close(poses.yaw_deg, [0, 30, 60, 90])
    close(poses.roll_deg, [0, 10 / 3, 20 / 3, 10])
    assert poses.radius is not None
    assert poses.fov_deg is not None
    close(poses.radius, [2, 8 / 3, 10 / 3, 4])
    close(poses.fov_deg, [10, 40 / 3, 50 / 3, 20])


@QUICK
@given(st.lists(st.tuples(angle(-80, 80), angle(-80, 80), angle(-90, 90)), min_size=2, max_size=4), st.integers(1, 6))
def test_keyframes_pass_through_keys_at_even_speed(keys: list[tuple[float, float, float]], gaps: int) -> None:
    yaw, pitch, roll = zip(*keys, strict=True)
    poses = keyframes(CameraPoses(yaw, pitch, roll), (len(keys) - 1) * gaps + 1)
    expected = torch.tensor(keys, dtype=F64)
    actual = torch.stack((poses.yaw_deg, poses.pitch_deg, poses.roll_deg), dim=1)
    assert torch.equal(actual[::gaps], expected)
    position = poses.resolve().cam2world[:, :3, 3]
    chords = torch.linalg.vector_norm(position[1:] - position[:-1], dim=1).reshape(len(keys) - 1, gaps)
    close(chords, chords[:, :1].expand_as(chords))


def test_keyframes_keep_unset_values_and_frame() -> None:
    poses = keyframes(CameraPoses([0, 10], frame="input"), 5)
    assert (poses.radius, poses.fov_deg, poses.frame) == (None, None, "input")


def test_keyframes_of_one_key_or_one_view() -> None:
    close(keyframes(CameraPoses(25, 10), 3).yaw_deg, [25, 25, 25])
    close(keyframes(CameraPoses([25, 50], 10), 1).yaw_deg, [25])


def test_keyframes_keep_the_yaw_of_a_key_at_the_pole() -> None:
    close(keyframes(CameraPoses([40, 40, 40], [0, 90, 0]), 7).yaw_deg[3], 40)


def test_keyframes_between_nearly_opposite_keys() -> None:
    close(keyframes(CameraPoses([0, 175]), 3).yaw_deg, [0, 87.5, 175])


def test_keyframes_reject_opposite_keys_and_steep_pitch() -> None:
    with pytest.raises(CameraError, match="keys 1 and 2 are opposite each other"):
        keyframes(CameraPoses([0, 30, -150], [0, 20, -20]), 10)
    with pytest.raises(CameraError, match="camera 1: key pitch_deg 91 must be within ±90"):
        keyframes(CameraPoses([0, 0], [0, 91]), 10)


# ---- validation ----


@pytest.mark.parametrize("path", [yaw_sweep, pitch_sweep, orbit, figure_eight, spiral])
@pytest.mark.parametrize("views", [0, -3, 10_001, True, 2.5])
def test_view_counts_are_limited(path: object, views: int) -> None:
    with pytest.raises(CameraError, match=r"views; expected 1 to 10000"):
        path(views)  # type: ignore[operator]


def test_view_counts_of_poses_grid_and_keyframes_are_limited() -> None:
    with pytest.raises(CameraError, match="0 views; expected 1 to 10000"):
        CameraPoses([])
    with pytest.raises(CameraError, match="10001 views; expected 1 to 10000"):
        CameraPoses(range(10_001))
    with pytest.raises(CameraError, match="0 views"):
        grid([], [1, 2])
    with pytest.raises(CameraError, match="1000000 views"):
        grid(range(1000), range(1000))
    with pytest.raises(CameraError, match="0 views"):
        keyframes(CameraPoses([0, 10]), 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"yaw_deg": [0, math.nan]}, "camera 1: yaw_deg nan must be finite"),
        ({"yaw_deg": 0, "pitch_deg": math.inf}, "camera 0: pitch_deg inf must be finite"),
        ({"yaw_deg": [0, 1], "radius": [2.7, 0.5]}, "camera 1: radius 0.5 must be above 0.7"),
        ({"yaw_deg": 0, "fov_deg": 180}, "camera 0: fov_deg 180 must be between"),
        ({"yaw_deg": [0, 1], "roll_deg": [0, 1, 2]}, "different lengths"),
        ({"yaw_deg": 0, "frame": "world"}, "frame 'world' must be one of face, input"),
        ({"yaw_deg": "x"}, "yaw_deg must be numbers"),
    ],
)
def test_poses_reject(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(CameraError, match=message):
        CameraPoses(**arguments)  # type: ignore[arg-type]


def test_paths_reject_non_finite_amplitudes() -> None:
    with pytest.raises(CameraError, match="yaw_deg nan must be finite"):
        orbit(4, yaw_deg=math.nan)
    with pytest.raises(CameraError, match="must be finite"):
        yaw_sweep(4, 0, math.inf)


def test_a_pose_may_move_inside_the_head_only_with_an_error() -> None:
    close_by = Cameras.look_at((0.0, 0.0, 0.9))
    with pytest.raises(CameraError, match=r"camera 0: radius 0\.6"):
        CameraPoses(0, radius=0.6, frame="input").resolve(close_by)


def test_rolls_add_up_in_the_face_frame() -> None:
    close(angles_of(CameraPoses([5, 6], 7, [8, 9]).resolve()), [[5, 7, 8], [6, 7, 9]])
