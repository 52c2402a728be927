from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from nvb_core.config import ScheduleConfig, tiny_config
from nvb_core.denoiser import build_scheduler
from nvb_core.model import NVBModel
from training.data import read_index, write_index
from training.export import start_model
from training.options import Step1Options
from training.step1 import DenoisingTarget, LatentHead, Step1Network, Step1Stage, draw_timesteps, masked_mse, train

pytestmark = pytest.mark.usefixtures("accelerate_reset")

SCHEDULES = {
    "v_prediction": tiny_config().schedule,
    "epsilon": ScheduleConfig(),
}


def options(out: Path, faces: Path, init: Path, **changes: Any) -> Step1Options:
    settings: dict[str, Any] = {"steps": 2, "batch_size": 2, "log_every": 1, "grid_every": 2, "precision": "no"}
    return Step1Options(out=out, data=(faces,), init=init, **{**settings, **changes})


@pytest.mark.parametrize("kind", SCHEDULES)
def test_targets_lead_diffusers_back_to_the_clean_latents(kind: str) -> None:
    """If the U-Net said exactly the target, the sampler's own x0 would be the latents."""
    model = NVBModel(replace(tiny_config(), schedule=SCHEDULES[kind]))
    scheduler = build_scheduler(model.config.schedule)
    scheduler.set_timesteps(1000)
    latents = torch.randn(3, 4, 4, 4, generator=torch.Generator().manual_seed(1))
    for timestep in (0, 500, 900):
        timesteps = torch.full((3,), timestep)
        noisy, target = DenoisingTarget(model)(latents, timesteps, torch.Generator().manual_seed(2))
        clean = scheduler.step(target, timestep, noisy).pred_original_sample
        torch.testing.assert_close(clean, latents, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(DenoisingTarget(model).clean(noisy, target, timesteps), clean, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", SCHEDULES)
def test_targets_closed_form(kind: str) -> None:
    model = NVBModel(replace(tiny_config(), schedule=SCHEDULES[kind]))
    latents, timesteps = torch.randn(2, 4, 4, 4), torch.tensor([10, 700])
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(3))
    noisy, target = DenoisingTarget(model)(latents, timesteps, torch.Generator().manual_seed(3))
    alpha = build_scheduler(model.config.schedule).alphas_cumprod[timesteps].sqrt()[:, None, None, None]
    sigma = (1 - alpha.square()).sqrt()
    torch.testing.assert_close(noisy, alpha * latents + sigma * noise)
    torch.testing.assert_close(target, alpha * noise - sigma * latents if kind == "v_prediction" else noise)


def test_timesteps_cover_the_whole_schedule() -> None:
    model = NVBModel(replace(tiny_config(), schedule=replace(SCHEDULES["v_prediction"], train_timesteps=7)))
    assert draw_timesteps(model, 500, torch.Generator().manual_seed(0)).unique().tolist() == list(range(7))


def test_a_share_of_the_timesteps_is_of_the_noisier_half_alone() -> None:
    model = NVBModel(replace(tiny_config(), schedule=replace(SCHEDULES["v_prediction"], train_timesteps=8)))
    for share, low in ((1.0, 0.0), (0.5, 0.25)):
        timesteps = draw_timesteps(model, 4000, torch.Generator().manual_seed(0), share)
        assert timesteps.max() == 7
        assert (timesteps < 4).float().mean() == pytest.approx(low, abs=0.03)
        upper = timesteps.bincount()[4:]
        assert upper.max() < 1.15 * upper.min()


@pytest.mark.parametrize("camera_weight", [0.0, 1.0])
def test_trains_what_it_says_alone(tmp_path: Path, faces: Path, tiny_checkpoint: Path, camera_weight: float) -> None:
    assert train(options(tmp_path, faces, tiny_checkpoint, camera_weight=camera_weight)) == 2
    before, after = load_file(tiny_checkpoint), load_file(tmp_path / "model.safetensors")
    trained = ("encoder.", "context.", "unet.", *(["view.camera_predictor."] if camera_weight else []))
    for name, tensor in before.items():
        assert torch.equal(tensor, after[name]) == (not name.startswith(trained)), name
    assert (tmp_path / "pictures" / "0000002.png").exists()


def test_latent_head_trains_along(tmp_path: Path, faces: Path, tiny_checkpoint: Path) -> None:
    network = Step1Network(start_model(tiny_checkpoint), options(tmp_path, faces, tiny_checkpoint))
    names = {name.removeprefix("model.").split(".")[0] for name, p in network.named_parameters() if p.requires_grad}
    assert names == {"encoder", "context", "unet", "view", "latent_head"}


def test_latent_head_puts_each_cell_where_it_belongs() -> None:
    config = replace(tiny_config(), encoder=replace(tiny_config().encoder, channel_mult=(1, 2, 2, 2, 2)))
    head = LatentHead(config)  # 2×2 cells of features for 4×4 latents
    features = torch.randn(1, config.channels, 2, 2)
    latents = head(features)
    assert latents.shape == (1, config.vae.latent_channels, 4, 4)
    changed = features.clone()
    changed[..., 0, 1] += torch.randn(config.channels)
    difference = (head(changed) - latents).abs().amax(dim=(0, 1)) > 1e-6
    assert difference.nonzero().tolist() == [[0, 2], [0, 3], [1, 2], [1, 3]]


def test_loss_is_the_weighted_sum(tmp_path: Path, faces: Path, tiny_checkpoint: Path) -> None:
    stage = Step1Stage(options(tmp_path, faces, tiny_checkpoint, latent_weight=0.25, camera_weight=3), rank=0)
    losses = stage.network(stage.make_batch(0), torch.Generator().manual_seed(0))
    parts = losses["diffusion"] + 0.25 * losses["latent"] + 3 * losses["camera"]
    torch.testing.assert_close(losses["loss"], parts)


def test_camera_loss_reaches_the_encoder(tmp_path: Path, faces: Path, tiny_checkpoint: Path) -> None:
    stage = Step1Stage(options(tmp_path, faces, tiny_checkpoint), rank=0)
    torch.nn.init.normal_(stage.model.view.camera_predictor.head[-1].weight)  # zero before training
    stage.network(stage.make_batch(0), torch.Generator().manual_seed(0))["camera"].backward()
    assert stage.model.encoder.stem.weight.grad is not None
    assert stage.model.encoder.stem.weight.grad.abs().amax() > 0


def test_overfits_a_batch(overfit: Callable[..., Any], tmp_path: Path, faces: Path, tiny_checkpoint: Path) -> None:
    stage = Step1Stage(options(tmp_path, faces, tiny_checkpoint), rank=0)
    before, after = overfit(stage.network, stage.make_batch(0), steps=40, lr=3e-3)
    assert after["loss"] < 0.8 * before["loss"]


def test_picture_shows_input_output_and_truth(tmp_path: Path, faces: Path, tiny_checkpoint: Path) -> None:
    stage = Step1Stage(options(tmp_path, faces, tiny_checkpoint), rank=0)
    picture = stage.picture()
    assert picture.pixels.shape == (3, 3 * 32, 8 * 32)
    assert torch.equal(picture.pixels, stage.picture().pixels)
    restored, true = picture.pixels[:, 32:64], picture.pixels[:, 64:]
    assert picture.psnr_db == pytest.approx((10 * torch.log10(4 / (restored - true).square().mean())).item(), rel=1e-5)


def test_masked_mse_takes_errors_of_known_rows_alone() -> None:
    predicted = torch.tensor([[1.0, 2.0], [5.0, 5.0], [0.0, 4.0]], requires_grad=True)
    true = torch.zeros(3, 2)
    everything = masked_mse(predicted, true, torch.tensor([True, True, True]))
    assert torch.equal(everything, torch.nn.functional.mse_loss(predicted, true))
    some = masked_mse(predicted, true, torch.tensor([True, False, True]))
    assert some.item() == pytest.approx((1 + 4 + 0 + 16) / 6)
    (gradient,) = torch.autograd.grad(some, predicted)
    torch.testing.assert_close(gradient, torch.tensor([[1.0, 2.0], [0.0, 0.0], [0.0, 4.0]]) / 3)
    none = masked_mse(predicted, true, torch.zeros(3, dtype=torch.bool))
    assert none.item() == 0
    assert torch.equal(torch.autograd.grad(none, predicted)[0], torch.zeros(3, 2))


@pytest.mark.parametrize("size", [1, 2, 4])
def test_masked_mse_is_the_same_however_a_batch_is_parted(size: int) -> None:
    predicted, true = torch.randn(2, 8, 3, generator=torch.Generator().manual_seed(0))
    known = torch.tensor([True, True, True, False, False, True, False, False])
    parts = zip(*(t.split(size) for t in (predicted, true, known)), strict=True)
    mean = torch.stack([masked_mse(*part) for part in parts]).mean()
    torch.testing.assert_close(mean, masked_mse(predicted, true, known))


def test_images_of_unknown_camera_train_all_but_the_camera(tmp_path: Path, faces: Path, tiny_checkpoint: Path) -> None:
    without = tmp_path / "faces"
    shutil.copytree(faces, without)
    index = read_index(faces)
    write_index(without, index.paths, torch.full_like(index.labels, math.nan), index.subjects, index.meta)
    stage = Step1Stage(options(tmp_path, without, tiny_checkpoint), rank=0)
    batch = stage.make_batch(0)
    assert not bool(batch.has_camera.any())
    losses = stage.network(batch, torch.Generator().manual_seed(0))
    assert losses["camera"].item() == 0
    assert losses["diffusion"].item() > 0
    with_cameras = Step1Stage(options(tmp_path, faces, tiny_checkpoint), rank=0).make_batch(0)
    assert bool(with_cameras.has_camera.all())
    assert torch.equal(with_cameras.lq, batch.lq)
