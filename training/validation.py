"""Which faces pictures and measurements of a run show."""

from __future__ import annotations

import dataclasses
from collections import Counter
from itertools import compress
from typing import Literal

from nvb_core.errors import ConfigError

from .data import FaceFolder, FaceIndex, read_index
from .data.load import load_faces
from .options import RunOptions

PICTURE_STREAM, VALIDATION_STREAM = 1_000_000, 1_000_001
"""In the place of a process's number in `batch_generator`: draws that training never makes."""
ValidationSource = Literal["val", "fixed"]


def validation_faces(
    options: RunOptions, faces: FaceFolder, rank: int, views: int = 0
) -> tuple[FaceFolder, ValidationSource]:
    """Subjects held out of a run on split `train` that measures, else those it trains on; `views` per subject at least.

    Folders without such subjects are left out. Raises ConfigError if that leaves none.
    """
    if options.split != "train" or not options.validate_every:
        return faces, "fixed"
    kept = [_most_views(read_index(folder).only("val")) > views for folder in options.data]
    if not any(kept):
        raise ConfigError(
            f"{options.data[0]}: no subject to validate on is in the split val, with {views + 1} images; use "
            "--split all (to measure on fixed draws of the training data) or --validate-every 0"
        )
    held_out = dataclasses.replace(
        options,
        split="val",
        data=tuple(compress(options.data, kept)),
        data_weights=tuple(compress(options.data_weights, kept)),
    )
    return load_faces(held_out, faces.size, rank), "val"


def _most_views(index: FaceIndex) -> int:
    """Images of the subject that has most, of known camera where there are any."""
    known = index.has_camera.tolist() if bool(index.has_camera.any()) else [True] * len(index.paths)
    return max(Counter(name for name, k in zip(index.subjects, known, strict=True) if k).values(), default=0)
