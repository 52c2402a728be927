"""ComfyUI's images (B, H, W, 3) in [0, 1] <-> the core's (B, 3, H, W) in [-1, 1]."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..nvb_core.align import CropBox, crop_image
from ..nvb_core.errors import ImageError
from ..nvb_core.images import BACKDROP, MIN_SIDE_PX


def to_core(images: Tensor, name: str = "image") -> Tensor:
    """Float32 on the CPU, transparency laid over the same grey as when a file is read. Raises ImageError."""
    if images.ndim != 4 or images.shape[-1] not in (1, 3, 4):
        raise ImageError(f"{name} has shape {tuple(images.shape)}; expected (B, H, W, C) with 1, 3 or 4 channels")
    if len(images) == 0:
        raise ImageError(f"{name} is an empty batch; connect at least one picture")
    if min(images.shape[1:3]) < MIN_SIDE_PX:
        height, width = images.shape[1:3]
        raise ImageError(f"{name} has {width}×{height} pixels; each side must be at least {MIN_SIDE_PX}")
    pixels = images.detach().to("cpu", torch.float32)
    broken = (~pixels.isfinite()).flatten(1).any(dim=1).nonzero().flatten().tolist()
    if broken:
        raise ImageError(f"{name} {broken[0]} of the batch holds NaN or infinite values; check the node it comes from")
    pixels = pixels.clamp(0, 1)
    if pixels.shape[-1] == 4:
        alpha, backdrop = pixels[..., 3:], torch.tensor(BACKDROP) / 255
        pixels = pixels[..., :3] * alpha + backdrop * (1 - alpha)
    return pixels.expand(*pixels.shape[:3], 3).movedim(-1, 1).mul(2).sub(1).contiguous()


def to_comfy(images: Tensor) -> Tensor:
    """(B, H, W, 3) in [0, 1] float32, on the same device."""
    return images.float().add(1).div(2).clamp(0, 1).movedim(1, -1).contiguous()


def pictures_to_comfy(pictures: list[Image.Image]) -> Tensor:
    """RGB pictures of one size as (B, H, W, 3) in [0, 1]."""
    return torch.from_numpy(np.stack([np.asarray(picture, dtype=np.float32) / 255 for picture in pictures]))


def square_crops(images: Tensor, size: int) -> Tensor:
    """Square pictures (B, 3, S, S) at the model's size, antialiased. Raises ImageError for others."""
    height, width = images.shape[-2:]
    if height != width:
        raise ImageError(
            f"face crops must be square, these are {width}×{height} pixels; put Align Face before this node"
        )
    if height == size:
        return images
    whole = CropBox(width / 2, height / 2, width)
    return torch.stack([crop_image(image, whole, size) for image in images])
