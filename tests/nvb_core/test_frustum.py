from __future__ import annotations

import itertools
import math

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor

from nvb_core.cameras import FOCAL, RADIUS, Cameras
from nvb_core.frustum import frustum_points, matrices_from_vector, sample_frustum

EXTENT, DEPTH, SIZE, GRID = 0.45, 12, 16, 8
CAMERAS = Cameras.cat(
    [
        Cameras.from_angles([0, 30, -75, 180, 0, 0], [0, -20, 45, 0, 89, 0], [0, 15, -160, 0, 0, 90]),
        Cameras.from_angles([20.0, -20.0], radius=[2.0, 5.0], fov_deg=[30.0, 8.0]),
        Cameras.look_at([1.0, 0.5, 2.5], target=[0.1, -0.2, 0.1], roll_deg=25),
    ]
)


def coordinates(size: int = GRID, extent: float = EXTENT) -> Tensor:
    """Grid (1, 3, z, y, x) whose cells hold the world coordinates (x, y, z) of their centres."""
    centres = ((torch.arange(size) + 0.5) / size * 2 - 1) * extent
    z, y, x = torch.meshgrid(centres, centres, centres, indexing="ij")
    return torch.stack([x, y, z])[None]


def sample(grid: Tensor, cameras: Cameras) -> tuple[Tensor, Tensor]:
    return sample_frustum(grid, cameras.cam2world[None], cameras.intrinsics[None], EXTENT, DEPTH, SIZE)


def reference_points(cameras: Cameras, depth_samples: int, size: int) -> Tensor:
    """World points (N, D, size, size, 3) in float64, one at a time."""
    points = torch.empty(len(cameras), depth_samples, size, size, 3, dtype=torch.float64)
    for n, d, row, column in itertools.product(range(len(cameras)), range(depth_samples), range(size), range(size)):
        cam2world = cameras.cam2world[n]
        z = cam2world[:3, 3].norm() - EXTENT + 2 * EXTENT * d / (depth_samples - 1)
        pixel = torch.tensor([(column + 0.5) / size, (row + 0.5) / size, 1.0], dtype=torch.float64)
        in_camera = torch.linalg.solve(cameras.intrinsics[n], pixel) * z
        points[n, d, row, column] = cam2world[:3, :3] @ in_camera + cam2world[:3, 3]
    return points


def test_points_are_the_pinhole_rays() -> None:
    points = frustum_points(CAMERAS.cam2world, CAMERAS.intrinsics, EXTENT, 4, 5)
    torch.testing.assert_close(points.double(), reference_points(CAMERAS, 4, 5), rtol=0, atol=2e-6)


def test_each_axis_has_its_own_intrinsics() -> None:
    intrinsics = torch.tensor([[[4.0, 0, 0.45], [0, 5.0, 0.53], [0, 0, 1]]], dtype=torch.float64)
    camera = Cameras(CAMERAS[1].cam2world, intrinsics)
    points = frustum_points(camera.cam2world, camera.intrinsics, EXTENT, 4, 5)
    torch.testing.assert_close(points.double(), reference_points(camera, 4, 5), rtol=0, atol=2e-6)
    _, from_vector = matrices_from_vector(camera.to_vector())
    torch.testing.assert_close(from_vector.double(), intrinsics, rtol=0, atol=1e-6)


def test_frontal_camera_closed_form() -> None:
    camera = Cameras.from_angles(0)
    points = frustum_points(camera.cam2world, camera.intrinsics, EXTENT, DEPTH, SIZE)[0].double()
    depth = torch.linspace(RADIUS - EXTENT, RADIUS + EXTENT, DEPTH, dtype=torch.float64)
    offset = ((torch.arange(SIZE) + 0.5) / SIZE - 0.5) / FOCAL
    shape = (DEPTH, SIZE, SIZE)
    x = (depth[:, None, None] * offset[None, None, :]).expand(shape)
    y = -(depth[:, None, None] * offset[None, :, None]).expand(shape)
    z = (RADIUS - depth)[:, None, None].expand(shape)
    torch.testing.assert_close(points, torch.stack([x, y, z], dim=-1), rtol=0, atol=1e-6)


def test_sampled_value_is_the_world_point() -> None:
    values, inside = sample(coordinates(), CAMERAS)
    points = frustum_points(CAMERAS.cam2world, CAMERAS.intrinsics, EXTENT, DEPTH, SIZE)
    away_from_borders = (points.abs() < EXTENT * (1 - 1 / GRID)).all(dim=-1)
    assert away_from_borders.flatten(1).sum(dim=1).min() > 200
    assert (inside | ~away_from_borders).all()
    torch.testing.assert_close(values.movedim(1, -1)[away_from_borders], points[away_from_borders], rtol=0, atol=2e-6)


def test_outside_reads_zero_and_is_flagged() -> None:
    values, inside = sample(torch.ones(1, 2, GRID, GRID, GRID), CAMERAS)
    points = frustum_points(CAMERAS.cam2world, CAMERAS.intrinsics, EXTENT, DEPTH, SIZE)
    expected = (points.abs() <= EXTENT).all(dim=-1)
    assert torch.equal(inside, expected)
    assert 0 < inside.float().mean() < 1
    assert (values.movedim(1, -1)[~inside] == 0).all()
    assert (values.movedim(1, -1)[inside] > 0).all()


def test_half_precision_grid_keeps_float32_geometry() -> None:
    exact, inside = sample(coordinates(), CAMERAS)
    half, half_inside = sample(coordinates().bfloat16(), CAMERAS)
    assert half.dtype == torch.bfloat16
    assert torch.equal(half_inside, inside)
    # One bfloat16 rounding of the grid and one of the result; bfloat16 points would be off by up to 0.01.
    assert (half.float() - exact).abs().max() <= 2 * EXTENT * 2**-8


def test_training_in_half_precision_keeps_float32_geometry() -> None:
    exact, _ = sample(coordinates(), CAMERAS)
    with Accelerator(cpu=True, mixed_precision="bf16").autocast():
        sampled, _ = sample(coordinates(), CAMERAS)
        assert (torch.eye(2) @ torch.eye(2)).dtype == torch.bfloat16  # autocast is on
    assert torch.equal(sampled, exact)


def test_views_are_face_major() -> None:
    grids = torch.randn(2, 3, GRID, GRID, GRID)
    cameras = [CAMERAS[:3], CAMERAS[3:6]]
    cam2world = torch.stack([c.cam2world for c in cameras])
    intrinsics = torch.stack([c.intrinsics for c in cameras])
    values, inside = sample_frustum(grids, cam2world, intrinsics, EXTENT, DEPTH, SIZE)
    assert values.shape == (6, 3, DEPTH, SIZE, SIZE)
    assert inside.shape == (6, DEPTH, SIZE, SIZE)
    for face in range(2):
        for view in range(3):
            alone, alone_inside = sample(grids[face : face + 1], cameras[face][view])
            torch.testing.assert_close(values[3 * face + view], alone[0])
            assert torch.equal(inside[3 * face + view], alone_inside[0])


def test_gradient_reaches_the_cells_seen() -> None:
    grid = torch.randn(1, 1, GRID, GRID, GRID, requires_grad=True)
    values, _ = sample(grid, CAMERAS)
    values.sum().backward()
    assert (grid.grad != 0).all()


@pytest.mark.parametrize("yaw_deg", [0.0, 30.0, 90.0])
def test_central_ray_runs_from_near_to_far_through_the_origin(yaw_deg: float) -> None:
    camera = Cameras.from_angles(yaw_deg)
    points = frustum_points(camera.cam2world, camera.intrinsics, EXTENT, 3, 1)[0, :, 0, 0]
    toward_camera = torch.tensor([math.sin(math.radians(yaw_deg)), 0, math.cos(math.radians(yaw_deg))])
    torch.testing.assert_close(points, torch.tensor([[EXTENT], [0], [-EXTENT]]) * toward_camera, rtol=0, atol=1e-6)


def test_matrices_from_vector_are_those_of_cameras() -> None:
    cam2world, intrinsics = matrices_from_vector(CAMERAS.to_vector().double())
    torch.testing.assert_close(cam2world, CAMERAS.cam2world, rtol=0, atol=1e-6)
    torch.testing.assert_close(intrinsics, CAMERAS.intrinsics, rtol=0, atol=1e-6)
    batched, _ = matrices_from_vector(CAMERAS.to_vector().reshape(3, 3, 16))
    assert batched.shape == (3, 3, 4, 4)
    assert batched.dtype == torch.float32
