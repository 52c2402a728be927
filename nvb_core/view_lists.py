"""Lists of cameras or of poses: joining them, and picking some of them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from .camera_paths import CameraPoses, keyframes
from .cameras import DEFAULT_FOV_DEG, RADIUS, Cameras
from .errors import CameraError, ConfigError

ViewList: TypeAlias = CameraPoses | Cameras

_PART = re.compile(r"(\d{1,18})(?:\s*-\s*(\d{1,18})(?:\s*/\s*(\d{1,18}))?)?")
SELECTION_HELP = 'write for example "0,3,5-8", or "0-30/2" for every second one; counting starts at 0'


def join_views(parts: Sequence[ViewList]) -> ViewList:
    """One list out of several, in order: poses if all are poses of one frame, else cameras.

    Raises CameraError where poses in frame "input" would have to become cameras: their source isn't known.
    """
    if not parts:
        raise CameraError("no cameras to join; connect at least one list")
    poses = [part for part in parts if isinstance(part, CameraPoses)]
    frames = {part.frame for part in poses}
    if len(poses) == len(parts) and len(frames) == 1:
        return _joined_poses(poses)
    if "input" in frames:
        raise CameraError(
            'poses in frame "input" can only be joined with such poses; resolve them first (the cameras that come out '
            'of Sample Views), or use frame "face" everywhere'
        )
    return Cameras.cat([part if isinstance(part, Cameras) else part.resolve() for part in parts])


def take_views(views: ViewList, indices: Sequence[int]) -> ViewList:
    """The views at the given indices, in their order."""
    chosen = list(indices)
    if isinstance(views, Cameras):
        return views[chosen]
    radius, fov_deg = (None if column is None else column[chosen] for column in (views.radius, views.fov_deg))
    return CameraPoses(
        views.yaw_deg[chosen], views.pitch_deg[chosen], views.roll_deg[chosen], radius, fov_deg, views.frame
    )


def path_through(keys: ViewList, count: int) -> CameraPoses:
    """`count` poses through key poses. Raises CameraError for cameras, which aren't poses."""
    if isinstance(keys, Cameras):
        raise CameraError("key poses must be poses in degrees, not cameras; build them with Camera Pose or the picker")
    return keyframes(keys, count)


def parse_selection(text: str, count: int | None = None) -> list[int]:
    """Indices of "0,3,5-8" (ends included) or "0-30/2"; "all" of `count`. ConfigError names the part that's wrong."""
    if text.strip().lower() in ("", "all"):
        return list(range(count or 0))
    chosen: list[int] = []
    for part in text.split(","):
        match = _PART.fullmatch(part.strip())
        if match is None:
            raise ConfigError(f"selection {part.strip()!r:.40} isn't an index or a range; {SELECTION_HELP}")
        first, step = int(match[1]), int(match[3] or 1)
        last = int(match[2] or first)
        if last < first or step < 1:
            raise ConfigError(f"selection {part.strip()!r:.40} is empty; {SELECTION_HELP}")
        if count is not None and last >= count:
            raise ConfigError(f"selection {part.strip()!r:.40} goes beyond the {count} views, 0 to {count - 1}")
        if count is not None:
            chosen += range(first, last + 1, step)
    return chosen


def _joined_poses(parts: Sequence[CameraPoses]) -> CameraPoses:
    frame = parts[0].frame
    yaw, pitch, roll = (
        torch.cat([getattr(part, name) for part in parts]) for name in ("yaw_deg", "pitch_deg", "roll_deg")
    )
    radius, fov_deg = _joined_lens(parts, "radius", RADIUS), _joined_lens(parts, "fov_deg", DEFAULT_FOV_DEG)
    return CameraPoses(yaw, pitch, roll, radius, fov_deg, frame)


def _joined_lens(parts: Sequence[CameraPoses], name: str, default: float) -> Tensor | None:
    values = [getattr(part, name) for part in parts]
    if all(value is None for value in values):
        return None
    if parts[0].frame == "input" and any(value is None for value in values):
        raise CameraError(f'joined poses in frame "input" must all have a {name}, or none of them')
    filled = zip(parts, values, strict=True)
    return torch.cat([torch.full_like(part.yaw_deg, default) if value is None else value for part, value in filled])
