"""Other systems on the same heads: pictures that they made, in a folder, scored as the model's are.

FOLDER/01000000/input.png                 what the input view really looks like: the restoration
FOLDER/01000000/view_00.png ..., pair_0.png, pair_1.png     the views from the cameras of these names
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from nvb_core.errors import ConfigError, ImageError
from nvb_core.images import load_image

from .benchmark import BenchmarkFace, BenchmarkSettings, picture_names
from .scores import IdentityScores


@dataclass(frozen=True)
class Method:
    """Another system's pictures."""

    name: str
    folder: Path

    @classmethod
    def parse(cls, text: str) -> Method:
        """From `NAME=FOLDER`. Raises ConfigError."""
        name, equals, folder = text.partition("=")
        if not (equals and folder and re.fullmatch(r"[\w.+-]{1,40}", name)):
            raise ConfigError(f"--method is {text!r}, must be NAME=FOLDER, the name of letters, digits and . + - _")
        return cls(name, Path(folder))

    def at(self, folder: Path) -> Method:
        """Its pictures of one level."""
        return replace(self, folder=folder)

    def load(self, seed: int, settings: BenchmarkSettings) -> Tensor:
        """Pictures (N + 3, 3, S, S) of an identity. Raises ImageError naming the file that is missing or misshapen."""
        return torch.stack(
            [self._picture(f"{seed:08d}/{name}", settings.image_size) for name in picture_names(settings.views)]
        )

    def _picture(self, name: str, size: int) -> Tensor:
        path = self.folder / name
        if not path.is_file():
            raise ImageError(f"{path}: missing picture of method {self.name}; nvb-face eval-inputs lists what it needs")
        pixels = load_image(path).pixels
        height, width = pixels.shape[-2:]
        if (height, width) != (size, size):
            raise ImageError(f"{path}: {width}×{height} pixels, the benchmark's pictures have {size}×{size}")
        return pixels

    def check(self, seeds: Sequence[int], settings: BenchmarkSettings) -> None:
        """Read every picture once. Raises ImageError."""
        for seed in seeds:
            self.load(seed, settings)

    def measure(self, face: BenchmarkFace, settings: BenchmarkSettings, level: int) -> IdentityScores:
        """Scores of an identity; none of a camera or an autoencoder, which pictures don't tell."""
        from .measure import GeneratedFaces, degrade_input, score

        pictures = self.load(face.seed, settings)[None]
        generated = GeneratedFaces(
            degraded=degrade_input(face, level)[None],
            restored=pictures[:, 0],
            reconstructed=None,
            views=pictures[:, 1:-2],
            pairs=pictures[:, -2:],
            predicted=None,
            seconds={},
        )
        [scores] = score([face], generated, self.name)
        return scores
