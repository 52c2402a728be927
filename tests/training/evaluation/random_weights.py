"""Weights files of the right form for other people's networks, with random numbers from a seed."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import Conv2d

VGG16_LAYERS = (64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512, "M")
"""Configuration D of Simonyan and Zisserman 2014."""
ALEXNET_LAYERS = ((64, 11, 4, 2), "M", (192, 5, 1, 2), "M", (384, 3, 1, 1), (256, 3, 1, 1), (256, 3, 1, 1), "M")


def torchvision_layers(name: str) -> nn.Sequential:
    """`features` of torchvision's model."""
    layers: list[nn.Module] = []
    width, pool = 3, 2 if name == "vgg16" else 3
    for entry in VGG16_LAYERS if name == "vgg16" else ALEXNET_LAYERS:
        if entry == "M":
            layers.append(nn.MaxPool2d(pool, 2))
            continue
        wider, *shape = entry if isinstance(entry, tuple) else (entry, 3, 1, 1)
        layers += [Conv2d(width, wider, *shape), nn.ReLU(inplace=True)]
        width = wider
    return nn.Sequential(*layers)


def randomize(state: dict[str, Tensor], seed: int = 0) -> dict[str, Tensor]:
    """The same names and shapes, drawn in the order of names, so that a deep network neither fades nor explodes."""
    rng = torch.Generator().manual_seed(seed)
    random = {}
    for key in sorted(state):
        shape = state[key].shape
        if key.endswith("num_batches_tracked"):
            random[key] = torch.tensor(0)
        elif key.endswith("running_var"):
            random[key] = torch.rand(shape, generator=rng) + 0.5
        elif len(shape) > 1:
            random[key] = torch.randn(shape, generator=rng) * math.sqrt(2 / shape[1:].numel())
        else:
            random[key] = 0.1 * torch.randn(shape, generator=rng) + key.endswith("bn.weight")
    return random
