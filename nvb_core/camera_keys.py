"""Key poses as the camera picker writes them.

    {"format": "nvb-camera-keys", "version": 1, "frame": "face" | "input", "keys": [key, ...]}

A key is {"yaw_deg": 0, "pitch_deg": 0, "roll_deg": 0, "radius": 2.7, "fov_deg": 13.4}; all but
`yaw_deg` may be left out. A radius or field of view that is left out or null is the default one in frame "face", the
photo's own in frame "input".
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, get_args

from .camera_paths import CameraPoses, Frame
from .cameras import DEFAULT_FOV_DEG, RADIUS
from .errors import CameraError

FORMAT = "nvb-camera-keys"
VERSION = 1
NAME = "camera keys"
_ANGLES = ("yaw_deg", "pitch_deg", "roll_deg")
_LENS: dict[str, float] = {"radius": RADIUS, "fov_deg": DEFAULT_FOV_DEG}


def read_camera_keys(text: str) -> CameraPoses:
    """The key poses. CameraError names the key, what it holds and what it should."""
    content = _decode(text)
    for name, expected in (("format", FORMAT), ("version", VERSION)):
        if content.get(name) != expected:
            raise CameraError(f"{NAME}: {name}: expected {expected!r}, found {content.get(name)!r:.40}")
    keys: Any = content.get("keys")
    frame: Any = content.get("frame")
    if frame not in get_args(Frame):
        raise CameraError(f'{NAME}: frame: expected "face" or "input", found {frame!r:.40}')
    _refuse_unknown(NAME, content, ("format", "version", "frame", "keys"))
    if not isinstance(keys, list) or not keys:
        raise CameraError(f"{NAME}: keys: expected a list of at least one key, found {keys!r:.40}")
    for index, key in enumerate(keys):
        _check_key(f"{NAME}: keys[{index}]", key)
    yaw, pitch, roll = ([key.get(name, 0.0) for key in keys] for name in _ANGLES)
    radius, fov_deg = (_lens(keys, name, frame) for name in _LENS)
    try:
        return CameraPoses(yaw, pitch, roll, radius, fov_deg, frame)
    except CameraError as error:
        raise CameraError(f"{NAME}: {error}") from None


def _decode(text: str) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CameraError(f"{NAME}: not JSON ({error!s:.80}); set the cameras in the picker again") from None
    if not isinstance(content, dict):
        raise CameraError(f'{NAME}: expected an object {{"format": "{FORMAT}", ...}}, found {content!r:.40}')
    return content


def _check_key(where: str, key: Any) -> None:
    if not isinstance(key, dict):
        raise CameraError(f"{where}: expected an object with yaw_deg, found {key!r:.40}")
    _refuse_unknown(where, key, (*_ANGLES, *_LENS))
    if "yaw_deg" not in key:
        raise CameraError(f"{where}: needs yaw_deg, a number in degrees")
    for name, value in key.items():
        if not (_is_number(value) or (value is None and name in _LENS)):
            raise CameraError(f"{where}.{name}: expected a finite number, found {value!r:.40}")


def _refuse_unknown(where: str, entry: dict[str, Any], known: Sequence[str]) -> None:
    for name in sorted(set(entry) - set(known)):
        raise CameraError(f"{where}: {name!r:.40} isn't known; expected {', '.join(known)}")


def _lens(keys: Sequence[dict[str, Any]], name: str, frame: Frame) -> list[float] | None:
    """A value for each key, or None if all leave it to the frame."""
    values = [key.get(name) for key in keys]
    if all(value is None for value in values):
        return None
    if frame == "input" and None in values:
        index = values.index(None)
        raise CameraError(
            f"{NAME}: keys[{index}].{name}: missing while other keys have one; give it to all keys or none"
        )
    return [_LENS[name] if value is None else value for value in values]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300
