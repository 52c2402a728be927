"""From an identity and an expression to head vertices: blend shapes, then skinning of neck and shoulders.

The head is the frame: whatever the neck does, the head stays upright and looks along +z, and the body moves instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .bake import CHAIN, PHENOTYPES
from .basis import HeadBasis


@dataclass(frozen=True)
class Phenotype:
    """MakeHuman's macro parameters, each in 0..1; ancestry sums to 1 (african, asian, caucasian)."""

    ancestry: tuple[float, float, float]
    gender: float  # 0 male, 1 female
    age: float  # 0 child (about 10), 0.5 young adult, 1 old
    muscle: float
    weight: float
    proportions: float
    height: float = 0.5


def blend_identity(basis: HeadBasis, phenotype: Phenotype, changes: Mapping[str, float]) -> tuple[Tensor, Tensor]:
    """-> neutral coarse vertices (V, 3) and joints (5, 3). `changes` are local changes in -1..1 by name."""
    weights = torch.zeros(len(basis.local_names) * 2)
    for name, value in changes.items():
        end = 2 * basis.local_names.index(name) + (value < 0)
        weights[end] = abs(value)
    offsets = phenotype_weights(basis, phenotype) @ basis.phenotype + weights @ basis.local
    split = basis.template.numel()
    return basis.template + offsets[:split].view(-1, 3), basis.joints + offsets[split:].view(-1, 3)


def phenotype_weights(basis: HeadBasis, phenotype: Phenotype) -> Tensor:
    """(P,) a macro target's weight is the product of the weights of the levels it stands for."""
    levels: list[float] = [*phenotype.ancestry]
    for kind in list(PHENOTYPES)[1:]:
        levels += _interpolate(getattr(phenotype, kind), len(PHENOTYPES[kind]))
    mask = basis.phenotype_mask
    return torch.where(mask > 0, torch.tensor(levels, dtype=torch.float32), torch.ones(())).prod(1)


def _interpolate(value: float, count: int) -> list[float]:
    """Linear weights of `count` anchors spread evenly over 0..1."""
    place = min(max(value, 0.0), 1.0) * (count - 1)
    return [max(0.0, 1 - abs(place - i)) for i in range(count)]


def pose(
    basis: HeadBasis,
    neutral: Tensor,
    joints: Tensor,
    actions: Mapping[str, float],
    bends: Mapping[str, tuple[float, float, float]],
) -> np.ndarray:
    """Add facial actions (0..1 by name), bend the neck -> coarse vertices (V, 3) in the head's frame.

    `bends` are rotation vectors in radians of joints of CHAIN; the head's own joint bends the neck below it.
    """
    weights = torch.zeros(len(basis.action_names))
    for name, value in actions.items():
        weights[basis.action_names.index(name)] = value
    vertices = neutral + (weights @ basis.action).view(-1, 3)
    rotations, shifts = [torch.eye(3)], [torch.zeros(3)]
    for i, name in enumerate(CHAIN[1:], 1):
        bend = rotation(bends.get(name, (0.0, 0.0, 0.0)))
        shifts.append(shifts[-1] + rotations[-1] @ (joints[i] - bend @ joints[i]))
        rotations.append(rotations[-1] @ bend)
    to_head = rotations[-1].T
    turn = torch.stack([to_head @ r for r in rotations])  # (5, 3, 3)
    move = torch.stack([to_head @ (t - shifts[-1]) for t in shifts])  # (5, 3)
    return (torch.einsum("vj,jab,vb->va", basis.weights, turn, vertices) + basis.weights @ move).numpy()


def rotation(vector: tuple[float, float, float]) -> Tensor:
    """Rotation matrix (3, 3) of a rotation vector in radians."""
    x, y, z = vector
    return torch.linalg.matrix_exp(torch.tensor([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]]))
