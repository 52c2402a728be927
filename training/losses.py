"""Losses of the three stages; weights are in `options`."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from nvb_core.fit import normalised_features


def gradient_l1(output: Tensor, target: Tensor) -> Tensor:
    """L1 between horizontal and vertical pixel differences of (B, 3, H, W) images."""
    difference = output - target
    horizontal = difference[..., :, 1:] - difference[..., :, :-1]
    vertical = difference[..., 1:, :] - difference[..., :-1, :]
    return horizontal.abs().mean() + vertical.abs().mean()


def feature_losses(predicted: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """MSE and mean (1 - cos)² between LayerNormed features (B, C, h, w), per spatial token (paper Eq. 7)."""
    a, b = normalised_features(predicted), normalised_features(target)
    return F.mse_loss(a, b), (1 - F.cosine_similarity(a, b, dim=-1)).square().mean()


def psnr_db(output: Tensor, target: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of images in [-1, 1], all together."""
    return float(10 * torch.log10(4 / F.mse_loss(output.float(), target.float()).clamp(min=1e-10)))
