"""A critic of textures, trained along with a decoder and then left behind: what makes pictures sharp."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import Conv2d, LeakyReLU

WIDTHS = (48, 96, 128)
PROBE = 0.01
"""Noise to which the critic should be indifferent, fainter than the grain that it is to see."""
SLOPE_WEIGHT = 0.5


class PatchDiscriminator(nn.Module):
    """Pictures (B, 3, S, S) -> how true each patch of 18 pixels looks, (B, 1, S/4, S/4). All sizes are chosen."""

    def __init__(self) -> None:
        super().__init__()
        first, second, third = WIDTHS
        self.layers = nn.Sequential(
            Conv2d(3, first, 4, stride=2, padding=1),
            LeakyReLU(0.2),
            Conv2d(first, second, 4, stride=2, padding=1),
            LeakyReLU(0.2),
            Conv2d(second, third, 3, padding=1),
            LeakyReLU(0.2),
            Conv2d(third, 1, 1),
        )

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, S, S) -> (B, 1, S/4, S/4)."""
        return self.layers(images)


def discriminator_losses(
    discriminator: nn.Module, true: Tensor, made: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Hinge loss on pictures (B, 3, S, S), and a bound on the slope around true ones: R1 by finite differences
    (arXiv 2501.08316). No gradient flows to the pictures."""
    noise = torch.randn(true.shape, generator=generator, device=true.device)
    real = discriminator(true).float()
    slope = discriminator(true + PROBE * noise).float() - real
    hinge = F.relu(1 - real).mean() + F.relu(1 + discriminator(made.detach()).float()).mean()
    return hinge, SLOPE_WEIGHT * slope.square().mean()


def skill(hinge: Tensor) -> Tensor:
    """From the hinge loss how well a discriminator tells true from made (detached): 0 by chance, 1 without doubt.

    One that knows nothing yet must not pull at a decoder that does.
    """
    return (1 - hinge.detach() / 2).clamp_min(0)


def adversarial_loss(discriminator: nn.Module, made: Tensor) -> Tensor:
    """How untrue pictures (B, 3, S, S) look; its gradient flows to them and not to the discriminator."""
    frozen = {name: parameter.detach() for name, parameter in discriminator.named_parameters()}
    return -functional_call(discriminator, frozen, (made,)).float().mean()


def balance(loss: Tensor, other: Tensor, pictures: Tensor) -> Tensor:
    """The factor (detached) that makes the gradient of `other` to the pictures as long as that of `loss`."""
    lengths = [torch.autograd.grad(value, pictures, retain_graph=True)[0].norm() for value in (loss, other)]
    return (lengths[0] / lengths[1].clamp_min(1e-12)).detach()
