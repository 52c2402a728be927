from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from nvb_core.cameras import Cameras
from nvb_core.config import tiny_config
from nvb_core.layers import start_constant_
from nvb_core.model import NVBModel
from nvb_core.view_transform import DepthAggregator, FeatureVolume, ViewTransform

CAMERAS = Cameras.from_angles([0, 25, -40], [0, 10, -5])
CHANNELS, CELLS, GRID, DEPTH = 16, 4, 4, 4
T = torch.tensor([100])


@pytest.fixture
def view(tiny_model: NVBModel) -> ViewTransform:
    return copy.deepcopy(tiny_model.view)


@pytest.fixture
def lifted() -> ViewTransform:
    """With a lift, and without zeros."""
    config = tiny_config()
    torch.manual_seed(0)
    view = ViewTransform(replace(config, view=replace(config.view, lift_width=8))).requires_grad_(False)
    for parameter in view.parameters():
        parameter.add_(0.05 * torch.randn_like(parameter))
    return view


@pytest.fixture
def features() -> torch.Tensor:
    return torch.randn(2, CHANNELS, CELLS, CELLS, generator=torch.Generator().manual_seed(1))


def matrices(*cameras: Cameras) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.stack([c.cam2world for c in cameras]), torch.stack([c.intrinsics for c in cameras])


def test_every_photo_is_frontal_before_training(features: torch.Tensor) -> None:
    vector = ViewTransform(tiny_config()).camera_predictor(features)
    frontal = Cameras.from_angles(0)
    torch.testing.assert_close(vector, frontal.to_vector().expand(2, -1))
    torch.testing.assert_close(Cameras.from_vector(vector)[0].cam2world, frontal.cam2world)


def test_predicted_camera_depends_on_where_features_are(view: ViewTransform, features: torch.Tensor) -> None:
    mirrored = view.camera_predictor(features.flip(-1))
    assert (view.camera_predictor(features) - mirrored).abs().amax(dim=1).min() > 1e-4


def test_grid_axes_are_z_y_x() -> None:
    volume = FeatureVolume(CHANNELS, GRID, blocks=0, heads=2, size=CELLS)
    grid = volume(torch.zeros(1, CHANNELS, CELLS, CELLS), torch.zeros(1, 16), T)
    assert grid.shape == (1, CHANNELS, GRID, GRID, GRID)
    expected = F.layer_norm(volume.queries[(3 * GRID + 1) * GRID + 2], (CHANNELS,))
    torch.testing.assert_close(grid[0, :, 3, 1, 2], expected)


def test_blocks_that_add_nothing_leave_the_queries() -> None:
    volume = FeatureVolume(CHANNELS, GRID, blocks=2, heads=2, size=CELLS)
    for layer in (m for m in volume.blocks.modules() if isinstance(m, torch.nn.Linear)):
        start_constant_(layer)
    grid = volume(torch.randn(1, CHANNELS, CELLS, CELLS), torch.zeros(1, 16), T)
    expected = F.layer_norm(volume.queries, (CHANNELS,)).mT.reshape(1, CHANNELS, GRID, GRID, GRID)
    torch.testing.assert_close(grid, expected)


def test_the_scale_of_features_does_not_matter(view: ViewTransform, features: torch.Tensor) -> None:
    vector, t = CAMERAS[:2].to_vector(), torch.tensor([100, 100])
    grid = view.volume(features, vector, t)
    torch.testing.assert_close(view.volume(3 * features + 1, vector, t), grid, rtol=0, atol=1e-3)
    torch.testing.assert_close(
        view.camera_predictor(3 * features + 1), view.camera_predictor(features), rtol=0, atol=1e-3
    )


def test_grid_depends_on_features_camera_and_time(view: ViewTransform, features: torch.Tensor) -> None:
    vector = CAMERAS[:2].to_vector()
    t = torch.tensor([100, 100])
    grid = view.volume(features, vector, t)
    for other in (
        view.volume(features.roll(1, dims=0), vector, t),
        view.volume(features, CAMERAS[1:].to_vector(), t),
        view.volume(features, vector, t + 500),
    ):
        assert (other - grid).abs().flatten(1).amax(dim=1).min() > 1e-3


def test_modulation_does_nothing_before_training(features: torch.Tensor) -> None:
    volume = ViewTransform(tiny_config()).volume
    vector = CAMERAS[:2].to_vector()
    first = volume(features, vector, torch.tensor([0, 0]))
    assert torch.equal(first, volume(features, vector.flip(0), torch.tensor([999, 500])))


def test_aggregator_is_the_mean_over_depth_when_its_block_adds_nothing() -> None:
    aggregator = DepthAggregator(CHANNELS, 8, blocks=1, heads=2, depth=DEPTH, size=CELLS)
    for layer in (m for m in aggregator.blocks.modules() if isinstance(m, torch.nn.Linear)):
        start_constant_(layer)
    frustum = torch.randn(1, CHANNELS, DEPTH, CELLS, CELLS)
    torch.nn.init.normal_(aggregator.outside)
    row, column = 1, 2
    inside = torch.ones(1, DEPTH, CELLS, CELLS, dtype=torch.bool)
    inside[0, 3, row, column] = False
    output = aggregator(frustum, inside, T)
    rays = aggregator.proj_in(frustum[0, :, :, row, column].mT) + aggregator.position[0, :, row * CELLS + column]
    rays[3] = rays[3] + aggregator.outside
    expected = aggregator.proj_out(F.layer_norm(rays.mean(dim=0), (8,)))
    torch.testing.assert_close(output[0, :, row, column], expected)


def test_the_mean_over_depth_of_a_block_is_that_of_all_its_planes() -> None:
    block = DepthAggregator(CHANNELS, 8, blocks=1, heads=2, depth=DEPTH, size=CELLS).blocks[0]
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    x, condition = torch.randn(2, DEPTH, CELLS**2, 8), torch.randn(2, 8)
    torch.testing.assert_close(block.mean_over_depth(x, condition), block(x, condition).mean(dim=1))


def test_aggregator_knows_planes_time_and_what_is_outside(view: ViewTransform) -> None:
    frustum = torch.randn(1, CHANNELS, DEPTH, CELLS, CELLS)
    inside = torch.ones(1, DEPTH, CELLS, CELLS, dtype=torch.bool)
    output = view.aggregator(frustum, inside, T)
    assert output.shape == (1, CHANNELS, CELLS, CELLS)
    for other in (
        view.aggregator(frustum.flip(2), inside, T),
        view.aggregator(frustum, inside, T + 500),
        view.aggregator(frustum, ~inside, T),
    ):
        assert (other - output).abs().max() > 1e-3


def test_views_are_face_major_each_with_its_faces_time(view: ViewTransform) -> None:
    grid = torch.randn(2, CHANNELS, GRID, GRID, GRID)
    timesteps = torch.tensor([50, 900])
    per_face = [CAMERAS, Cameras.from_angles([5, 15, 35])]
    both = view.view_features(grid, *matrices(*per_face), timesteps)
    assert both.shape == (6, CHANNELS, CELLS, CELLS)
    for face in range(2):
        for n in range(3):
            alone = view.view_features(grid[face : face + 1], *matrices(per_face[face][n]), timesteps[face : face + 1])
            torch.testing.assert_close(both[3 * face + n : 3 * face + n + 1], alone)


def test_a_lift_makes_the_grid_finer(lifted: ViewTransform, features: torch.Tensor) -> None:
    timesteps = torch.tensor([50, 900])
    grid = lifted.volume(features, CAMERAS[:2].to_vector(), timesteps)
    assert grid.shape == (2, CHANNELS, 2 * GRID, 2 * GRID, 2 * GRID)
    assert (grid[0] - lifted.volume(features, CAMERAS[1:].to_vector(), timesteps)[0]).abs().max() > 1e-4
    whole = lifted.view_features(grid, *matrices(CAMERAS, CAMERAS), timesteps)
    second = lifted.volume(features[1:], CAMERAS[1:2].to_vector(), timesteps[1:])
    alone = lifted.view_features(second, *matrices(CAMERAS), timesteps[1:])
    torch.testing.assert_close(alone, whole[3:], rtol=0, atol=1e-5)


@pytest.mark.parametrize("which", ["view", "lifted"])
def test_gradients_reach_every_parameter(which: str, request: pytest.FixtureRequest, features: torch.Tensor) -> None:
    view: ViewTransform = request.getfixturevalue(which)
    view.requires_grad_(True)
    timesteps = torch.tensor([50, 900])
    vector = view.camera_predictor(features)
    grid = view.volume(features, vector, timesteps)
    output = view.view_features(grid, *matrices(CAMERAS, CAMERAS), timesteps)
    (output.square().sum() + vector.square().sum()).backward()
    dead = [name for name, p in view.named_parameters() if p.grad is None or p.grad.abs().max() == 0]
    assert dead == []


@pytest.mark.parametrize("which", ["view", "lifted"])
def test_half_precision(which: str, request: pytest.FixtureRequest, features: torch.Tensor) -> None:
    view: ViewTransform = request.getfixturevalue(which)
    view, features = view.to(torch.bfloat16), features.bfloat16()
    t = torch.tensor([50, 900])
    grid = view.volume(features, CAMERAS[:2].to_vector(), t)
    output = view.view_features(grid, *matrices(CAMERAS, CAMERAS), t)
    assert (grid.dtype, output.dtype) == (torch.bfloat16, torch.bfloat16)
    assert view.camera_predictor(features).dtype == torch.bfloat16
