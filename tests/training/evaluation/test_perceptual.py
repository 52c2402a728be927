from __future__ import annotations

import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nvb_core.errors import ConfigError
from tests.training.evaluation.random_weights import torchvision_layers
from training.evaluation import perceptual
from training.evaluation.perceptual import load_alexnet, load_dists, load_lpips, load_vgg16, torchmetrics_file

MakeWeights = Callable[[str], Path]


@pytest.fixture
def pictures() -> tuple[Tensor, Tensor]:
    """Three of 40×48 px and the same with more and more noise."""
    rng = torch.Generator().manual_seed(0)
    soft = nn.functional.interpolate(torch.rand(3, 3, 6, 6, generator=rng) * 2 - 1, (40, 48), mode="bicubic")
    noise = torch.randn(soft.shape, generator=rng) * torch.tensor([0.05, 0.2, 0.6]).view(3, 1, 1, 1)
    return soft.clamp(-1, 1), (soft + noise).clamp(-1, 1)


@pytest.fixture
def torchvision(monkeypatch: pytest.MonkeyPatch, make_weights: MakeWeights) -> None:
    """As much of torchvision as torchmetrics asks for, on the same random weights."""
    from torchmetrics.functional.image import dists, lpips

    for module in (dists, lpips):
        monkeypatch.setattr(module, "_TORCHVISION_AVAILABLE", True)
    models = types.ModuleType("torchvision.models")
    for name, torchvision_name in (("vgg16", "VGG16"), ("alexnet", "AlexNet")):

        def build(weights: Path, name: str = name) -> Any:
            model = nn.Module()
            model.features = torchvision_layers(name)
            state = torch.load(weights, weights_only=True)
            model.load_state_dict({key: value for key, value in state.items() if key.startswith("features.")})
            return model

        setattr(models, name, build)
        default = types.SimpleNamespace(DEFAULT=make_weights(name))
        setattr(models, f"{torchvision_name}_Weights", default)
        if name == "vgg16":
            monkeypatch.setattr(dists, "vgg16", build, raising=False)
            monkeypatch.setattr(dists, "VGG16_Weights", default, raising=False)
    package = types.ModuleType("torchvision")
    package.models = models  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torchvision", package)
    monkeypatch.setitem(sys.modules, "torchvision.models", models)


@pytest.mark.parametrize(("network", "kind"), [("vgg16", "vgg"), ("alexnet", "alex")])
@pytest.mark.usefixtures("torchvision")
def test_lpips_is_torchmetrics(
    network: str, kind: str, pictures: tuple[Tensor, Tensor], make_weights: MakeWeights
) -> None:
    from torchmetrics.functional.image.lpips import _NoTrainLpips

    load = load_vgg16 if network == "vgg16" else load_alexnet
    metric = load_lpips(load(make_weights(network)))
    expected = _NoTrainLpips(net=kind)(*pictures).flatten()
    torch.testing.assert_close(metric(*pictures), expected)
    assert expected.diff().min() > 0
    assert torch.equal(metric(pictures[0], pictures[0]), torch.zeros(3))


@pytest.mark.usefixtures("torchvision")
def test_dists_is_torchmetrics(pictures: tuple[Tensor, Tensor], make_weights: MakeWeights) -> None:
    from torchmetrics.functional.image.dists import DISTSNetwork

    metric = load_dists(load_vgg16(make_weights("vgg16")))
    expected = DISTSNetwork()(*((images + 1) / 2 for images in pictures))
    torch.testing.assert_close(metric(*pictures), expected, atol=1e-5, rtol=1e-4)
    assert expected.diff().min() > 0
    torch.testing.assert_close(metric(pictures[0], pictures[0]), torch.zeros(3), atol=1e-5, rtol=0)


def test_without_torchmetrics(monkeypatch: pytest.MonkeyPatch) -> None:
    assert torchmetrics_file("lpips_models/vgg.pth").is_file()
    with pytest.raises(ConfigError, match=r"need lpips_models/none\.pth of the package torchmetrics, version 1\.7"):
        torchmetrics_file("lpips_models/none.pth")
    monkeypatch.setattr(perceptual, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'nvb-face\[metrics\]'"):
        torchmetrics_file("lpips_models/vgg.pth")
