from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from skimage import metrics as skimage_metrics
from torch import Tensor

from nvb_core.cameras import FOCAL, RADIUS, Cameras
from training.evaluation.metrics import (
    DEPTH_TOLERANCE,
    MAX_PSNR_DB,
    PosedView,
    camera_errors,
    gmsd,
    lift,
    masked_psnr,
    ms_ssim,
    psnr,
    ssim,
    warp,
    warped_psnr,
)

SIZE = 48
ALL = torch.ones(SIZE, SIZE, dtype=torch.bool)


def noisy_pair() -> tuple[Tensor, Tensor]:
    """Two batches (3, 3, SIZE, SIZE + 5) of different likeness."""
    rng = torch.Generator().manual_seed(0)
    targets = torch.rand(3, 3, SIZE, SIZE + 5, generator=rng) * 2 - 1
    noise = torch.randn(targets.shape, generator=rng) * torch.tensor([0.02, 0.1, 0.5]).view(3, 1, 1, 1)
    return (targets + noise).clamp(-1, 1), targets


def to_numpy(image: Tensor) -> np.ndarray:
    return image.movedim(0, -1).double().numpy()


@pytest.mark.parametrize("offset", [0.001, 0.25, 2.0])
def test_psnr_of_a_constant_offset(offset: float) -> None:
    targets = torch.full((1, 3, 4, 5), -1.0, dtype=torch.float64)
    assert float(psnr(targets + offset, targets)) == pytest.approx(20 * math.log10(2 / offset), abs=1e-9)


def test_psnr_of_equal_images_is_finite() -> None:
    targets = torch.zeros(2, 3, 4, 4)
    assert psnr(targets, targets).tolist() == [MAX_PSNR_DB, MAX_PSNR_DB]


def test_psnr_agrees_with_skimage() -> None:
    images, targets = noisy_pair()
    expected = [
        skimage_metrics.peak_signal_noise_ratio(to_numpy(t), to_numpy(i), data_range=2)
        for i, t in zip(images, targets, strict=True)
    ]
    assert psnr(images, targets).tolist() == pytest.approx(expected, abs=1e-6)


def test_ssim_agrees_with_skimage() -> None:
    images, targets = noisy_pair()
    expected = [
        skimage_metrics.structural_similarity(
            to_numpy((t + 1) / 2),
            to_numpy((i + 1) / 2),
            data_range=1,
            channel_axis=-1,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
        for i, t in zip(images, targets, strict=True)
    ]
    assert ssim(images, targets).tolist() == pytest.approx(expected, abs=1e-6)
    assert ssim(targets[:1], targets[:1]).tolist() == pytest.approx([1], abs=1e-6)


def test_ms_ssim_of_one_scale_is_ssim() -> None:
    images, targets = (pictures[..., :20, :21] for pictures in noisy_pair())
    torch.testing.assert_close(ms_ssim(images, targets), ssim(images, targets))


def scipy_terms(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Luminance and contrast terms of pictures (H, W, 3) in [0, 1], windows inside."""

    def smooth(values: np.ndarray) -> np.ndarray:
        return ndimage.gaussian_filter(values, (1.5, 1.5, 0), truncate=3.5)[5:-5, 5:-5]

    mx, my = smooth(x), smooth(y)
    vx, vy, cov = smooth(x * x) - mx**2, smooth(y * y) - my**2, smooth(x * y) - mx * my
    return (2 * mx * my + 1e-4) / (mx**2 + my**2 + 1e-4), (2 * cov + 9e-4) / (vx + vy + 9e-4)


def scipy_halved(x: np.ndarray) -> np.ndarray:
    x = x[: len(x) // 2 * 2, : x.shape[1] // 2 * 2]
    return (x[::2, ::2] + x[1::2, ::2] + x[::2, 1::2] + x[1::2, 1::2]) / 4


def test_ms_ssim_agrees_with_scipy() -> None:
    images, targets = noisy_pair()  # 48 × 53, 24 × 26, 12 × 13
    exponents = np.array([0.0448, 0.2856, 0.3001]) / 0.6305
    for image, target, found in zip(images, targets, ms_ssim(images, targets).tolist(), strict=True):
        x, y, expected = to_numpy((image + 1) / 2), to_numpy((target + 1) / 2), 1.0
        for scale, exponent in enumerate(exponents):
            luminance, contrast = scipy_terms(x, y)
            term = (luminance * contrast if scale == 2 else contrast).mean()
            expected *= max(term, 0) ** exponent
            x, y = scipy_halved(x), scipy_halved(y)
        assert found == pytest.approx(expected, abs=1e-6)
    assert ms_ssim(targets, targets).tolist() == pytest.approx([1] * 3)


def test_ms_ssim_of_negatives_is_zero() -> None:
    _, targets = noisy_pair()
    assert ms_ssim(-targets, targets).tolist() == [0, 0, 0]


def test_gmsd_agrees_with_scipy() -> None:
    images, targets = noisy_pair()
    for image, target, found in zip(images, targets, gmsd(images, targets).tolist(), strict=True):
        magnitudes = []
        for picture in (image, target):
            gray = scipy_halved((to_numpy(picture) + 1) / 2 @ np.array([0.2989, 0.587, 0.114]))
            gradients = [ndimage.prewitt(gray, axis)[1:-1, 1:-1] / 3 for axis in (0, 1)]
            magnitudes.append(np.hypot(*gradients))
        a, b = magnitudes
        assert found == pytest.approx(np.std((2 * a * b + 170 / 255**2) / (a**2 + b**2 + 170 / 255**2)), abs=1e-9)


def test_gmsd_of_an_edge_that_is_missing() -> None:
    target = torch.full((1, 3, 16, 16), -1.0)
    target[..., 8:] = 1
    # Halved to 8 × 8, the edge has a gradient of 1 in two of the six columns that have all neighbours, elsewhere none.
    missed = (170 / 255**2) / (1 + 170 / 255**2)
    shares = [missed] * 2 + [1.0] * 4
    assert float(gmsd(torch.zeros_like(target), target)) == pytest.approx(float(np.std(shares)), rel=1e-3)
    assert float(gmsd(target, target)) == 0


def test_masked_psnr_sees_only_the_mask() -> None:
    target = torch.zeros(3, 4, 4)
    image = torch.full((3, 4, 4), 0.5)
    image[:, :2] = 0.02
    mask = torch.zeros(4, 4, dtype=torch.bool)
    assert masked_psnr(image, target, mask) is None
    mask[:2, 1:] = True
    assert masked_psnr(image, target, mask) == pytest.approx(40, abs=1e-5)


# --- warping ---


def wallpaper(camera: Cameras) -> PosedView:
    """The plane z = 0 with a smooth pattern, seen by a camera (1) through exact ray-plane intersection."""
    rotation, origin = camera.cam2world[0, :3, :3], camera.cam2world[0, :3, 3]
    rays = lift(torch.ones(SIZE, SIZE), camera) - origin  # one unit of camera z long
    depth = -origin[2] / rays[..., 2]
    points = rays * depth[..., None] + origin
    x, y = points[..., 0], points[..., 1]
    assert torch.allclose((points - origin) @ rotation[:, 2], depth)
    pattern = [torch.sin(20 * x + 3 * y), torch.cos(15 * y) * x / 0.4, torch.sin(30 * (x - y))]
    return PosedView(torch.stack(pattern).float(), depth.float(), ALL, camera)


@pytest.mark.parametrize(("yaw", "pitch"), [(0, 0), (-30, 12)])
def test_warp_to_the_same_camera_changes_nothing(yaw: float, pitch: float) -> None:
    view = wallpaper(Cameras.from_angles(yaw, pitch, roll_deg=4))
    warped, visible = warp(view, view)
    torch.testing.assert_close(warped.float(), view.image, atol=1e-4, rtol=0)
    assert bool(visible[1:-1, 1:-1].all())
    score = warped_psnr(view, view)
    assert score is not None
    assert score > 80


def test_warp_to_a_camera_beside_shifts_by_whole_pixels() -> None:
    shift = 5
    canvas = torch.rand(3, SIZE, SIZE + shift, generator=torch.Generator().manual_seed(0))
    front = Cameras.from_angles(0.0)
    cam2world = front.cam2world.clone()
    cam2world[0, 0, 3] += shift / SIZE * RADIUS / FOCAL  # world units of `shift` pixels on the plane z = 0
    depth = torch.full((SIZE, SIZE), RADIUS)
    source = PosedView(canvas[..., :SIZE], depth, ALL, front)
    target = PosedView(canvas[..., shift:], depth, ALL, Cameras(cam2world, front.intrinsics))
    for first, second, overlap in (
        (source, target, slice(0, SIZE - shift)),
        (target, source, slice(shift, SIZE)),
    ):
        warped, visible = warp(first, second)
        inner = visible[1:-1]
        assert bool(inner[:, overlap][:, 1:-1].all())
        assert int(inner.sum()) <= (SIZE - 2) * (SIZE - shift)
        torch.testing.assert_close(warped[:, visible].float(), second.image[:, visible], atol=1e-5, rtol=0)


@pytest.mark.parametrize(("yaw", "pitch"), [(0, 0), (25, -10)])
def test_warp_to_a_neighbour_of_a_smooth_plane(yaw: float, pitch: float) -> None:
    source, target = (wallpaper(Cameras.from_angles(yaw + step, pitch)) for step in (-2.5, 2.5))
    warped, visible = warp(source, target)
    assert int(visible.sum()) > 0.9 * SIZE**2
    score = warped_psnr(source, target)
    assert score == masked_psnr(warped, target.image, visible)
    unwarped = masked_psnr(source.image, target.image, visible)
    assert score is not None
    assert unwarped is not None
    assert score > 40
    assert score > unwarped + 10


def test_hidden_points_do_not_count() -> None:
    source, target = (wallpaper(Cameras.from_angles(yaw)) for yaw in (-2.5, 2.5))
    _, before = warp(source, target)
    depth = source.depth.clone()
    depth[20:30, 20:30] -= 2 * DEPTH_TOLERANCE  # something in front of the plane
    _, hidden = warp(PosedView(source.image, depth, ALL, source.camera), target)
    lost = int((before & ~hidden).sum())
    assert 100 <= lost <= 150  # the patch and a rim of pixels that touch it
    depth[20:30, 20:30] = source.depth[20:30, 20:30] - DEPTH_TOLERANCE / 2
    _, near = warp(PosedView(source.image, depth, ALL, source.camera), target)
    assert torch.equal(near, before)


def test_only_pixels_inside_both_regions_count() -> None:
    view = wallpaper(Cameras.from_angles(0.0))
    left, top = ALL.clone(), ALL.clone()
    left[:, SIZE // 2 :] = False
    top[SIZE // 2 :] = False
    source = PosedView(view.image, view.depth, left, view.camera)
    target = PosedView(view.image, view.depth, top, view.camera)
    _, visible = warp(source, target)
    assert not bool((visible & ~(left & top)).any())
    assert bool(visible[1 : SIZE // 2 - 1, 1 : SIZE // 2 - 1].all())


def test_all_pixels_read_must_lie_in_the_sources_region() -> None:
    front = Cameras.from_angles(0.0)
    cam2world = front.cam2world.clone()
    cam2world[0, 0, 3] += 0.25 / SIZE * RADIUS / FOCAL  # a quarter of a pixel on the plane z = 0
    depth, region = torch.full((SIZE, SIZE), RADIUS), ALL.clone()
    region[:, 30:] = False
    source = PosedView(torch.zeros(3, SIZE, SIZE), depth, region, front)
    target = PosedView(torch.zeros(3, SIZE, SIZE), depth, ALL, Cameras(cam2world, front.intrinsics))
    _, visible = warp(source, target)
    assert bool(visible[:, :29].all())
    assert not bool(visible[:, 29:].any())  # column 29 reads 30, too


def test_background_does_not_count() -> None:
    view = wallpaper(Cameras.from_angles(0.0))
    depth = view.depth.clone()
    depth[:, SIZE // 2 :] = torch.inf
    holed = PosedView(view.image, depth, ALL, view.camera)
    for source, target in ((holed, view), (view, holed)):
        warped, visible = warp(source, target)
        assert bool(warped.isfinite().all())
        assert not bool(visible[:, SIZE // 2 :].any())
        assert bool(visible[1:-1, 1 : SIZE // 2 - 1].all())
    nothing = PosedView(view.image, torch.full_like(depth, torch.inf), ALL, view.camera)
    assert warped_psnr(nothing, view) is None


def test_lift_undoes_projection() -> None:
    camera = Cameras.from_angles(33, -12, roll_deg=8, fov_deg=20)
    rng = torch.Generator().manual_seed(0)
    depth = 2 + torch.rand(6, 9, generator=rng, dtype=torch.float64)
    pixels = camera.project(lift(depth, camera).reshape(-1, 3))[0].reshape(6, 9, 2)
    rows, columns = np.indices((6, 9)) + 0.5
    torch.testing.assert_close(pixels, torch.from_numpy(np.stack([columns / 9, rows / 6], axis=-1)))


# --- cameras ---

ANGLE = st.floats(-80, 80)


@settings(deadline=None, max_examples=30)
@given(yaw=st.floats(-180, 180), pitch=ANGLE, roll=ANGLE, turn=st.floats(-170, 170))
def test_camera_errors_are_what_was_put_in(yaw: float, pitch: float, roll: float, turn: float) -> None:
    true = Cameras.from_angles(yaw, pitch, roll)
    intrinsics = true.intrinsics.clone()
    intrinsics[:, 0, 0] *= 0.9
    other = Cameras.from_angles(yaw + turn, pitch / 2, roll - 7)
    [errors] = camera_errors(Cameras(other.cam2world, intrinsics), true)
    assert errors.yaw_deg == pytest.approx(abs(turn), abs=1e-6)
    assert errors.pitch_deg == pytest.approx(abs(pitch) / 2, abs=1e-6)
    assert errors.roll_deg == pytest.approx(7, abs=1e-6)
    assert errors.focal_percent == pytest.approx(10)


def test_camera_errors_go_the_short_way_round() -> None:
    errors = camera_errors(Cameras.from_angles([179, 0], 0, [0, -179]), Cameras.from_angles([-179, 0], 0, [0, 178]))
    assert errors[0].yaw_deg == pytest.approx(2)
    assert errors[1].roll_deg == pytest.approx(3)
    assert errors[0].pitch_deg == pytest.approx(0)
