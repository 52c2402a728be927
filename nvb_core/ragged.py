"""Images of different sizes as one tensor, so that a GPU works on all of them at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

Size = tuple[int, int]
"""Height and width."""
Option = TypeVar("Option")


@dataclass(frozen=True, eq=False)
class RaggedImages:
    """Each image lies at the top left of its canvas; what lies beyond its edges means nothing."""

    pixels: Tensor  # (B, C, M, N)
    sizes: tuple[Size, ...]  # of each image, up to (M, N)

    @classmethod
    def of(cls, pixels: Tensor) -> RaggedImages:
        """Images (B, C, H, W) of one size."""
        H, W = pixels.shape[-2:]
        return cls(pixels, ((H, W),) * len(pixels))

    def extended(self, before: int, height: int, width: int) -> Tensor:
        """(B, C, height, width): each image `before` pixels from the top left, its edges replicated to all sides."""
        if len(set(self.sizes)) == 1:
            H, W = self.sizes[0]
            after = (before, width - W - before, before, height - H - before)
            pixels = self.pixels[..., :H, :W]
            return F.pad(pixels, after, mode="replicate") if any(after) else pixels
        B, C = self.pixels.shape[:2]
        device = self.pixels.device
        sides = torch.tensor(self.sizes)
        rows, columns = (
            upload((torch.arange(length) - before).clamp_min(0).minimum(sides[:, axis : axis + 1] - 1), device)
            for axis, length in enumerate((height, width))
        )
        batch, channels = torch.arange(B, device=device), torch.arange(C, device=device)
        return self.pixels[
            batch[:, None, None, None], channels[:, None, None], rows[:, None, :, None], columns[:, None, None, :]
        ]


def apply_where(
    images: RaggedImages,
    options: Sequence[Option | None],
    operation: Callable[[RaggedImages, list[Option]], Tensor],
) -> RaggedImages:
    """Replace those images that have an option (B, None for none) by operation(them, their options), of equal sizes."""
    pairs = [(i, option) for i, option in enumerate(options) if option is not None]
    if not pairs:
        return images
    chosen = [option for _, option in pairs]
    if len(pairs) == len(options):
        return RaggedImages(operation(images, chosen), images.sizes)
    index = upload(torch.tensor([i for i, _ in pairs]), images.pixels.device)
    part = RaggedImages(images.pixels[index], tuple(images.sizes[i] for i, _ in pairs))
    return RaggedImages(images.pixels.index_copy(0, index, operation(part, chosen)), images.sizes)


def upload(host: Tensor, device: torch.device) -> Tensor:
    """Copy to a device, without waiting for what a GPU still computes."""
    return host.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else host.to(device)
