"""One small residual network with two heads: an embedding of the person, and the angles of the camera."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn import Conv2d, GroupNorm, Linear

ANGLE_UNIT_DEG = 30.0
"""What the angle head calls 1."""
MIRRORED = torch.tensor([-1.0, 1.0, -1.0])
"""What mirroring a picture does to yaw, pitch and roll."""


@dataclass(frozen=True)
class JudgeConfig:
    """Sizes; all chosen."""

    size: int = 96
    """Side of the pictures in pixels."""
    patch: int = 3
    """Side of the pixels that the first level takes together."""
    widths: tuple[int, ...] = (24, 48, 64, 80)
    """Channels of each level; each halves the picture."""
    blocks: tuple[int, ...] = (2, 2, 2, 1)
    """Residual blocks of each level."""
    squeezed: int = 44
    """Channels that are left of the last level; both heads read all of its cells."""
    embedding: int = 96

    @property
    def features(self) -> int:
        """Numbers that both heads read."""
        return self.squeezed * (self.size // (self.patch * 2 ** (len(self.widths) - 1))) ** 2


class ResidualBlock(nn.Module):
    """Two convolutions beside an identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = GroupNorm(8, width), GroupNorm(8, width)
        self.conv1 = Conv2d(width, width, 3, padding=1, bias=False)
        self.conv2 = Conv2d(width, width, 3, padding=1, bias=False)
        nn.init.zeros_(self.norm2.weight)

    def forward(self, x: Tensor) -> Tensor:
        """(B, width, h, w) -> the same shape."""
        return F.relu(x + self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x))))))


class JudgeNetwork(nn.Module):
    """Pictures (B, 3, S, S) in [-1, 1] -> embeddings (B, E), not normalised, and yaw, pitch, roll (B, 3) in degrees."""

    def __init__(self, config: JudgeConfig) -> None:
        super().__init__()
        self.config = config
        first, *_, last = config.widths
        patches = Conv2d(3, first, config.patch, stride=config.patch)
        layers: list[nn.Module] = [patches, GroupNorm(8, first), nn.ReLU()]
        layers += [ResidualBlock(first) for _ in range(config.blocks[0])]
        for (before, width), count in zip(pairwise(config.widths), config.blocks[1:], strict=True):
            layers += [Conv2d(before, width, 2, stride=2), GroupNorm(8, width), nn.ReLU()]
            layers += [ResidualBlock(width) for _ in range(count)]
        self.trunk = nn.Sequential(*layers, Conv2d(last, config.squeezed, 1), nn.ReLU(), nn.Flatten())
        self.identity = Linear(config.features, config.embedding)
        self.pose = Linear(config.features, 3)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        features = self.trunk(images)
        return self.identity(features), self.pose(features) * ANGLE_UNIT_DEG


def margin_loss(
    embeddings: Tensor, centres: Tensor, people: Tensor, scale: float, margin: float
) -> tuple[Tensor, Tensor]:
    """Cross-entropy of cosines between embeddings (B, E) and centres (P, E), the true one's less a margin (CosFace).

    people (B,) are the true indices. Also returns the share (scalar) whose nearest centre is the true one.
    """
    cosines = F.normalize(embeddings) @ F.normalize(centres).T
    accuracy = (cosines.argmax(1) == people).float().mean()
    handicap = F.one_hot(people, len(centres)) * margin
    return F.cross_entropy(scale * (cosines - handicap), people), accuracy


def pose_loss(angles_deg: Tensor, true_deg: Tensor) -> Tensor:
    """Mean Huber loss of yaw, pitch and roll (B, 3), in units of ANGLE_UNIT_DEG."""
    return F.smooth_l1_loss(angles_deg / ANGLE_UNIT_DEG, true_deg / ANGLE_UNIT_DEG, beta=0.05)
