"""Training batches: crop jitter, mirroring and degradation on top of a FaceFolder.

A batch is a pure function of (seed, step, rank) through `batch_generator`, so resuming needs no random state.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from nvb_core.align import CropBox, crop_batch, crop_cameras
from nvb_core.cameras import Cameras, roll_rotation
from nvb_core.degradation import PRESETS, Degradation, DegradationMix, DegradationRanges, degrade, sample_degradation
from nvb_core.errors import ConfigError

from .data import FaceFolder, FaceSource, to_float
from .tones import TRUE_COLOURS, ToneJitter

NOTHING = torch.empty(0)
Ranges = DegradationRanges | DegradationMix


@dataclass(frozen=True)
class CropJitter:
    """How loosely inputs are cropped, relative to the canonical crop. All values are chosen."""

    scale: tuple[float, float] = (0.8, 1.25)  # side of the crop / canonical side, log-uniform
    shift: float = 0.08  # centre moves by up to this fraction of the crop's side, in x and in y
    roll_deg: float = 12.0  # turns by up to this angle
    probability: float = 0.8  # else the canonical crop

    def __post_init__(self) -> None:
        if not 0.1 <= self.scale[0] <= self.scale[1] <= 4:
            raise ConfigError(f"crop jitter scale is {self.scale}, must be ascending in 0.1–4")
        if not (0 <= self.shift <= 0.5 and 0 <= self.roll_deg <= 180 and 0 <= self.probability <= 1):
            raise ConfigError(f"crop jitter needs shift in 0–0.5, roll_deg in 0–180, probability in 0–1: {self}")

    def sample(self, rng: np.random.Generator, canonical: CropBox) -> CropBox:
        """One jittered box; the same number of draws whatever the outcome."""
        keep = rng.random() >= self.probability
        size = canonical.size_px * math.exp(rng.uniform(math.log(self.scale[0]), math.log(self.scale[1])))
        dx, dy = rng.uniform(-self.shift, self.shift, size=2) * size
        roll = rng.uniform(-self.roll_deg, self.roll_deg)
        return canonical if keep else CropBox(canonical.center_x + dx, canonical.center_y + dy, size, roll)


CANONICAL = CropJitter(probability=0.0)


@dataclass(frozen=True, eq=False)
class RestorationBatch:
    """Step 1: degraded and clean crops of the same pictures, float32 in [-1, 1], and their cameras."""

    lq: Tensor  # (B, 3, S, S)
    target: Tensor  # (B, 3, S, S)
    cameras: Tensor  # (B, 16) camera vectors; zero where unknown
    has_camera: Tensor  # (B,) bool
    pending: tuple[Degradation, ...] = ()  # (B) that lq has still to undergo; none once it has

    def __post_init__(self) -> None:
        _check_shape("target", self.target, tuple(self.lq.shape))
        _check_shape("cameras", self.cameras, (len(self.lq), 16))
        _check_shape("has_camera", self.has_camera, (len(self.lq),))

    def completed(self) -> RestorationBatch:
        """With its pictures degraded, wherever they are now."""
        return replace(self, lq=degrade(self.lq, self.pending), pending=()) if self.pending else self


@dataclass(frozen=True, eq=False)
class ViewBatch:
    """Step 2: one degraded, jittered input per face and N views of the same face, by default canonical ones."""

    lq: Tensor  # (B, 3, S, S) float32 in [-1, 1]
    source_cameras: Tensor  # (B, 16) camera vectors of lq
    targets: Tensor  # (B, N, 3, S, S)
    target_cameras: Tensor  # (B, N, 16)
    degraded_targets: Tensor  # (B, N, 3, S, S): targets under the input's degradation
    target_images: Tensor = NOTHING  # (B, N) int64: indices of the targets in their folder
    mirrored: Tensor = NOTHING  # (B,) bool
    has_camera: Tensor = NOTHING  # (B,) bool: whose cameras are their own, not lent; if empty, all are
    latents: Tensor = NOTHING  # (B, N, Z, h, w) of the targets, if they are known already
    pending: tuple[Degradation, ...] = ()  # (B) that lq and degraded_targets have still to undergo; none once they have

    def __post_init__(self) -> None:
        B, C, H, W = self.lq.shape
        N = self.targets.shape[1]
        _check_shape("source_cameras", self.source_cameras, (B, 16))
        _check_shape("targets", self.targets, (B, N, C, H, W))
        _check_shape("target_cameras", self.target_cameras, (B, N, 16))
        _check_shape("degraded_targets", self.degraded_targets, (B, N, C, H, W))

    def completed(self) -> ViewBatch:
        """With its pictures degraded, wherever they are now; the views of a face alike, but for the noise."""
        if not self.pending:
            return self
        faces, views = self.targets.shape[:2]
        repeated = [degradation for degradation in self.pending for _ in range(views)]
        degraded = degrade(self.degraded_targets.flatten(0, 1), repeated, list(range(1, views + 1)) * faces)
        lq = degrade(self.lq, self.pending)
        return replace(self, lq=lq, degraded_targets=degraded.unflatten(0, (faces, views)), pending=())


def _check_shape(name: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
    if tuple(tensor.shape) != shape:
        raise ValueError(f"{name} is {tuple(tensor.shape)}, must be {shape}")


def batch_generator(seed: int, step: int, rank: int) -> np.random.Generator:
    """The one source of randomness of a process's batch at a step."""
    return np.random.default_rng([seed, step, rank])


def jittered_crops(images: Tensor, cameras: Cameras, boxes: Sequence[CropBox], size: int) -> tuple[Tensor, Cameras]:
    """Crop square images (B, 3, H, H), each by its own box; returns crops (B, 3, size, size) and their exact cameras.

    The cameras equal `crop_cameras` of each image and box, computed for all at once.
    """
    values = torch.tensor([[b.center_x, b.center_y, b.size_px, b.roll_deg] for b in boxes], dtype=torch.float64)
    centre, side, roll = values[:, :2] / images.shape[-1], values[:, 2:3] / images.shape[-1], values[:, 3]
    unroll = roll_rotation(-roll)  # (B, 3, 3) of the cameras' axes
    cam2world, intrinsics = cameras.cam2world.clone(), cameras.intrinsics.clone()
    cam2world[:, :3, :3] = cam2world[:, :3, :3] @ unroll
    intrinsics[:, [0, 1], [0, 1]] /= side
    offset = (intrinsics[:, :2, 2] - centre) / side
    intrinsics[:, :2, 2] = 0.5 + (offset[:, None] @ unroll[:, :2, :2])[:, 0]
    return crop_batch(images, boxes, size), Cameras(cam2world, intrinsics)


def sample_crops(
    folder: FaceFolder, batch_size: int, rng: np.random.Generator, jitter: CropJitter
) -> tuple[Tensor, Cameras, Tensor]:
    """Clean random crops (B, 3, S, S) of random images, half of them mirrored, their cameras, and which are known (B,).

    Cameras of images of unknown camera mean nothing.
    """
    chosen = _choose_images(folder, batch_size, rng)
    mirror = _coin(rng, batch_size)
    parts = folder.by_source(chosen)
    boxes = _jittered_boxes(parts, batch_size, rng, jitter)
    crops, has_camera = torch.empty(batch_size, 3, folder.size, folder.size), torch.empty(batch_size, dtype=torch.bool)
    labels = torch.empty(batch_size, 25, dtype=torch.float64)
    for source, rows, local in parts:
        images = _mirror_images_(to_float(source.images(local)), mirror[rows])
        cameras = _mirror_cameras(source.cameras[local], mirror[rows])
        crops[rows], cropped = jittered_crops(images, cameras, [boxes[row] for row in rows], folder.size)
        labels[rows], has_camera[rows] = cropped.to_eg3d(), source.has_camera[local]
    return crops, Cameras.from_eg3d(labels), has_camera


def sample_restoration_batch(
    folder: FaceFolder,
    batch_size: int,
    rng: np.random.Generator,
    jitter: CropJitter = CropJitter(),
    ranges: Ranges = PRESETS["train"],
    degrade_later: bool = False,
    tones: ToneJitter = TRUE_COLOURS,
) -> RestorationBatch:
    """Step 1: jittered crops of random images and their degraded copies, each toned and degraded in its own way.

    With degrade_later that is left to the batch's `completed`.
    """
    target, cameras, has_camera = sample_crops(folder, batch_size, rng, jitter)
    pending = tuple(sample_degradation(rng, ranges) for _ in target)
    target = tones(target[:, None], rng)[:, 0]
    batch = RestorationBatch(target, target, cameras.to_vector() * has_camera[:, None], has_camera, pending)
    return batch if degrade_later else batch.completed()


def sample_view_batch(
    folder: FaceFolder,
    faces: int,
    views: int,
    rng: np.random.Generator,
    jitter: CropJitter = CropJitter(),
    ranges: Ranges = PRESETS["train"],
    source_target_probability: float = 0.1,
    degrade_later: bool = False,
    tones: ToneJitter = TRUE_COLOURS,
    target_jitter: CropJitter = CANONICAL,
    own_views: bool = False,
) -> ViewBatch:
    """Step 2: random subjects, a random source image and `views` other images of each; half of the faces mirrored,
    all pictures of a face in one tone.

    Only images whose cameras are known are used. With own_views subjects that have fewer images are drawn as well, of
    which the same stand for several views; one of unknown camera gets the pose of some other. With
    source_target_probability (chosen) the first target is the source's own picture: as a canonical crop, or if targets
    are jittered, cropped as the source is. With degrade_later pictures are left to be degraded by the batch's
    `completed`. Raises ConfigError if no subject has more than `views` such images.
    """
    chosen = _choose_views(folder, faces, views, rng, source_target_probability, own_views)  # (B, 1 + N), source first
    mirror = _coin(rng, faces)
    parts = folder.by_source(chosen[:, 0])
    boxes = [_jittered_boxes(parts, faces, rng, jitter)]  # of the photos; then of their targets, if they are jittered
    if target_jitter.probability:
        boxes += [_jittered_boxes(parts, faces, rng, target_jitter) for _ in range(views)]
        own = chosen[:, 1] == chosen[:, 0]
        boxes[1] = [photo if same else target for photo, target, same in zip(*boxes[:2], own, strict=True)]
    lent = folder.poses(rng.choice(folder.posed, size=faces)) if own_views else None  # (B, 4, 4)
    has_camera = torch.empty(faces, dtype=torch.bool)
    pictures, vectors = torch.empty(faces, 1 + views, 3, folder.size, folder.size), torch.empty(faces, 1 + views, 16)
    for source, rows, first in parts:
        local = first[:, None] + torch.from_numpy(chosen[rows] - chosen[rows, :1])
        images, cameras = _mirrored_views(source, local, mirror[rows])
        has_camera[rows] = source.has_camera[first]
        if lent is not None:
            cameras = _lend_poses(cameras, lent[rows], ~has_camera[rows])
        picked = [[of_view[row] for row in rows] for of_view in boxes]
        pictures[rows], vectors[rows] = _view_crops(source, images, cameras, picked, folder.size)

    pending = tuple(sample_degradation(rng, ranges) for _ in range(faces))
    sources, targets = tones(pictures, rng).split([1, views], dim=1)
    batch = ViewBatch(
        lq=sources[:, 0],
        source_cameras=vectors[:, 0],
        targets=targets,
        target_cameras=vectors[:, 1:],
        degraded_targets=targets,
        target_images=torch.from_numpy(chosen[:, 1:]),
        mirrored=mirror,
        has_camera=has_camera,
        pending=pending,
    )
    return batch if degrade_later else batch.completed()


def _view_crops(
    source: FaceSource, images: Tensor, cameras: Cameras, boxes: Sequence[Sequence[CropBox]], size: int
) -> tuple[Tensor, Tensor]:
    """Crops (B, V, 3, size, size) of a source's images (B, V, 3, H, H), and their camera vectors (B, V, 16).

    Cameras (B·V) are the images'. Boxes are for each of the first views one per face; the other views are canonical.
    """
    faces, views = images.shape[:2]
    canonical = crop_cameras(cameras, source.canonical_box, source.side, source.side)
    vectors = canonical.to_vector().unflatten(0, (-1, views))
    crops = torch.empty(faces, views, 3, size, size)
    for view, of_view in enumerate(boxes):
        crops[:, view], exact = jittered_crops(images[:, view], cameras[view::views], of_view, size)
        vectors[:, view] = exact.to_vector()
    rest = images[:, len(boxes) :]
    if rest.numel():
        crops[:, len(boxes) :] = source.canonical_crops(rest.flatten(0, 1), size).unflatten(0, (faces, -1))
    return crops, vectors


def _mirrored_views(source: FaceSource, indices: Tensor, mirror: Tensor) -> tuple[Tensor, Cameras]:
    """Images (B, N, 3, H, H) of a source at indices (B, N), faces flipped where mirror (B,), and cameras (B·N)."""
    flat, flips = indices.flatten(), mirror.repeat_interleave(indices.shape[1])
    images = _mirror_images_(to_float(source.images(flat)), flips)
    return images.unflatten(0, tuple(indices.shape)), _mirror_cameras(source.cameras[flat], flips)


def _lend_poses(cameras: Cameras, cam2world: Tensor, lacking: Tensor) -> Cameras:
    """Cameras (B·N), of which those of faces that lack one (B,) get the face's cam2world (B, 4, 4)."""
    views = len(cameras) // len(lacking)
    mask = lacking.repeat_interleave(views)[:, None, None]
    return Cameras(torch.where(mask, cam2world.repeat_interleave(views, 0), cameras.cam2world), cameras.intrinsics)


def _jittered_boxes(
    parts: Sequence[tuple[FaceSource, np.ndarray, Tensor]], count: int, rng: np.random.Generator, jitter: CropJitter
) -> list[CropBox]:
    """One box for each item (B), about the canonical crop of its own source."""
    canonical = {row: source.canonical_box for source, rows, _ in parts for row in rows.tolist()}
    return [jitter.sample(rng, canonical[row]) for row in range(count)]


def _choose_images(folder: FaceFolder, count: int, rng: np.random.Generator) -> np.ndarray:
    """Image indices (B,)."""
    probabilities = folder.image_probabilities
    if probabilities is None:
        return rng.integers(len(folder), size=count)
    return rng.choice(len(folder), size=count, p=probabilities)


def _choose_views(
    folder: FaceFolder,
    faces: int,
    views: int,
    rng: np.random.Generator,
    source_target_probability: float,
    own_views: bool = False,
) -> np.ndarray:
    """Image indices (B, 1 + N), source first; with own_views those of a subject that has fewer are repeated."""
    usable = np.flatnonzero(folder.view_counts > (0 if own_views else views))
    if not len(usable):
        most = folder.view_counts.max(initial=0)
        raise ConfigError(f"no subject has the {views + 1} images that {views} target views need (most: {most})")
    subjects = rng.choice(usable, size=faces, p=folder.probabilities(folder.subject_sources[usable]))
    chosen = np.stack([np.resize(rng.permutation(folder.views[subject]), views + 1) for subject in subjects])
    own = rng.random(faces) < source_target_probability
    chosen[own, 1] = chosen[own, 0]
    return chosen


def _coin(rng: np.random.Generator, count: int) -> Tensor:
    return torch.from_numpy(rng.random(count) < 0.5)


def _mirror_images_(images: Tensor, mirror: Tensor) -> Tensor:
    """Flips images (B, 3, H, W) where mirror (B,), in place."""
    images[mirror] = images[mirror].flip(-1)
    return images


def _mirror_cameras(cameras: Cameras, mirror: Tensor) -> Cameras:
    flipped, mask = cameras.mirrored(), mirror[:, None, None]
    return Cameras(
        torch.where(mask, flipped.cam2world, cameras.cam2world),
        torch.where(mask, flipped.intrinsics, cameras.intrinsics),
    )
