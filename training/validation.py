"""Which faces pictures and measurements of a run show."""

from __future__ import annotations

import dataclasses
from itertools import compress
from typing import Literal

from nvb_core.errors import ConfigError

from .data import FaceFolder, read_index
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
    held = [read_index(folder).only("val") for folder in options.data]
    kept = [index.most_views > views if views else bool(index.paths) for index in held]
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
