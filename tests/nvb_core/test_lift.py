from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nvb_core.cameras import RADIUS, Cameras
from nvb_core.lift import PhotoLift, place_code, project_cells

CHANNELS, WIDTH, GRID, CELLS, EXTENT = 6, 5, 2, 4, 0.45
ANGLES = st.floats(-60, 60)


def centres(size: int) -> Tensor:
    """(size³, 3), in the order of a grid's axes."""
    axis = ((torch.arange(size, dtype=torch.float64) + 0.5) / size * 2 - 1) * EXTENT
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    return torch.stack([x, y, z], dim=-1).flatten(0, 2)


@pytest.fixture
def lift() -> PhotoLift:
    torch.manual_seed(0)
    lift = PhotoLift(CHANNELS, WIDTH, GRID, EXTENT)
    torch.nn.init.normal_(lift.out.weight)
    return lift.requires_grad_(False)


@settings(deadline=None)
@given(ANGLES, ANGLES, ANGLES, st.floats(10, 30))
def test_cells_are_projected_as_by_the_camera(yaw: float, pitch: float, roll: float, fov: float) -> None:
    camera = Cameras.from_angles(yaw, pitch, roll, fov_deg=fov)
    position, depth = project_cells(camera.to_vector(), 4, EXTENT)
    torch.testing.assert_close(position[0].double(), camera.project(centres(4))[0].clamp(-1, 2), rtol=0, atol=1e-5)
    forward = camera.cam2world[0, :3, 2]
    torch.testing.assert_close(depth[0].double(), centres(4) @ forward, rtol=0, atol=1e-5)


def test_cells_are_projected_in_float32_whatever_the_vector_is() -> None:
    vector = Cameras.from_angles(0.0).to_vector()  # of which half precision holds every number but the focal length's
    assert project_cells(vector.half(), 4, EXTENT)[0].dtype == torch.float32
    torch.testing.assert_close(project_cells(vector.half(), 4, EXTENT)[0], project_cells(vector, 4, EXTENT)[0])


def test_cells_behind_the_camera_are_nowhere_far() -> None:
    vector = Cameras.from_angles(0.0).to_vector()
    vector[:, 3:12:4] /= RADIUS / 0.2  # into the cube
    position, _ = project_cells(vector, 4, EXTENT)
    assert position.isfinite().all()
    assert position.min() >= -1
    assert position.max() <= 2


def test_before_training_the_grid_is_only_made_finer() -> None:
    grid, features = torch.randn(2, CHANNELS, GRID, GRID, GRID), torch.randn(2, CHANNELS, CELLS, CELLS)
    lifted = PhotoLift(CHANNELS, WIDTH, GRID, EXTENT)(grid, features, Cameras.from_angles([0.0, 30.0]).to_vector())
    assert lifted.shape == (2, CHANNELS, 2 * GRID, 2 * GRID, 2 * GRID)
    torch.testing.assert_close(lifted, F.interpolate(grid, scale_factor=2, mode="trilinear", align_corners=False))
    constant = torch.full_like(grid, 0.7)
    torch.testing.assert_close(
        PhotoLift(CHANNELS, WIDTH, GRID, EXTENT)(constant, features, torch.zeros(2, 16)),
        torch.full((2, CHANNELS, 4, 4, 4), 0.7),
    )


def test_a_feature_reaches_the_cells_on_its_rays_and_no_others(lift: PhotoLift) -> None:
    camera = Cameras.from_angles(25.0, -10.0)
    grid, features = torch.zeros(1, CHANNELS, GRID, GRID, GRID), torch.zeros(1, CHANNELS, CELLS, CELLS)
    changed = features.clone()
    changed[0, 0, 1, 2] = 1  # row, column
    moved = lift(grid, changed, camera.to_vector()) - lift(grid, features, camera.to_vector())
    reached = moved[0].abs().amax(dim=0).flatten() > 1e-6
    column, row = (CELLS * camera.project(centres(2 * GRID))[0] - 0.5).unbind(-1)
    near = ((column - 2).abs() < 1) & ((row - 1).abs() < 1)
    assert torch.equal(reached, near)
    assert 0 < int(near.sum()) < len(near)


def test_what_the_photo_does_not_show_gets_nothing_of_it(lift: PhotoLift) -> None:
    camera = Cameras.from_angles(0.0, fov_deg=6.0)  # most cells lie outside
    grid = torch.randn(1, CHANNELS, GRID, GRID, GRID)
    first, second = (lift(grid, torch.randn(1, CHANNELS, CELLS, CELLS), camera.to_vector()) for _ in range(2))
    position = camera.project(centres(2 * GRID))[0]
    outside = ((position < 0) | (position > 1)).any(dim=-1)
    same = (first - second)[0].abs().amax(dim=0).flatten() == 0
    assert torch.equal(same, outside)
    assert 0 < int(outside.sum()) < len(outside)


def test_place_code_turns_with_each_feature_cell() -> None:
    position = torch.tensor([[[0.25, 0.5], [3.25, 7.5], [1.75, 2.0]]])
    code = place_code(position, torch.tensor([[True, True, False]]), torch.tensor([[0.1, 0.1, -0.2]]))
    torch.testing.assert_close(code[0, 0], torch.tensor([1, 0, 0, -1, 1, 0.1]), atol=1e-5, rtol=0)
    torch.testing.assert_close(code[0, 1], code[0, 0], atol=1e-5, rtol=0)
    torch.testing.assert_close(code[0, 2], torch.tensor([-1, 0, 0, 1, 0, -0.2]), atol=1e-5, rtol=0)


def test_gradients_reach_every_parameter_and_the_features(lift: PhotoLift) -> None:
    lift.requires_grad_(True)
    features = torch.randn(1, CHANNELS, CELLS, CELLS, requires_grad=True)
    grid = torch.randn(1, CHANNELS, GRID, GRID, GRID, requires_grad=True)
    lift(grid, features, Cameras.from_angles(10.0).to_vector()).square().sum().backward()
    for name, tensor in (*lift.named_parameters(), ("features", features), ("grid", grid)):
        assert tensor.grad is not None, name
        assert tensor.grad.abs().max() > 0, name


def test_half_precision(lift: PhotoLift) -> None:
    grid, features = torch.randn(1, CHANNELS, GRID, GRID, GRID), torch.randn(1, CHANNELS, CELLS, CELLS)
    vector = Cameras.from_angles(10.0).to_vector()
    exact, rounded = lift(grid, features, vector), lift.bfloat16()(grid.bfloat16(), features.bfloat16(), vector)
    assert rounded.dtype == torch.bfloat16
    torch.testing.assert_close(rounded.float(), exact, rtol=0.05, atol=0.1)
