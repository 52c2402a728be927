"""The Inception network of FID and KID: TensorFlow's of 2015-12-05 as torch-fidelity converted it.

Its layers, their names and its deviations from torchvision's Inception v3 (averages that leave the border out, a
maximum in the last block's pool) are those that torch-fidelity publishes with the file, so that the file fits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn import Conv2d

from nvb_core.images import to_uint8

from .weights_files import fill, read_tensors

SIZE_PX = 299
FEATURES = 2048
BATCH = 8
"""Pictures that go through the network at once."""


@dataclass(frozen=True)
class Conv:
    """A convolution with batch norm and ReLU; one of stride 1 keeps the size unless told otherwise."""

    name: str
    width: int
    kernel: int | tuple[int, int] = 1
    stride: int = 1
    pad: bool = True


class ConvNorm(nn.Module):
    """`Conv` as a module."""

    def __init__(self, width: int, conv: Conv) -> None:
        super().__init__()
        kernel = conv.kernel if isinstance(conv.kernel, tuple) else (conv.kernel, conv.kernel)
        padding = (kernel[0] // 2, kernel[1] // 2) if conv.pad and conv.stride == 1 else (0, 0)
        self.conv = Conv2d(width, conv.width, kernel, conv.stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(conv.width, eps=0.001)

    def forward(self, features: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(features)))


Chain = Sequence[Conv | tuple[Conv, Conv]]
"""One after another; a pair stands side by side."""


class Mixed(nn.Module):
    """Chains side by side and a pool: `shrink` is a maximum of stride 2, else stride 1 and a convolution after it."""

    def __init__(
        self, width: int, pool: Literal["average", "maximum", "shrink"], pool_width: int, *chains: Chain
    ) -> None:
        super().__init__()
        self.pool = pool
        self.names = [[_side_by_side(step) for step in chain] for chain in chains]
        for chain in chains:
            inner = width
            for step in chain:
                convs = step if isinstance(step, tuple) else (step,)
                for conv in convs:
                    self.add_module(conv.name, ConvNorm(inner, conv))
                inner = sum(conv.width for conv in convs)
        if pool_width:
            self.add_module("branch_pool", ConvNorm(width, Conv("branch_pool", pool_width)))

    def forward(self, features: Tensor) -> Tensor:
        outputs = []
        for chain in self.names:
            x = features
            for step in chain:
                x = torch.cat([self.get_submodule(name)(x) for name in step], 1)
            outputs.append(x)
        if self.pool == "shrink":
            return torch.cat([*outputs, F.max_pool2d(features, 3, 2)], 1)
        average = self.pool == "average"
        pooled = (
            F.avg_pool2d(features, 3, 1, 1, count_include_pad=False) if average else F.max_pool2d(features, 3, 1, 1)
        )
        return torch.cat([*outputs, self.get_submodule("branch_pool")(pooled)], 1)


def _side_by_side(step: Conv | tuple[Conv, Conv]) -> list[str]:
    return [conv.name for conv in (step if isinstance(step, tuple) else (step,))]


def _mixed_a(width: int, pool_width: int) -> Mixed:
    return Mixed(
        width,
        "average",
        pool_width,
        [Conv("branch1x1", 64)],
        [Conv("branch5x5_1", 48), Conv("branch5x5_2", 64, 5)],
        [Conv("branch3x3dbl_1", 64), Conv("branch3x3dbl_2", 96, 3), Conv("branch3x3dbl_3", 96, 3)],
    )


def _mixed_b(width: int) -> Mixed:
    return Mixed(
        width,
        "shrink",
        0,
        [Conv("branch3x3", 384, 3, 2)],
        [Conv("branch3x3dbl_1", 64), Conv("branch3x3dbl_2", 96, 3), Conv("branch3x3dbl_3", 96, 3, 2)],
    )


def _mixed_c(width: int, inner: int) -> Mixed:
    row, column = (1, 7), (7, 1)
    return Mixed(
        width,
        "average",
        192,
        [Conv("branch1x1", 192)],
        [Conv("branch7x7_1", inner), Conv("branch7x7_2", inner, row), Conv("branch7x7_3", 192, column)],
        [
            Conv("branch7x7dbl_1", inner),
            Conv("branch7x7dbl_2", inner, column),
            Conv("branch7x7dbl_3", inner, row),
            Conv("branch7x7dbl_4", inner, column),
            Conv("branch7x7dbl_5", 192, row),
        ],
    )


def _mixed_d(width: int) -> Mixed:
    names = [f"branch7x7x3_{i}" for i in range(1, 5)]
    return Mixed(
        width,
        "shrink",
        0,
        [Conv("branch3x3_1", 192), Conv("branch3x3_2", 320, 3, 2)],
        [Conv(names[0], 192), Conv(names[1], 192, (1, 7)), Conv(names[2], 192, (7, 1)), Conv(names[3], 192, 3, 2)],
    )


def _mixed_e(width: int, pool: Literal["average", "maximum"]) -> Mixed:
    return Mixed(
        width,
        pool,
        192,
        [Conv("branch1x1", 320)],
        [Conv("branch3x3_1", 384), (Conv("branch3x3_2a", 384, (1, 3)), Conv("branch3x3_2b", 384, (3, 1)))],
        [
            Conv("branch3x3dbl_1", 448),
            Conv("branch3x3dbl_2", 384, 3),
            (Conv("branch3x3dbl_3a", 384, (1, 3)), Conv("branch3x3dbl_3b", 384, (3, 1))),
        ],
    )


class Inception(nn.Sequential):
    """Pictures (M, 3, 299, 299) in about [-1, 1] -> features (M, 2048)."""

    def __init__(self) -> None:
        super().__init__()
        layers: dict[str, nn.Module] = {
            "Conv2d_1a_3x3": ConvNorm(3, Conv("", 32, 3, 2)),
            "Conv2d_2a_3x3": ConvNorm(32, Conv("", 32, 3, pad=False)),
            "Conv2d_2b_3x3": ConvNorm(32, Conv("", 64, 3)),
            "MaxPool_1": nn.MaxPool2d(3, 2),
            "Conv2d_3b_1x1": ConvNorm(64, Conv("", 80)),
            "Conv2d_4a_3x3": ConvNorm(80, Conv("", 192, 3, pad=False)),
            "MaxPool_2": nn.MaxPool2d(3, 2),
            "Mixed_5b": _mixed_a(192, 32),
            "Mixed_5c": _mixed_a(256, 64),
            "Mixed_5d": _mixed_a(288, 64),
            "Mixed_6a": _mixed_b(288),
            "Mixed_6b": _mixed_c(768, 128),
            "Mixed_6c": _mixed_c(768, 160),
            "Mixed_6d": _mixed_c(768, 160),
            "Mixed_6e": _mixed_c(768, 192),
            "Mixed_7a": _mixed_d(768),
            "Mixed_7b": _mixed_e(1280, "average"),
            "Mixed_7c": _mixed_e(FEATURES, "maximum"),
            "AvgPool": nn.AdaptiveAvgPool2d(1),
            "Flatten": nn.Flatten(),
        }
        for name, layer in layers.items():
            self.add_module(name, layer)


def load_inception(path: Path) -> Inception:
    """The network with the weights of torch-fidelity's file. Raises ConfigError."""
    network = Inception()
    fill(network, read_tensors(path), ("fc.",), path)
    return network.eval().requires_grad_(False)


@torch.no_grad()
def inception_features(network: Inception, images: Tensor) -> Tensor:
    """Features (M, 2048) float32 on the CPU of images (M, 3, H, W) in [-1, 1].

    As torchmetrics does it: of pictures in 8 bits, resized to 299 px bilinearly, antialiased where they shrink.
    """
    device = next(network.parameters()).device
    features = []
    for part in images.split(BATCH):
        pixels = torch.from_numpy(to_uint8(part)).movedim(-1, -3).to(device).float()
        resized = F.interpolate(pixels, (SIZE_PX, SIZE_PX), mode="bilinear", align_corners=False, antialias=True)
        features.append(network((resized - 128) / 128).float().cpu())
    return torch.cat(features)
