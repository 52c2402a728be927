from __future__ import annotations

import math

import pytest
import torch

from training.judges.network import ANGLE_UNIT_DEG, JudgeConfig, JudgeNetwork, margin_loss, pose_loss

SMALL = JudgeConfig(size=32, widths=(8, 16), blocks=(1, 1), embedding=4)


def test_a_margin_lowers_the_true_persons_cosine() -> None:
    embeddings, centres = torch.tensor([[3.0, 0.0], [0.0, 0.5]]), torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    loss, accuracy = margin_loss(embeddings, centres, torch.tensor([0, 1]), scale=2.0, margin=0.25)
    true, other = math.exp(2 * (1 - 0.25)), math.exp(0.0)
    assert float(loss) == pytest.approx(-math.log(true / (true + other)), rel=1e-6)
    assert accuracy == 1.0
    swapped, none_right = margin_loss(embeddings, centres, torch.tensor([1, 0]), scale=2.0, margin=0.25)
    true, other = math.exp(2 * (0 - 0.25)), math.exp(2.0)
    assert float(swapped) == pytest.approx(-math.log(true / (true + other)), rel=1e-6)
    assert none_right == 0.0


def test_large_angle_errors_count_by_their_size() -> None:
    error = ANGLE_UNIT_DEG * torch.tensor([[1.0, 0.0, 0.0]])
    assert float(pose_loss(error, torch.zeros(1, 3))) == pytest.approx((1 - 0.025) / 3, rel=1e-6)


def test_shapes_and_gradients() -> None:
    torch.manual_seed(0)
    network = JudgeNetwork(SMALL)
    embeddings, angles = network(torch.randn(2, 3, 32, 32))
    assert (embeddings.shape, angles.shape) == ((2, 4), (2, 3))
    (embeddings.sum() + angles.sum()).backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in network.parameters())
