"""A plain folder of faces, for restoration (step 1) only: SRC/**/*.png, *.jpg, ... without cameras.

By default the largest face of each picture is found and its aligned crop taken; pictures that are such crops already
(FFHQ, CelebA-HQ) are taken whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Literal

from nvb_core.errors import ConfigError

from .plan import Dropped, Item, Plan, clean_name, finish, folder_subjects, list_images, require_folder

Subjects = Literal["image", "folder"]


def plan_faces(source: Path, crop: bool, margin: float, subjects: Subjects) -> Plan:
    """All pictures below a folder; of each the face with `margin` times its aligned crop, or all of it."""
    if not 1 <= margin <= 2:
        raise ConfigError(f"--margin is {margin}, must be in 1-2")
    found = list(_found(require_folder(source), crop, subjects))
    return finish("faces", source, found, margin, crop=crop, subjects=subjects)


def _found(source: Path, crop: bool, subjects: Subjects) -> Iterator[Item | Dropped]:
    images, unread = list_images(source)
    yield from unread
    folders = folder_subjects(images)
    for name in images:
        pure = PurePosixPath(name)
        box: Literal["face"] | None = "face" if crop else None
        path = "-".join(pure.with_suffix("").parts)
        if subjects == "image":
            yield Item(clean_name(path), "view", name, None, box)
        elif pure.parent.parts:
            yield Item(folders[pure.parent], clean_name(pure.stem), name, None, box)
        else:
            yield Dropped(name, "not in a subject's folder")
