"""FID (Heusel et al. 2017) and KID (Binkowski et al. 2018): how far one set of pictures is from another.

Figures of two whole sets, so the features of each identity's pictures are kept beside its scores.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from nvb_core.staging import write_atomically

KERNEL_ROWS = 1024
"""Rows of a kernel matrix held at a time."""


@dataclass(frozen=True, eq=False)
class SetFeatures:
    """What one identity adds to both sets."""

    generated: Tensor  # (N, F) float32
    true: Tensor  # (N, F)

    def save(self, path: Path) -> None:
        """Write a safetensors file. Raises OutputError."""
        tensors = {"generated": self.generated.contiguous(), "true": self.true.contiguous()}
        write_atomically(path, lambda partial: save_file(tensors, partial))

    @classmethod
    def load(cls, path: Path) -> SetFeatures:
        """Inverse of `save`. Raises OSError, SafetensorError or KeyError for anything else."""
        tensors = load_file(path)
        return cls(tensors["generated"], tensors["true"])


def frechet_distance(x: Tensor, y: Tensor) -> float:
    """FID of features (N, F) and (M, F), at least two each: |mean difference|² + tr(A + B - 2 (A B)^½).

    A and B are covariances with N - 1. With A = R'R and B = S'S the root's trace is the sum of the singular values of
    R S', which needs no root of a matrix that may be singular.
    """
    x, y = x.double(), y.double()
    difference = x.mean(0) - y.mean(0)
    r, s = ((v - v.mean(0)) / math.sqrt(len(v) - 1) for v in (x, y))
    r, s = (torch.linalg.qr(v, mode="r").R if len(v) > v.shape[1] else v for v in (r, s))
    traces = r.square().sum() + s.square().sum() - 2 * torch.linalg.svdvals(r @ s.T).sum()
    return float(difference.square().sum() + traces)


@dataclass(frozen=True)
class KernelDistance:
    """KID and its 95 % interval by leaving one identity out at a time; none where that leaves fewer than two views."""

    value: float
    low: float | None
    high: float | None


def kernel_distance(identities: Sequence[SetFeatures]) -> KernelDistance:
    """KID of all generated against all true views, of at least two views: unbiased, kernel (x·y / F + 1)³.

    Over all pairs of different pictures in a set, not over random subsets as is done with more pictures than fit.
    """
    sizes = torch.tensor([len(item.generated) for item in identities])
    owners = torch.repeat_interleave(torch.arange(len(sizes)), sizes)
    x = torch.cat([item.generated for item in identities]).double()
    y = torch.cat([item.true for item in identities]).double()
    within = _kernel_sums(x, x, owners, len(sizes)) + _kernel_sums(y, y, owners, len(sizes))
    across = _kernel_sums(x, y, owners, len(sizes))
    for features in (x, y):  # a picture with itself doesn't count
        itself = (features.square().sum(1) / features.shape[1] + 1) ** 3
        within -= torch.diag(torch.zeros(len(sizes)).double().index_add(0, owners, itself))

    def estimate(within: Tensor, across: Tensor, count: Tensor) -> Tensor:
        return within / (count * (count - 1)) - 2 * across / count**2

    count = sizes.sum()
    value = float(estimate(within.sum(), across.sum(), count))
    if int((count - sizes).min()) < 2:
        return KernelDistance(value, None, None)
    without = estimate(_leaving_out(within), _leaving_out(across), count - sizes)  # (I,)
    error = float((without - without.mean()).square().mean().mul(len(sizes) - 1).sqrt())
    return KernelDistance(value, value - 1.96 * error, value + 1.96 * error)


def _kernel_sums(x: Tensor, y: Tensor, owners: Tensor, count: int) -> Tensor:
    """Sums (I, I) of the kernel between the pictures of each two identities."""
    total = torch.zeros(count, count, dtype=x.dtype)
    for rows, own in zip(x.split(KERNEL_ROWS), owners.split(KERNEL_ROWS), strict=True):
        kernel = (rows @ y.T / x.shape[1] + 1) ** 3
        by_column = torch.zeros(len(rows), count, dtype=x.dtype).index_add(1, owners, kernel)
        total.index_add_(0, own, by_column)
    return total


def _leaving_out(sums: Tensor) -> Tensor:
    """Sum of (I, I) without each row and its column, (I,)."""
    return sums.sum() - sums.sum(0) - sums.sum(1) + sums.diagonal()
