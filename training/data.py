"""Folders of posed face images: the common on-disk form, and one held in memory for training.

    FOLDER/{subject:08d}/{view:02d}.png
    FOLDER/dataset.json  {"format": "nvb-faces", "version": 1, "labels": [[path, [25 floats]], ...],
                          "subjects": [subject of each label, ...], "meta": {...}}

EG3D's own dataset.json ({"labels": [...]}) reads too; there each image is its own subject. Images are square and may
carry a margin around the canonical view for crop jitter; labels always describe the whole image.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from nvb_core.align import CropBox, crop_batch, crop_cameras
from nvb_core.cameras import FOCAL, Cameras
from nvb_core.errors import CameraError, ConfigError
from nvb_core.staging import write_atomically

INDEX_NAME = "dataset.json"
FORMAT, VERSION = "nvb-faces", 1


@dataclass(frozen=True)
class FaceIndex:
    """Content of a dataset.json; entry i is image paths[i], labels[i] and subjects[i]."""

    paths: tuple[str, ...]  # relative to the folder, with forward slashes
    labels: Tensor  # (N, 25) float64 EG3D labels of the whole images
    subjects: tuple[str, ...]
    meta: dict[str, Any]


def write_index(
    folder: Path, paths: Sequence[str], labels: Tensor, subjects: Sequence[str], meta: Mapping[str, Any]
) -> None:
    """Write FOLDER/dataset.json in one step: labels (N, 25) of the images at paths (N), showing subjects (N).

    A meta["margin"] > 1 says that the canonical view is the centre 1/margin of each image. Raises OutputError.
    """
    if not len(paths) == len(labels) == len(subjects):
        raise ValueError(f"{len(paths)} paths, {len(labels)} labels and {len(subjects)} subjects")
    index = {
        "format": FORMAT,
        "version": VERSION,
        "labels": [[path, label] for path, label in zip(paths, labels.double().tolist(), strict=True)],
        "subjects": list(subjects),
        "meta": dict(meta),
    }
    text = json.dumps(index)
    write_atomically(folder / INDEX_NAME, lambda partial: partial.write_text(text, encoding="utf-8"))


def read_index(folder: Path) -> FaceIndex:
    """Read and check FOLDER/dataset.json. Raises ConfigError naming the file and the first bad entry."""
    path = folder / INDEX_NAME
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; a face folder needs a {INDEX_NAME}") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ConfigError(f"{path}: not readable as JSON: {error}") from None
    if not isinstance(index, dict) or not isinstance(index.get("labels"), list) or not index["labels"]:
        raise ConfigError(f'{path}: must hold {{"labels": [[path, [25 numbers]], ...]}} with at least one entry')
    if "format" in index and (index["format"], index.get("version")) != (FORMAT, VERSION):
        found = f"{index['format']!r} version {index.get('version')!r}"
        raise ConfigError(f"{path}: format {found}, expected {FORMAT!r} version {VERSION}")
    entries = [_parse_entry(entry, f"{path}: labels[{i}]") for i, entry in enumerate(index["labels"])]
    paths = tuple(name for name, _ in entries)
    subjects = index.get("subjects", list(paths))
    if not isinstance(subjects, list) or len(subjects) != len(paths) or not all(isinstance(s, str) for s in subjects):
        raise ConfigError(f"{path}: subjects must be a list of {len(paths)} strings, one for each label")
    meta = index.get("meta", {})
    if not isinstance(meta, dict):
        raise ConfigError(f"{path}: meta must be an object")
    return FaceIndex(paths, torch.tensor([label for _, label in entries], dtype=torch.float64), tuple(subjects), meta)


def _parse_entry(entry: Any, where: str) -> tuple[str, list[float]]:
    if not isinstance(entry, list) or len(entry) != 2 or not isinstance(entry[0], str):
        raise ConfigError(f"{where}: must be [path, [25 numbers]], is {str(entry)[:60]}")
    name, label = entry
    pure = PurePosixPath(name)
    if pure.is_absolute() or ".." in pure.parts:
        raise ConfigError(f"{where}: path {name!r} must lie inside the folder")
    if not isinstance(label, list) or len(label) != 25:
        raise ConfigError(f"{where} ({name}): label must be 25 numbers, is {str(label)[:60]}")
    if not all(isinstance(v, (int, float)) and not isinstance(v, bool) and math.isfinite(v) for v in label):
        raise ConfigError(f"{where} ({name}): label holds a value that is not a finite number")
    return name, label


@dataclass(frozen=True, eq=False)
class FaceFolder:
    """One or more face folders, decoded in memory."""

    pixels: Tensor  # (N, 3, H, H) uint8
    cameras: Cameras  # (N) of the whole images
    views: tuple[np.ndarray, ...]  # for each subject, the indices of its images
    canonical_px: float  # side of the canonical centre crop in pixels of the whole image
    size: int  # side that crops are resampled to

    @classmethod
    def load(cls, folders: Path | Sequence[Path], size: int, show_progress: bool = False) -> FaceFolder:
        """Decode all images of the folders, which must agree in image size and margin; crops will be size × size.

        The canonical crop is the centre square that brings the focal length to FOCAL (H · fx / FOCAL, from the median
        fx); a number "margin" in meta says H / margin instead. Raises ConfigError naming the file that is bad.
        """
        roots = [Path(folders)] if isinstance(folders, (str, Path)) else [Path(folder) for folder in folders]
        if not roots:
            raise ConfigError("no data folder given")
        indices = [read_index(root) for root in roots]
        files = [root / name for root, index in zip(roots, indices, strict=True) for name in index.paths]
        pixels = _decode_all(files, show_progress)
        cameras = Cameras.cat([_cameras(root, index) for root, index in zip(roots, indices, strict=True)])
        canonical_px = _canonical_px(roots, indices, pixels.shape[-1])
        if size > canonical_px + 0.5:
            raise ConfigError(f"{roots[0]}: the canonical crop is {canonical_px:g} px, too small for size {size}")
        names = [(i, subject) for i, index in enumerate(indices) for subject in index.subjects]
        return cls(pixels, cameras, _group(names), canonical_px, size)

    def __len__(self) -> int:
        return len(self.pixels)

    @cached_property
    def view_counts(self) -> np.ndarray:
        """Number of images of each subject."""
        return np.array([len(indices) for indices in self.views])

    @property
    def canonical_box(self) -> CropBox:
        """The canonical crop in pixels of the whole image."""
        centre = self.pixels.shape[-1] / 2
        return CropBox(centre, centre, self.canonical_px)

    def canonical_cameras(self) -> Cameras:
        """Cameras (N) of the canonical crops."""
        side = self.pixels.shape[-1]
        return crop_cameras(self.cameras, self.canonical_box, side, side)

    def canonical_crops(self, images: Tensor) -> Tensor:
        """Centre crops (B, 3, S, S) of whole images (B, 3, H, H); the very pixels where no resampling is needed."""
        offset, odd = divmod(self.pixels.shape[-1] - self.size, 2)
        if self.canonical_px == self.size and not odd:
            return images[..., offset : offset + self.size, offset : offset + self.size]
        return crop_batch(images, [self.canonical_box] * len(images), self.size)


def to_float(pixels: Tensor) -> Tensor:
    """uint8 pixels to float32 in [-1, 1]."""
    return pixels.float().div_(127.5).sub_(1)


def _cameras(root: Path, index: FaceIndex) -> Cameras:
    try:
        return Cameras.from_eg3d(index.labels)
    except CameraError as error:
        raise ConfigError(f"{root / INDEX_NAME}: bad label: {error}") from None


def _canonical_px(roots: Sequence[Path], indices: Sequence[FaceIndex], image_size: int) -> float:
    sides = []
    for root, index in zip(roots, indices, strict=True):
        margin = index.meta.get("margin", FOCAL / float(index.labels[:, 16].median()))
        if isinstance(margin, bool) or not isinstance(margin, (int, float)) or not 0 < margin <= 10:
            raise ConfigError(f"{root / INDEX_NAME}: margin is {margin!r}, must be a number in 1–10")
        side = min(image_size / margin, float(image_size))
        # Labels are often stored in single precision: 127.9999 means 128.
        sides.append(float(round(side)) if abs(side - round(side)) < 0.02 else side)
        if sides[-1] != sides[0]:
            raise ConfigError(f"{root}: canonical crop of {sides[-1]:g} px, but {sides[0]:g} px in {roots[0]}")
    return sides[0]


def _group(names: Sequence[tuple[int, str]]) -> tuple[np.ndarray, ...]:
    """Indices of equal names, in order of first appearance."""
    groups: dict[tuple[int, str], list[int]] = {}
    for index, name in enumerate(names):
        groups.setdefault(name, []).append(index)
    return tuple(np.array(group) for group in groups.values())


def _decode_all(files: Sequence[Path], show_progress: bool) -> Tensor:
    """(N, 3, H, H) uint8; all images must have the first one's size."""
    side = _decode(files[0]).shape[-1]
    pixels = torch.empty(len(files), 3, side, side, dtype=torch.uint8)

    def decode_into(index: int) -> None:
        image = _decode(files[index])
        if image.shape[-1] != side:
            raise ConfigError(f"{files[index]}: {image.shape[-1]} px wide, but {files[0]} is {side} px; use one size")
        pixels[index] = image

    with ThreadPoolExecutor() as pool:
        try:
            for _ in _tracked(pool.map(decode_into, range(len(files))), len(files), show_progress):
                pass
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return pixels


def _tracked(items: Any, total: int, show_progress: bool) -> Any:
    from rich.console import Console
    from rich.progress import track

    return track(items, "loading images", total=total, console=Console(stderr=True), disable=not show_progress)


def _decode(path: Path) -> Tensor:
    """One square 8-bit image as (3, H, H) uint8."""
    try:
        with Image.open(path) as image:
            array = np.array(image.convert("RGB"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: listed in {INDEX_NAME} but missing") from None
    except (OSError, SyntaxError, ValueError) as error:
        raise ConfigError(f"{path}: not a readable image: {error}") from None
    if array.shape[0] != array.shape[1]:
        raise ConfigError(f"{path}: {array.shape[1]}x{array.shape[0]} px, must be square")
    return torch.from_numpy(array).permute(2, 0, 1)
