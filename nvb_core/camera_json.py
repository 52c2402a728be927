"""Cameras as JSON: {"format": "nvb-cameras", "version": 1, "cameras": [entry, ...]}.

An entry is written with both `cam2world` (4×4), `intrinsics` (3×3, normalised) and the angles for people to read; the
matrices are exact and win on reading. An entry without matrices is read from `yaw_deg` and any of `pitch_deg`,
`roll_deg`, `radius`, `fov_deg`.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, TypeAlias

import torch

from .cameras import DEFAULT_FOV_DEG, RADIUS, Cameras
from .errors import CameraError

FORMAT = "nvb-cameras"
VERSION = 1
Matrix: TypeAlias = list[list[float]]
_ANGLES: dict[str, float] = {"yaw_deg": 0, "pitch_deg": 0, "roll_deg": 0, "radius": RADIUS, "fov_deg": DEFAULT_FOV_DEG}


def cameras_to_object(cameras: Cameras) -> dict[str, Any]:
    """JSON-able form of the cameras; numbers keep full float64 precision."""
    angles = cameras.angles()
    entries = [
        {name: float(getattr(angles, name)[i]) for name in _ANGLES}
        | {"cam2world": cameras.cam2world[i].tolist(), "intrinsics": cameras.intrinsics[i].tolist()}
        for i in range(len(cameras))
    ]
    return {"format": FORMAT, "version": VERSION, "cameras": entries}


def read_cameras(source: dict[str, Any] | str | Path) -> Cameras:
    """Cameras from a decoded object, JSON text (starting with "{") or a file's path. CameraError names file and key."""
    name, content = _decode(source)
    if not isinstance(content, dict):
        raise CameraError(f'{name}: expected an object {{"format": "{FORMAT}", ...}}')
    for key, expected in (("format", FORMAT), ("version", VERSION)):
        if content.get(key) != expected:
            raise CameraError(f"{name}: {key}: expected {expected!r}, found {content.get(key)!r:.40}")
    entries = content.get("cameras")
    if not isinstance(entries, list) or not entries:
        raise CameraError(f"{name}: cameras: expected a list of at least one camera")
    matrices = [_matrices(f"{name}: cameras[{i}]", entry) for i, entry in enumerate(entries)]
    try:
        return Cameras(*(torch.tensor(part, dtype=torch.float64) for part in zip(*matrices, strict=True)))
    except CameraError as error:
        raise CameraError(re.sub(r"^camera (\d+)", lambda found: f"{name}: cameras[{found[1]}]", str(error))) from None


def _decode(source: Any) -> tuple[str, Any]:
    if isinstance(source, dict):
        return "cameras", source
    is_text = isinstance(source, str) and source.lstrip().startswith("{")
    name = "camera JSON" if is_text else str(source)
    try:
        text = source if is_text else Path(source).read_text(encoding="utf-8-sig")
        return name, json.loads(text)
    except OSError as error:
        raise CameraError(f"{name}: cannot be read ({error.strerror}); give a camera JSON file") from None
    except (ValueError, RecursionError) as error:
        raise CameraError(f"{name}: not JSON ({error!s:.80})") from None


def _matrices(where: str, entry: Any) -> tuple[Matrix, Matrix]:
    """cam2world and intrinsics of an entry, as they stand there or from its angles."""
    if not isinstance(entry, dict):
        raise CameraError(f"{where}: expected an object, found {entry!r:.40}")
    if "cam2world" in entry or "intrinsics" in entry:
        return _numbers(where, entry, "cam2world", 4), _numbers(where, entry, "intrinsics", 3)
    if "yaw_deg" not in entry:
        raise CameraError(f"{where}: needs cam2world and intrinsics, or yaw_deg; found {sorted(entry)!r:.80}")
    values = {key: _number(where, entry, key) for key in _ANGLES if key in entry}
    try:
        camera = Cameras.from_angles(**values)
    except CameraError as error:
        raise CameraError(f"{where}: {str(error).removeprefix('camera 0: ')}") from None
    return camera.cam2world[0].tolist(), camera.intrinsics[0].tolist()


def _numbers(where: str, entry: dict[str, Any], key: str, size: int) -> Matrix:
    rows = entry.get(key)
    if not isinstance(rows, list) or len(rows) != size or not all(_is_row(row, size) for row in rows):
        raise CameraError(f"{where}.{key}: expected {size}×{size} finite numbers, found {rows!r:.60}")
    return rows


def _is_row(row: Any, size: int) -> bool:
    return isinstance(row, list) and len(row) == size and all(map(_is_number, row))


def _number(where: str, entry: dict[str, Any], key: str) -> float:
    value = entry[key]
    if not _is_number(value):
        raise CameraError(f"{where}.{key}: expected a finite number, found {value!r:.40}")
    return float(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300
