"""The face folders that a stage's options ask for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .folder import FaceFolder

if TYPE_CHECKING:
    from ..options import RunOptions


def load_faces(options: RunOptions, size: int, rank: int, lone: bool = False) -> FaceFolder:
    """The folders of `options.data`, drawn from, parted and held as the options say. Raises ConfigError.

    With `lone`, subjects of unknown camera count as having one view.
    """
    return FaceFolder.load(
        options.data,
        size,
        show_progress=rank == 0,
        weights=options.data_weights,
        split=options.split,
        in_memory=options.in_memory,
        lone=lone,
    )
