"""Pictures of faces -> back into the photos that their crops were cut from."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from .align import CropBox
from .crops import FaceCrops
from .errors import ConfigError


def paste_faces(photos: Tensor, faces: Tensor, crops: FaceCrops, feather: float) -> Tensor:
    """Copies of photos (B, 3, H, W) with each face (N, 3, s, s) where its crop was cut out; any s.

    At the crop's border the face fades into the photo over `feather`, a fraction 0–0.5 of the crop's side. Where crops
    overlap, later ones cover earlier ones. Raises ConfigError if faces or photos aren't those of the crops.
    """
    height, width = photos.shape[-2:]
    if (width, height) != (crops.width_px, crops.height_px) or len(photos) <= max(crops.photos):
        raise ConfigError(
            f"{len(photos)} photos of {width}×{height} pixels, but the crops are from {max(crops.photos) + 1} or more "
            f"of {crops.width_px}×{crops.height_px}; give the photos that went into Align Face"
        )
    if len(faces) != len(crops.boxes):
        raise ConfigError(f"{len(faces)} pictures for {len(crops.boxes)} crops; give one for each crop, in their order")
    if faces.shape[-1] != faces.shape[-2]:
        raise ConfigError(f"pictures of {faces.shape[-1]}×{faces.shape[-2]} pixels can't replace square crops")
    pasted = photos.clone()
    for owner, box, face in zip(crops.photos, crops.boxes, faces, strict=True):
        _paste(pasted[owner], box, face.to(pasted), feather)
    return pasted


def _paste(photo: Tensor, box: CropBox, face: Tensor, feather: float) -> None:
    """Lay one face (3, s, s) over its place in a photo (3, H, W), in place."""
    top, bottom, left, right = _reach(photo, box)
    if top >= bottom or left >= right:
        return
    shown = _shrunken(face, box.size_px)
    y, x = torch.meshgrid(torch.arange(top, bottom) + 0.5, torch.arange(left, right) + 0.5, indexing="ij")
    s, c = math.sin(math.radians(box.roll_deg)), math.cos(math.radians(box.roll_deg))
    dx, dy = (x - box.center_x) / (box.size_px / 2), (y - box.center_y) / (box.size_px / 2)
    place = torch.stack([c * dx + s * dy, c * dy - s * dx], dim=-1).to(photo)  # (h, w, 2), the crop is [-1, 1]²
    colour = F.grid_sample(shown[None], place[None], mode="bicubic", padding_mode="border", align_corners=False)[0]
    weight = _weight(place, feather)
    region = photo[:, top:bottom, left:right]
    region.copy_(torch.lerp(region, colour.clamp(-1, 1), weight))


def _weight(place: Tensor, feather: float) -> Tensor:
    """How much of the face shows (h, w): 1 within, falling to 0 over the last `feather` before the crop's border."""
    from_border = (1 - place.abs().amax(dim=-1)) / 2  # in crop sides
    if feather == 0:
        return (from_border >= 0).to(place)
    rise = (from_border / feather).clamp(0, 1)
    return rise * rise * (3 - 2 * rise)


def _reach(photo: Tensor, box: CropBox) -> tuple[int, int, int, int]:
    """Rows and columns of a photo that a crop may touch: top, bottom, left, right."""
    height, width = photo.shape[-2:]
    reach = box.size_px / math.sqrt(2)
    return (
        max(0, math.floor(box.center_y - reach)),
        min(height, math.ceil(box.center_y + reach)),
        max(0, math.floor(box.center_x - reach)),
        min(width, math.ceil(box.center_x + reach)),
    )


def _shrunken(face: Tensor, size_px: float) -> Tensor:
    """A face (3, s, s) without detail that the photo has no pixels for."""
    size = max(1, math.ceil(size_px))
    if face.shape[-1] <= size:
        return face
    return F.interpolate(face[None], size=(size, size), mode="bicubic", antialias=True)[0].clamp(-1, 1)
