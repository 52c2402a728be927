from __future__ import annotations

import dataclasses
import json
import math
import shutil
import sys
from collections.abc import Callable
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
from training.command import run_command
from training.data import write_index
from training.export import start_model
from training.losses import feature_losses
from training.options import Step2Options
from training.step1 import draw_timesteps
from training.step2 import Step2Network, Step2Stage, train

pytestmark = pytest.mark.usefixtures("accelerate_reset")


def options(out: Path, faces: Path, init: Path, **changes: Any) -> Step2Options:
    settings: dict[str, Any] = {"steps": 2, "batch_size": 2, "log_every": 1, "grid_every": 2, "precision": "no"}
    settings |= {"data": (faces,), "views": 3, "denoised_views": 1}
    return Step2Options(out=out, init=init, **{**settings, **changes})


@pytest.fixture
def stage(tmp_path: Path, faces: Path, tiny_checkpoint: Path) -> Step2Stage:
    return Step2Stage(options(tmp_path, faces, tiny_checkpoint), rank=0)


def network(stage: Step2Stage, tmp_path: Path, faces: Path, tiny_checkpoint: Path, **changes: Any) -> Step2Network:
    return Step2Network(stage.model, options(tmp_path, faces, tiny_checkpoint, **changes))


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(5)


@pytest.mark.parametrize("camera_weight", [1.0, 0.0])
def test_trains_exactly_the_view_transform(
    tmp_path: Path, faces: Path, tiny_checkpoint: Path, camera_weight: float
) -> None:
    """Without a camera loss all but its camera predictor, which weight decay would shrink."""
    assert train(options(tmp_path, faces, tiny_checkpoint, camera_weight=camera_weight, lr=0.01)) == 2
    before, after = load_file(tiny_checkpoint), load_file(tmp_path / "model.safetensors")
    for name, tensor in before.items():
        trained = name.startswith("view.") and (camera_weight > 0 or not name.startswith("view.camera_predictor."))
        assert torch.equal(tensor, after[name]) != trained, name
    assert (tmp_path / "pictures" / "0000002.png").exists()
    assert set(read_metadata(tmp_path / "model.safetensors")["training"]) == {"vae", "step2"}


def test_bf16_autocast_keeps_weights_and_losses_in_float32(tmp_path: Path, faces: Path, tiny_checkpoint: Path) -> None:
    for precision in ("no", "bf16"):
        AcceleratorState._reset_state()
        changes = {"precision": precision, "grid_every": 0, "gradient_checkpointing": True}
        train(options(tmp_path / precision, faces, tiny_checkpoint, **changes))
    state = load_file(tmp_path / "bf16" / "state.safetensors")
    assert {tensor.dtype for tensor in state.values()} == {torch.float32}
    exact, rounded = (json.loads((tmp_path / p / "loss.jsonl").read_text().splitlines()[0]) for p in ("no", "bf16"))
    assert rounded["loss"] == pytest.approx(exact["loss"], rel=0.02)
    assert rounded["loss"] != exact["loss"]


def test_shows_targets_loosely_cropped_on_demand(
    stage: Step2Stage, tmp_path: Path, faces: Path, tiny_checkpoint: Path
) -> None:
    loose = Step2Stage(options(tmp_path, faces, tiny_checkpoint, loose_targets=1.0), rank=0)
    assert not torch.equal(loose.make_batch(0).target_cameras, stage.make_batch(0).target_cameras)


def test_loss_is_made_of_its_parts(stage: Step2Stage, tmp_path: Path, faces: Path, tiny_checkpoint: Path) -> None:
    weights = {"feature_weight": 3.0, "cosine_weight": 0.25, "camera_weight": 7.0}
    got = network(stage, tmp_path, faces, tiny_checkpoint, **weights)(stage.make_batch(0), generator())
    expected = got["diffusion"] + 3 * (got["feature"] + 0.25 * got["cosine"]) + 7 * got["camera"]
    assert got["loss"].item() == pytest.approx(expected.item(), rel=1e-6)


def test_feature_and_camera_losses(stage: Step2Stage, tmp_path: Path, faces: Path, tiny_checkpoint: Path) -> None:
    """With the true camera, the losses are those of the modules called one by one."""
    model, batch = stage.model, stage.make_batch(0)
    plan = {"true_camera_probability": 1.0}
    got = network(stage, tmp_path, faces, tiny_checkpoint, **plan)(batch, generator())
    timesteps = draw_timesteps(model, 2, generator())
    with torch.no_grad():
        features = model.encoder(batch.lq, timesteps)
        grid = model.view.volume(features, batch.source_cameras, timesteps)
        views = model.view.view_features(grid, *matrices_from_vector(batch.target_cameras), timesteps)
        truth = [model.encoder(batch.degraded_targets[:, n], timesteps) for n in range(3)]
        true_features = torch.stack(truth, dim=1).flatten(0, 1)
        feature, cosine = feature_losses(views, true_features)
        seen, cameras = (features, true_features), (batch.source_cameras, batch.target_cameras.flatten(0, 1))
        camera = (model.view.camera_predictor(torch.cat(seen)) - torch.cat(cameras)).square().mean()
    for name, value in (("feature", feature), ("cosine", cosine), ("camera", camera)):
        assert got[name].item() == pytest.approx(value.item(), rel=1e-5)


@pytest.mark.parametrize("probability", [0.0, 0.5, 1.0])
def test_grid_camera_is_true_or_predicted(
    probability: float, stage: Step2Stage, tmp_path: Path, faces: Path, tiny_checkpoint: Path
) -> None:
    tested = network(stage, tmp_path, faces, tiny_checkpoint, true_camera_probability=probability)
    true, predicted = torch.ones(2000, 16), torch.zeros(2000, 16)
    camera = tested._grid_camera(true, predicted, generator())
    rows = camera.mean(dim=1)
    assert set(rows.tolist()) <= {0.0, 1.0}  # never a mixture
    assert rows.mean().item() == pytest.approx(probability, abs=0.05)


def test_grid_is_built_from_the_chosen_camera(
    stage: Step2Stage, tmp_path: Path, faces: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch, seen = stage.make_batch(0), []
    stage.model.view.volume.register_forward_pre_hook(lambda module, args: seen.append(args[1]))
    for probability in (0.0, 1.0):
        network(stage, tmp_path, faces, tiny_checkpoint, true_camera_probability=probability)(batch, generator())
    frontal = torch.tensor([1.0, 0, 0, 0, 0, -1, 0, 0, 0, 0, -1, 1, 1, 1, 0.5, 0.5])  # an untrained prediction
    assert torch.equal(seen[0], frontal.expand(2, 16))
    assert torch.equal(seen[1], batch.source_cameras)


def test_only_the_camera_loss_trains_the_camera_predictor(
    stage: Step2Stage, tmp_path: Path, faces: Path, tiny_checkpoint: Path
) -> None:
    tested = network(stage, tmp_path, faces, tiny_checkpoint, camera_weight=0.0, true_camera_probability=0.0)
    # The zero-initialised last layers would hide a gradient.
    for parameter in stage.model.view.parameters():
        parameter.data.add_(0.01)
    tested(stage.make_batch(0), generator())["loss"].backward()
    predictor = stage.model.view.camera_predictor
    assert all(p.grad is None or not p.grad.any() for p in predictor.parameters())
    assert all(p.grad is not None and p.grad.any() for p in stage.model.view.volume.camera.parameters())


def test_gives_the_model_a_lift_on_demand(tmp_path: Path, faces: Path, tiny_checkpoint: Path) -> None:
    assert train(options(tmp_path / "a", faces, tiny_checkpoint, lift_width=8, lr=0.01)) == 2
    lifted = tmp_path / "a" / "model.safetensors"
    assert read_metadata(lifted)["config_object"].view.lift_width == 8
    tensors = load_file(lifted)
    assert tensors["view.volume.lift.out.weight"].any()
    AcceleratorState._reset_state()
    assert train(options(tmp_path / "b", faces, lifted, lr=0.01)) == 2  # trains on without being asked again
    assert not torch.equal(
        load_file(tmp_path / "b" / "model.safetensors")["view.volume.lift.out.weight"],
        tensors["view.volume.lift.out.weight"],
    )
    with pytest.raises(ConfigError, match="lift has width 8 already"):
        Step2Stage(options(tmp_path / "c", faces, lifted, lift_width=4), rank=0)


def lone_pictures(folder: Path, faces: Path, count: int = 4) -> Path:
    """A face folder of some of the pictures of another, none of known camera."""
    pictures = sorted(faces.glob("*/*.png"))[:count]
    folder.mkdir()
    for i, picture in enumerate(pictures):
        shutil.copy(picture, folder / f"{i}.png")
    labels = torch.full((count, 25), math.nan, dtype=torch.float64)
    write_index(folder, [f"{i}.png" for i in range(count)], labels, [str(i) for i in range(count)], {"margin": 1.25})
    return folder


def test_learns_from_lone_pictures_on_demand(tmp_path: Path, faces: Path, tiny_checkpoint: Path) -> None:
    lone = lone_pictures(tmp_path / "lone", faces)
    changes: dict[str, Any] = {"data": (faces, lone), "loose_targets": 0.5, "data_weights": (1, 9)}
    with pytest.raises(ConfigError, match="lone: no subject has the 4 images with cameras"):
        Step2Stage(options(tmp_path / "out", faces, tiny_checkpoint, **changes), rank=0)
    assert train(options(tmp_path / "out", faces, tiny_checkpoint, **changes, own_views=True)) == 2
    stage = Step2Stage(options(tmp_path / "out", faces, tiny_checkpoint, **changes, own_views=True), rank=0)
    assert sum(int((~stage.make_batch(i).has_camera).sum()) for i in range(8)) > 8
    only = {**changes, "data": (lone,), "data_weights": ()}
    with pytest.raises(ConfigError, match="lone: no subject has the 4 images with cameras"):
        Step2Stage(options(tmp_path / "out", faces, tiny_checkpoint, **only, own_views=True), rank=0)


def test_lent_cameras_are_never_predicted(
    stage: Step2Stage, tmp_path: Path, faces: Path, tiny_checkpoint: Path
) -> None:
    """Neither does the grid get a prediction in their place, nor are they what the predictor is to say."""
    batch, seen = stage.make_batch(0), []
    stage.model.view.volume.register_forward_pre_hook(lambda module, args: seen.append(args[1]))
    tested = network(stage, tmp_path, faces, tiny_checkpoint, true_camera_probability=0.0)
    whole = tested(batch, generator())["camera"]
    lent = dataclasses.replace(batch, has_camera=torch.tensor([False, True]))
    first = tested(lent, generator())["camera"]
    none = tested(dataclasses.replace(batch, has_camera=torch.zeros(2, dtype=torch.bool)), generator())["camera"]
    assert none.item() == 0
    assert 0 < first.item() < whole.item()
    assert torch.equal(seen[1][0], batch.source_cameras[0])
    assert torch.equal(seen[1][1], seen[0][1])
    assert not torch.equal(seen[1][1], batch.source_cameras[1])


@pytest.mark.parametrize("count", [1, 3])
def test_denoised_views_limit_the_unet(
    count: int, stage: Step2Stage, tmp_path: Path, faces: Path, tiny_checkpoint: Path
) -> None:
    sizes: list[int] = []
    stage.model.unet.register_forward_pre_hook(lambda module, args: sizes.append(len(args[0])))
    encoded: list[Tensor] = []
    encode = stage.model.vae.encode
    stage.model.vae.encode = lambda images: encoded.append(images) or encode(images)  # type: ignore
    batch = stage.make_batch(0)
    network(stage, tmp_path, faces, tiny_checkpoint, denoised_views=count)(batch, generator())
    assert sizes == [2 * count]
    assert torch.equal(encoded[0], batch.targets[:, :count].flatten(0, 1))


def test_without_denoised_views_no_unet_runs(
    stage: Step2Stage, tmp_path: Path, faces: Path, tiny_checkpoint: Path
) -> None:
    def forbidden(module: Any, args: Any) -> None:
        raise AssertionError("the U-Net ran")

    stage.model.unet.register_forward_pre_hook(forbidden)
    losses = network(stage, tmp_path, faces, tiny_checkpoint, denoised_views=0)(stage.make_batch(0), generator())
    assert set(losses) == {"loss", "feature", "cosine", "camera"}
    expected = losses["feature"] + 0.5 * losses["cosine"] + losses["camera"]
    assert torch.allclose(losses["loss"], expected)


def test_overfits_a_batch(overfit: Callable[..., Any], stage: Step2Stage) -> None:
    before, after = overfit(stage.network, stage.make_batch(0), steps=40, lr=3e-3)
    for name in ("loss", "feature", "cosine", "camera"):
        assert after[name] < 0.8 * before[name], name


def test_picture_shows_photos_views_and_truth(stage: Step2Stage) -> None:
    assert stage.picture().pixels.shape == (3, 3 * 2 * 32, (1 + 4) * 32)


def test_frozen_parts_get_no_gradient(stage: Step2Stage) -> None:
    stage.network(stage.make_batch(0), generator())["loss"].backward()
    for name, parameter in stage.model.named_parameters():
        assert (parameter.grad is not None) == name.startswith("view."), name


def test_too_few_views_end_with_one_line(
    tmp_path: Path,
    faces: Path,
    tiny_checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    argv = ["step2", "--out", str(tmp_path), "--data", str(faces), "--init", str(tiny_checkpoint), "--views", "5"]
    monkeypatch.setattr(sys, "argv", argv)
    assert run_command(Step2Options, train, "training.step2") == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith(f"training.step2: error: {faces}: no subject has the 6 images with cameras that 5 target")
    assert line.endswith("(most: 5); leave this folder out of --data in step 2")


def test_start_model_is_what_the_stage_trains(stage: Step2Stage, tiny_checkpoint: Path) -> None:
    for name, parameter in start_model(tiny_checkpoint).named_parameters():
        assert torch.equal(parameter, stage.model.get_parameter(name))
