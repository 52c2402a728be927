from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from nvb_core.cameras import Cameras
from nvb_core.errors import ConfigError
from training.heads.expression import NEUTRAL, sample_expression
from training.heads.identity import sample_identity
from training.heads.patch import Material
from training.heads.render import Render, project, render
from training.heads.reprojection import skin_psnr
from training.heads.scene import Scene, build_scene
from training.heads.views import with_margin

SIDES = Cameras.from_angles([-40.0, 0.0, 40.0])


@pytest.fixture(scope="module")
def scene() -> Scene:
    return build_scene(sample_identity(3), sample_expression(3), 48)


@pytest.fixture(scope="module")
def views(scene: Scene) -> Render:
    return render(scene, SIDES, 48, 4)


def test_shapes_and_ranges(views: Render) -> None:
    assert views.rgb.shape == (3, 3, 48, 48)
    assert views.rgb.dtype == torch.float32
    assert views.rgb.abs().max() <= 1
    assert views.alpha.shape == views.depth.shape == views.segmentation.shape == (3, 48, 48)
    assert views.alpha.min() == 0
    assert views.alpha.max() == 1
    assert views.segmentation.dtype == torch.uint8
    assert views.segmentation.max() <= max(Material)
    background = views.segmentation == Material.BACKGROUND
    assert torch.isinf(views.depth[background]).all()
    assert ((views.depth > 2.0) & (views.depth < 3.6))[~background].all()


def test_same_seed_same_pixels(views: Render) -> None:
    again = render(build_scene(sample_identity(3), sample_expression(3), 48), SIDES, 48, 4)
    assert torch.equal(again.rgb, views.rgb)
    assert torch.equal(again.depth, views.depth)


def test_views_dont_depend_on_their_batch(scene: Scene, views: Render) -> None:
    assert torch.equal(render(scene, SIDES[2], 48, 4).rgb[0], views.rgb[2])


def test_another_person_looks_different(views: Render) -> None:
    other = render(build_scene(sample_identity(4), NEUTRAL, 48), SIDES, 48, 4)
    assert (other.rgb - views.rgb).abs().mean() > 0.05


def test_landmarks_are_their_projection_and_in_order(scene: Scene, views: Render) -> None:
    for camera, pixels in zip(range(3), views.landmarks5_2d, strict=True):
        world = torch.cat([scene.landmarks5, torch.ones(5, 1)], 1).double()
        local = torch.linalg.inv(SIDES.cam2world[camera]) @ world.T
        image = SIDES.intrinsics[camera] @ local[:3]
        torch.testing.assert_close(pixels, (image[:2] / image[2]).T * 48)
    right_eye, left_eye, nose, right_mouth, left_mouth = views.landmarks5_2d[1]
    assert right_eye[0] < nose[0] < left_eye[0]
    assert right_mouth[0] < nose[0] < left_mouth[0]
    assert right_eye[1] < nose[1] < right_mouth[1]
    assert scene.landmarks5[1, 0] > 0 > scene.landmarks5[0, 0]  # the subject's left is +x


def test_positive_yaw_shows_the_subjects_left_side(scene: Scene, views: Render) -> None:
    """From the subject's left, the nose points to the image's left of the eyes' middle, and the left ear shows."""
    nose = views.landmarks5_2d[:, 2, 0]
    eyes = views.landmarks5_2d[:, :2, 0].mean(1)
    assert nose[0] - eyes[0] > 3
    assert abs(float(nose[1] - eyes[1])) < 1.5
    assert nose[2] - eyes[2] < -3


def test_depth_at_the_nose_is_the_noses(scene: Scene, views: Render) -> None:
    x, y = views.landmarks5_2d[1, 2].int().tolist()
    expected = 2.7 - float(scene.landmarks5[2, 2])
    assert float(views.depth[1, y, x]) == pytest.approx(expected, abs=0.02)
    assert views.segmentation[1, y, x] == Material.SKIN


def test_a_margin_adds_a_border_at_the_same_pixel_scale(scene: Scene, views: Render) -> None:
    wide = render(scene, with_margin(SIDES, 1.25), 60, 4)
    inner = wide.rgb[:, :, 6:54, 6:54]
    assert (inner - views.rgb).abs().mean() < 2e-3
    torch.testing.assert_close(wide.landmarks5_2d - 6, views.landmarks5_2d)


@pytest.mark.parametrize("seed", [3, 9])
def test_neighbouring_views_agree_on_skin(seed: int) -> None:
    scene = build_scene(sample_identity(seed), sample_expression(seed), 128)
    assert skin_psnr(scene, Cameras.from_angles([10.0, 15.0]), 128, 4) >= 30


def test_more_samples_change_edges_only(scene: Scene, views: Render) -> None:
    one = render(scene, SIDES, 48, 1)
    difference = (one.rgb - views.rgb).abs().amax(1)
    assert 0.0 < difference.mean() < 0.12
    assert set(one.alpha.unique().tolist()) == {0.0, 1.0}


def test_averages_are_those_of_an_aligned_photo() -> None:
    """FFHQ-like scale: the eyes about a quarter of the image apart, slightly above its middle."""
    front = Cameras.from_angles(0.0)
    eyes = []
    for seed in range(100, 112):
        scene = build_scene(sample_identity(seed), NEUTRAL, 32)
        eyes.append(project(scene.landmarks5, front)[0, :2])
    both = torch.stack(eyes)
    assert 0.24 <= float((both[:, 1, 0] - both[:, 0, 0]).mean()) <= 0.27
    assert 0.42 <= float(both[..., 1].mean()) <= 0.50
    assert float((both.mean(1)[:, 0] - 0.5).abs().max()) < 0.02


@pytest.mark.parametrize(("size", "samples", "message"), [(48, 3, "samples is 3"), (4, 4, "size is 4")])
def test_impossible_settings_are_refused(scene: Scene, size: int, samples: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        render(scene, SIDES, size, samples)


def test_every_style_makes_a_sound_mesh() -> None:
    seen = set()
    for seed in range(40):
        identity = sample_identity(seed)
        if identity.hair_style.style in seen:
            continue
        seen.add(identity.hair_style.style)
        scene = build_scene(identity, sample_expression(seed), 48)
        for patch in scene.patches:
            assert patch.triangles.min() >= 0
            assert patch.triangles.max() < len(patch.points)
            assert len(patch.triangles) == len(patch.materials)
        assert scene.is_sound()
    assert len(seen) >= 7


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_cuda_draws_the_same_picture(views: Render) -> None:
    other = render(build_scene(sample_identity(3), sample_expression(3), 48, "cuda"), SIDES, 48, 4)
    mse = F.mse_loss(other.rgb, views.rgb)
    assert float(-10 * torch.log10(mse / 4)) > 35
