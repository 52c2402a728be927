from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from nvb_core import fit
from nvb_core.cameras import Cameras
from nvb_core.config import tiny_config
from nvb_core.errors import ConfigError
from nvb_core.fit import EPSILON, RATE, _each_cell, _sampled, normalised_features
from nvb_core.frustum import sample_frustum
from nvb_core.lift import resampled
from nvb_core.model import NVBModel
from nvb_core.pipeline import ViewFeatures, build_grid, encode_faces, render_views
from nvb_core.sampling import SamplingOptions
from nvb_core.timed import TimeConditioned

CAMERAS = Cameras.from_angles([5, -20], [0, 10])
TIMESTEP = 500
"""In the middle of the diffusion, where grids are fitted."""


@pytest.fixture(params=[0, 8], ids=["plain", "lifted"])
def model(request: pytest.FixtureRequest) -> NVBModel:
    """With weights that let the grid reach the features; as they start, aggregation passes on little of it."""
    torch.manual_seed(0)
    config = tiny_config()
    config = replace(config, view=replace(config.view, lift_width=request.param))
    model = NVBModel(config).requires_grad_(False).eval()
    for parameter in model.view.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return model


@pytest.fixture
def features(model: NVBModel) -> TimeConditioned:
    return encode_faces(model, torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(2)) * 2 - 1)


def own_loss(model: NVBModel, grid: TimeConditioned, features: TimeConditioned) -> list[float]:
    """Of each face: how far its own view's features are from the photo's."""
    views = ViewFeatures(model, grid, [CAMERAS[0], CAMERAS[1]]).at(TIMESTEP, 0, 2)
    errors = (normalised_features(views) - normalised_features(features.at(TIMESTEP))).square()
    return errors.mean(dim=(1, 2)).tolist()


def test_the_photos_own_view_comes_nearer_to_the_photo(model: NVBModel, features: TimeConditioned) -> None:
    losses = [own_loss(model, build_grid(model, features, CAMERAS, steps), features) for steps in (0, 5, 40)]
    for plain, some, more in zip(*losses, strict=True):
        assert more < some < plain
        assert more < 0.9 * plain


def test_one_correction_serves_all_timesteps(model: NVBModel, features: TimeConditioned) -> None:
    plain, fitted = (build_grid(model, features, CAMERAS, steps) for steps in (0, 3))
    corrections = [fitted.at(timestep) - plain.at(timestep) for timestep in (999, TIMESTEP, 0)]
    assert float(corrections[0].abs().max()) > RATE
    for correction in corrections[1:]:
        torch.testing.assert_close(correction, corrections[0], atol=1e-5, rtol=0)


def no_correction(model: NVBModel) -> Tensor:
    """Of one face's cells (1, C, g, g, g), which a lift makes finer."""
    return torch.zeros(1, 16, *(model.view.volume.grid_size,) * 3)


def test_the_first_step_goes_down_the_gradient(model: NVBModel, features: TimeConditioned) -> None:
    """Adam's first step in closed form; the gradient here is that of sampling itself."""
    plain, fitted = (build_grid(model, features, CAMERAS, steps).at(TIMESTEP) for steps in (0, 1))
    cells = no_correction(model).requires_grad_(True)
    matrices = (m[:1, None].float() for m in (CAMERAS.cam2world, CAMERAS.intrinsics))
    grid = plain[:1] + resampled(cells, plain.shape[-1])
    views = model.view.view_features(grid, *matrices, torch.tensor([TIMESTEP]))
    F.mse_loss(normalised_features(views), normalised_features(features.at(TIMESTEP)[:1])).backward()
    assert cells.grad is not None
    epsilon = EPSILON * cells.grad.square().mean().sqrt()
    expected = -RATE * cells.grad / (cells.grad.abs() + epsilon)
    torch.testing.assert_close(fitted[:1] - plain[:1], resampled(expected, plain.shape[-1]), atol=1e-5, rtol=1e-3)
    assert float(expected.abs().max()) > 0.5 * RATE


def test_later_steps_are_adams_at_a_falling_rate(model: NVBModel, features: TimeConditioned) -> None:
    plain, fitted = (build_grid(model, features, CAMERAS, steps).at(TIMESTEP) for steps in (0, 3))
    matrices = [m[:1, None].float() for m in (CAMERAS.cam2world, CAMERAS.intrinsics)]
    target = normalised_features(features.at(TIMESTEP)[:1])
    cells, epsilon = no_correction(model), 0.0
    mean, square = torch.zeros_like(cells), torch.zeros_like(cells)
    rates = (0.12, 0.088, 0.056)  # evenly down from the first, not quite to a fifth of it
    for step, rate in enumerate(rates, start=1):
        cells = cells.detach().requires_grad_(True)
        grid = plain[:1] + resampled(cells, plain.shape[-1])
        views = model.view.view_features(grid, *matrices, torch.tensor([TIMESTEP]))
        (gradient,) = torch.autograd.grad(F.mse_loss(normalised_features(views), target), cells)
        epsilon = epsilon or 0.3 * float(gradient.square().mean().sqrt())
        mean, square = 0.9 * mean + 0.1 * gradient, 0.999 * square + 0.001 * gradient.square()
        cells = cells - rate * mean / (1 - 0.9**step) / ((square / (1 - 0.999**step)).sqrt() + epsilon)
    expected = plain[:1] + resampled(cells.detach(), plain.shape[-1])
    torch.testing.assert_close(fitted[:1], expected, atol=1e-4, rtol=1e-3)


def test_a_grid_that_no_gradient_reaches_stays(model: NVBModel, features: TimeConditioned) -> None:
    model.view.aggregator.proj_out.weight.data.zero_()
    plain, fitted = (build_grid(model, features, CAMERAS, steps).at(TIMESTEP) for steps in (0, 2))
    assert torch.equal(fitted, plain)


def test_the_correction_is_sought_once(
    model: NVBModel, features: TimeConditioned, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def correct(model: NVBModel, weights: dict[str, Tensor], grid: Tensor, *_: object) -> Tensor:
        calls.append(grid.shape)
        return torch.zeros_like(grid[None])

    monkeypatch.setattr(fit, "_correct", correct)
    fitted = build_grid(model, features, CAMERAS, 3)
    assert not calls
    for timestep in (999, TIMESTEP, 0):
        fitted.at(timestep)
    assert len(calls) == 2  # one for each face


def test_a_correction_is_sampled_as_the_grid_with_it_is(model: NVBModel, features: TimeConditioned) -> None:
    """By matrix, as if it had been made finer and added."""
    view, size = model.view, model.view.volume.grid_size
    grid, correction = build_grid(model, features, CAMERAS).at(0)[0], torch.randn(1, 16, size, size, size)
    matrices = (m[:1, None].float() for m in (CAMERAS.cam2world, CAMERAS.intrinsics))
    whole = grid[None] + resampled(correction, grid.shape[-1])
    expected, inside = sample_frustum(whole, *matrices, view.grid_extent, view.depth_samples, view.feature_size)
    start, found_inside = _sampled(model, CAMERAS[0], grid[None])
    operator, _ = _sampled(model, CAMERAS[0], _each_cell(model, grid))
    found = (start + correction.flatten(2) @ operator[0]).unflatten(2, inside.shape[1:])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(found_inside, inside)


def test_faces_are_fitted_each_by_itself_and_alike_each_time(model: NVBModel, features: TimeConditioned) -> None:
    both = build_grid(model, features, CAMERAS, 3).at(0)
    assert torch.equal(build_grid(model, features, CAMERAS, 3).at(0), both)
    for i in range(2):
        one = TimeConditioned(lambda timestep, i=i: features.at(timestep)[i : i + 1])
        torch.testing.assert_close(build_grid(model, one, CAMERAS[i], 3).at(0)[0], both[i], atol=1e-4, rtol=0)


def test_the_model_stays_as_it_is(model: NVBModel, features: TimeConditioned) -> None:
    before = copy.deepcopy(model.state_dict())
    with torch.no_grad():
        assert not build_grid(model, features, CAMERAS, 3).at(0).requires_grad
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_in_inference_mode_with_weights_made_in_it(model: NVBModel) -> None:
    """As ComfyUI runs nodes."""

    def rendered(model: NVBModel, crop: Tensor) -> Tensor:
        return render_views(model, crop, CAMERAS, SamplingOptions(2, fit_steps=3)).images

    crop = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(3)) * 2 - 1
    expected = rendered(model, crop)
    with torch.inference_mode():
        inside = NVBModel(model.config).requires_grad_(False).eval()
        inside.load_state_dict(model.state_dict())
        assert all(parameter.is_inference() for parameter in inside.view.parameters())
        torch.testing.assert_close(rendered(inside, crop.clone()), expected, atol=1e-5, rtol=0)


def test_in_half_precision(model: NVBModel, features: TimeConditioned) -> None:
    plain = own_loss(model, build_grid(model, features, CAMERAS), features)
    half = copy.deepcopy(model).to(torch.bfloat16)
    seen = TimeConditioned(lambda timestep: features.at(timestep).to(torch.bfloat16))
    grid = build_grid(half, seen, CAMERAS, 20)
    assert grid.at(0).dtype == torch.bfloat16
    for found, before in zip(own_loss(half, grid, seen), plain, strict=True):
        assert found < before


@pytest.mark.parametrize("steps", [-1, 1001])
def test_wrong_numbers_of_steps(steps: int) -> None:
    with pytest.raises(ConfigError, match="fit_steps"):
        SamplingOptions(fit_steps=steps)
