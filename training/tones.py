"""Pictures of training as film, light and age would have them: black and white, sepia, faded, of a wrong white balance.

The synthetic heads are all in full, true colours; photos, and old ones most of all, aren't.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nvb_core.errors import ConfigError


@dataclass(frozen=True)
class Tone:
    """How a picture's colours are changed; all values of pixels in [0, 1]."""

    gamma: float  # exponent of each channel
    film: tuple[float, float, float]  # shares of red, green and blue in grey; panchromatic film is near (.3, .6, .1)
    saturation: float  # 0 is black and white, 1 leaves colours
    hue_deg: float  # by which hues turn
    contrast: float  # about middle grey
    gains: tuple[float, float, float]  # of red, green and blue, last

    def __call__(self, images: Tensor) -> Tensor:
        """The same change to all of (N, 3, H, W) in [-1, 1]."""
        from kornia.color import rgb_to_grayscale
        from kornia.enhance import adjust_gamma, adjust_hue

        pixels = adjust_hue(adjust_gamma((images + 1) / 2, self.gamma), math.radians(self.hue_deg))
        grey = rgb_to_grayscale(pixels, rgb_weights=torch.tensor(self.film))
        pixels = 0.5 + self.contrast * (grey + self.saturation * (pixels - grey) - 0.5)
        return (pixels * torch.tensor(self.gains)[:, None, None]).clamp(0, 1) * 2 - 1


@dataclass(frozen=True)
class ToneJitter:
    """How often and how far tones are changed. All values are chosen."""

    probability: float = 0.0  # of a change at all
    monochrome: float = 0.4  # share of the changes that leave no colour
    saturation: tuple[float, float] = (0.3, 1.3)  # of the others
    hue_deg: float = 180.0  # to either side, of half of the others
    gamma: float = 1.5  # and its inverse, log-uniform
    contrast: tuple[float, float] = (0.7, 1.5)
    warmth: tuple[float, float] = (-0.1, 0.3)  # of white, from bluish to sepia; half of the changes leave it white

    def __post_init__(self) -> None:
        if not (0 <= self.probability <= 1 and 0 <= self.monochrome <= 1):
            raise ConfigError(f"tone jitter needs probability and monochrome in 0–1: {self}")

    def sample(self, rng: np.random.Generator) -> Tone | None:
        """One tone, or none; the same number of draws whatever the outcome."""
        keep, monochrome, true_hues, white = rng.random(4) >= (self.probability, 1 - self.monochrome, 0.5, 0.5)
        saturation, contrast, warmth = (rng.uniform(*span) for span in (self.saturation, self.contrast, self.warmth))
        hue_deg = rng.uniform(-self.hue_deg, self.hue_deg)
        gamma = math.exp(rng.uniform(-1, 1) * math.log(self.gamma))
        red, green, blue = rng.dirichlet((3, 6, 2)).tolist()
        gains = (1.0, 1.0, 1.0) if white else (1 + min(warmth, 0), 1 - abs(warmth) / 2, 1 - max(warmth, 0))
        film = (red, green, blue)
        if keep:
            return None
        return Tone(gamma, film, 0.0 if monochrome else saturation, 0.0 if true_hues else hue_deg, contrast, gains)

    def __call__(self, images: Tensor, rng: np.random.Generator) -> Tensor:
        """Images (B, N, 3, H, W) in [-1, 1], each of B in a tone of its own. Draws nothing where nothing can change."""
        if not self.probability:
            return images
        tones = [self.sample(rng) for _ in images]
        return torch.stack([views if tone is None else tone(views) for tone, views in zip(tones, images, strict=True)])


TRUE_COLOURS = ToneJitter()
