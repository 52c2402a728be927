from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file
from torch import Tensor

from nvb_core.checkpoint import read_metadata
from nvb_core.errors import ConfigError
from nvb_core.frustum import matrices_from_vector
from training.options import Step3Options
from training.step1 import draw_timesteps
from training.step3 import Step3Network, Step3Stage, train

pytestmark = pytest.mark.usefixtures("accelerate_reset")


def options(out: Path, faces: Path, init: Path, **changes: Any) -> Step3Options:
    settings: dict[str, Any] = {"steps": 2, "batch_size": 2, "log_every": 1, "grid_every": 2, "precision": "no"}
    return Step3Options(out=out, data=(faces,), init=init, **{**settings, "views": 3, **changes})


@pytest.fixture
def stage(tmp_path: Path, faces: Path, tiny_checkpoint: Path) -> Step3Stage:
    return Step3Stage(options(tmp_path, faces, tiny_checkpoint, true_camera_probability=1.0), rank=0)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(5)


def parts(names: set[str]) -> set[str]:
    return {name.partition(".")[0] for name in names}


def test_trains_exactly_the_denoiser(tmp_path: Path, faces: Path, tiny_checkpoint: Path) -> None:
    assert train(options(tmp_path, faces, tiny_checkpoint)) == 2
    before, after = load_file(tiny_checkpoint), load_file(tmp_path / "model.safetensors")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert parts(changed) == {"context", "unet"}
    assert parts(set(before) - changed) == {"encoder", "view", "vae"}  # every tensor of the two has changed
    assert (tmp_path / "pictures" / "0000002.png").exists()
    assert set(read_metadata(tmp_path / "model.safetensors")["training"]) == {"vae", "step3"}


def test_on_stable_diffusion_only_what_is_ours_trains(tmp_path: Path, shrunken_sd: Any) -> None:
    places = {"base": shrunken_sd.base, "grid_every": 0, "gradient_checkpointing": True}
    train(options(tmp_path, shrunken_sd.faces, shrunken_sd.init, **places))
    before, after = load_file(shrunken_sd.init), load_file(tmp_path / "model.safetensors")
    assert before.keys() == after.keys()  # adapters and attn2 are all there is of the U-Net
    assert parts({name for name in before if not torch.equal(before[name], after[name])}) == {"context", "unet"}


def expected_losses(stage: Step3Stage, photos: int) -> dict[str, Tensor]:
    """The module's losses by its parts, called one by one with the true camera."""
    model, batch, noise = stage.model, stage.make_batch(0), generator()
    timesteps = draw_timesteps(model, 2, noise)
    torch.rand(2, 1, generator=noise)  # the choice of the camera
    with torch.no_grad():
        grid = model.view.volume(model.encoder(batch.lq, timesteps), batch.source_cameras, timesteps)
        features = model.view.view_features(grid, *matrices_from_vector(batch.target_cameras), timesteps)
        features = features.unflatten(0, (2, 3)).clone()
        for n in range(photos):
            features[:, n] = model.encoder(batch.degraded_targets[:, n], timesteps)
        latents = model.vae.encode(batch.targets.flatten(0, 1))
        each = timesteps.repeat_interleave(3)
        noisy, target = stage.network.target(latents, each, noise)
        predicted = model.unet(noisy, each, model.context(features.flatten(0, 1))).sample
        error = (predicted - target).square().mean(dim=(1, 2, 3)).unflatten(0, (2, 3))
    return {"loss": error.mean(), "views": error[:, photos:].mean(), "photos": error[:, :photos].mean()}


@pytest.mark.parametrize("photos", [0, 1, 2])
def test_views_are_drawn_from_the_grid_and_some_from_their_own_photos(stage: Step3Stage, photos: int) -> None:
    torch.manual_seed(1)
    for parameter in stage.model.parameters():  # layers that start at zero would say nothing of their input
        parameter.data.add_(torch.randn_like(parameter), alpha=0.02)
    network = Step3Network(stage.model, replace(stage.options, photo_views=photos))
    got, expected = network(stage.make_batch(0), generator()), expected_losses(stage, photos)
    assert set(got) == ({"loss", "views", "photos"} if photos else {"loss", "views"})
    for name, value in got.items():
        assert value.item() == pytest.approx(expected[name].item(), rel=1e-4)
    others = expected_losses(stage, (photos + 1) % 3)
    assert abs(others["loss"].item() - got["loss"].item()) > 1e-5  # whose features they are matters


def test_cached_latents_are_used(stage: Step3Stage) -> None:
    batch = stage.make_batch(0)
    latents = stage.model.vae.encode(batch.targets.flatten(0, 1)).unflatten(0, (2, 3))
    plain, cached, other = (
        stage.network(b, generator())["loss"].item()
        for b in (batch, replace(batch, latents=latents), replace(batch, latents=latents + 1))
    )
    assert cached == pytest.approx(plain, rel=1e-5)
    assert abs(other - plain) > 1e-3


def test_the_loss_falls(stage: Step3Stage, overfit: Callable[..., tuple[dict[str, Tensor], dict[str, Tensor]]]) -> None:
    before, after = overfit(stage.network, stage.make_batch(0), steps=30, lr=3e-3)
    assert after["loss"] < 0.9 * before["loss"]


def test_a_resumed_run_goes_on_exactly(tmp_path: Path, faces: Path, tiny_checkpoint: Path) -> None:
    settings: dict[str, Any] = {"grid_every": 0, "decay_fraction": 0.0, "warmup_steps": 0}
    for out, steps in (("whole", 4), ("parts", 2), ("parts", 4)):
        AcceleratorState._reset_state()
        train(options(tmp_path / out, faces, tiny_checkpoint, steps=steps, **settings))
    whole, resumed = (load_file(tmp_path / out / "model.safetensors") for out in ("whole", "parts"))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"photo_views": 3}, "photo_views is 3, must be in 0–2"),
        ({"photo_views": -1}, "photo_views is -1"),
        ({"true_camera_probability": 1.5}, "true_camera_probability is 1.5"),
        ({"shard": "parameters"}, "shard parameters is for step 1"),
    ],
)
def test_bad_options(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        options(tmp_path, tmp_path, tmp_path, **changes)
