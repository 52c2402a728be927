"""Where the face crops of a batch of photos lie, and finding them by a painted mask or a typed box."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .align import CropBox, default_box
from .detect import FaceBox, find_faces
from .errors import ConfigError, FaceNotFoundError, ImageError

ADVICE = 'paint the face into the mask input, give a box "x,y,size", or set faces to center for the picture\'s middle'
BOX_HELP = 'write "x,y,size" in pixels, the top left corner and side of a square from brows to chin: "120,80,200"'


@dataclass(frozen=True)
class FaceCrops:
    """N crops of a batch of photos of one size, photo by photo."""

    boxes: tuple[CropBox, ...]
    photos: tuple[int, ...]
    """(N) index of the photo that each crop is from."""
    width_px: int
    height_px: int


def find_boxes(photo: Tensor, choice: str | int) -> list[CropBox]:
    """Crops of the chosen faces of a photo (3, H, W) in [-1, 1]: "largest", "all", "center" or an index from 0.

    "center" is the largest central square and looks for no face. Raises FaceNotFoundError saying what else to do.
    """
    height, width = photo.shape[-2:]
    if choice == "center":
        return [CropBox(width / 2, height / 2, min(width, height))]
    try:
        return [default_box(face) for face in find_faces(photo, choice)]
    except FaceNotFoundError as error:
        found, _, _ = str(error).partition(";")  # the rest of it speaks of the command line
        raise FaceNotFoundError(f"{found}; {ADVICE}") from None


def parse_box(text: str) -> FaceBox | None:
    """The face box "x,y,size"; None for an empty text. Raises ConfigError."""
    if not text.strip():
        return None
    try:
        values = [float(part) for part in text.replace(",", " ").split()]
    except ValueError:
        values = []
    if len(values) != 3 or not all(map(math.isfinite, values)):
        raise ConfigError(f"box {text!r:.60} isn't three numbers; {BOX_HELP}")
    x, y, size = values
    if x < 0 or y < 0 or size < 1:
        raise ConfigError(f"box {text!r:.60} needs x and y of at least 0 and a size of at least 1; {BOX_HELP}")
    return FaceBox(x, y, size)


def box_in_photo(face: FaceBox, width: int, height: int) -> CropBox:
    """The crop of a typed face box. Raises ConfigError if the box leaves the photo."""
    if face.x + face.size_px > width or face.y + face.size_px > height:
        shown = f"{face.x:g},{face.y:g},{face.size_px:g}"
        raise ConfigError(f"box {shown} leaves the photo of {width}×{height} pixels; {BOX_HELP}")
    return default_box(face)


def box_of_mask(mask: Tensor) -> CropBox:
    """The crop of a face painted from brows to chin, mask (H, W) in [0, 1]. Raises ImageError for an empty mask."""
    rows, columns = ((mask > 0.5).any(dim=dim).nonzero().flatten() for dim in (1, 0))
    if len(rows) == 0:
        raise ImageError("mask: nothing is painted (no value above 0.5); paint the face from brows to chin")
    top, bottom, left, right = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
    size = max(bottom - top, right - left)
    return default_box(FaceBox((left + right - size) / 2, (top + bottom - size) / 2, size))


def padded(box: CropBox, padding: float) -> CropBox:
    """The box grown on each side by `padding` of its size; below 0 it shrinks."""
    return replace(box, size_px=box.size_px * (1 + 2 * padding))


def crop_mask(box: CropBox, width: int, height: int) -> Tensor:
    """1 where the pixels (height, width) of a photo lie in the box, else 0; float32."""
    y, x = torch.arange(height)[:, None] + 0.5, torch.arange(width) + 0.5
    s, c = math.sin(math.radians(box.roll_deg)), math.cos(math.radians(box.roll_deg))
    dx, dy = x - box.center_x, y - box.center_y
    half = box.size_px / 2
    return (((c * dx + s * dy).abs() <= half) & ((c * dy - s * dx).abs() <= half)).float()
