"""Face folders as training sees them: one or more sources, each of its own image size and margin, in memory or not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from nvb_core.align import CropBox, crop_batch, crop_cameras
from nvb_core.cameras import FOCAL, Cameras
from nvb_core.errors import CameraError, ConfigError

from .images import check_all, decode, decode_all, read_side, require_side
from .index import INDEX_NAME, FaceIndex, Split, read_index

IN_MEMORY_BYTES = 4 * 2**30
"""What `auto` keeps decoded in memory, all folders of a process together (chosen)."""

InMemory = Literal["auto", "yes", "no"]


@dataclass(frozen=True, eq=False)
class FaceSource:
    """Images of one folder, which all have one size and margin."""

    root: Path
    files: tuple[Path, ...]
    side: int  # H of the images, in pixels
    pixels: Tensor | None  # (N, 3, H, H) uint8, or None: decoded when asked for
    cameras: Cameras  # (N) of the whole images; where unknown, one that sees the canonical crop from the front
    has_camera: Tensor  # (N,) bool
    canonical_px: float  # side of the canonical centre crop in pixels of the whole image

    def __len__(self) -> int:
        return len(self.cameras)

    def images(self, indices: Tensor) -> Tensor:
        """Whole images (B, 3, H, H) uint8. Raises ConfigError naming a file that can't be decoded."""
        if self.pixels is not None:
            return self.pixels[indices]
        return torch.stack([self._decoded(index) for index in indices.tolist()])

    def _decoded(self, index: int) -> Tensor:
        image = decode(self.files[index])
        require_side(self.files[index], image.shape[-1], self.files[0], self.side)
        return image

    @property
    def canonical_box(self) -> CropBox:
        """The canonical crop in pixels of the whole image."""
        return CropBox(self.side / 2, self.side / 2, self.canonical_px)

    def canonical_cameras(self) -> Cameras:
        """Cameras (N) of the canonical crops."""
        return crop_cameras(self.cameras, self.canonical_box, self.side, self.side)

    def canonical_crops(self, images: Tensor, size: int) -> Tensor:
        """Centre crops (B, 3, S, S) of whole images (B, 3, H, H); the very pixels where no resampling is needed."""
        offset, odd = divmod(self.side - size, 2)
        if self.canonical_px == size and not odd:
            return images[..., offset : offset + size, offset : offset + size]
        return crop_batch(images, [self.canonical_box] * len(images), size)


@dataclass(frozen=True, eq=False)
class FaceFolder:
    """One or more face folders; image i counts through all of them in order."""

    sources: tuple[FaceSource, ...]
    views: tuple[np.ndarray, ...]  # for each subject with a known camera, the indices of its different views
    size: int  # side that crops are resampled to
    weights: tuple[float, ...] = ()  # how often each source is drawn; empty: by its number of images (or subjects)

    @classmethod
    def load(
        cls,
        folders: Path | Sequence[Path],
        size: int,
        show_progress: bool = False,
        *,
        weights: Sequence[float] = (),
        split: Split = "all",
        in_memory: InMemory = "auto",
        lone: bool = False,
    ) -> FaceFolder:
        """Read face folders, of which only the subjects of `split`; crops will be size × size.

        The canonical crop of a folder is the centre square that brings the focal length to FOCAL (H · fx / FOCAL, from
        the median fx); a number "margin" in meta says H / margin instead. With in_memory="auto" all images are decoded
        now if they fit in IN_MEMORY_BYTES, else each when it is asked for; either way the pixels are the same. With
        `lone`, each image of a subject without any known camera counts as one view of one of its own.
        Raises ConfigError naming the file that is bad.
        """
        roots = [Path(folders)] if isinstance(folders, (str, Path)) else [Path(folder) for folder in folders]
        if not roots:
            raise ConfigError("no data folder given")
        _check_weights(weights, len(roots))
        indices = [_read_split(root, split) for root in roots]
        sides = [read_side(root / index.paths[0]) for root, index in zip(roots, indices, strict=True)]
        decoded_bytes = sum(3 * side**2 * len(index.paths) for side, index in zip(sides, indices, strict=True))
        keep = in_memory == "yes" or (in_memory == "auto" and decoded_bytes <= IN_MEMORY_BYTES)
        sources = tuple(
            _load_source(root, index, side, size, keep, show_progress)
            for root, index, side in zip(roots, indices, sides, strict=True)
        )
        return cls(sources, _views(indices, lone), size, tuple(weights))

    def __len__(self) -> int:
        return int(self._ends[-1])

    @cached_property
    def _ends(self) -> np.ndarray:
        """One past the index of each source's last image."""
        return np.cumsum([len(source) for source in self.sources])

    @cached_property
    def view_counts(self) -> np.ndarray:
        """Number of different views with a known camera of each subject."""
        return np.array([len(indices) for indices in self.views], dtype=int)

    @cached_property
    def subject_sources(self) -> np.ndarray:
        """Index of the source of each subject."""
        return self.source_of(np.array([indices[0] for indices in self.views], dtype=int))

    def source_of(self, indices: np.ndarray) -> np.ndarray:
        """Index of the source of each image (B,)."""
        return np.searchsorted(self._ends, indices, side="right")

    @cached_property
    def posed(self) -> np.ndarray:
        """Indices of the images whose camera is known."""
        return np.flatnonzero(torch.cat([source.has_camera for source in self.sources]))

    def poses(self, indices: np.ndarray) -> Tensor:
        """Camera-to-world matrices (B, 4, 4) of images (B,)."""
        return torch.cat([source.cameras.cam2world for source in self.sources])[indices]

    def by_source(self, indices: np.ndarray) -> list[tuple[FaceSource, np.ndarray, Tensor]]:
        """Images (B,) parted by source: the source, their places in `indices`, and their indices within the source."""
        owner = self.source_of(indices)
        starts = self._ends - [len(source) for source in self.sources]
        parts = [(i, np.flatnonzero(owner == i)) for i in np.unique(owner)]
        return [(self.sources[i], rows, torch.from_numpy(indices[rows] - starts[i])) for i, rows in parts]

    def probabilities(self, owners: np.ndarray) -> np.ndarray | None:
        """How often to draw each of some items, given the source of each (M,); None is all alike."""
        if not self.weights:
            return None
        counts = np.bincount(owners, minlength=len(self.sources))
        shares = np.array(self.weights)[owners] / counts[owners]
        return shares / shares.sum()

    @cached_property
    def image_probabilities(self) -> np.ndarray | None:
        """How often to draw each image; None is all alike."""
        return self.probabilities(self.source_of(np.arange(len(self))))

    def require_views(self, views: int, of_all: bool = True) -> None:
        """Raise ConfigError for a folder of which no subject has the views + 1 posed images that step 2 needs.

        If they aren't asked of all folders, one that has them is enough.
        """
        if not of_all and self.view_counts.max(initial=0) > views:
            return
        for i, source in enumerate(self.sources):
            most = int(self.view_counts[self.subject_sources == i].max(initial=0))
            if most <= views:
                without = int((~source.has_camera).sum())
                unposed = f"; {without} of its {len(source)} images have no camera" if without else ""
                raise ConfigError(
                    f"{source.root}: no subject has the {views + 1} images with cameras that {views} target views need "
                    f"(most: {most}{unposed}); leave this folder out of --data in step 2"
                )


def to_float(pixels: Tensor) -> Tensor:
    """uint8 pixels to float32 in [-1, 1]."""
    return pixels.float().div_(127.5).sub_(1)


def _check_weights(weights: Sequence[float], folders: int) -> None:
    if weights and len(weights) != folders:
        raise ConfigError(f"{len(weights)} data weights for {folders} data folders; give one for each")
    if not all(0 < weight < float("inf") for weight in weights):
        raise ConfigError(f"data weights are {list(weights)}, must be positive")


def _read_split(root: Path, split: Split) -> FaceIndex:
    index = read_index(root).only(split)
    if not index.paths:
        raise ConfigError(f"{root}: no subject is in the split {split}; use another --split or leave this folder out")
    return index


def _load_source(
    root: Path, index: FaceIndex, side: int, size: int, in_memory: bool, show_progress: bool
) -> FaceSource:
    files = tuple(root / name for name in index.paths)
    canonical_px = _canonical_px(root, index, side)
    cameras = _cameras(root, index, canonical_px / side)
    if size > canonical_px + 0.5:
        raise ConfigError(f"{root}: the canonical crop is {canonical_px:g} px, too small for size {size}")
    if not in_memory:
        check_all(files, side, show_progress)
    pixels = decode_all(files, side, show_progress) if in_memory else None
    return FaceSource(root, files, side, pixels, cameras, index.has_camera, canonical_px)


def _cameras(root: Path, index: FaceIndex, canonical_share: float) -> Cameras:
    frontal = Cameras.from_angles(0.0)
    frontal.intrinsics[:, [0, 1], [0, 1]] *= canonical_share
    try:
        return Cameras.from_eg3d(torch.where(index.has_camera[:, None], index.labels, frontal.to_eg3d()))
    except CameraError as error:
        raise ConfigError(f"{root / INDEX_NAME}: bad label: {error}") from None


def _canonical_px(root: Path, index: FaceIndex, side: int) -> float:
    focal = index.labels[index.has_camera, 16]
    seen = FOCAL / float(focal.median()) if len(focal) else 1.0  # of stored labels it may be just below 1
    margin = index.meta.get("margin", max(seen, 1.0))
    if isinstance(margin, bool) or not isinstance(margin, (int, float)) or not 1 <= margin <= 10:
        raise ConfigError(f"{root / INDEX_NAME}: margin is {margin!r}, must be a number in 1–10")
    canonical = side / margin
    # Labels are often stored in single precision: 127.9999 means 128.
    return float(round(canonical)) if abs(canonical - round(canonical)) < 0.02 else canonical


def _views(indices: Sequence[FaceIndex], lone: bool) -> tuple[np.ndarray, ...]:
    """Of each subject the indices of its views, in order of first appearance; if `lone`, each lone image by itself."""
    groups: dict[tuple[int, str, str], list[int]] = {}
    count = 0
    for i, index in enumerate(indices):
        alone = index.is_lone if lone else [False] * len(index.paths)
        for path, subject, is_view, by_itself in zip(index.paths, index.subjects, index.is_view, alone, strict=True):
            if is_view or by_itself:
                groups.setdefault((i, subject, path if by_itself else ""), []).append(count)
            count += 1
    return tuple(np.array(group) for group in groups.values())
