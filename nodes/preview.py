"""Small pictures of the views in one, to watch a run."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ..nvb_core.images import to_pil

MAX_VIEWS = 16


def tiled(views: Tensor) -> Image.Image:
    """Up to 16 evenly chosen views (N, 3, h, w) in [-1, 1] as a grid of nearly square shape."""
    count = min(len(views), MAX_VIEWS)
    chosen = views[torch.linspace(0, len(views) - 1, count).round().long()]
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    filled = F.pad(chosen, (0, 0, 0, 0, 0, 0, 0, rows * columns - count), value=-1.0)  # black
    height, width = views.shape[-2:]
    return to_pil(
        filled.reshape(rows, columns, 3, height, width)
        .permute(2, 0, 3, 1, 4)
        .reshape(3, rows * height, columns * width)
    )
