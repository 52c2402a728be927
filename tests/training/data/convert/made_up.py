"""Made-up pictures that tell their number and which way round they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def picture(number: int, width: int = 32, height: int = 32) -> np.ndarray:
    """(height, width, 3) uint8: random, the left half darker, different for each number."""
    pixels = np.random.default_rng(number).integers(0, 200, size=(height, width, 3), dtype=np.uint8)
    pixels[:, width // 2 :] += 50
    return pixels


def save_picture(path: Path, number: int, width: int = 32, height: int = 32) -> np.ndarray:
    """Write a picture, making its folder; returns its pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = picture(number, width, height)
    Image.fromarray(pixels).save(path)
    return pixels


def pixels_of(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)
