from __future__ import annotations

from typing import cast

import pytest
import torch

from benchmarks.view_error import feature_errors
from nvb_core.config import tiny_config
from nvb_core.degradation import degrade
from nvb_core.model import NVBModel
from training.evaluation.benchmark import BenchmarkFace, PosedView, sample_cameras
from training.evaluation.measure import input_degradation
from training.losses import feature_losses


@torch.no_grad()
def test_feature_errors_are_of_the_named_pictures() -> None:
    torch.manual_seed(0)
    model, cameras = NVBModel(tiny_config()), sample_cameras(0, 3)
    nothing = cast("tuple[PosedView, PosedView]", ())
    face = BenchmarkFace(0, cameras, torch.rand(3, 32, 32) * 2 - 1, torch.rand(3, 3, 32, 32) * 2 - 1, nothing)
    errors = feature_errors(model, face)
    assert list(errors) == [
        "the photo's own, other noise",
        "the photo's own, through the grid",
        "other views', through the grid",
    ]
    photo, other = degrade(face.image.expand(2, -1, -1, -1), [input_degradation(face, 1)] * 2, [0, 1]).split(1)
    timesteps = torch.tensor([300])
    features, again = (model.encoder(picture, timesteps) for picture in (photo, other))
    assert errors["the photo's own, other noise"] == pytest.approx(feature_losses(features, again)[0].item(), rel=1e-4)
    grid = model.view.volume(features, cameras.input.to_vector().float(), timesteps)
    cam2world, intrinsics = (m[None].float() for m in (cameras.input.cam2world, cameras.input.intrinsics))
    own = model.view.view_features(grid, cam2world, intrinsics, timesteps)
    assert errors["the photo's own, through the grid"] == pytest.approx(feature_losses(own, again)[0].item(), rel=1e-4)
