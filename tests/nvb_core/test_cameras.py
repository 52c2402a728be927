from __future__ import annotations

import json
import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nvb_core.cameras import DEFAULT_FOV_DEG, FOCAL, HEAD_RADIUS, RADIUS, Cameras
from nvb_core.errors import CameraError

F64 = torch.float64
QUICK = settings(deadline=None, max_examples=50)
POINTS = torch.tensor([[0.0, 0.0, 0.0], [0.1, 0.0, 0.0], [0.0, 0.1, 0.0], [-0.05, 0.12, 0.2]], dtype=F64)


def close(actual: torch.Tensor, expected: object, atol: float = 1e-6) -> None:
    torch.testing.assert_close(actual, torch.as_tensor(expected, dtype=actual.dtype), atol=atol, rtol=0)


def angle(low: float, high: float) -> st.SearchStrategy[float]:
    return st.floats(low, high, allow_nan=False, width=32)


@st.composite
def cameras(draw: st.DrawFn) -> Cameras:
    return Cameras.from_angles(
        draw(angle(-180, 180)), draw(angle(-90, 90)), draw(angle(-180, 180)), draw(angle(1, 10)), draw(angle(1, 120))
    )


# ---- conventions ----


def test_frontal_camera_is_the_documented_matrix() -> None:
    frontal = Cameras.from_angles(0.0)
    close(frontal.cam2world[0], [[1, 0, 0, 0], [0, -1, 0, 0], [0, 0, -1, 2.7], [0, 0, 0, 1]], 1e-12)
    close(frontal.intrinsics[0], [[FOCAL, 0, 0.5], [0, FOCAL, 0.5], [0, 0, 1]], 1e-12)
    assert frontal.cam2world.dtype == frontal.intrinsics.dtype == F64
    assert pytest.approx(13.37, abs=0.01) == DEFAULT_FOV_DEG


@pytest.mark.parametrize(
    ("yaw", "pitch", "position"),
    [
        (90, 0, (2.7, 0, 0)),
        (-90, 0, (-2.7, 0, 0)),
        (180, 0, (0, 0, -2.7)),
        (0, 90, (0, 2.7, 0)),
        (0, -90, (0, -2.7, 0)),
    ],
)
def test_yaw_moves_to_subjects_left_and_pitch_up(yaw: float, pitch: float, position: tuple[float, ...]) -> None:
    close(Cameras.from_angles(yaw, pitch).cam2world[0, :3, 3], position, 1e-12)


@QUICK
@given(angle(-180, 180), angle(-90, 90), angle(-180, 180), angle(1, 9))
def test_position_closed_form_and_gaze_at_origin(yaw: float, pitch: float, roll: float, radius: float) -> None:
    camera = Cameras.from_angles(yaw, pitch, roll, radius)
    y, p = math.radians(yaw), math.radians(pitch)
    direction = (math.cos(p) * math.sin(y), math.sin(p), math.cos(p) * math.cos(y))
    close(camera.cam2world[0, :3, 3], [radius * v for v in direction], 1e-9)
    close(camera.cam2world[0, :3, 2], [-v for v in direction], 1e-9)
    close(camera.project(torch.zeros(1, 3)), [[[0.5, 0.5]]], 1e-9)


def test_positive_roll_turns_the_picture_clockwise() -> None:
    above = torch.tensor([[0.0, 0.1, 0.0]], dtype=F64)
    offset = FOCAL * 0.1 / RADIUS
    close(Cameras.from_angles(0).project(above), [[[0.5, 0.5 - offset]]], 1e-9)
    close(
        Cameras.from_angles(0, 0, 90).project(above), [[[0.5 + offset, 0.5]]], 1e-9
    )  # the top of the picture goes right
    half = offset / math.sqrt(2)
    close(Cameras.from_angles(0, 0, 45).project(above), [[[0.5 + half, 0.5 - half]]], 1e-9)


def test_projection_is_the_pinhole_formula() -> None:
    # The subject's left (+x) is on the right of a frontal picture; nearer points are magnified.
    frontal = Cameras.from_angles([0.0, 0.0], fov_deg=[DEFAULT_FOV_DEG, 90.0])
    points = torch.tensor([[0.1, 0.05, 0.3], [0.0, 0.0, -1.0]])
    expected = [
        [[0.5 + FOCAL * 0.1 / 2.4, 0.5 - FOCAL * 0.05 / 2.4], [0.5, 0.5]],
        [[0.5 + 0.5 * 0.1 / 2.4, 0.5 - 0.5 * 0.05 / 2.4], [0.5, 0.5]],
    ]
    close(frontal.project(points), expected)


def test_points_behind_the_camera_project_to_nan() -> None:
    assert Cameras.from_angles(0).project(torch.tensor([[0.0, 0.0, 3.0], [0.0, 0.0, 2.7]])).isnan().all()


def test_points_beside_the_camera_project_to_nan() -> None:
    beside = torch.tensor([[0.1, 0.0, RADIUS], [0.0, -0.1, RADIUS]], dtype=F64)  # at depth 0
    assert Cameras.from_angles(0).project(beside).isnan().all()


def test_yaw_shows_the_subjects_left_cheek_nearer() -> None:
    left_cheek, right_cheek = torch.tensor([[0.15, 0.0, 0.1]], dtype=F64), torch.tensor([[-0.15, 0.0, 0.1]], dtype=F64)
    position = Cameras.from_angles(30).cam2world[0, :3, 3]
    assert (position - left_cheek).norm() < (position - right_cheek).norm()


# ---- angles ----


@QUICK
@given(angle(-179.5, 180), angle(-89.5, 89.5), angle(-179.5, 180), angle(0.75, 20), angle(1, 150))
def test_angles_invert_from_angles(yaw: float, pitch: float, roll: float, radius: float, fov: float) -> None:
    angles = Cameras.from_angles(yaw, pitch, roll, radius, fov).angles()
    actual = torch.stack((angles.yaw_deg, angles.pitch_deg, angles.roll_deg, angles.radius, angles.fov_deg), dim=1)[0]
    close(actual, [yaw, pitch, roll, radius, fov])


@pytest.mark.parametrize("pitch", [90.0, -90.0, 120.0, -91.0])
@pytest.mark.parametrize(("yaw", "roll"), [(0, 0), (35, 0), (-50, 20), (0, 170)])
def test_beyond_the_poles_angles_describe_the_same_camera(pitch: float, yaw: float, roll: float) -> None:
    camera = Cameras.from_angles(yaw, pitch, roll)
    angles = camera.angles()
    assert abs(angles.pitch_deg.item()) <= 90
    again = Cameras.from_angles(angles.yaw_deg, angles.pitch_deg, angles.roll_deg)
    close(again.cam2world, camera.cam2world)
    if abs(pitch) == 90:
        close(angles.roll_deg, [0.0])


def test_at_the_pole_all_rotation_is_yaw() -> None:
    close(Cameras.from_angles(-50, 90).angles().yaw_deg, [-50.0])
    close(Cameras.from_angles(20, 90, 15).angles().yaw_deg, [20.0 + 15.0])


def test_near_the_pole_yaw_and_roll_are_still_told_apart() -> None:
    angles = Cameras.from_angles(20, 89.99, 15).angles()
    close(torch.cat((angles.yaw_deg, angles.pitch_deg, angles.roll_deg)), [20.0, 89.99, 15.0])


def test_the_angle_of_view_is_the_horizontal_one() -> None:
    intrinsics = Cameras.from_angles(0, fov_deg=30).intrinsics
    intrinsics[:, 1, 1] *= 2
    close(Cameras(Cameras.from_angles(0).cam2world, intrinsics).angles().fov_deg, [30.0])


def test_roll_of_a_camera_that_looks_past_the_origin_is_its_turn_about_the_axis() -> None:
    camera = Cameras.look_at((0.0, 0.0, 2.7), target=(0.05, 0.0, 0.0), roll_deg=12.0)
    angles = camera.angles()
    close(torch.cat((angles.yaw_deg, angles.pitch_deg)), [0.0, 0.0])
    close(angles.roll_deg, [12.0], 1e-2)


# ---- look-at ----


@QUICK
@given(angle(-180, 180), angle(-85, 85), angle(-180, 180), angle(1, 9), angle(5, 100))
def test_look_at_the_origin_equals_from_angles(
    yaw: float, pitch: float, roll: float, radius: float, fov: float
) -> None:
    expected = Cameras.from_angles(yaw, pitch, roll, radius, fov)
    actual = Cameras.look_at(expected.cam2world[0, :3, 3], roll_deg=roll, fov_deg=fov)
    close(actual.cam2world, expected.cam2world)
    close(actual.intrinsics, expected.intrinsics)


@pytest.mark.parametrize("target", [(0.0, 0.0, 0.0), (0.0, 0.0, RADIUS - 1e-4)])
def test_look_at_is_upright_with_the_default_view(target: tuple[float, float, float]) -> None:
    close(Cameras.look_at((0.0, 0.0, RADIUS), target).to_eg3d(), Cameras.from_angles(0).to_eg3d())


def test_look_at_centres_its_target_and_broadcasts() -> None:
    target = torch.tensor([0.1, -0.2, 0.05], dtype=F64)
    batch = Cameras.look_at([[0.0, 0.0, 3.0], [2.0, 1.0, 1.0]], target, roll_deg=[0, 30], fov_deg=20)
    assert len(batch) == 2
    close(batch.project(target[None]), [[[0.5, 0.5]], [[0.5, 0.5]]])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"position": (0, 0, 0.7), "target": (0, 0, 0.7)}, "position must differ from target"),
        ({"position": (0, 3, 0)}, "up must not be parallel"),
        ({"position": (0, 3)}, r"position must be finite, of shape \(3,\)"),
        ({"position": (0, math.nan, 3)}, "position must be finite"),
        ({"position": [[0, 0, 3]] * 2, "roll_deg": [0, 1, 2]}, r"different lengths: \[2, 1, 1, 3\]"),
        ({"position": (0, 0, 0.5)}, "distance from the origin 0.5 must be above 0.7"),
    ],
)
def test_look_at_rejects(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(CameraError, match=message):
        Cameras.look_at(**arguments)  # type: ignore[arg-type]


# ---- other forms ----


def test_eg3d_labels_round_trip_losslessly() -> None:
    pose = Cameras.from_angles(-5.7, 3.0, 1.0).cam2world.float().flatten().tolist()
    label = torch.tensor([[*pose, 4.2647, 0, 0.5, 0, 4.2647, 0.5, 0, 0, 1]])
    batch = Cameras.from_eg3d(label.repeat(3, 1))
    assert torch.equal(batch.to_eg3d().float(), label.repeat(3, 1))
    assert torch.equal(Cameras.from_eg3d(batch.to_eg3d()).to_eg3d(), batch.to_eg3d())
    assert torch.equal(Cameras.from_eg3d(label.tolist()).to_eg3d().float(), label)


def test_vector_layout() -> None:
    vector = Cameras.from_angles(0).to_vector()
    close(vector[0], [1, 0, 0, 0, 0, -1, 0, 0, 0, 0, -1, 1, 1, 1, 0.5, 0.5], 1e-7)
    assert vector.dtype == torch.float32


@QUICK
@given(cameras())
def test_vector_round_trip(camera: Cameras) -> None:
    again = Cameras.from_vector(camera.to_vector())
    # Vectors are float32: 1e-6 relative to the radius or focal length.
    close(again.cam2world / RADIUS, camera.cam2world / RADIUS, 1e-6)
    focal = camera.intrinsics[:, 0, 0].item()
    close(again.intrinsics / max(1, focal), camera.intrinsics / max(1, focal), 1e-6)


def test_vector_holds_each_axes_own_intrinsics() -> None:
    intrinsics = torch.tensor([[[4.0, 0, 0.4], [0, 5.0, 0.6], [0, 0, 1]]], dtype=F64)
    camera = Cameras(Cameras.from_angles(10).cam2world, intrinsics)
    close(Cameras.from_vector(camera.to_vector()).intrinsics, intrinsics)


def test_from_vector_projects_to_the_nearest_rotation() -> None:
    expected = Cameras.from_angles([20.0, -40.0], [10.0, 5.0], [5.0, 0.0])
    scaled = expected.to_vector().double().reshape(2, 16)
    matrix = scaled[:, :12].reshape(2, 3, 4)
    for factor in (1.3, 0.1):
        matrix[:, :, :3] *= factor  # a scaled rotation's nearest rotation is itself
        close(Cameras.from_vector(scaled).cam2world, expected.cam2world, 1e-6)
    symmetric = torch.tensor([[1.2, 0.1, 0.0], [0.1, 0.8, 0.05], [0.0, 0.05, 1.1]], dtype=F64)
    stretched = expected.to_vector().double()
    rotation = expected.cam2world[:, :3, :3]
    stretched.reshape(2, 16)[:, :12].reshape(2, 3, 4)[:, :, :3] = rotation @ symmetric  # polar decomposition
    close(Cameras.from_vector(stretched).cam2world, expected.cam2world, 1e-6)


@QUICK
@given(st.lists(angle(-3, 3), min_size=9, max_size=9))
def test_from_vector_gives_a_valid_camera_or_a_camera_error(values: list[float]) -> None:
    vector = Cameras.from_angles(0).to_vector()
    vector[:, [0, 1, 2, 4, 5, 6, 8, 9, 10]] = torch.tensor([values])
    try:
        rotation = Cameras.from_vector(vector).cam2world[0, :3, :3]
    except CameraError as error:
        assert "close to a rotation" in str(error)  # noqa: PT017
        return
    close(rotation @ rotation.T, torch.eye(3), 1e-9)
    assert torch.linalg.det(rotation) > 0


def test_from_vector_detaches_predictions() -> None:
    assert not Cameras.from_vector(Cameras.from_angles(3).to_vector().requires_grad_()).cam2world.requires_grad


@pytest.mark.parametrize(
    ("index", "value", "message"),
    [
        (3, math.nan, "camera 0: camera vector .* finite"),
        (12, -1.0, "focal length"),
        (11, 0.1, "distance from the origin"),
    ],
)
def test_from_vector_rejects(index: int, value: float, message: str) -> None:
    vector = Cameras.from_angles(0).to_vector()
    vector[0, index] = value
    with pytest.raises(CameraError, match=message):
        Cameras.from_vector(vector)


@QUICK
@given(cameras())
def test_mirroring_reflects_the_picture(camera: Cameras) -> None:
    shifted = Cameras(camera.cam2world, camera.intrinsics + torch.tensor([[0, 0, 0.13], [0, 0, -0.07], [0, 0, 0.0]]))
    mirrored = shifted.mirrored()
    flip = torch.tensor([-1.0, 1.0, 1.0], dtype=F64)
    expected = shifted.project(POINTS)
    expected[..., 0] = 1 - expected[..., 0]
    scale = max(1.0, camera.intrinsics[0, 0, 0].item())
    close(mirrored.project(POINTS * flip) / scale, expected / scale, 1e-9)
    close(mirrored.mirrored().to_eg3d(), shifted.to_eg3d(), 1e-12)


def test_mirroring_negates_the_documented_entries() -> None:
    camera = Cameras.from_angles(20, 10, 5)
    expected = camera.cam2world.clone()
    for i, j in ((0, 1), (0, 2), (1, 0), (2, 0), (0, 3)):
        expected[0, i, j] *= -1
    assert torch.equal(camera.mirrored().cam2world, expected)


def test_sequence() -> None:
    batch = Cameras.from_angles([0, 10, 20, 30], 5)
    yaw = [round(camera.angles().yaw_deg.item(), 6) for camera in batch]
    assert yaw == [0, 10, 20, 30]
    assert len(batch) == 4
    close(batch[-1].angles().yaw_deg, [30.0])
    close(batch[1:3].angles().yaw_deg, [10.0, 20.0])
    close(batch[[3, 0]].angles().yaw_deg, [30.0, 0.0])
    close(batch[torch.tensor([2])].angles().yaw_deg, [20.0])
    assert torch.equal(Cameras.cat([batch[:1], batch[1:]]).to_eg3d(), batch.to_eg3d())
    with pytest.raises(IndexError):
        batch[4]
    with pytest.raises(CameraError, match="no cameras"):
        Cameras.cat([])


@pytest.mark.parametrize(
    "yaw", [0.1, [0.1], np.array([0.1]), torch.tensor([0.1], dtype=F64), torch.tensor(0.1, dtype=F64)]
)
def test_all_kinds_of_numbers_keep_double_precision(yaw: object) -> None:
    close(Cameras.from_angles(yaw).angles().yaw_deg, [0.1], 1e-12)  # type: ignore[arg-type]


# ---- validation ----


def broken(name: str, index: tuple[int, ...], value: float) -> dict[str, torch.Tensor]:
    good = Cameras.from_angles([0, 10, 20])
    matrices = {"cam2world": good.cam2world.clone(), "intrinsics": good.intrinsics.clone()}
    matrices[name][(1, *index)] = value
    return matrices


@pytest.mark.parametrize(
    ("name", "index", "value", "message"),
    [
        ("cam2world", (0, 3), math.nan, "camera 1: cam2world .* must be finite"),
        ("cam2world", (0, 0), math.inf, "camera 1: cam2world .* must be finite"),
        ("cam2world", (3, 3), 2.0, r"camera 1: cam2world last row \[0, 0, 0, 2\] must be \[0, 0, 0, 1\]"),
        ("cam2world", (3, 0), 1e-5, r"camera 1: cam2world last row \[1e-05, 0, 0, 1\] must be"),
        ("cam2world", (1, 1), -1.001, "camera 1: rotation .* must be orthonormal to 0.0001"),
        ("cam2world", (1, 1), 1.0, "camera 1: rotation .* must be right-handed"),
        ("intrinsics", (0, 0), 0.0, r"camera 1: focal length \(fx, fy\) \[0, 4.2647\] must be above 0"),
        ("intrinsics", (1, 1), -4.0, r"camera 1: focal length .* must be above 0"),
        ("intrinsics", (0, 2), math.nan, "camera 1: intrinsics .* must be finite"),
        ("intrinsics", (0, 1), 0.1, r"camera 1: intrinsics .* must be of the form \[\[fx, 0, cx\]"),
        ("intrinsics", (2, 2), 2.0, "camera 1: intrinsics .* must be of the form"),
    ],
)
def test_impossible_cameras_are_named(name: str, index: tuple[int, ...], value: float, message: str) -> None:
    with pytest.raises(CameraError, match=message) as caught:
        Cameras(**broken(name, index, value))
    assert "\n" not in str(caught.value)


def test_matrices_become_double_without_a_gradient() -> None:
    exact = Cameras.from_angles(20)
    cameras = Cameras(exact.cam2world.float().requires_grad_(), exact.intrinsics.float())
    assert (cameras.cam2world.dtype, cameras.intrinsics.dtype) == (F64, F64)
    assert not cameras.cam2world.requires_grad


def test_small_rounding_of_rotations_is_accepted() -> None:
    assert len(Cameras(**broken("cam2world", (1, 1), -1.00001))) == 3


def test_inside_the_head_is_rejected_and_behind_it_is_allowed() -> None:
    matrix = Cameras.from_angles(0).cam2world
    for distance in (0.69, HEAD_RADIUS):
        matrix[0, 2, 3] = distance
        message = rf"camera 0: distance from the origin {distance} must be above 0.7 \(outside the head\)"
        with pytest.raises(CameraError, match=message):
            Cameras(matrix, Cameras.from_angles(0).intrinsics)
    assert Cameras.from_angles(180).cam2world[0, 2, 3] == pytest.approx(-RADIUS)
    assert HEAD_RADIUS == 0.7


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"yaw_deg": [0, math.nan]}, "camera 1: yaw_deg nan must be finite"),
        ({"yaw_deg": 0, "radius": 0.5}, "camera 0: radius 0.5 must be above 0.7"),
        ({"yaw_deg": 0, "radius": [1, HEAD_RADIUS]}, "camera 1: radius 0.7 must be above 0.7"),
        ({"yaw_deg": 0, "fov_deg": [20, 180]}, "camera 1: fov_deg 180 must be between 0 and 180"),
        ({"yaw_deg": 0, "fov_deg": 0}, "camera 0: fov_deg 0 must be between"),
        ({"yaw_deg": [0, 1], "pitch_deg": [0, 1, 2]}, "different lengths .*yaw_deg: 2, pitch_deg: 3"),
        ({"yaw_deg": "left"}, "yaw_deg must be numbers; got 'left'"),
        ({"yaw_deg": [[0.0]]}, r"yaw_deg has shape \(1, 1\)"),
        ({"yaw_deg": []}, r"N >= 1"),
    ],
)
def test_from_angles_rejects(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(CameraError, match=message):
        Cameras.from_angles(**arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("cam2world", "intrinsics", "message"),
    [
        (torch.eye(4), torch.eye(3)[None], r"cam2world has shape \(4, 4\)"),
        (torch.zeros(0, 4, 4), torch.zeros(0, 3, 3), "N >= 1"),
        (torch.eye(4).repeat(2, 1, 1), torch.eye(3)[None], "2 cam2world but 1 intrinsics"),
    ],
)
def test_shapes_are_checked(cam2world: torch.Tensor, intrinsics: torch.Tensor, message: str) -> None:
    with pytest.raises(CameraError, match=message):
        Cameras(cam2world, intrinsics)


def test_label_and_vector_shapes_are_checked() -> None:
    with pytest.raises(CameraError, match=r"EG3D labels: shape \(25,\); expected \(N, 25\)"):
        Cameras.from_eg3d(torch.zeros(25))
    with pytest.raises(CameraError, match=r"camera vector: shape \(1, 15\); expected \(N, 16\)"):
        Cameras.from_vector(torch.zeros(1, 15))
    with pytest.raises(CameraError, match=r"points: shape \(3,\); expected \(N, 3\)"):
        Cameras.from_angles(0).project(torch.zeros(3))


def test_json_goes_through_the_text_form() -> None:
    batch = Cameras.from_angles([0, 30], 10, 5)
    assert torch.equal(Cameras.from_json(json.dumps(batch.to_json())).to_eg3d(), batch.to_eg3d())


@pytest.mark.parametrize(
    ("index", "yaws_deg"),
    [(1, [10]), (slice(0, None, 2), [0, 20]), ((2, 0), [20, 0]), ([2, 0], [20, 0]), (torch.tensor([2, 0]), [20, 0])],
)
def test_parts_of_a_batch(index: int | slice | Sequence[int] | torch.Tensor, yaws_deg: list[float]) -> None:
    cameras = Cameras.from_angles([0.0, 10.0, 20.0])
    assert cameras[index].angles().yaw_deg.tolist() == pytest.approx(yaws_deg)
