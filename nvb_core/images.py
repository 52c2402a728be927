"""Photos in and pictures out: files to float tensors (3, H, W) in [-1, 1], and back to 8 bits."""

from __future__ import annotations

import hashlib
import io
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from .errors import ImageError
from .memory import is_out_of_memory

MIN_SIDE_PX = 16
MAX_PIXELS = 120_000_000  # 1.4 GB decoded
MAX_FILE_BYTES = 512 * 2**20
# Pillow also reads formats that run other programs, such as EPS; photos don't come in those.
FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "AVIF", "TIFF", "BMP", "GIF", "PPM", "JPEG2000", "TGA")
_TOO_LARGE = f"more than {MAX_PIXELS // 10**6} megapixels; make the picture smaller"
BACKDROP = (128, 128, 128)  # behind transparent pixels: mid-grey is 0 in [-1, 1]


@dataclass(frozen=True, eq=False)
class LoadedImage:
    """A decoded photo, upright."""

    pixels: Tensor  # (3, H, W) float32 in [-1, 1]
    sha256: str  # of the file, hexadecimal
    path: Path


def load_image(path: str | Path) -> LoadedImage:
    """Decode a photo: EXIF orientation applied, transparency laid over mid-grey, of an animation the first frame.

    Raises ImageError naming the file for anything that isn't a readable photo of at least MIN_SIDE_PX a side.
    """
    path = Path(path)
    try:
        data = read_photo(path)
        return LoadedImage(decode_photo(data), hashlib.sha256(data).hexdigest(), path)
    except ImageError as error:
        raise ImageError(f"{path}: {error}") from None
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
        raise ImageError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise ImageError(f"{path}: not enough memory for it; free some or make the picture smaller") from None


def read_photo(path: Path) -> bytes:
    """A photo's file. Raises OSError, and ImageError, without the file's name, for what can't be one."""
    if path.exists() and not path.is_file():
        raise ImageError("not a file; give a photo")
    if path.stat().st_size > MAX_FILE_BYTES:
        raise ImageError(f"larger than {MAX_FILE_BYTES // 2**20} MiB; make the picture smaller")
    data = path.read_bytes()
    if not data:
        raise ImageError("empty file")
    return data


def decode_photo(data: bytes) -> Tensor:
    """Pixels of a photo's file, as `load_image` has them. Raises ImageError, without the file's name."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about odd metadata, and sizes below MAX_PIXELS
            return _decode(data)
    except Image.DecompressionBombError:
        raise ImageError(_TOO_LARGE) from None
    except ImageError:
        raise
    except Exception as error:
        if not is_damage(error):
            raise
        reason = " ".join(str(error).split()) or type(error).__name__
        reason = "unknown format" if isinstance(error, Image.UnidentifiedImageError) else reason
        raise ImageError(f"not a readable image ({reason:.80}); give a JPEG, PNG, WebP or TIFF photo") from None


def open_picture(data: bytes) -> Image.Image:
    """The picture of a photo's file, before its pixels are decoded. Raises nearly anything on damaged files."""
    Image.init()
    return Image.open(io.BytesIO(data), formats=[name for name in FORMATS if name in Image.OPEN])


def is_damage(error: Exception) -> bool:
    """Whether what Pillow raised is the file's fault, and not the machine's: out of memory, or of open files."""
    return not is_out_of_memory(error) and getattr(error, "errno", None) is None


def to_uint8(images: Tensor) -> np.ndarray:
    """Images (..., 3, H, W) in [-1, 1], clipped, as uint8 (..., H, W, 3)."""
    scaled = images.detach().float().mul(127.5).add(127.5).round().clamp(0, 255)
    return scaled.to("cpu", torch.uint8).movedim(-3, -1).contiguous().numpy()


def to_pil(image: Tensor) -> Image.Image:
    """An image (3, H, W) in [-1, 1] as an RGB picture."""
    return Image.fromarray(to_uint8(image))


def _decode(data: bytes) -> Tensor:
    with open_picture(data) as image:
        if image.width * image.height > MAX_PIXELS:
            raise ImageError(_TOO_LARGE)
        image.load()
        upright = ImageOps.exif_transpose(image)
    if min(upright.size) < MIN_SIDE_PX:
        raise ImageError(f"{upright.width}×{upright.height} pixels; each side must be at least {MIN_SIDE_PX}")
    values = torch.from_numpy(_unit_rgb(upright)).mul_(2).sub_(1)  # in place: photos are large
    return values.permute(2, 0, 1).contiguous()


def _unit_rgb(image: Image.Image) -> np.ndarray:
    """Pixels (H, W, 3) float32 in [0, 1], of an array that nobody else holds."""
    if image.mode.startswith("I"):  # 16-bit grey; converting to RGB would clip it to 8 bits
        grey = np.asarray(image).astype(np.float32).clip(0, 65535) / 65535
        return np.repeat(grey[..., None], 3, axis=2)
    if image.mode == "F":
        raise ImageError("floating-point pixels have no known range; save it with 8 or 16 bits")
    if image.has_transparency_data:
        backdrop = Image.new("RGBA", image.size, (*BACKDROP, 255))
        image = Image.alpha_composite(backdrop, image.convert("RGBA"))
    rgb = np.array(image.convert("RGB"), dtype=np.float32)
    rgb /= 255
    return rgb
