from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from nvb_core.cameras import Cameras
from nvb_core.checkpoint import load_model, save_model
from nvb_core.config import tiny_config
from nvb_core.errors import ConfigError
from nvb_core.model import NVBModel
from training.lift import add_lift


def test_a_lift_is_added_once(tmp_path: Path) -> None:
    model = NVBModel(tiny_config())
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    add_lift(model, 8)
    assert model.config == replace(tiny_config(), view=replace(tiny_config().view, lift_width=8))
    lift = model.view.volume.lift
    add_lift(model, 8)
    assert model.view.volume.lift is lift
    with pytest.raises(ConfigError, match="lift has width 8 already; lift_width is 9"):
        add_lift(model, 9)
    state = model.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in before.items())
    assert {name for name in state if name not in before} == {
        f"view.volume.lift.{name}"
        for name in (
            "norm.weight", "norm.bias", "from_photo.weight", "from_photo.bias", "from_cell.weight", "from_place.weight",
            "out.weight", "out.bias",
        )
    }  # fmt: skip

    save_model(model, tmp_path / "lifted.safetensors", {})
    loaded = load_model(tmp_path / "lifted.safetensors")
    assert loaded.config == model.config
    assert all(torch.equal(tensor, state[name]) for name, tensor in loaded.state_dict().items())


def test_a_new_lift_hardly_changes_views() -> None:
    """A grid that is made finer is sampled a little differently, most of all at its border."""
    torch.manual_seed(0)
    model = NVBModel(tiny_config()).requires_grad_(False)
    features, camera, timesteps = torch.randn(1, 16, 4, 4), Cameras.from_angles(10.0), torch.tensor([100])

    def views() -> torch.Tensor:
        grid = model.view.volume(features, camera.to_vector(), timesteps)
        return model.view.view_features(grid, camera.cam2world[None], camera.intrinsics[None], timesteps)

    plain = views()
    add_lift(model, 8)
    assert (views() - plain).std() < 0.5 * plain.std()
