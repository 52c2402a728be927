"""Square 8-bit images of a face folder, from their files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from nvb_core.errors import ConfigError

from .index import INDEX_NAME


def decode(path: Path) -> Tensor:
    """One square image as (3, H, H) uint8. Raises ConfigError."""
    try:
        with Image.open(path) as image:
            _require_plain(path, image)
            array = np.array(image.convert("RGB"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: listed in {INDEX_NAME} but missing") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ConfigError(f"{path}: not a readable image: {error}") from None
    return torch.from_numpy(array).permute(2, 0, 1)


def read_side(path: Path) -> int:
    """Side of a square image in pixels, from its header. Raises ConfigError."""
    try:
        with Image.open(path) as image:
            _require_plain(path, image)
            return image.width
    except FileNotFoundError:
        raise ConfigError(f"{path}: listed in {INDEX_NAME} but missing") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ConfigError(f"{path}: not a readable image: {error}") from None


def decode_all(files: Sequence[Path], side: int, show_progress: bool) -> Tensor:
    """Images (N, 3, side, side) uint8."""
    pixels = torch.empty(len(files), 3, side, side, dtype=torch.uint8)

    def decode_into(index: int) -> None:
        image = decode(files[index])
        require_side(files[index], image.shape[-1], files[0], side)
        pixels[index] = image

    _for_each(decode_into, len(files), "loading images", show_progress)
    return pixels


def check_all(files: Sequence[Path], side: int, show_progress: bool) -> None:
    """Raise ConfigError now and not hours later for a file that is missing or has another size."""

    def check(index: int) -> None:
        require_side(files[index], read_side(files[index]), files[0], side)

    _for_each(check, len(files), "checking images", show_progress)


def require_side(file: Path, found: int, first: Path, side: int) -> None:
    """Raise ConfigError if an image isn't as wide as the first of its folder."""
    if found != side:
        raise ConfigError(f"{file}: {found} px wide, but {first} is {side} px; use one size")


def _require_plain(path: Path, image: Image.Image) -> None:
    if image.width != image.height:
        raise ConfigError(f"{path}: {image.width}x{image.height} px, must be square")
    if image.mode.startswith(("I", "F")):  # which Pillow would clip to 8 bits, white for the most part
        raise ConfigError(f"{path}: has more than 8 bits (mode {image.mode}); convert it with nvb-face data convert")


def _for_each(work: Callable[[int], None], count: int, title: str, show_progress: bool) -> None:
    """work(0), ..., work(count - 1) by several threads; the first error ends it."""
    with ThreadPoolExecutor() as pool:
        try:
            for _ in _tracked(pool.map(work, range(count)), count, title, show_progress):
                pass
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _tracked(items: Any, total: int, title: str, show_progress: bool) -> Any:
    from rich.console import Console
    from rich.progress import track

    return track(items, title, total=total, console=Console(stderr=True), disable=not show_progress)
