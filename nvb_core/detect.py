"""Faces in photos, by the LBP cascade in scikit-image's wheel: near-frontal ones, not too blurred, tilted up to 30°."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from .errors import FaceNotFoundError
from .images import to_pil

MARGIN = 0.1  # by which the picture's edge is extended, in longer sides: faces may be cut off or fill the picture
MIN_FACE_PX = 14.0
WINDOW_PX = 24  # the cascade's own
ADVICE = "choose it with --box x,y,size, or take the picture's middle with --center"


@dataclass(frozen=True)
class FaceBox:
    """Square around a face from the brows to the chin, in pixels; (x, y) is its top left corner.

    A tilted face's square turns by `roll_deg` (clockwise) about its centre; x and y are those before turning.
    """

    x: float
    y: float
    size_px: float
    roll_deg: float = 0.0


@dataclass(frozen=True)
class _Search:
    """One pass over the picture, scaled to a longer side of `side_px`; face sizes are fractions of that."""

    side_px: int
    smallest: float
    largest: float
    hits: int  # that agree on a face
    tilts_deg: tuple[float, ...] = (0.0,)
    smallest_px: float = MIN_FACE_PX  # of the picture as it is


# In this order until one finds a face. Many windows of like place and size hit a face, few hit anything else: in
# scikit-image's pictures without faces 4 at most agree in the first search.
_SEARCHES = (
    _Search(320, 0.12, 1.5, hits=5),
    _Search(320, 0.12, 1.5, hits=6, tilts_deg=(-20.0, 20.0)),
    _Search(800, 0.05, 0.14, hits=6),
    _Search(1600, 0.025, 0.06, hits=10, smallest_px=30.0),  # groups in large pictures, which aren't enlarged
)
_MIN_OF_BEST = 0.3  # hits of a face, as a share of the surest one's
_HITS_BESIDE = 12  # of a face that an earlier search has missed: faces have 13 to 28, patterns on clothes up to 8


def detect_faces(pixels: Tensor, every_size: bool = False) -> list[FaceBox]:
    """Faces in a photo (3, H, W) in [-1, 1], largest first; empty if there is none.

    Looks for ever smaller ones until it finds some; with every_size also beside those, as in a group's back rows.
    """
    grey = to_pil(pixels).convert("L")
    faces: list[FaceBox] = []
    for search in _SEARCHES:
        hits = max(search.hits, _HITS_BESIDE) if faces else search.hits
        faces += [face for face in _found(grey, search, hits) if not any(_overlap(face, other) for other in faces)]
        if faces and not every_size:
            break
    return sorted(faces, key=lambda face: -face.size_px)


def _found(grey: Image.Image, search: _Search, hits: int) -> list[FaceBox]:
    groups = _agreeing(np.concatenate([_windows(grey, search, tilt_deg) for tilt_deg in search.tilts_deg]))
    enough = max([hits, *(_MIN_OF_BEST * len(group) for group in groups[:1])])
    return [_face(group) for group in groups if len(group) >= enough]


def _overlap(one: FaceBox, other: FaceBox) -> bool:
    """Whether a square's centre lies in the other's, turned as they may be."""
    distance = math.dist(*((box.x + box.size_px / 2, box.y + box.size_px / 2) for box in (one, other)))
    return distance < max(one.size_px, other.size_px) / 2


def find_faces(pixels: Tensor, choice: str | int) -> list[FaceBox]:
    """The chosen faces of a photo (3, H, W) in [-1, 1]; see `select_faces`. Raises FaceNotFoundError."""
    return select_faces(detect_faces(pixels, every_size=choice != "largest"), choice)


def select_faces(boxes: Sequence[FaceBox], choice: str | int) -> list[FaceBox]:
    """The "largest" face, "all" of them, or the one at an index counting from 0, largest first.

    Raises FaceNotFoundError if there is no such face.
    """
    faces = sorted(boxes, key=lambda face: -face.size_px)
    if not faces:
        raise FaceNotFoundError(f"no face found; {ADVICE}")
    if choice == "all":
        return faces
    index = 0 if choice == "largest" else choice
    if not isinstance(index, int) or not 0 <= index < len(faces):
        numbers = "0" if len(faces) == 1 else f"0 to {len(faces) - 1}"
        found = f"face {choice!r:.40} is not among the {len(faces)} found"
        raise FaceNotFoundError(f"{found}; use --face largest, all or {numbers}; or {ADVICE}")
    return [faces[index]]


def _windows(grey: Image.Image, search: _Search, tilt_deg: float) -> np.ndarray:
    """Windows (n, 4) that pass the cascade when the picture is turned back by the tilt: centre x, y, size, tilt."""
    smallest = max(search.smallest, search.smallest_px / max(grey.size))
    if smallest >= search.largest:
        return np.empty((0, 4))
    scale = search.side_px / max(grey.size)
    picture = np.asarray(_extended(grey, scale).rotate(tilt_deg, Image.Resampling.BILINEAR))  # counterclockwise
    hits = _cascade().detect_multi_scale(
        img=picture,
        scale_factor=1.1,
        step_ratio=1.0,
        min_size=(max(WINDOW_PX, round(smallest * search.side_px)),) * 2,
        max_size=(min(round(search.largest * search.side_px), *picture.shape),) * 2,
        min_neighbor_number=0,
        intersection_score_threshold=2.0,  # above 1, so that it groups nothing: the size of a group counts here
    )
    found = np.array([(hit["c"], hit["r"], hit["width"]) for hit in hits], dtype=float).reshape(-1, 3)
    offset = (found[:, :2] + found[:, 2:] / 2 - np.array(picture.shape[::-1]) / 2) / scale
    sin, cos = math.sin(math.radians(tilt_deg)), math.cos(math.radians(tilt_deg))
    center = offset @ np.array([[cos, sin], [-sin, cos]]) + np.array(grey.size) / 2
    inside = ((center >= 0) & (center <= grey.size)).all(axis=1)
    return np.column_stack((center, found[:, 2] / scale, np.full(len(found), tilt_deg)))[inside]


def _extended(grey: Image.Image, scale: float) -> Image.Image:
    """The picture resized by `scale`, its edge pixels repeated outwards by MARGIN."""
    width, height = (max(WINDOW_PX, round(side * scale)) for side in grey.size)
    resized = grey.resize((width, height), Image.Resampling.BICUBIC)
    return Image.fromarray(np.pad(np.asarray(resized), round(MARGIN * max(width, height)), mode="edge"))


def _agreeing(windows: np.ndarray) -> list[np.ndarray]:
    """Groups of windows (n, 4) of like centre and size, largest group first, none overlapping the centre of another."""
    x, y, size = windows[:, :3].T
    distance = np.hypot(x[:, None] - x, y[:, None] - y) / np.minimum(size[:, None], size)
    alike = (distance < 0.25) & (np.abs(np.log(size[:, None] / size)) < 0.35)
    free = np.ones(len(windows), dtype=bool)
    free_alike = alike.sum(axis=1)
    groups = []
    while free.any():
        members = alike[free_alike.argmax()] & free
        groups.append(windows[members])
        taken = free & (distance[members] < 0.5).any(axis=0)
        free &= ~taken
        free_alike -= alike[:, taken].sum(axis=1)
    return groups


def _face(group: np.ndarray) -> FaceBox:
    x, y, size_px, tilt_deg = group.mean(axis=0).tolist()
    return FaceBox(x - size_px / 2, y - size_px / 2, size_px, tilt_deg)


@cache
def _cascade() -> Any:
    from skimage.data import lbp_frontal_face_cascade_filename
    from skimage.feature import Cascade

    return Cascade(lbp_frontal_face_cascade_filename())
