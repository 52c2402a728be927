"""Pinhole cameras around a head: angles, look-at, EG3D labels, network vectors, projection.

World: y up, the face looks along +z, origin at the head centre. Cameras: OpenCV axes (x right, y down, z forward).
Angles: yaw > 0 moves the camera toward the subject's left (+x), pitch > 0 moves it up, roll > 0 turns the picture
clockwise. Intrinsics are normalised by image size: image coordinates run from 0 to 1, pixel i has its centre at
(i + 0.5)/size.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor

from .errors import CameraError

RADIUS = 2.7
FOCAL = 4.2647
DEFAULT_FOV_DEG = math.degrees(2 * math.atan(0.5 / FOCAL))
HEAD_RADIUS = 0.7  # a camera closer to the origin than this may sit inside the head
ORTHONORMAL_TOLERANCE = 1e-4

Numbers: TypeAlias = float | Sequence[float] | Tensor


@dataclass(frozen=True, eq=False)
class CameraAngles:
    """Orbit angles of N cameras, float64 tensors (N,). `fov_deg` is horizontal."""

    yaw_deg: Tensor  # [-180, 180]
    pitch_deg: Tensor  # [-90, 90]
    roll_deg: Tensor  # [-180, 180]
    radius: Tensor
    fov_deg: Tensor


@dataclass(frozen=True, eq=False)
class Cameras:
    """A batch of N >= 1 pinhole cameras, float64 on the CPU.

    cam2world (N, 4, 4) rigid camera-to-world matrices; intrinsics (N, 3, 3) [[fx, 0, cx], [0, fy, cy], [0, 0, 1]].
    Raises CameraError, naming the camera's index, for anything that cannot be rendered.
    """

    cam2world: Tensor
    intrinsics: Tensor

    def __post_init__(self) -> None:
        for name, size in (("cam2world", 4), ("intrinsics", 3)):
            value = _float64(name, getattr(self, name))
            if value.ndim != 3 or value.shape[0] == 0 or value.shape[1:] != (size, size):
                raise CameraError(f"{name} has shape {tuple(value.shape)}; expected (N, {size}, {size}) with N >= 1")
            object.__setattr__(self, name, value)
        if len(self.cam2world) != len(self.intrinsics):
            raise CameraError(f"{len(self.cam2world)} cam2world but {len(self.intrinsics)} intrinsics matrices")
        _validate_cam2world(self.cam2world)
        _validate_intrinsics(self.intrinsics)

    # ---- construction ----

    @classmethod
    def from_angles(
        cls,
        yaw_deg: Numbers,
        pitch_deg: Numbers = 0.0,
        roll_deg: Numbers = 0.0,
        radius: Numbers = RADIUS,
        fov_deg: Numbers = DEFAULT_FOV_DEG,
    ) -> Cameras:
        """Cameras on a sphere about the origin, looking at it. Numbers or sequences (N,), broadcast together."""
        yaw, pitch, roll, distance, fov = broadcast_numbers(
            yaw_deg=yaw_deg, pitch_deg=pitch_deg, roll_deg=roll_deg, radius=radius, fov_deg=fov_deg
        )
        require_each(distance > HEAD_RADIUS, distance, "radius", f"above {HEAD_RADIUS} (outside the head)")
        focal = focal_length(fov)
        cam2world = torch.eye(4, dtype=torch.float64).repeat(len(yaw), 1, 1)
        orbit = orbit_rotation(yaw, pitch)
        cam2world[:, :3, :3] = orbit @ _FRONTAL @ roll_rotation(roll)
        cam2world[:, :3, 3] = orbit[:, :, 2] * distance[:, None]
        return cls(cam2world, _intrinsics(focal, focal))

    @classmethod
    def look_at(
        cls,
        position: Sequence[float] | Tensor,
        target: Sequence[float] | Tensor = (0.0, 0.0, 0.0),
        up: Sequence[float] | Tensor = (0.0, 1.0, 0.0),
        roll_deg: Numbers = 0.0,
        fov_deg: Numbers = DEFAULT_FOV_DEG,
    ) -> Cameras:
        """Cameras at `position` looking at `target`, `up` (world) upright in the picture: each (3,) or (N, 3)."""
        points = [_float64(n, v) for n, v in (("position", position), ("target", target), ("up", up))]
        for name, point in zip(("position", "target", "up"), points, strict=True):
            if point.ndim not in (1, 2) or point.shape[-1] != 3 or not point.isfinite().all():
                raise CameraError(f"{name} must be finite, of shape (3,) or (N, 3); got {point.tolist()}")
        roll, fov = broadcast_numbers(roll_deg=roll_deg, fov_deg=fov_deg)
        try:
            eye, centre, upward, like = torch.broadcast_tensors(*(p.reshape(-1, 3) for p in points), roll[:, None])
        except RuntimeError:
            sizes = [len(p.reshape(-1, 3)) for p in points] + [len(roll)]
            raise CameraError(f"look_at arguments have different lengths: {sizes}; use one length, or 1") from None
        forward = _unit(centre - eye, "position must differ from target")
        right = _unit(torch.linalg.cross(forward, upward), "up must not be parallel to the viewing direction")
        cam2world = torch.eye(4, dtype=torch.float64).repeat(len(eye), 1, 1)
        axes = torch.stack((right, torch.linalg.cross(forward, right), forward), dim=-1)
        cam2world[:, :3, :3] = axes @ roll_rotation(roll)
        cam2world[:, :3, 3] = eye
        focal = focal_length(fov).expand(len(like))
        return cls(cam2world, _intrinsics(focal, focal))

    @classmethod
    def from_eg3d(cls, labels: Tensor | Sequence[Sequence[float]]) -> Cameras:
        """EG3D labels (N, 25): 16 row-major cam2world values, then 9 of the normalised intrinsics."""
        values = _matrix("EG3D labels", labels, 25)
        return cls(values[:, :16].reshape(-1, 4, 4), values[:, 16:].reshape(-1, 3, 3))

    @classmethod
    def from_vector(cls, vector: Tensor) -> Cameras:
        """Inverse of `to_vector`, (N, 16); the 3×3 part is projected to the nearest rotation (Frobenius norm)."""
        values = _matrix("camera vector", vector, 16)
        require_each(values.isfinite().all(dim=1), values, "camera vector", "finite")
        pose, (fx, fy, cx, cy) = values[:, :12].reshape(-1, 3, 4), values[:, 12:].unbind(1)
        cam2world = torch.eye(4, dtype=torch.float64).repeat(len(values), 1, 1)
        cam2world[:, :3, :3] = _nearest_rotation(pose[:, :, :3])
        cam2world[:, :3, 3] = pose[:, :, 3] * RADIUS
        return cls(cam2world, _intrinsics(fx * FOCAL, fy * FOCAL, cx, cy))

    @classmethod
    def from_json(cls, source: dict[str, Any] | str | Path) -> Cameras:
        """Cameras from a decoded object, JSON text (starting with "{") or a file's path; see `camera_json`."""
        from .camera_json import read_cameras

        return read_cameras(source)

    @classmethod
    def cat(cls, batches: Sequence[Cameras]) -> Cameras:
        """One batch out of several, in order."""
        if not batches:
            raise CameraError("no cameras to join; give at least one batch")
        return cls(torch.cat([c.cam2world for c in batches]), torch.cat([c.intrinsics for c in batches]))

    # ---- other forms ----

    def to_eg3d(self) -> Tensor:
        """EG3D labels (N, 25), float64, lossless."""
        return torch.cat((self.cam2world.flatten(1), self.intrinsics.flatten(1)), dim=1)

    def to_vector(self) -> Tensor:
        """Network camera vector (N, 16) float32: 3×4 cam2world with translation/RADIUS; fx/FOCAL, fy/FOCAL, cx, cy."""
        pose = self.cam2world[:, :3].clone()
        pose[:, :, 3] /= RADIUS
        fx, fy, cx, cy = self._pinhole()
        return torch.cat((pose.flatten(1), torch.stack((fx / FOCAL, fy / FOCAL, cx, cy), dim=1)), dim=1).float()

    def to_json(self) -> dict[str, Any]:
        """JSON-able form, lossless; see `camera_json`."""
        from .camera_json import cameras_to_object

        return cameras_to_object(self)

    def angles(self) -> CameraAngles:
        """Orbit angles: yaw, pitch and radius from the position, roll from the rotation about the optical axis.

        Inverse of `from_angles` for cameras that look at the origin; a pitch given beyond ±90° comes back as the
        equivalent yaw and roll turned by 180°. At exactly ±90° yaw and roll are one freedom, all reported as yaw.
        """
        x, y, z = self.cam2world[:, :3, 3].unbind(1)
        ground = torch.hypot(x, z)
        pitch = torch.atan2(y, ground)
        at_pole = ground < 1e-9 * y.abs()
        # Above the head, the image's right axis lies in the ground plane and gives the yaw.
        right = self.cam2world[:, :3, 0]
        yaw = torch.where(at_pole, torch.atan2(-right[:, 2], right[:, 0]), torch.atan2(x, z))
        yaw_deg, pitch_deg = torch.rad2deg(yaw), torch.rad2deg(pitch)
        upright = orbit_rotation(yaw_deg, pitch_deg) @ _FRONTAL
        rolled = upright.mT @ self.cam2world[:, :3, :3]  # = roll_rotation(roll) if the camera looks at the origin
        roll = torch.atan2(rolled[:, 0, 1] - rolled[:, 1, 0], rolled[:, 0, 0] + rolled[:, 1, 1])
        radius = torch.linalg.vector_norm(self.cam2world[:, :3, 3], dim=1)
        fov = 2 * torch.atan(0.5 / self.intrinsics[:, 0, 0])
        return CameraAngles(yaw_deg, pitch_deg, torch.rad2deg(roll), radius, torch.rad2deg(fov))

    def mirrored(self) -> Cameras:
        """The cameras of the left-right mirrored images of a mirrored world (x -> -x)."""
        flip = torch.tensor([-1.0, 1.0, 1.0, 1.0], dtype=torch.float64)
        intrinsics = self.intrinsics.clone()
        intrinsics[:, 0, 2] = 1 - intrinsics[:, 0, 2]
        return Cameras(flip[:, None] * self.cam2world * flip, intrinsics)

    def project(self, points: Tensor) -> Tensor:
        """Normalised image coordinates (N, M, 2) of world points (M, 3); NaN for points not in front of the camera."""
        offsets = _matrix("points", points, 3)[None] - self.cam2world[:, None, :3, 3]
        in_camera = offsets @ self.cam2world[:, :3, :3]  # (N, M, 3)
        homogeneous = in_camera @ self.intrinsics.mT
        depth = in_camera[..., 2:]
        return torch.where(depth > 0, homogeneous[..., :2] / depth, torch.nan)

    # ---- sequence ----

    def __len__(self) -> int:
        return len(self.cam2world)

    def __getitem__(self, index: int | slice | Sequence[int] | Tensor) -> Cameras:
        """A sub-batch; an int gives a batch of one."""
        chosen = list(index) if isinstance(index, Sequence) else index  # a tuple would mean dimensions
        return Cameras(self.cam2world[chosen].reshape(-1, 4, 4), self.intrinsics[chosen].reshape(-1, 3, 3))

    def __iter__(self) -> Iterator[Cameras]:
        return (self[i] for i in range(len(self)))

    def _pinhole(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        k = self.intrinsics
        return k[:, 0, 0], k[:, 1, 1], k[:, 0, 2], k[:, 1, 2]


_FRONTAL = torch.diag(torch.tensor([1.0, -1.0, -1.0], dtype=torch.float64))


def orbit_rotation(yaw_deg: Tensor, pitch_deg: Tensor) -> Tensor:
    """World rotation (N, 3, 3) that takes +z to the direction (yaw, pitch) (N,): Ry(yaw) · Rx(-pitch)."""
    yaw, pitch = torch.deg2rad(yaw_deg.double()), torch.deg2rad(pitch_deg.double())
    sy, cy, sp, cp = yaw.sin(), yaw.cos(), pitch.sin(), pitch.cos()
    zero = torch.zeros_like(sy)
    return _rows((cy, -sy * sp, sy * cp), (zero, cp, sp), (-sy, -cy * sp, cy * cp))


def roll_rotation(roll_deg: Tensor) -> Tensor:
    """Camera-space rotation (N, 3, 3) applied to the camera's axes: turns the camera left, so its picture right."""
    roll = torch.deg2rad(roll_deg.double())
    s, c, zero, one = roll.sin(), roll.cos(), torch.zeros_like(roll), torch.ones_like(roll)
    return _rows((c, s, zero), (-s, c, zero), (zero, zero, one))


def _rows(*rows: Sequence[Tensor]) -> Tensor:
    return torch.stack([torch.stack(tuple(row), dim=-1) for row in rows], dim=-2)


def _intrinsics(fx: Tensor, fy: Tensor, cx: Tensor | None = None, cy: Tensor | None = None) -> Tensor:
    zero, half, one = torch.zeros_like(fx), torch.full_like(fx, 0.5), torch.ones_like(fx)
    return _rows((fx, zero, half if cx is None else cx), (zero, fy, half if cy is None else cy), (zero, zero, one))


def focal_length(fov_deg: Tensor) -> Tensor:
    """Focal length in image widths (N,) of a horizontal field of view (N,) in degrees; CameraError outside (0, 180)."""
    require_each((fov_deg > 0) & (fov_deg < 180), fov_deg, "fov_deg", "between 0 and 180 degrees, exclusive")
    return 0.5 / torch.tan(torch.deg2rad(fov_deg) / 2)


def _unit(vectors: Tensor, complaint: str) -> Tensor:
    length = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
    require_each(length[:, 0] > 1e-9, vectors, "direction", f"non-zero: {complaint}")
    return vectors / length


def _nearest_rotation(matrices: Tensor) -> Tensor:
    u, singular, vh = torch.linalg.svd(matrices)
    sign = torch.linalg.det(u @ vh)
    require_each(
        singular[:, 1] + sign * singular[:, 2] > 1e-6, matrices, "rotation part", "close to a rotation (here undefined)"
    )
    u[:, :, 2] *= sign[:, None]
    return u @ vh


def _float64(name: str, value: Any) -> Tensor:
    try:
        return torch.as_tensor(value, dtype=torch.float64, device="cpu").detach()
    except (TypeError, ValueError, RuntimeError):
        raise CameraError(f"{name} must be numbers; got {value!r:.80}") from None


def _matrix(name: str, value: Any, columns: int) -> Tensor:
    tensor = _float64(name, value)
    if tensor.ndim != 2 or tensor.shape[1] != columns:
        raise CameraError(f"{name}: shape {tuple(tensor.shape)}; expected (N, {columns})")
    return tensor


def broadcast_numbers(**values: Numbers) -> tuple[Tensor, ...]:
    """Named numbers or sequences as finite float64 tensors of one length (N,); CameraError names the odd one out."""
    tensors = {name: torch.atleast_1d(_float64(name, value)) for name, value in values.items()}
    for name, tensor in tensors.items():
        if tensor.ndim != 1:
            raise CameraError(f"{name} has shape {tuple(tensor.shape)}; expected a number or one dimension (N,)")
        require_each(tensor.isfinite(), tensor, name, "finite")
    try:
        return torch.broadcast_tensors(*tensors.values())
    except RuntimeError:
        sizes = ", ".join(f"{name}: {len(tensor)}" for name, tensor in tensors.items())
        raise CameraError(f"camera values have different lengths ({sizes}); use one length, or 1") from None


def require_each(ok: Tensor, value: Tensor, name: str, allowed: str) -> None:
    """Raise for the first camera whose `ok` (N,) is false, showing its `value` (N, ...)."""
    if not bool(ok.all()):
        index = int((~ok).nonzero()[0])
        raise CameraError(f"camera {index}: {name} {_rounded(value[index].tolist())} must be {allowed}")


def _rounded(value: Any) -> str:
    return f"[{', '.join(map(_rounded, value))}]" if isinstance(value, list) else f"{value:.6g}"


def _every(mask: Tensor) -> Tensor:
    return mask.flatten(1).all(dim=1)


def _validate_cam2world(cam2world: Tensor) -> None:
    rotation, position = cam2world[:, :3, :3], cam2world[:, :3, 3]
    require_each(_every(cam2world.isfinite()), cam2world, "cam2world", "finite")
    last_row = torch.tensor([0.0, 0.0, 0.0, 1.0], dtype=torch.float64)
    require_each(
        _every((cam2world[:, 3] - last_row).abs() <= 1e-6), cam2world[:, 3], "cam2world last row", "[0, 0, 0, 1]"
    )
    error = (rotation.mT @ rotation - torch.eye(3, dtype=torch.float64)).abs()
    limit = f"orthonormal to {ORTHONORMAL_TOLERANCE:g}"
    require_each(_every(error <= ORTHONORMAL_TOLERANCE), rotation, "rotation", limit)
    require_each(torch.linalg.det(rotation) > 0, rotation, "rotation", "right-handed (determinant +1)")
    distance = torch.linalg.vector_norm(position, dim=1)
    require_each(
        distance > HEAD_RADIUS, distance, "distance from the origin", f"above {HEAD_RADIUS} (outside the head)"
    )


def _validate_intrinsics(intrinsics: Tensor) -> None:
    require_each(_every(intrinsics.isfinite()), intrinsics, "intrinsics", "finite")
    focal = torch.diagonal(intrinsics, dim1=1, dim2=2)[:, :2]
    require_each(_every(focal > 0), focal, "focal length (fx, fy)", "above 0 (in image sizes)")
    pinhole = intrinsics.clone()
    pinhole[:, 0, 1] = pinhole[:, 1, 0] = 0
    pinhole[:, 2] = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    form = "[[fx, 0, cx], [0, fy, cy], [0, 0, 1]]"
    require_each(_every((pinhole - intrinsics).abs() <= 1e-6), intrinsics, "intrinsics", f"of the form {form}")
