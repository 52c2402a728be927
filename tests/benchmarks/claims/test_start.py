from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from benchmarks.claims.start import NEW_IN_STEP_2, resized, with_new_views, without_time
from nvb_core.config import tiny_config
from nvb_core.model import NVBModel


@pytest.fixture
def model() -> NVBModel:
    torch.manual_seed(0)
    return NVBModel(tiny_config()).requires_grad_(False).eval()


def test_smaller_pictures_keep_weights_and_pool_positions(model: NVBModel) -> None:
    small = resized(model, 16, "tiny16")
    assert (small.config.image_size, small.config.feature_size, small.config.latent_size) == (16, 2, 2)
    old, new = model.state_dict(), small.state_dict()
    changed = {name for name in old if old[name].shape != new[name].shape}
    assert changed == {
        "view.camera_predictor.position",
        "view.volume.position",
        "view.aggregator.position",
        "context.position",
        "unet.conv_in.position",
    }
    assert all(torch.equal(old[name], new[name]) for name in old if name not in changed)
    cells = old["context.position"].unflatten(1, (4, 4))
    first = cells[:, :2, :2].mean(dim=(1, 2))
    assert torch.allclose(new["context.position"][:, 0], first)
    assert torch.allclose(new["unet.conv_in.position"][:, 1, 0], old["unet.conv_in.position"][:, 2:, :2].mean((1, 2)))
    rays = old["view.aggregator.position"][0, 3].unflatten(0, (4, 4))[:2, 2:].mean(dim=(0, 1))
    assert torch.allclose(new["view.aggregator.position"][0, 3, 1], rays)


def test_new_views_start_alike_and_leave_the_rest(model: NVBModel) -> None:
    config = replace(model.config, view=replace(model.config.view, depth_samples=6))
    first, again = (with_new_views(model, config, 3).state_dict() for _ in range(2))
    other = with_new_views(model, config, 4).state_dict()
    name = "view.volume.queries"
    weight = "view.aggregator.blocks.0.feed_forward.0.weight"
    assert first["view.aggregator.position"].shape[1] == 6
    assert torch.equal(first[name], again[name])
    assert torch.equal(first[weight], again[weight])
    assert not torch.equal(first[weight], other[weight])
    kept = [key for key in first if not key.startswith(NEW_IN_STEP_2)]
    assert all(torch.equal(first[key], value) for key, value in model.state_dict().items() if key in kept)
    assert any(key.startswith("view.camera_predictor") for key in kept)


def test_a_blind_encoder_sees_the_same_at_all_times(model: NVBModel) -> None:
    lq, early, late = torch.rand(1, 3, 32, 32) * 2 - 1, torch.tensor([0]), torch.tensor([900])
    at_start = model.encoder(lq, early)
    assert not torch.allclose(model.encoder(lq, late), at_start)
    without_time(model)
    assert torch.equal(model.encoder(lq, late), at_start)
