from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.discriminator import (
    PROBE,
    SLOPE_WEIGHT,
    PatchDiscriminator,
    adversarial_loss,
    balance,
    discriminator_losses,
    skill,
)


class Brightness(nn.Module):
    """`gain` times the mean of each 4×4 patch of the first channel."""

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(gain))

    def forward(self, images: Tensor) -> Tensor:
        return self.gain * F.avg_pool2d(images[:, :1], 4)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_each_value_is_about_18_pixels() -> None:
    images = torch.rand(1, 3, 64, 64, requires_grad=True)
    verdict = PatchDiscriminator()(images)
    assert verdict.shape == (1, 1, 16, 16)
    verdict[0, 0, 8, 5].backward()
    assert images.grad is not None
    rows, columns = images.grad[0].abs().sum(0).nonzero().unbind(1)
    # Value i is about pixels 4i - 7 to 4i + 10, of which the one in the middle of its own four is the centre.
    assert (rows.min(), rows.max()) == (4 * 8 - 7, 4 * 8 + 10)
    assert (columns.min(), columns.max()) == (4 * 5 - 7, 4 * 5 + 10)


def test_losses_of_a_linear_discriminator_in_closed_form() -> None:
    true, made = torch.full((2, 3, 8, 8), 0.5), torch.full((2, 3, 8, 8), -0.25)
    hinge, slope = discriminator_losses(Brightness(0.8), true, made, generator())
    torch.testing.assert_close(hinge, torch.tensor((1 - 0.8 * 0.5) + (1 - 0.8 * 0.25)))
    noise = torch.randn(true.shape, generator=generator())
    expected = SLOPE_WEIGHT * (0.8 * PROBE * F.avg_pool2d(noise[:, :1], 4)).square().mean()
    torch.testing.assert_close(slope, expected, rtol=1e-3, atol=0)
    torch.testing.assert_close(adversarial_loss(Brightness(0.8), made), torch.tensor(0.8 * 0.25))


def test_without_doubt_the_hinge_is_zero() -> None:
    bright, dark = torch.full((1, 3, 8, 8), 0.5), torch.full((1, 3, 8, 8), -0.5)
    sure, _ = discriminator_losses(Brightness(2.0), bright, dark, generator())
    chance, _ = discriminator_losses(Brightness(0.0), bright, dark, generator())
    wrong, _ = discriminator_losses(Brightness(2.0), dark, bright, generator())
    assert (sure, chance, wrong) == (0, 2, 4)
    assert (skill(sure), skill(chance), skill(wrong)) == (1, 0, 0)


def test_gradients_flow_to_one_side_each() -> None:
    discriminator = PatchDiscriminator()
    true, made = (torch.rand(1, 3, 16, 16, requires_grad=True) for _ in range(2))
    adversarial_loss(discriminator, made).backward()
    assert made.grad is not None
    assert made.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in discriminator.parameters())
    made.grad = None
    sum(discriminator_losses(discriminator, true.detach(), made, generator())).backward()
    assert made.grad is None
    assert all(parameter.grad is not None for parameter in discriminator.parameters())
    assert not skill(discriminator_losses(discriminator, true, made, generator())[0]).requires_grad


def test_balance_makes_gradients_equally_long() -> None:
    pictures = torch.rand(2, 3, 4, 4, requires_grad=True)
    first, second = torch.randn(2, 2, 3, 4, 4)
    factor = balance((first * pictures).sum(), (second * pictures).sum(), pictures)
    torch.testing.assert_close(factor, first.norm() / second.norm())
    assert not factor.requires_grad
    nothing = balance((first * pictures).sum(), (0 * pictures).sum(), pictures)
    assert nothing.isfinite()


def test_learns_to_tell_grain_from_smoothness() -> None:
    torch.manual_seed(0)
    discriminator = PatchDiscriminator()
    optimizer = torch.optim.AdamW(discriminator.parameters(), lr=2e-3)
    for _ in range(60):
        grain = 0.3 * torch.randn(4, 3, 16, 16)
        smooth = F.avg_pool2d(grain, 3, stride=1, padding=1)
        hinge, slope = discriminator_losses(discriminator, grain, smooth, generator())
        optimizer.zero_grad()
        (hinge + slope).backward()
        optimizer.step()
    assert skill(hinge) > 0.5
