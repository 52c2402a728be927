"""One camera as the dictionary that ComfyUI's 3D viewer nodes exchange.

    {"position": {x, y, z}, "target": {x, y, z}, "zoom": 1, "cameraType": "perspective"}

Newer versions add "quaternion" {x, y, z, w}, "fov" (vertical, degrees) and "aspect" (width / height). Right-handed,
y up; a camera looks down its -z. The target is taken for the head's centre, with the face looking along +z as in our
world.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from .cameras import DEFAULT_FOV_DEG, RADIUS, Cameras
from .errors import CameraError
from .transforms_json import OPENGL_AXES

NAME = "Load 3D camera"


def camera_from_load3d(info: Any, scene_scale: float = 0.0) -> Cameras:
    """The camera (1) of a viewer. `scene_scale` is the viewer's units per unit of ours.

    With 0, which knows nothing of the scene's size, direction and roll are the viewer's, distance and field of view the
    default ones. CameraError names what is wrong in the dictionary.
    """
    if not isinstance(info, dict):
        raise CameraError(f"{NAME}: expected an object with position and target, found {info!r:.40}")
    if not (math.isfinite(scene_scale) and scene_scale >= 0):
        raise CameraError(f"{NAME}: scene_scale {scene_scale} must be above 0, or 0 for the default distance")
    offset = _vector(info, "position", "xyz") - _vector(info, "target", "xyz")
    distance = float(torch.linalg.vector_norm(offset))
    if distance < 1e-9:
        raise CameraError(f"{NAME}: position and target are the same point; move the viewer's camera away")
    position = offset / scene_scale if scene_scale else offset * (RADIUS / distance)
    upright = Cameras.look_at(position, up=_up(position), fov_deg=_fov_deg(info) if scene_scale else DEFAULT_FOV_DEG)
    if info.get("quaternion") is None:
        return upright
    cam2world = upright.cam2world.clone()
    cam2world[0, :3, :3] = _rotation(_vector(info, "quaternion", "xyzw")) @ OPENGL_AXES[:3, :3]
    return Cameras(cam2world, upright.intrinsics)


def camera_to_load3d(camera: Cameras, scene_scale: float = 1.0) -> dict[str, Any]:
    """The dictionary of one camera (1), with the keys of old and new versions; its target is the head's centre."""
    if len(camera) != 1:
        raise CameraError(f"{NAME}: {len(camera)} cameras; a viewer has exactly 1")
    if not (math.isfinite(scene_scale) and scene_scale > 0):
        raise CameraError(f"{NAME}: scene_scale {scene_scale} must be above 0")
    focal = float(camera.intrinsics[0, 1, 1])
    rotation = camera.cam2world[0, :3, :3] @ OPENGL_AXES[:3, :3]
    return {
        "position": dict(zip("xyz", (camera.cam2world[0, :3, 3] * scene_scale).tolist(), strict=True)),
        "target": {"x": 0.0, "y": 0.0, "z": 0.0},
        "zoom": 1,
        "cameraType": "perspective",
        "quaternion": dict(zip("xyzw", _quaternion(rotation).tolist(), strict=True)),
        "fov": math.degrees(2 * math.atan(0.5 / focal)),
        "aspect": 1.0,
    }


def _up(position: Tensor) -> tuple[float, float, float]:
    """Which way is up in an upright picture from a position (3,): from straight above or below, as three.js has it."""
    x, y, z = position.tolist()
    return (0.0, 1.0, 0.0) if math.hypot(x, z) > 1e-6 * abs(y) else (0.0, 0.0, -math.copysign(1.0, y))


def _fov_deg(info: dict[str, Any]) -> float:
    """Field of view of the largest central square of the viewer's picture; the default one if none is given."""
    vertical = DEFAULT_FOV_DEG
    if info.get("fov") is not None and info.get("cameraType") != "orthographic":
        vertical = _number(f"{NAME}: fov", info["fov"])
    zoom = _number(f"{NAME}: zoom", info.get("zoom") or 1)
    aspect = _number(f"{NAME}: aspect", info.get("aspect") or 1)
    if not (0 < vertical < 180 and zoom > 0 and aspect > 0):
        raise CameraError(
            f"{NAME}: fov {vertical:g}, zoom {zoom:g} and aspect {aspect:g} must be above 0, fov below 180"
        )
    return math.degrees(2 * math.atan(math.tan(math.radians(vertical) / 2) * min(1.0, aspect) / zoom))


def _vector(info: dict[str, Any], name: str, axes: str) -> Tensor:
    value = info.get(name)
    if not isinstance(value, dict) or not set(axes) <= value.keys():
        raise CameraError(f"{NAME}: {name}: expected an object with {', '.join(axes)}, found {value!r:.60}")
    return torch.tensor([_number(f"{NAME}: {name}.{axis}", value[axis]) for axis in axes], dtype=torch.float64)


def _number(where: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e300:
        raise CameraError(f"{where}: expected a finite number, found {value!r:.40}")
    return float(value)


def _rotation(quaternion: Tensor) -> Tensor:
    """Rotation matrix (3, 3) of a quaternion (x, y, z, w) of any length but zero."""
    length = torch.linalg.vector_norm(quaternion)
    if float(length) < 1e-9:
        raise CameraError(f"{NAME}: quaternion: all zero; expected a rotation")
    vector, w = quaternion[:3] / length, quaternion[3] / length
    x, y, z = vector.tolist()
    cross = torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]], dtype=torch.float64)
    return torch.eye(3, dtype=torch.float64) + 2 * w * cross + 2 * cross @ cross


def _quaternion(rotation: Tensor) -> Tensor:
    """Unit quaternion (x, y, z, w), w >= 0, of a rotation matrix (3, 3)."""
    r = rotation.tolist()
    trace = r[0][0] + r[1][1] + r[2][2]
    # The largest of the four is found first: dividing by it is safe.
    squares = torch.tensor([1 + 2 * r[i][i] - trace for i in range(3)] + [1 + trace], dtype=torch.float64)
    largest = int(squares.argmax())
    products = torch.tensor(
        [
            [squares[0], r[0][1] + r[1][0], r[0][2] + r[2][0], r[2][1] - r[1][2]],
            [r[0][1] + r[1][0], squares[1], r[1][2] + r[2][1], r[0][2] - r[2][0]],
            [r[0][2] + r[2][0], r[1][2] + r[2][1], squares[2], r[1][0] - r[0][1]],
            [r[2][1] - r[1][2], r[0][2] - r[2][0], r[1][0] - r[0][1], squares[3]],
        ],
        dtype=torch.float64,
    )
    quaternion = products[largest] / torch.linalg.vector_norm(products[largest])
    return quaternion if quaternion[3] >= 0 else -quaternion
