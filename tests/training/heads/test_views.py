from __future__ import annotations

import torch

from nvb_core.cameras import FOCAL, RADIUS
from training.heads.views import sample_view_cameras, with_margin


def test_cameras_are_a_function_of_the_seed() -> None:
    torch.testing.assert_close(sample_view_cameras(5, 8).cam2world, sample_view_cameras(5, 8).cam2world, atol=0, rtol=0)
    assert not torch.equal(sample_view_cameras(5, 8).cam2world, sample_view_cameras(6, 8).cam2world)
    torch.testing.assert_close(sample_view_cameras(5, 8).cam2world[:3], sample_view_cameras(5, 3).cam2world)


def test_angles_stay_in_range_and_the_first_view_is_near_frontal() -> None:
    angles = [sample_view_cameras(seed, 8).angles() for seed in range(100)]
    yaw = torch.stack([a.yaw_deg for a in angles])
    pitch = torch.stack([a.pitch_deg for a in angles])
    assert yaw[:, 0].abs().max() <= 20 + 1e-6
    assert pitch[:, 0].abs().max() <= 10 + 1e-6
    assert pitch.abs().max() <= 30 + 1e-6
    assert (yaw[:, 1:].abs() > 45).double().mean() > 0.12
    assert 9 < pitch[:, 1:].std() < 14
    torch.testing.assert_close(angles[0].radius, torch.full((8,), RADIUS, dtype=torch.float64))


def test_a_margin_shortens_the_focal_length_only() -> None:
    cameras = sample_view_cameras(1, 2)
    wide = with_margin(cameras, 1.25)
    torch.testing.assert_close(wide.cam2world, cameras.cam2world)
    torch.testing.assert_close(wide.intrinsics[:, 0, 0], torch.full((2,), FOCAL / 1.25, dtype=torch.float64))
    torch.testing.assert_close(wide.intrinsics[:, :2, 2], cameras.intrinsics[:, :2, 2])
