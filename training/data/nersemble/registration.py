"""Where the head is in a rig of calibrated cameras: the similarity that takes the rig's world into EG3D's space.

From near-frontal views i of one head, each with its exact camera in the rig and its camera as predicted in EG3D's
space (pred), both of the same square crop:

- Rotation: R_i = R_pred,world<-cam · M_i · R_rig,cam<-world; R is their chordal mean. M_i is the smallest rotation that
  takes the rig camera's ray through the head's centre to the predicted one's. It is 1 for a perfect prediction; without
  it a head away from the picture's middle, which a predictor sees as turned, would turn the mean.
- Centre c: the point nearest to the rig's rays through the pixels where the predicted cameras see EG3D's origin.
- Scale: only depth / focal is seen, and the rig's focal length is known: s = median of
  (depth_pred / focal_pred) / (depth_rig / focal_rig), depths of the centre.

A point p of the rig goes to s·R·(p - c). The view that is farthest off is dropped until all agree.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nvb_core.align import crop_cameras, crop_image, default_box, refine_box
from nvb_core.cameras import Cameras
from nvb_core.detect import detect_faces
from nvb_core.errors import ConfigError, NVBError

MIN_SPREAD = 1e-3
"""Least mean squared sine between the rays and their most common direction: about 2° apart (chosen)."""


class RegistrationError(NVBError):
    """Views that don't say where the head is."""


@dataclass(frozen=True)
class Observation:
    """One camera's view of the head; both cameras (1) are of the same square crop of its picture."""

    serial: str
    rig_camera: Cameras
    """In the rig's space, exact."""
    predicted: Cameras
    """In EG3D's space."""


@dataclass(frozen=True)
class Registration:
    similarity: Tensor
    """(4, 4) float64 [[s·R, t], [0, 1]], from the rig's world into EG3D's space."""
    used: tuple[str, ...]
    rejected: tuple[tuple[str, str], ...]
    """Serial and reason, the farthest off first."""
    angle_deg: float
    """Root mean square over the used views of the angles between their rotations and the mean."""
    shift: float
    """Root mean square over the used views of their rays' distances from the head's centre, in EG3D units."""


def register(
    observations: Sequence[Observation], min_views: int = 3, max_angle_deg: float = 12.0, max_shift: float = 0.15
) -> Registration:
    """The similarity on which at least `min_views` observations agree within `max_angle_deg` and `max_shift`.

    `max_shift` is a ray's distance from the head's centre, in EG3D units. Raises RegistrationError that says how many
    views agree and what is wrong with the others.
    """
    if min_views < 2 or not max_angle_deg > 0 or not max_shift > 0:
        raise ConfigError(f"min_views {min_views} must be at least 2, {max_angle_deg=} and {max_shift=} above 0")
    kept = [view for view in observations if _sees_origin(view.predicted)]
    rejected = [(view.serial, "predicted to look away from the head") for view in observations if view not in kept]
    while len(kept) >= min_views:
        fit = _fit(kept)
        worst = int(torch.maximum(fit.angles_deg / max_angle_deg, fit.shifts / max_shift).argmax())
        angle_deg, shift = float(fit.angles_deg[worst]), float(fit.shifts[worst])
        if angle_deg <= max_angle_deg and shift <= max_shift:
            used = tuple(view.serial for view in kept)
            return Registration(fit.similarity, used, tuple(rejected), _rms(fit.angles_deg), _rms(fit.shifts))
        rejected.append((kept.pop(worst).serial, f"{angle_deg:.1f}° and {shift:.2f} off the other views"))
    why = "".join(f"; {serial}: {reason}" for serial, reason in rejected)
    raise RegistrationError(
        f"the head's place in the rig needs {min_views} views that agree: {len(observations)} near-frontal "
        f"{'view was' if len(observations) == 1 else 'views were'} found, and no {min_views} of them agree within "
        f"{max_angle_deg:g}° and {max_shift:g}{why}"
    )


def observe(
    pictures: Mapping[str, Tensor],
    cameras: Mapping[str, Cameras],
    predict: Callable[[Tensor], Cameras],
    image_size: int,
    max_yaw_deg: float = 35.0,
) -> list[Observation]:
    """The views in which a face is found and is near-frontal: its predicted yaw is within `max_yaw_deg`.

    pictures: serial -> (3, H, W) in [-1, 1], upright, one head in each; cameras: serial -> camera (1) of the whole
    picture in the rig's space; `predict` maps crops (1, 3, image_size, image_size) to cameras in EG3D's space. Pixels
    are taken as square (the mean focal length), which is far below what predictions are off. Raises ConfigError for a
    picture without a camera.
    """
    observations = []
    for serial, picture in pictures.items():
        if serial not in cameras:
            raise ConfigError(f"camera {serial} has a picture and no calibration")
        faces = detect_faces(picture)
        if not faces:
            continue
        height, width = picture.shape[-2:]
        box = refine_box(picture, default_box(faces[0]), predict, image_size)
        predicted = predict(crop_image(picture, box, image_size)[None])
        if abs(float(predicted.angles().yaw_deg)) <= max_yaw_deg:
            whole = _square_pixels(cameras[serial], width, height)
            observations.append(Observation(serial, crop_cameras(whole, box, width, height), predicted))
    return observations


def _sees_origin(camera: Cameras) -> bool:
    return bool(camera.project(torch.zeros(1, 3, dtype=torch.float64)).isfinite().all())


@dataclass(frozen=True)
class _Fit:
    similarity: Tensor  # (4, 4)
    angles_deg: Tensor  # (N)
    shifts: Tensor  # (N) in EG3D units


def _fit(views: Sequence[Observation]) -> _Fit:
    """The similarity of all views alike, and how far off each is."""
    rig = Cameras.cat([view.rig_camera for view in views])
    predicted = Cameras.cat([view.predicted for view in views])
    origin = (predicted.cam2world[:, :3, :3].mT @ -predicted.cam2world[:, :3, 3:])[..., 0]  # (N, 3) in the camera
    pixel = predicted.intrinsics @ origin[..., None]  # homogeneous
    ray = torch.linalg.solve(rig.intrinsics, pixel / pixel[:, 2:])[..., 0]  # (N, 3) in the rig's camera, z = 1
    turn = _smallest_rotation(_unit(ray), _unit(origin))
    rotations = predicted.cam2world[:, :3, :3] @ turn @ rig.cam2world[:, :3, :3].mT
    rotation = _mean_rotation(rotations)
    eye, direction = rig.cam2world[:, :3, 3], _unit((rig.cam2world[:, :3, :3] @ ray[..., None])[..., 0])
    centre = _nearest_point(eye, direction)
    to_centre = centre - eye
    depth = (to_centre * rig.cam2world[:, :3, 2]).sum(dim=1)
    scale = float(((origin[:, 2] / _focal(predicted)) / (depth / _focal(rig))).quantile(0.5))
    if not 0 < scale < math.inf:
        raise RegistrationError("the views' rays meet behind the cameras; check the calibration's axes (OpenCV's)")
    along = (to_centre * direction).sum(dim=1, keepdim=True).clamp_min(0)
    shifts = scale * (to_centre - along * direction).norm(dim=1)
    similarity = _similarity(scale, rotation, centre)
    return _Fit(similarity, _angles_deg(rotations, rotation), shifts)


def _similarity(scale: float, rotation: Tensor, centre: Tensor) -> Tensor:
    """p -> scale · rotation · (p - centre) as (4, 4)."""
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[:3, :3] = scale * rotation
    matrix[:3, 3] = -scale * rotation @ centre
    return matrix


def _mean_rotation(rotations: Tensor) -> Tensor:
    """Chordal mean (3, 3) of rotations (N, 3, 3): the rotation nearest to their sum."""
    u, _, vh = torch.linalg.svd(rotations.sum(dim=0))
    sign = torch.ones(3, dtype=torch.float64)
    sign[2] = torch.linalg.det(u @ vh).sign()
    return (u * sign) @ vh


def _angles_deg(rotations: Tensor, mean: Tensor) -> Tensor:
    """Angles (N) between rotations (N, 3, 3) and one (3, 3); from the chord, exact for small ones too."""
    chord = torch.linalg.matrix_norm(rotations - mean)
    return torch.rad2deg(2 * torch.asin((chord / math.sqrt(8)).clamp_max(1)))


def _smallest_rotation(start: Tensor, end: Tensor) -> Tensor:
    """The rotations (N, 3, 3) that take unit vectors (N, 3) to unit vectors (N, 3), less than 180° apart."""
    axis = torch.linalg.cross(start, end)
    cross = torch.linalg.cross(
        axis[:, None].expand(-1, 3, 3), torch.eye(3, dtype=torch.float64).expand(len(axis), 3, 3)
    )
    skew = cross.mT  # columns axis × e_j
    cosine = (start * end).sum(dim=1)[:, None, None]
    return torch.eye(3, dtype=torch.float64) + skew + skew @ skew / (1 + cosine)


def _nearest_point(eye: Tensor, direction: Tensor) -> Tensor:
    """The point (3) of least squared distance to the lines (N, 3) along unit (N, 3). Raises RegistrationError."""
    across = torch.eye(3, dtype=torch.float64) - direction[:, :, None] * direction[:, None]  # (N, 3, 3)
    total = across.sum(dim=0)
    if float(torch.linalg.eigvalsh(total)[0]) < MIN_SPREAD * len(eye):
        raise RegistrationError("all views look from nearly the same direction; the head's place needs others too")
    return torch.linalg.solve(total, (across @ eye[..., None]).sum(dim=0)[:, 0])


def _focal(cameras: Cameras) -> Tensor:
    """Mean (geometric) of fx and fy, (N)."""
    return (cameras.intrinsics[:, 0, 0] * cameras.intrinsics[:, 1, 1]).sqrt()


def _square_pixels(camera: Cameras, width: int, height: int) -> Cameras:
    """The camera with the mean focal length both ways, in pixels; a turned crop's camera needs it."""
    focal_px = float(_focal(camera)) * math.sqrt(width * height)
    intrinsics = camera.intrinsics.clone()
    intrinsics[:, 0, 0], intrinsics[:, 1, 1] = focal_px / width, focal_px / height
    return Cameras(camera.cam2world, intrinsics)


def _unit(vectors: Tensor) -> Tensor:
    return vectors / vectors.norm(dim=-1, keepdim=True)


def _rms(values: Tensor) -> float:
    return float(values.square().mean().sqrt())
