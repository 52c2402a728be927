"""One image of a source into the face folder: copied if it can be, else decoded, cropped, scaled and encoded anew."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image
from torch import Tensor

from nvb_core.align import CropBox, crop_image, default_box
from nvb_core.detect import detect_faces
from nvb_core.errors import ImageError
from nvb_core.images import decode_photo, is_damage, open_picture, read_photo, to_pil
from nvb_core.memory import is_out_of_memory
from nvb_core.staging import write_atomically

from .plan import MIN_INSIDE, Item, share_inside

TRY_AGAIN = "can't be read now, run again"
"""Why an image is left out that may be a good one: the machine is at fault."""
_ORIENTATION = 0x0112  # EXIF tag
_TURNED = range(2, 9)  # its values that mean something, but for 1, upright


class Unusable(Exception):  # noqa: N818
    """An image that is left out: reason and detail."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail


@dataclass(frozen=True)
class _Header:
    size: tuple[int, int]
    is_plain: bool  # an RGB PNG, which can be copied as it is


def convert_image(item: Item, root: Path, out: Path, side: int | None, margin: float = 1.0) -> int:
    """Write an item's image, side × side or, for None, as large as it is; returns its side. Raises Unusable.

    A face that is looked for is taken with `margin` times its aligned crop. Raises OutputError if it can't be written.
    """
    try:
        return _convert(item, read_photo(root / item.source), out / item.name, side, margin)
    except FileNotFoundError:
        raise Unusable("missing image") from None
    except ImageError as error:
        raise Unusable("unreadable image", str(error)) from None
    except (OSError, MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not is_out_of_memory(error):
            raise
        raise Unusable(TRY_AGAIN, getattr(error, "strerror", None) or "out of memory") from None


def _convert(item: Item, data: bytes, target: Path, side: int | None, margin: float) -> int:
    header = _read_header(data, item.label is not None)
    if item.size_px is not None and header.size != item.size_px:
        raise Unusable("size differs from its label's", f"{_shown(header.size)}, labelled {_shown(item.size_px)}")
    if item.box is None:
        if header.size[0] != header.size[1]:
            raise Unusable("not square", _shown(header.size))
        if header.is_plain and side in (None, header.size[0]):
            write_atomically(target, lambda partial: partial.write_bytes(data))
            return header.size[0]
    picture, written = _crop(decode_photo(data), item.box, side, margin)
    write_atomically(target, lambda partial: picture.save(partial, format="PNG", compress_level=3))
    return written


def _read_header(data: bytes, labelled: bool) -> _Header:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about odd metadata
            with open_picture(data) as image:
                turned = image.getexif().get(_ORIENTATION) in _TURNED
                size, is_plain = image.size, image.format == "PNG" and image.mode == "RGB" and not turned
                if is_plain:
                    image.load()  # all of it, since it won't be decoded again
    except Exception as error:
        if not is_damage(error):
            raise
        raise Unusable("unreadable image", " ".join(str(error).split())[:120]) from None
    if labelled and turned:
        raise Unusable("turned by an EXIF tag", "its label may be of either way up")
    return _Header(size, is_plain)


def _crop(pixels: Tensor, box: CropBox | str | None, side: int | None, margin: float) -> tuple[Image.Image, int]:
    """The square of an image (3, H, W) as a picture, and its side."""
    height, width = pixels.shape[-2:]
    square = _face_box(pixels, margin) if isinstance(box, str) else box or CropBox(width / 2, height / 2, width)
    written = side or max(1, round(square.size_px))
    if square.size_px < written - 0.5:
        raise Unusable("too small", f"{square.size_px:.0f} px, {written} are asked for")
    left, top = square.center_x - square.size_px / 2, square.center_y - square.size_px / 2
    exact = square.roll_deg == 0 and square.size_px == written and left.is_integer() and top.is_integer()
    if exact and left >= 0 and top >= 0 and left + written <= width and top + written <= height:
        return to_pil(pixels[:, int(top) : int(top) + written, int(left) : int(left) + written]), written
    return to_pil(crop_image(pixels, square, written)), written


def _face_box(pixels: Tensor, margin: float) -> CropBox:
    """`margin` times the aligned crop of the largest face of a photo (3, H, W)."""
    faces = detect_faces(pixels)
    if not faces:
        raise Unusable("no face found")
    box = default_box(faces[0])
    box = replace(box, size_px=box.size_px * margin)
    inside = share_inside(box, pixels.shape[-1], pixels.shape[-2])
    if inside < MIN_INSIDE:
        raise Unusable("face crop leaves the picture", f"{100 * inside:.0f} % of a side lies inside")
    return box


def _shown(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]} px"
