from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nvb_core.checkpoint import load_model, save_model
from nvb_core.config import tiny_config
from nvb_core.model import NVBModel
from tests.training.evaluation.random_weights import randomize, torchvision_layers
from training.evaluation.benchmark import Benchmark, BenchmarkFace, BenchmarkSettings, sample_cameras
from training.evaluation.inception import Inception
from training.evaluation.metrics import PosedView

SIZE, VIEWS = 32, 3


@pytest.fixture(autouse=True)
def _no_other_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty cache of weights, and no way to fill it."""

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("this was not to be downloaded")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)


@pytest.fixture(scope="session")
def make_weights(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Random weights of vgg16, alexnet or inception in a file like the published one, made once."""
    folder = tmp_path_factory.mktemp("networks")

    @functools.cache
    def make(name: str) -> Path:
        network = Inception() if name == "inception" else torchvision_layers(name)
        prefix, classifier = ("", "fc.") if name == "inception" else ("features.", "classifier.6.")
        state = randomize(network.state_dict())
        tensors = {f"{prefix}{key}": value for key, value in state.items()} | {f"{classifier}bias": torch.zeros(3)}
        path = folder / f"{name}.pth"
        torch.save(tensors, path, _use_new_zipfile_serialization=False)  # as old as the published ones
        return path

    return make


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with random weights whose images are SIZE pixels wide, best with three steps."""
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    torch.manual_seed(0)
    model = NVBModel(replace(tiny_config(), sampling_steps=3))
    with torch.no_grad():
        for parameter in model.view.parameters():  # some start at zero, and then the camera has no effect
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
    save_model(model, path, {})
    return path


@pytest.fixture(scope="session")
def model(weights: Path) -> NVBModel:
    return load_model(weights)


@pytest.fixture(scope="session")
def heads(tmp_path_factory: pytest.TempPathFactory) -> Benchmark:
    """Seeds 1000000 and 1000001, rendered."""
    benchmark = Benchmark(tmp_path_factory.mktemp("heads"), BenchmarkSettings(VIEWS, SIZE))
    assert list(benchmark.render([1_000_000, 1_000_001], workers=1)) == [1_000_000, 1_000_001]
    return benchmark


@pytest.fixture
def make_face() -> Callable[[int], BenchmarkFace]:
    """A face without a renderer: soft noise for pictures, and flat geometry."""

    def make(seed: int) -> BenchmarkFace:
        cameras = sample_cameras(seed, VIEWS)
        rng = torch.Generator().manual_seed(seed)
        coarse = torch.rand(VIEWS + 3, 3, 6, 6, generator=rng) * 2 - 1
        images = torch.nn.functional.interpolate(coarse, size=(SIZE, SIZE), mode="bicubic").clamp(-1, 1)
        depth = torch.full((SIZE, SIZE), 2.7)
        skin = torch.from_numpy(np.indices((SIZE, SIZE)).sum(0) > SIZE // 2)
        first, second = (PosedView(images[i], depth, skin, cameras.pair[i]) for i in (-2, -1))
        return BenchmarkFace(seed, cameras, images[0], images[1:-2], (first, second))

    return make
