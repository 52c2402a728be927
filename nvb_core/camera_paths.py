"""Which views to render: poses in degrees, and the usual camera paths.

A pose is a pair of orbit angles and a roll; `CameraPoses.resolve` turns poses into `Cameras`. Angles count from the
frontal face in frame "face", and from the camera that took the input photo in frame "input": there,
all-zero is the photo's view.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

from .cameras import (
    DEFAULT_FOV_DEG,
    HEAD_RADIUS,
    RADIUS,
    Cameras,
    Numbers,
    broadcast_numbers,
    focal_length,
    orbit_rotation,
    require_each,
    roll_rotation,
)
from .errors import CameraError

Frame: TypeAlias = Literal["face", "input"]
MAX_VIEWS = 10_000


@dataclass(frozen=True, eq=False, init=False)
class CameraPoses:
    """N poses, 1 to MAX_VIEWS; tensors (N,) float64. Raises CameraError naming the pose, the value and its range.

    In frame "input" the angles are offsets. A radius or field of view of None keeps the source camera's ("input") or
    takes the default ("face").
    """

    yaw_deg: Tensor
    pitch_deg: Tensor
    roll_deg: Tensor
    radius: Tensor | None
    fov_deg: Tensor | None
    frame: Frame

    def __init__(
        self,
        yaw_deg: Numbers,
        pitch_deg: Numbers = 0.0,
        roll_deg: Numbers = 0.0,
        radius: Numbers | None = None,
        fov_deg: Numbers | None = None,
        frame: Frame = "face",
    ) -> None:
        if frame not in get_args(Frame):
            raise CameraError(f"frame {frame!r:.40} must be one of {', '.join(get_args(Frame))}")
        given: dict[str, Numbers] = {"yaw_deg": yaw_deg, "pitch_deg": pitch_deg, "roll_deg": roll_deg}
        given |= {name: value for name, value in (("radius", radius), ("fov_deg", fov_deg)) if value is not None}
        values: dict[str, Tensor | None] = {"radius": None, "fov_deg": None}
        values |= dict(zip(given, broadcast_numbers(**given), strict=True))
        for name, value in values.items():
            object.__setattr__(self, name, value)
        object.__setattr__(self, "frame", frame)
        _check_count(len(self))
        if self.radius is not None:
            require_each(self.radius > HEAD_RADIUS, self.radius, "radius", f"above {HEAD_RADIUS} (outside the head)")
        if self.fov_deg is not None:
            focal_length(self.fov_deg)

    def __len__(self) -> int:
        return len(self.yaw_deg)

    def resolve(self, source: Cameras | None = None) -> Cameras:
        """The N cameras. Frame "input" needs the one camera of the input photo; frame "face" ignores it."""
        if self.frame == "face":
            radius = RADIUS if self.radius is None else self.radius
            fov_deg = DEFAULT_FOV_DEG if self.fov_deg is None else self.fov_deg
            return Cameras.from_angles(self.yaw_deg, self.pitch_deg, self.roll_deg, radius, fov_deg)
        if source is None or len(source) != 1:
            found = 0 if source is None else len(source)
            raise CameraError(f'poses in frame "input" need exactly 1 source camera, got {found}; or use frame "face"')
        return self._offset_from(source)

    def _offset_from(self, source: Cameras) -> Cameras:
        start = source.angles()
        turn = orbit_rotation(start.yaw_deg + self.yaw_deg, start.pitch_deg + self.pitch_deg)
        turn = turn @ orbit_rotation(start.yaw_deg, start.pitch_deg).mT
        # Exactly the source camera where nothing is turned, not the product of a rotation and its inverse.
        turn[(self.yaw_deg == 0) & (self.pitch_deg == 0)] = torch.eye(3, dtype=torch.float64)
        cam2world = source.cam2world.repeat(len(self), 1, 1)
        cam2world[:, :3, :3] = turn @ cam2world[:, :3, :3] @ roll_rotation(self.roll_deg)
        cam2world[:, :3, 3:] = turn @ cam2world[:, :3, 3:]
        if self.radius is not None:
            cam2world[:, :3, 3] *= (self.radius / start.radius)[:, None]
        intrinsics = source.intrinsics.repeat(len(self), 1, 1)
        if self.fov_deg is not None:
            intrinsics[:, :2, :2] *= (focal_length(self.fov_deg) / intrinsics[:, 0, 0])[:, None, None]
        return Cameras(cam2world, intrinsics)


def yaw_sweep(
    views: int, start_deg: float = -45.0, end_deg: float = 45.0, pitch_deg: float = 0.0, frame: Frame = "face"
) -> CameraPoses:
    """Evenly spaced yaws from start to end, both included, at one pitch; a single view is at the start."""
    return CameraPoses(_line(views, start_deg, end_deg), pitch_deg, frame=frame)


def pitch_sweep(
    views: int, start_deg: float = -20.0, end_deg: float = 20.0, yaw_deg: float = 0.0, frame: Frame = "face"
) -> CameraPoses:
    """Evenly spaced pitches from start to end, both included, at one yaw; a single view is at the start."""
    return CameraPoses(yaw_deg, _line(views, start_deg, end_deg), frame=frame)


def orbit(views: int, yaw_deg: float = 30.0, pitch_deg: float = 15.0, frame: Frame = "face") -> CameraPoses:
    """Ellipse of the given amplitudes about the centre, from the top (0, pitch) by way of +yaw.

    A closed loop: the view after the last would be the first again.
    """
    phase = _loop(views)
    return CameraPoses(yaw_deg * phase.sin(), pitch_deg * phase.cos(), frame=frame)


def figure_eight(views: int, yaw_deg: float = 30.0, pitch_deg: float = 15.0, frame: Frame = "face") -> CameraPoses:
    """Lying eight of the given amplitudes from the centre, a closed loop: yaw = A sin p, pitch = B sin 2p."""
    phase = _loop(views)
    return CameraPoses(yaw_deg * phase.sin(), pitch_deg * (2 * phase).sin(), frame=frame)


def grid(yaw_deg: Sequence[float], pitch_deg: Sequence[float], frame: Frame = "face") -> CameraPoses:
    """Every pair of the given angles, row by row: all yaws at the first pitch, then at the second, ..."""
    _check_count(len(yaw_deg) * len(pitch_deg))
    pairs = [(yaw, pitch) for pitch in pitch_deg for yaw in yaw_deg]
    return CameraPoses([yaw for yaw, _ in pairs], [pitch for _, pitch in pairs], frame=frame)


def spiral(
    views: int, yaw_deg: float = 30.0, pitch_deg: float = 15.0, turns: float = 2.0, frame: Frame = "face"
) -> CameraPoses:
    """Out from the centre to the given amplitudes in `turns` turns, upwards first, ending on `orbit`'s ellipse."""
    growth = _line(views, 0.0, 1.0)
    phase = 2 * math.pi * turns * growth
    return CameraPoses(yaw_deg * growth * phase.sin(), pitch_deg * growth * phase.cos(), frame=frame)


def keyframes(keys: CameraPoses, views: int) -> CameraPoses:
    """`views` poses through all K key poses, the first and last included, with equal time between neighbouring keys.

    Positions move along great circles at even speed; roll, radius and field of view change linearly. Keys must have
    pitches within ±90° and neighbours must not be opposite each other on the sphere (CameraError).
    """
    require_each(keys.pitch_deg.abs() <= 90, keys.pitch_deg, "key pitch_deg", "within ±90")
    _check_count(views)
    ticks, spacing = torch.arange(views) * (len(keys) - 1), max(views - 1, 1)  # integers, so that keys are hit exactly
    before, weight = ticks // spacing, (ticks % spacing).double() / spacing
    after = (before + 1).clamp(max=len(keys) - 1)

    def linear(value: Tensor | None) -> Tensor | None:
        return None if value is None else torch.lerp(value[before], value[after], weight)

    directions = orbit_rotation(keys.yaw_deg, keys.pitch_deg)[:, :, 2]
    x, y, z = _slerp(directions, before, after, weight).unbind(1)
    on_key = weight == 0  # keep a key's own angles: its direction alone does not give the yaw at a pole
    yaw = torch.where(on_key, keys.yaw_deg[before], torch.rad2deg(torch.atan2(x, z)))
    pitch = torch.where(on_key, keys.pitch_deg[before], torch.rad2deg(torch.atan2(y, torch.hypot(x, z))))
    roll = torch.lerp(keys.roll_deg[before], keys.roll_deg[after], weight)
    return CameraPoses(yaw, pitch, roll, linear(keys.radius), linear(keys.fov_deg), keys.frame)


def _slerp(directions: Tensor, before: Tensor, after: Tensor, weight: Tensor) -> Tensor:
    start, end = directions[before], directions[after]
    sine = torch.linalg.vector_norm(torch.linalg.cross(start, end), dim=1)
    angle = torch.atan2(sine, (start * end).sum(dim=1))
    for key in before[angle > math.pi - 1e-6][:1].tolist():
        raise CameraError(f"keys {key} and {key + 1} are opposite each other; add a key between them")
    straight = sine < 1e-9  # equal directions
    safe = torch.where(straight, 1.0, sine)
    ahead = torch.where(straight, weight, (weight * angle).sin() / safe)
    back = torch.where(straight, 1 - weight, ((1 - weight) * angle).sin() / safe)
    return back[:, None] * start + ahead[:, None] * end


def _check_count(views: int) -> None:
    if isinstance(views, bool) or not isinstance(views, int) or not 1 <= views <= MAX_VIEWS:
        raise CameraError(f"{views!r:.40} views; expected 1 to {MAX_VIEWS}")


def _line(views: int, start: float, end: float) -> Tensor:
    _check_count(views)
    return torch.linspace(start, end, views, dtype=torch.float64)


def _loop(views: int) -> Tensor:
    _check_count(views)
    return torch.arange(views, dtype=torch.float64) * (2 * math.pi / views)
