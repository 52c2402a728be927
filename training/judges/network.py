"""One small residual network with two heads: an embedding of the person, and the angles of the camera."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn import Conv2d, GroupNorm, Linear

ANGLE_UNIT_DEG = 30.0
"""What the angle head calls 1."""


@dataclass(frozen=True)
class JudgeConfig:
    """Sizes; all chosen."""

    size: int = 96
    """Side of the pictures in pixels."""
    widths: tuple[int, ...] = (40, 80, 160, 256)
    """Channels of each level; each halves the picture, the first takes a quarter of it."""
    blocks: tuple[int, ...] = (1, 2, 2, 1)
    """Residual blocks of each level."""
    embedding: int = 128

    @property
    def cells(self) -> int:
        """Side of the last level."""
        return self.size // (4 * 2 ** (len(self.widths) - 1))


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
        layers: list[nn.Module] = [Conv2d(3, first, 4, stride=4), GroupNorm(8, first), nn.ReLU()]
        layers += [ResidualBlock(first) for _ in range(config.blocks[0])]
        for (before, width), count in zip(pairwise(config.widths), config.blocks[1:], strict=True):
            layers += [Conv2d(before, width, 2, stride=2), GroupNorm(8, width), nn.ReLU()]
            layers += [ResidualBlock(width) for _ in range(count)]
        self.trunk = nn.Sequential(*layers)
        self.identity = Linear(last * config.cells**2, config.embedding)
        self.pose = Linear(last * config.cells**2, 3)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        features = self.trunk(images).flatten(1)
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
