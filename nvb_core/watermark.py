"""The visible mark of generated images: a small "AI" chip in the bottom right corner."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from .errors import ConfigError

CHIP_HEIGHT = 0.11
"""Height of the chip as a fraction of the image's shorter side."""
CHIP_ASPECT = 1.5
"""Width of the chip over its height."""
MIN_CHIP_PX = 12
MARGIN = 0.03
"""Distance from the image's edges as a fraction of its shorter side."""
_SUPERSAMPLING = 8
_FILL = (16, 18, 24, 170)
_OUTLINE = (255, 255, 255, 110)
_TEXT = (255, 255, 255, 240)


def add_watermark(images: Tensor, strength: float = 1.0) -> Tensor:
    """Copy of `images` (B, 3, H, W) in [-1, 1] with the mark in the bottom right corner; all other pixels are equal.

    `strength` in [0, 1] scales the mark's opacity. Raises ConfigError on a strength out of range or a wrong shape.
    """
    if images.ndim != 4 or images.shape[1] != 3:
        raise ConfigError(f"watermark: expected images of shape (B, 3, H, W), got {tuple(images.shape)}")
    if not 0.0 <= strength <= 1.0:
        raise ConfigError(f"watermark: strength {strength} is outside 0 to 1")
    top, left, chip_height, chip_width = watermark_box(*images.shape[-2:])
    chip = torch.from_numpy(_chip(chip_height, chip_width)).to(images)  # (4, h, w)
    colour, alpha = chip[:3] * 2.0 - 1.0, chip[3:] * strength
    marked = images.clone()
    corner = marked[..., top : top + chip_height, left : left + chip_width]  # (B, 3, h, w), a view
    corner.copy_(corner * (1.0 - alpha) + colour * alpha)
    return marked


def watermark_box(height: int, width: int) -> tuple[int, int, int, int]:
    """Top, left, height and width in pixels of the mark in an image of `height` × `width`."""
    shorter = min(height, width)
    chip_height = min(max(round(CHIP_HEIGHT * shorter), MIN_CHIP_PX), height)
    chip_width = min(round(chip_height * CHIP_ASPECT), width)
    margin = round(MARGIN * shorter)
    return max(height - chip_height - margin, 0), max(width - chip_width - margin, 0), chip_height, chip_width


@lru_cache(maxsize=16)
def _chip(height: int, width: int) -> np.ndarray:
    """The mark as RGBA in [0, 1], float32 (4, height, width), not premultiplied."""
    scale = _SUPERSAMPLING
    size = (width * scale, height * scale)
    canvas = Image.new("RGBA", size, (*_TEXT[:3], 0))
    draw = ImageDraw.Draw(canvas)
    radius = 0.3 * size[1]
    # A light rim keeps the dark chip visible on black.
    draw.rounded_rectangle((0, 0, size[0] - 1, size[1] - 1), radius, fill=_OUTLINE)
    rim = max(scale * height // 14, scale // 2)
    draw.rounded_rectangle((rim, rim, size[0] - 1 - rim, size[1] - 1 - rim), radius - rim, fill=_FILL)
    draw.text(
        (size[0] / 2, size[1] / 2),
        "AI",
        _TEXT,
        ImageFont.load_default(0.82 * size[1]),
        anchor="mm",
        stroke_width=size[1] / 40,
    )
    chip = canvas.resize((width, height), Image.Resampling.BOX)
    return np.asarray(chip, np.float32).transpose(2, 0, 1) / 255.0
