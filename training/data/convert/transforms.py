"""nerfstudio's (and instant-ngp's) transforms.json: SRC/transforms.json, or one in each of SRC's subfolders, a subject
each:

    {"camera_model": "PINHOLE", "fl_x": .., "fl_y": .., "cx": .., "cy": .., "w": .., "h": ..,     in pixels; also
     "frames": [{"file_path": "images/0.png", "transform_matrix": 4×4, ...}, ...]}                 in each frame

A transform_matrix is cam2world with OpenGL axes (x right, y up, z back). Pictures must be undistorted. The scene must
be in EG3D's space (y up, the face looks along +z, origin at the head's centre, cameras about 2.7 away), or be taken
there by a similarity that the user gives; nothing is guessed.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from torch import Tensor

from nvb_core.align import CropBox, crop_cameras
from nvb_core.cameras import FOCAL, RADIUS, Cameras
from nvb_core.errors import CameraError, ConfigError
from nvb_core.transforms_json import OPENGL_AXES

from ..index import leaves_folder, read_json
from .plan import MIN_INSIDE, Dropped, Item, Plan, clean_name, finish, require_folder, share_inside

FILE_NAME = "transforms.json"
DISTORTION = ("k1", "k2", "k3", "k4", "k5", "k6", "p1", "p2", "distortion_params", "is_fisheye")
MODELS = ("PINHOLE", "SIMPLE_PINHOLE", "OPENCV", "PERSPECTIVE")
DISTANCES = (RADIUS / 1.6, RADIUS * 1.6)
"""How far cameras of a head in EG3D's space may be from it (chosen)."""
OUT_OF_SPACE = "camera too near or too far for EG3D's space"


def plan_transforms(source: Path, similarity: Path | None, margin: float) -> Plan:
    """The head in each frame: the square about the origin that shows `margin` times the canonical view.

    Raises ConfigError for a file that isn't of this kind, distorted pictures, and scenes that are elsewhere.
    """
    require_folder(source)
    if not 1 <= margin <= 2:
        raise ConfigError(f"--margin is {margin}, must be in 1-2")
    move = torch.eye(4, dtype=torch.float64) if similarity is None else read_similarity(similarity)
    files = [source / FILE_NAME] if (source / FILE_NAME).exists() else sorted(source.glob(f"*/{FILE_NAME}"))
    if not files:
        raise ConfigError(f"{source}: has no {FILE_NAME}, nor has any folder in it")
    found = [entry for file in files for entry in _found(file, source, move, margin)]
    _require_heads(source, found, similarity)
    return finish("transforms", source, found, margin, similarity=move.tolist())


def read_similarity(path: Path) -> Tensor:
    """A JSON file's 4×4 matrix [[s·R, t], [0, 0, 0, 1]] that takes the scene into EG3D's space. Raises ConfigError."""
    try:
        matrix = torch.tensor(read_json(path, "give a JSON file with a 4x4 matrix"), dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError):
        matrix = torch.zeros(0)
    if matrix.shape != (4, 4) or not bool(matrix.isfinite().all()):
        raise ConfigError(f"{path}: must hold a 4x4 matrix of finite numbers as a list of four rows")
    linear, scale = matrix[:3, :3], float(torch.linalg.det(matrix[:3, :3]).clamp_min(0) ** (1 / 3))
    last = torch.tensor([0.0, 0.0, 0.0, 1.0], dtype=torch.float64)
    close = torch.allclose(linear @ linear.mT, scale**2 * torch.eye(3, dtype=torch.float64), atol=1e-4 * scale**2)
    if scale < 1e-9 or not close or not torch.allclose(matrix[3], last):
        raise ConfigError(f"{path}: must be a rotation times a positive scale, and a shift; the last row 0, 0, 0, 1")
    return matrix


def _found(file: Path, root: Path, move: Tensor, margin: float) -> Iterator[Item | Dropped]:
    content = read_json(file, f"a folder of this kind has a {FILE_NAME}")
    if not isinstance(content, dict) or not isinstance(content.get("frames"), list):
        raise ConfigError(f'{file}: must hold {{"frames": [...]}}')
    folder = file.parent.relative_to(root).as_posix()
    subject = clean_name(root.resolve().name if folder == "." else folder)
    for i, entry in enumerate(content["frames"]):
        where = f"{file}: frames[{i}]"
        if not isinstance(entry, dict) or not isinstance(entry.get("file_path"), str):
            raise ConfigError(f"{where}: must be an object with a file_path")
        name = entry["file_path"].replace("\\", "/")
        if leaves_folder(name):
            raise ConfigError(f"{where}: file_path {name!r} must lie inside the folder")
        path = _existing(file.parent / name)
        shown = (path or file.parent / name).relative_to(root).as_posix()
        if path is None:
            yield Dropped(shown, "label without image")
        else:
            view = clean_name("-".join(PurePosixPath(name).with_suffix("").parts))
            yield _item({**content, **entry}, where, Item(subject, view, shown, None), move, margin)


def _existing(path: Path) -> Path | None:
    """The image, if there is one (an overlong name is none); instant-ngp leaves .png out."""
    return next((p for p in (path, Path(f"{path}.png")) if os.path.isfile(p)), None)


def _item(values: dict[str, Any], where: str, item: Item, move: Tensor, margin: float) -> Item | Dropped:
    """A frame's item with the crop of its head and the crop's label."""
    _refuse_distortion(values, where)
    width, height = (round(_number(values, key, where)) for key in ("w", "h"))
    if not width or not height:
        raise ConfigError(f"{where}: w and h are {values['w']} and {values['h']}, must be whole pixels")
    try:
        cam2world = _moved(values.get("transform_matrix"), move)
        camera = Cameras(cam2world[None], _intrinsics(values, width, height, where)[None])
    except CameraError as error:
        fault = str(error).removeprefix("camera 0: ")
        reason = OUT_OF_SPACE if fault.startswith("distance") else "bad camera"
        return Dropped(item.source, reason, fault)
    distance = float(camera.cam2world[0, :3, 3].norm())
    if not DISTANCES[0] <= distance <= DISTANCES[1]:
        return Dropped(item.source, OUT_OF_SPACE, f"{distance:.3g} away from the origin")
    centre = camera.project(torch.zeros(1, 3, dtype=torch.float64))[0, 0] * torch.tensor([width, height])
    if not bool(centre.isfinite().all()):
        return Dropped(item.source, "head not in the picture", "the origin is behind the camera")
    focal_px = float(camera.intrinsics[0, 0, 0]) * width
    side = focal_px / FOCAL * RADIUS / distance * margin
    box = CropBox(float(centre[0]), float(centre[1]), side)
    inside = share_inside(box, width, height)
    if inside < MIN_INSIDE:
        return Dropped(item.source, "head not in the picture", f"{100 * inside:.0f} % of its crop's side is")
    label = crop_cameras(camera, box, width, height).to_eg3d()[0].tolist()
    return replace(item, label=tuple(label), box=box, size_px=(width, height))


def _moved(matrix: Any, move: Tensor) -> Tensor:
    """OpenCV cam2world (4, 4) in EG3D's space of a frame's matrix. Raises CameraError."""
    try:
        frame = torch.tensor(matrix, dtype=torch.float64).reshape(-1, 4)
    except (TypeError, ValueError, RuntimeError):
        raise CameraError("transform_matrix must be 4x4 numbers") from None
    if frame.shape not in ((3, 4), (4, 4)):
        raise CameraError(f"transform_matrix has shape {tuple(frame.shape)}, must be 4x4")
    cam2world = torch.eye(4, dtype=torch.float64)
    cam2world[: len(frame)] = frame
    cam2world = move @ cam2world @ OPENGL_AXES
    cam2world[:3, :3] /= torch.linalg.det(move[:3, :3]) ** (1 / 3)
    return cam2world


def _intrinsics(values: dict[str, Any], width: int, height: int, where: str) -> Tensor:
    """Normalised intrinsics (3, 3); pixel centres are at half pixels, as in nerfstudio's own rays."""
    fl_x = _number(values, "fl_x", where)
    fl_y = _number(values, "fl_y", where) if "fl_y" in values else fl_x
    cx = _number(values, "cx", where) if "cx" in values else width / 2
    cy = _number(values, "cy", where) if "cy" in values else height / 2
    rows = [[fl_x / width, 0, cx / width], [0, fl_y / height, cy / height], [0, 0, 1]]
    return torch.tensor(rows, dtype=torch.float64)


def _number(values: dict[str, Any], key: str, where: str) -> float:
    value = values.get(key)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= sys.float_info.max:
        raise ConfigError(f"{where}: {key} is {value!r:.40}, must be a positive number, here or at the top of the file")
    return float(value)


def _refuse_distortion(values: dict[str, Any], where: str) -> None:
    advice = "undistort the pictures first (COLMAP: image_undistorter; OpenCV: undistort) and give their pinhole camera"
    if values.get("camera_model", MODELS[0]) not in MODELS:
        raise ConfigError(f"{where}: camera_model {values['camera_model']!r} is no pinhole; {advice}")
    for key in DISTORTION:
        value = values.get(key)
        if any(value if isinstance(value, list) else [value]):
            raise ConfigError(f"{where}: {key} is {value!r:.40}: distorted; {advice}")


def _require_heads(source: Path, found: Sequence[Item | Dropped], similarity: Path | None) -> None:
    """Raise ConfigError if all cameras say that the scene isn't in EG3D's space."""
    away = [entry for entry in found if isinstance(entry, Dropped) and entry.reason == OUT_OF_SPACE]
    if away and not any(isinstance(entry, Item) for entry in found):
        advice = "correct the matrix" if similarity else "give the matrix that takes it there with --similarity"
        raise ConfigError(f"{source}: the scene isn't in EG3D's space ({away[0].file}: {away[0].detail}); {advice}")
