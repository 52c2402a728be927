from __future__ import annotations

import math

import pytest
import torch

from training.losses import feature_losses, gradient_l1, psnr_db


def test_gradient_l1_of_a_ramp() -> None:
    x = torch.arange(5.0).expand(1, 3, 4, 5)
    y = torch.arange(4.0)[:, None].expand(1, 3, 4, 5)
    assert gradient_l1(2 * x + 3 * y, torch.zeros(1, 3, 4, 5)) == pytest.approx(5)


def test_gradient_l1_ignores_a_constant() -> None:
    image = torch.rand(2, 3, 6, 6, dtype=torch.float64)
    assert gradient_l1(image + 0.3, image) == pytest.approx(0, abs=1e-12)


def test_gradient_l1_gradients() -> None:
    output = torch.rand(1, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    target = torch.rand(1, 3, 4, 4, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: gradient_l1(x, target), output)


def test_feature_losses_of_equal_and_opposite_features() -> None:
    features = torch.randn(2, 16, 3, 3, generator=torch.Generator().manual_seed(0))
    assert [float(v) for v in feature_losses(features, features)] == pytest.approx([0, 0], abs=1e-6)
    mse, cosine = feature_losses(-features, features)
    assert float(mse) == pytest.approx(4, rel=1e-3)  # LayerNormed values have unit mean square
    assert float(cosine) == pytest.approx(4, rel=1e-5)  # (1 - (-1))²


def test_feature_losses_of_two_channels() -> None:
    # LayerNorm maps every pair (a, b) with a > b to (1, -1) and the others to (-1, 1).
    a = torch.tensor([[3.0, 5.0], [1.0, 9.0]]).reshape(1, 2, 1, 2)
    b = torch.tensor([[3.0, 9.0], [1.0, 5.0]]).reshape(1, 2, 1, 2)
    mse, cosine = feature_losses(a, b)
    assert float(mse) == pytest.approx(4 / 2, rel=1e-4)
    assert float(cosine) == pytest.approx(4 / 2, rel=1e-4)


def test_feature_losses_know_no_scale_and_no_offset() -> None:
    generator = torch.Generator().manual_seed(1)
    a, b = torch.randn(2, 2, 16, 3, 3, generator=generator).unbind(0)
    scaled = feature_losses(7 * a + 2, 0.5 * b - 1)
    for got, want in zip(scaled, feature_losses(a, b), strict=True):
        assert float(got) == pytest.approx(float(want), rel=1e-3)


def test_feature_losses_lead_to_the_target() -> None:
    generator = torch.Generator().manual_seed(2)
    predicted, target = torch.randn(2, 1, 8, 2, 2, generator=generator).unbind(0)
    predicted = predicted.clone().requires_grad_(True)
    start = sum(feature_losses(predicted, target))
    optimizer = torch.optim.Adam([predicted], lr=0.1)
    for _ in range(100):
        optimizer.zero_grad()
        sum(feature_losses(predicted, target)).backward()
        optimizer.step()
    assert sum(feature_losses(predicted, target)) < 1e-2 * start


def test_psnr_is_against_a_range_of_two() -> None:
    image = torch.rand(2, 3, 4, 4) - 0.5
    assert psnr_db(image + 0.5, image) == pytest.approx(10 * math.log10(2**2 / 0.5**2), abs=1e-4)
    assert psnr_db(image, image) == pytest.approx(10 * math.log10(4e10), abs=1e-4)  # of equal pictures, finite


def test_psnr_of_half_precision_is_that_of_its_values() -> None:
    output, target = torch.rand(2, 1, 3, 8, 8, generator=torch.Generator().manual_seed(0)).bfloat16().unbind(0)
    assert psnr_db(output, target) == psnr_db(output.float(), target.float())
