from __future__ import annotations

import math
from functools import partial
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nvb_core.align import CropBox, crop_cameras
from nvb_core.cameras import FOCAL, Cameras, orbit_rotation, roll_rotation
from nvb_core.checkpoint import load_model
from nvb_core.errors import ConfigError
from nvb_core.images import load_image
from nvb_core.pipeline import predict_cameras
from training.data.nersemble.crops import moved_cameras
from training.data.nersemble.registration import (
    Observation,
    Registration,
    RegistrationError,
    observe,
    register,
)
from training.heads.identity import sample_identity
from training.heads.render import render
from training.heads.scene import build_scene

PHOTO = Path(__file__).parents[4] / "examples" / "astronaut.jpg"
YAW_DEG, PITCH_DEG = [-30.0, -18.0, -5.0, 6.0, 17.0, 31.0], [5.0, -10.0, 0.0, 12.0, -4.0, 8.0]


def random_rotation(seed: int) -> Tensor:
    angles = 360 * torch.rand(3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return orbit_rotation(angles[:1], angles[1:2] / 2 - 90)[0] @ roll_rotation(angles[2:])[0]


def random_similarity(seed: int, scale: float) -> Tensor:
    move = torch.eye(4, dtype=torch.float64)
    move[:3, :3] = scale * random_rotation(seed)
    move[:3, 3] = torch.rand(3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) - 0.5
    return move


def views(similarity: Tensor, fov_deg: float = 14.0) -> list[Observation]:
    """Perfect predictions of cameras that look beside the head, in crops that are off-centre and turned."""
    aim = torch.linspace(-0.2, 0.2, 18, dtype=torch.float64).reshape(6, 3)
    around = Cameras.from_angles(YAW_DEG, PITCH_DEG, radius=[2.6, 2.9, 2.5, 2.7, 3.0, 2.8])
    whole = Cameras.look_at(around.cam2world[:, :3, 3], aim, fov_deg=fov_deg)
    predicted = Cameras.cat([crop_cameras(c, CropBox(280, 230, 300, 4.0 * i), 500, 500) for i, c in enumerate(whole)])
    rig = moved_cameras(predicted, similarity.inverse())
    return [Observation(f"{i:02d}", rig[i], predicted[i]) for i in range(len(whole))]


def mispredicted(view: Observation, yaw_deg: float = 0.0, shift: float = 0.0) -> Observation:
    """The view with the head predicted turned by `yaw_deg`, and `shift` of the picture to the side."""
    turn = torch.eye(4, dtype=torch.float64)
    turn[:3, :3] = orbit_rotation(torch.tensor([yaw_deg]), torch.zeros(1))[0]
    intrinsics = view.predicted.intrinsics.clone()
    intrinsics[:, 0, 2] += shift
    return Observation(view.serial, view.rig_camera, Cameras(turn @ view.predicted.cam2world, intrinsics))


def assert_near(found: Tensor, true: Tensor, angle_deg: float, centre: float, scale: float) -> None:
    """Similarities agree within an angle, a distance of head centres in EG3D units, and a share of the scale."""
    off = found @ true.inverse()
    ratio = float(torch.linalg.det(off[:3, :3]) ** (1 / 3))
    cosine = (float(off.diagonal()[:3].sum()) / ratio - 1) / 2
    assert math.degrees(math.acos(min(1.0, cosine))) < angle_deg
    assert float(off[:3, 3].norm()) < centre
    assert abs(ratio - 1) < scale


# ---- register ----


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10**6), st.floats(0.5, 1.8))
def test_perfect_predictions_give_the_exact_similarity(seed: int, scale: float) -> None:
    true = random_similarity(seed, scale)
    found = register(views(true))
    torch.testing.assert_close(found.similarity, true, rtol=1e-9, atol=1e-9)
    assert found.used == tuple(f"{i:02d}" for i in range(6))
    assert found.rejected == ()
    assert found.angle_deg < 1e-5
    assert found.shift < 1e-9


def test_only_depth_over_focal_counts() -> None:
    """A prediction that sees the head as it is, from twice as far with twice the focal length."""
    true = random_similarity(1, 1.3)
    doubled = []
    for view in views(true):
        cam2world, intrinsics = view.predicted.cam2world.clone(), view.predicted.intrinsics.clone()
        cam2world[:, :3, 3] *= 2
        intrinsics[:, [0, 1], [0, 1]] *= 2
        seen = view.predicted.project(torch.zeros(1, 3))[:, 0]
        intrinsics[:, :2, 2] += seen - Cameras(cam2world, intrinsics).project(torch.zeros(1, 3))[:, 0]
        doubled.append(Observation(view.serial, view.rig_camera, Cameras(cam2world, intrinsics)))
    found = register(doubled)
    # Not exact: twice the focal length puts the off-centre head at another angle from the axis.
    assert_near(found.similarity, true, 1.0, 1e-9, 0.01)


def test_a_head_off_the_axis_may_be_predicted_as_seen_by_a_camera_that_looks_at_it() -> None:
    true = random_similarity(2, 1.1)
    position = Cameras.from_angles(YAW_DEG, PITCH_DEG).cam2world[:, :3, 3]
    beside = Cameras.look_at(position, (0.0, 0.6, 0.0))  # 12° above the head
    towards = Cameras.look_at(position)
    shown = beside.project(torch.zeros(1, 3))[:, 0]
    intrinsics = towards.intrinsics.clone()
    intrinsics[:, :2, 2] = shown  # the picture's own place for the head
    predicted = Cameras(towards.cam2world, intrinsics)
    rig = moved_cameras(beside, true.inverse())
    found = register([Observation(str(i), rig[i], predicted[i]) for i in range(6)])
    assert_near(found.similarity, true, 0.5, 1e-9, 0.05)
    assert found.angle_deg < 0.5


def test_noise_averages_out() -> None:
    true = random_similarity(3, 0.9)
    yaw, shift = [3.0, -4.0, 2.0, -2.0, 4.0, -3.0], [0.01, -0.01, 0.008, -0.006, -0.01, 0.008]
    noisy = [mispredicted(view, y, s) for view, y, s in zip(views(true), yaw, shift, strict=True)]
    found = register(noisy)
    assert len(found.used) == 6
    assert_near(found.similarity, true, 1.0, 0.03, 0.01)
    assert found.angle_deg == pytest.approx(math.sqrt(sum(y * y for y in yaw) / 6), rel=0.1)
    assert 0.001 < found.shift < 0.03


@pytest.mark.parametrize(("yaw_deg", "shift"), [(40.0, 0.0), (180.0, 0.0), (0.0, 0.9)])
def test_outliers_are_rejected_and_named(yaw_deg: float, shift: float) -> None:
    true = random_similarity(4, 1.5)
    observations = views(true)
    observations[2] = mispredicted(observations[2], yaw_deg, shift)
    found = register(observations)
    assert [serial for serial, _ in found.rejected] == ["02"]
    assert found.used == ("00", "01", "03", "04", "05")
    torch.testing.assert_close(found.similarity, true, rtol=1e-9, atol=1e-9)


def test_the_reason_says_how_far_off_a_view_is() -> None:
    observations = views(random_similarity(5, 1.0))
    observations[0] = mispredicted(observations[0], 60.0)
    ((serial, reason),) = register(observations).rejected
    assert serial == "00"
    off_deg = float(reason.partition("°")[0])
    assert 40 < off_deg < 60  # from a mean that it is itself part of


def test_views_that_look_away_are_rejected() -> None:
    true = random_similarity(6, 1.0)
    observations = views(true)
    away = Cameras.look_at((0.0, 0.0, 2.7), (0.0, 0.0, 5.0))
    observations[1] = Observation("01", observations[1].rig_camera, away)
    found = register(observations)
    assert found.rejected == (("01", "predicted to look away from the head"),)
    torch.testing.assert_close(found.similarity, true, rtol=1e-9, atol=1e-9)


def test_too_few_views_that_agree_raise() -> None:
    observations = views(random_similarity(7, 1.0))
    with pytest.raises(RegistrationError, match=r"needs 3 views that agree: 2 near-frontal views were found"):
        register(observations[:2])
    with pytest.raises(RegistrationError, match="0 near-frontal views were found"):
        register([])
    mixed = [mispredicted(view, yaw) for view, yaw in zip(observations, [0, 60, 120, 180, 240, 300], strict=True)]
    with pytest.raises(RegistrationError, match=r"6 near-frontal views were found, and no 3 of them.*0\d: \d+"):
        register(mixed)


def test_rays_that_meet_nowhere_in_front_raise() -> None:
    (view, *_) = views(random_similarity(8, 1.0))
    with pytest.raises(RegistrationError, match="nearly the same direction"):
        register([view] * 3)
    behind = []
    for view in views(random_similarity(8, 1.0)):
        cam2world = view.rig_camera.cam2world.clone()
        cam2world[:, :3, 1:3] *= -1  # as if OpenGL's axes were OpenCV's
        behind.append(Observation(view.serial, Cameras(cam2world, view.rig_camera.intrinsics), view.predicted))
    with pytest.raises(RegistrationError, match="behind the cameras"):
        register(behind)


@pytest.mark.parametrize("wrong", [{"min_views": 1}, {"max_angle_deg": 0.0}, {"max_shift": math.nan}])
def test_limits_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        register(views(torch.eye(4, dtype=torch.float64)), **wrong)  # type: ignore[arg-type]


# ---- observe, with the shipped weights ----


@pytest.fixture(scope="module")
def rendered() -> tuple[Registration, Tensor]:
    """Five views of a synthetic head registered, and the true similarity."""
    model, true = load_model(), random_similarity(9, 1.4)
    position = Cameras.from_angles([-28.0, -12.0, 3.0, 14.0, 27.0], [6.0, -8.0, 0.0, 10.0, -3.0]).cam2world[:, :3, 3]
    aim = torch.linspace(-0.2, 0.2, 15, dtype=torch.float64).reshape(5, 3)
    cameras = Cameras.look_at(position, aim, fov_deg=math.degrees(2 * math.atan(0.9 / FOCAL)))
    pictures = render(build_scene(sample_identity(950_001), detail_px=224), cameras, 224, 1).rgb
    serials = [f"{i:02d}" for i in range(5)]
    rig = dict(zip(serials, moved_cameras(cameras, true.inverse()), strict=True))
    pictures_of = dict(zip(serials, pictures, strict=True))
    found = observe(pictures_of, rig, partial(predict_cameras, model), model.config.image_size)
    return register(found), true


def test_a_rendered_head_is_registered(rendered: tuple[Registration, Tensor]) -> None:
    registration, true = rendered
    assert len(registration.used) >= 4
    assert_near(registration.similarity, true, 4.0, 0.1, 0.1)
    assert registration.angle_deg < 4
    assert registration.shift < 0.05


def test_observations_are_of_the_crop_that_was_predicted() -> None:
    photo = load_image(PHOTO).pixels
    height, width = photo.shape[-2:]
    intrinsics = Cameras.from_angles(0.0).intrinsics.clone()
    intrinsics[:, 1, 1] *= 1.0005 * width / height  # pixels not quite square, as a real calibration says
    camera = Cameras(Cameras.from_angles(0.0).cam2world, intrinsics)
    sizes = []

    def predict(crops: Tensor) -> Cameras:
        sizes.append(tuple(crops.shape))
        return Cameras.from_angles(20.0, roll_deg=5.0)

    (view,) = observe({"7": photo}, {"7": camera}, predict, 64)
    assert view.serial == "7"
    assert set(sizes) == {(1, 3, 64, 64)}
    face_in_width = float(camera.intrinsics[0, 0, 0] / view.rig_camera.intrinsics[0, 0, 0])
    assert 0.2 < face_in_width < 0.6
    assert observe({"7": photo}, {"7": camera}, predict, 64, max_yaw_deg=15.0) == []
    assert observe({"7": torch.zeros(3, 64, 64)}, {"7": camera}, predict, 64) == []
    with pytest.raises(ConfigError, match="camera 8"):
        observe({"8": photo}, {"7": camera}, predict, 64)
