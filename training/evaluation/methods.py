"""Other systems on the same heads: pictures that they made, in a folder, scored as the model's are.

FOLDER/01000000/input.png                 what the input view really looks like: the restoration
FOLDER/01000000/view_00.png ..., pair_0.png, pair_1.png     the views from the cameras of these names
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from nvb_core.errors import ConfigError, ImageError
from nvb_core.images import load_image

from .benchmark import BenchmarkFace, picture_names
from .extra import ExtraMetrics
from .scores import IdentityScores

TRUTH = "truth"
"""What stands above the true views beside those of other systems, so that none can have it for a name."""


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

    def load(self, seed: int, views: int, size: int) -> Tensor:
        """Pictures (N + 3, 3, S, S) of an identity. Raises ImageError naming the file that is missing or misshapen."""
        return torch.stack([self._picture(path, size) for path in self.files(seed, views)])

    def files(self, seed: int, views: int) -> list[Path]:
        """Of an identity's pictures, in the order of FaceCameras.all."""
        return [self.folder / f"{seed:08d}" / name for name in picture_names(views)]

    def _picture(self, path: Path, size: int) -> Tensor:
        if not path.is_file():
            raise ImageError(f"{path}: missing picture of method {self.name}; nvb-face eval-inputs lists what it needs")
        pixels = load_image(path).pixels
        height, width = pixels.shape[-2:]
        if (height, width) != (size, size):
            raise ImageError(f"{path}: {width}×{height} pixels, the benchmark's pictures have {size}×{size}")
        return pixels

    def measure(self, face: BenchmarkFace, level: int, extra: ExtraMetrics | None = None) -> IdentityScores:
        """Scores of an identity; none of a camera or an autoencoder, which pictures don't tell."""
        from .measure import GeneratedFaces, degrade_input, score

        pictures = self.load(face.seed, len(face.targets), face.image.shape[-1])[None]
        generated = GeneratedFaces(
            degraded=degrade_input(face, level)[None],
            restored=pictures[:, 0],
            reconstructed=None,
            views=pictures[:, 1:-2],
            pairs=pictures[:, -2:],
            predicted=None,
            seconds={},
        )
        [scores] = score([face], generated, self.name, extra)
        return scores
