"""Square face crops: cutting them out of photos, their cameras, and finding the aligned crop without landmarks.

Pixel coordinates are continuous: (0, 0) is the picture's top left corner, pixel i has its centre at i + 0.5.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .cameras import FOCAL, Cameras, roll_rotation
from .detect import FaceBox
from .errors import CameraError, ConfigError, ImageError

# The aligned crop against the LBP cascade's box, in box sizes. The median of 115 synthetic heads is 1.40 with a rise of
# 0.10; eyes and mouth of a real portrait (scikit-image's astronaut) ask for 1.55 with a rise of 0.14.
CROP_PER_FACE_BOX = 1.5
MAX_PLAIN = 1.5  # pixels of a photo per pixel of a crop that bicubic samples are taken from as they are
CROP_RISE = 0.1  # of the crop's centre above the box's
MAX_ZOOM = 2.0  # of one refinement
MAX_SHIFT = 0.5  # of one refinement, in box sizes
MAX_ROLL_DEG = 45.0  # of one refinement


@dataclass(frozen=True)
class CropBox:
    """A square in a photo, in pixels. `roll_deg` is the roll of the photo's face, which the crop undoes."""

    center_x: float
    center_y: float
    size_px: float
    roll_deg: float = 0.0

    def __post_init__(self) -> None:
        values = (self.center_x, self.center_y, self.size_px, self.roll_deg)
        if not all(map(math.isfinite, values)) or self.size_px <= 0:
            raise ConfigError(f"{self} must be finite, with size_px above 0")


def default_box(face: FaceBox) -> CropBox:
    """The aligned crop (as EG3D) of a frontal face that `detect_faces` found; loose for any other face."""
    roll = math.radians(face.roll_deg)
    center_x, center_y, rise = face.x + face.size_px / 2, face.y + face.size_px / 2, CROP_RISE * face.size_px
    return CropBox(
        center_x + rise * math.sin(roll),
        center_y - rise * math.cos(roll),
        CROP_PER_FACE_BOX * face.size_px,
        face.roll_deg,
    )


def crop_image(image: Tensor, box: CropBox, size: int) -> Tensor:
    """The box of an image (3, H, W) as (3, size, size): antialiased; beyond the image its edge repeats.

    Raises ImageError for a box that lies wholly outside the image.
    """
    H, W = image.shape[-2:]
    reach = box.size_px / math.sqrt(2)
    if not (-reach < box.center_x < W + reach and -reach < box.center_y < H + reach):
        raise ImageError(f"{box} lies outside the image of {W}×{H} pixels; choose a box around the face")
    return _antialiased(image[None], [box], size)[0]


def crop_batch(images: Tensor, boxes: Sequence[CropBox], size: int) -> Tensor:
    """A box of each image (B, 3, H, W) in [-1, 1] as (B, 3, size, size): bicubic; beyond the images their edges repeat.

    Antialiased only where the largest box takes more than MAX_PLAIN · size pixels, where it would show.
    """
    largest = max(box.size_px for box in boxes)
    return (_bicubic if largest <= MAX_PLAIN * size else _antialiased)(images, boxes, size)


def _antialiased(images: Tensor, boxes: Sequence[CropBox], size: int) -> Tensor:
    """Shrinking is a plain average of whole pixels first, then of samples at most one pixel apart."""
    H, W = images.shape[-2:]
    largest = max(box.size_px for box in boxes)
    factor = max(1, int(largest / size / 2))
    if factor > 1:
        images = F.avg_pool2d(F.pad(images, (0, -W % factor, 0, -H % factor), mode="replicate"), factor)
        boxes = [CropBox(b.center_x / factor, b.center_y / factor, b.size_px / factor, b.roll_deg) for b in boxes]
    samples = math.ceil(largest / factor / size)
    return F.avg_pool2d(_bicubic(images, boxes, size * samples), samples)


def _bicubic(images: Tensor, boxes: Sequence[CropBox], size: int) -> Tensor:
    H, W = images.shape[-2:]
    theta = torch.tensor([_affine(box, W, H) for box in boxes], dtype=images.dtype, device=images.device)  # (B, 2, 3)
    positions = F.affine_grid(theta, [len(boxes), 1, size, size], align_corners=False)  # (B, size, size, 2)
    return F.grid_sample(images, positions, mode="bicubic", padding_mode="border", align_corners=False).clamp(-1, 1)


def crop_cameras(cameras: Cameras, box: CropBox, width: int, height: int) -> Cameras:
    """Exact cameras (N) of the box's crop, given the cameras (N) of the whole width × height images.

    Raises CameraError for a rolled crop of pixels that are not square, which no pinhole camera takes.
    """
    size = torch.tensor([width, height], dtype=torch.float64)
    focal_px = torch.diagonal(cameras.intrinsics, dim1=1, dim2=2)[:, :2] * size  # (N, 2)
    if box.roll_deg % 360 != 0 and not torch.allclose(focal_px[:, 0], focal_px[:, 1], rtol=1e-6, atol=0):
        shown = ", ".join(f"{value:g}" for value in focal_px[0].tolist())
        raise CameraError(f"crop with roll {box.roll_deg:g}° needs square pixels; focal lengths are {shown} px")
    unroll = roll_rotation(torch.tensor(-box.roll_deg, dtype=torch.float64))  # of the camera's axes
    cam2world = cameras.cam2world.clone()
    cam2world[:, :3, :3] = cam2world[:, :3, :3] @ unroll
    intrinsics = cameras.intrinsics.clone()
    intrinsics[:, [0, 1], [0, 1]] = focal_px / box.size_px
    center_px = torch.tensor([box.center_x, box.center_y], dtype=torch.float64)
    principal_px = cameras.intrinsics[:, :2, 2] * size
    intrinsics[:, :2, 2] = 0.5 + (principal_px - center_px) / box.size_px @ unroll[:2, :2]
    return Cameras(cam2world, intrinsics)


def refine_box(
    image: Tensor, box: CropBox, predict: Callable[[Tensor], Cameras], size: int, iterations: int = 2
) -> CropBox:
    """The box whose crop has focal length FOCAL, its principal point in the centre and no roll, by prediction.

    `predict` maps a crop (1, 3, size, size) of the image (3, H, W) to its camera. One exact prediction is enough. Each
    iteration is limited (MAX_ZOOM, MAX_SHIFT, MAX_ROLL_DEG) and keeps the centre inside the image, so that one bad
    prediction cannot lose the face.
    """
    H, W = image.shape[-2:]
    for _ in range(iterations):
        camera = predict(crop_image(image, box, size)[None])
        box = _aligned(box, camera)
        box = CropBox(min(max(box.center_x, 0), W), min(max(box.center_y, 0), H), box.size_px, box.roll_deg)
    return box


def _aligned(box: CropBox, camera: Cameras) -> CropBox:
    """The box that `camera`, the camera (1) of the crop `box`, says is aligned, within the limits of one refinement."""
    fx, fy, cx, cy = (float(camera.intrinsics[0, i, j]) for i, j in ((0, 0), (1, 1), (0, 2), (1, 2)))
    zoom = min(max(math.sqrt(fx * fy) / FOCAL, 1 / MAX_ZOOM), MAX_ZOOM)
    shift_x, shift_y = cx - 0.5, cy - 0.5
    within = min(1.0, MAX_SHIFT / max(math.hypot(shift_x, shift_y), 1e-9))
    roll = min(max(float(camera.angles().roll_deg), -MAX_ROLL_DEG), MAX_ROLL_DEG)
    s, c = math.sin(math.radians(box.roll_deg)), math.cos(math.radians(box.roll_deg))
    step = within * box.size_px
    return CropBox(
        box.center_x + step * (c * shift_x - s * shift_y),
        box.center_y + step * (s * shift_x + c * shift_y),
        box.size_px * zoom,
        box.roll_deg + roll,
    )


def _affine(box: CropBox, width: int, height: int) -> list[list[float]]:
    """Rows of `affine_grid`'s theta: crop coordinates in [-1, 1] to image coordinates in [-1, 1]."""
    s, c = math.sin(math.radians(box.roll_deg)), math.cos(math.radians(box.roll_deg))
    x_scale, y_scale = box.size_px / width, box.size_px / height
    return [
        [c * x_scale, -s * x_scale, 2 * box.center_x / width - 1],
        [s * y_scale, c * y_scale, 2 * box.center_y / height - 1],
    ]
