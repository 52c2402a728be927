"""LPIPS (Zhang et al. 2018) and DISTS (Ding et al. 2020): how alike pictures are to networks that name things.

The networks' layers are those of torchvision's models and take the weights of its files; the learned weightings of the
layers lie in the package torchmetrics, whose figures these are: LPIPS version 0.1 and DISTS.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn import Conv2d

from nvb_core.errors import ConfigError

from .weights_files import fill, read_tensors

VGG16_STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
VGG16_TAPS = (3, 8, 15, 22, 29)
"""Layers whose output is looked at: the last of each stage."""
ALEXNET_TAPS = (1, 4, 7, 9, 11)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
LPIPS_SHIFT, LPIPS_SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
"""The same as published for pictures in [-1, 1]."""


class VGG16(nn.Sequential):
    """VGG16's layers up to the last stage's."""

    def __init__(self) -> None:
        layers: list[nn.Module] = []
        width = 3
        for stage, widths in enumerate(VGG16_STAGES):
            layers += [nn.MaxPool2d(2)] if stage else []
            for wider in widths:
                layers += [Conv2d(width, wider, 3, padding=1), nn.ReLU()]
                width = wider
        super().__init__(*layers)


class AlexNet(nn.Sequential):
    """AlexNet's layers up to the last convolution's."""

    def __init__(self) -> None:
        super().__init__(
            Conv2d(3, 64, 11, stride=4, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(3, 2),
            Conv2d(64, 192, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(3, 2),
            Conv2d(192, 384, 3, padding=1),
            nn.ReLU(),
            Conv2d(384, 256, 3, padding=1),
            nn.ReLU(),
            Conv2d(256, 256, 3, padding=1),
            nn.ReLU(),
        )


def load_vgg16(path: Path) -> VGG16:
    """The layers with the weights of torchvision's file. Raises ConfigError."""
    network = VGG16()
    _fill_features(network, path)
    return network


def load_alexnet(path: Path) -> AlexNet:
    """The layers with the weights of torchvision's file. Raises ConfigError."""
    network = AlexNet()
    _fill_features(network, path)
    return network


def _fill_features(network: VGG16 | AlexNet, path: Path) -> None:
    tensors = {key.removeprefix("features."): value for key, value in read_tensors(path).items()}
    fill(network, tensors, ("classifier.",), path)
    network.eval().requires_grad_(False)


class LPIPS(nn.Module):
    """Distance of normalised features, weighted by channel."""

    def __init__(self, backbone: VGG16 | AlexNet, heads: Sequence[Tensor]) -> None:
        """`heads` are the weights (C) of each tap's channels."""
        super().__init__()
        self.backbone = backbone
        self.taps = VGG16_TAPS if isinstance(backbone, VGG16) else ALEXNET_TAPS
        for i, head in enumerate(heads):
            self.register_buffer(f"head_{i}", head.view(1, -1, 1, 1))
        self.register_buffer("shift", _channels(LPIPS_SHIFT))
        self.register_buffer("scale", _channels(LPIPS_SCALE))

    @torch.no_grad()
    def forward(self, images: Tensor, targets: Tensor) -> Tensor:
        """LPIPS (M,) of images and targets (M, 3, H, W) in [-1, 1]; 0 for equal ones."""
        both = (torch.cat([images, targets]) - self.get_buffer("shift")) / self.get_buffer("scale")
        total = both.new_zeros(len(images))
        for i, features in enumerate(_tap(self.backbone, both, self.taps)):
            unit = features / (1e-8 + features.square().sum(1, keepdim=True)).sqrt()
            x, y = unit.chunk(2)
            total += ((x - y).square() * self.get_buffer(f"head_{i}")).sum(1).mean((1, 2))
        return total


class DISTS(nn.Module):
    """Likeness of the means and of the structure of feature maps, weighted by channel."""

    def __init__(self, backbone: VGG16, alpha: Tensor, beta: Tensor) -> None:
        """`alpha` weighs means, `beta` structure: (3 + C), the picture's channels and all taps'."""
        super().__init__()
        self.backbone = backbone
        total = alpha.sum() + beta.sum()
        self.register_buffer("alpha", (alpha / total).flatten())
        self.register_buffer("beta", (beta / total).flatten())
        self.register_buffer("mean", _channels(IMAGENET_MEAN))
        self.register_buffer("std", _channels(IMAGENET_STD))

    @torch.no_grad()
    def forward(self, images: Tensor, targets: Tensor) -> Tensor:
        """DISTS (M,) of images and targets (M, 3, H, W) in [-1, 1]; 0 for equal ones."""
        both = (torch.cat([images, targets]) + 1) / 2
        normalised = (both - self.get_buffer("mean")) / self.get_buffer("std")
        means, structures = [], []
        for features in (both, *_tap(self.backbone, normalised, VGG16_TAPS, soft_pooling=True)):
            x, y = features.chunk(2)
            mean_x, mean_y = x.mean((2, 3)), y.mean((2, 3))  # (M, C)
            variances = x.var((2, 3), correction=0) + y.var((2, 3), correction=0)
            covariance = (x * y).mean((2, 3)) - mean_x * mean_y
            means.append((2 * mean_x * mean_y + 1e-6) / (mean_x**2 + mean_y**2 + 1e-6))
            structures.append((2 * covariance + 1e-6) / (variances + 1e-6))
        return 1 - torch.cat(means, 1) @ self.get_buffer("alpha") - torch.cat(structures, 1) @ self.get_buffer("beta")


def load_lpips(backbone: VGG16 | AlexNet) -> LPIPS:
    """LPIPS with the published weighting for this network. Raises ConfigError without torchmetrics."""
    name = "vgg" if isinstance(backbone, VGG16) else "alex"
    weights = read_tensors(torchmetrics_file(f"lpips_models/{name}.pth"))
    return LPIPS(backbone, [weights[f"lin{i}.model.1.weight"] for i in range(5)])


def load_dists(backbone: VGG16) -> DISTS:
    """DISTS with its published weighting. Raises ConfigError without torchmetrics."""
    weights = read_tensors(torchmetrics_file("dists_models/weights.pt"))
    return DISTS(backbone, weights["alpha"], weights["beta"])


def torchmetrics_file(name: str) -> Path:
    """A file of the installed package, which isn't imported. Raises ConfigError."""
    spec = find_spec("torchmetrics")
    path = Path(spec.origin).parent / "functional/image" / name if spec and spec.origin else None
    if path is None or not path.is_file():
        raise ConfigError(
            f"LPIPS and DISTS need {name} of the package torchmetrics, version 1.7 or newer; "
            "pip install 'nvb-face[metrics]'"
        )
    return path


def _tap(network: nn.Sequential, images: Tensor, taps: Sequence[int], soft_pooling: bool = False) -> list[Tensor]:
    outputs = []
    for i, layer in enumerate(network):
        images = _l2_pool(images) if soft_pooling and isinstance(layer, nn.MaxPool2d) else layer(images)
        if i in taps:
            outputs.append(images)
    return outputs


def _l2_pool(features: Tensor) -> Tensor:
    """Halve (M, C, H, W) by a blurred root mean square, as DISTS has it in place of maxima."""
    bell = torch.tensor([0.25, 0.5, 0.25], dtype=features.dtype, device=features.device)
    kernel = torch.outer(bell, bell).expand(features.shape[1], 1, 3, 3)
    return (F.conv2d(features.square(), kernel, stride=2, padding=1, groups=len(kernel)) + 1e-12).sqrt()


def _channels(values: Sequence[float]) -> Tensor:
    return torch.tensor(values).view(1, 3, 1, 1)
