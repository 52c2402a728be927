"""Heads that a 3D GAN (EG3D, PanoHead) has generated, in one of three layouts:

1. Labelled as EG3D's data sets are, each head in a folder of its own, nested or not:
       SRC/dataset.json  {"labels": [["seed0000/00.png", [25 floats]], ...]},  SRC/seed0000/00.png, ...
2. A label beside each image, of 25 numbers, as JSON list, as text, or as saved by numpy:
       SRC/seed0000/00.png, SRC/seed0000/00.json (or .txt, .npy), ...
3. What EG3D's and PanoHead's own gen_samples.py write, which is no label at all but known views side by side:
       SRC/seed0000.png  three views (EG3D: yaw 0.4, 0, -0.4) or five (PanoHead: 0, -45, -90, -135, -180 degrees)
   Their cameras follow from the scripts: LookAtPoseSampler at pitch -0.2, radius 2.7, --fov-deg 18.837, looking at
   (0, 0, pivot_z): 0.2 in EG3D's FFHQ model, 0 in PanoHead's. Heads seen from behind are kept.

gen_videos.py of either writes a video without cameras, and PanoHead's gen_samples_forID.py images of random cameras
that it doesn't store; both are good for the kind `faces` alone.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from PIL import Image

from nvb_core.align import CropBox
from nvb_core.cameras import RADIUS, Cameras
from nvb_core.errors import ConfigError

from ..index import INDEX_NAME, label_fault
from .eg3d import read_content, read_labels
from .plan import Dropped, Item, Plan, clean_name, finish, folder_subjects, list_images, require_folder

LABEL_SUFFIXES = (".json", ".txt", ".npy")
STRIP_YAWS = {3: (0.4, 0.0, -0.4), 5: tuple(math.radians(a) for a in (0, -45, -90, -135, -180))}
STRIP_PITCH, STRIP_FOV_DEG = -0.2, 18.837
PIVOT_Z = {3: 0.2, 5: 0.0}


def plan_generated(source: Path, pivot_z: float | None) -> Plan:
    """What a folder of generated heads holds. Raises ConfigError if it is of none of the layouts."""
    images, unread = list_images(require_folder(source))
    if (source / INDEX_NAME).exists():
        found = list(_labelled(source, images))
    elif any(_label_file(source / name) for name in images):
        found = list(_beside(source, images))
    elif images and all(len(PurePosixPath(name).parts) == 1 for name in images):
        found = [entry for name in images for entry in _strip(source, name, pivot_z)]
    else:
        raise ConfigError(
            f"{source}: has neither a {INDEX_NAME}, nor labels beside its images, nor gen_samples.py's strips; "
            "without cameras its images are good for the kind faces alone"
        )
    return finish("generated", source, [*unread, *found], pivot_z=pivot_z)


def strip_cameras(tiles: int, pivot_z: float) -> Cameras:
    """Cameras of a strip's views, as gen_samples.py of EG3D (3 tiles) or PanoHead (5) sets them."""
    yaw = torch.tensor(STRIP_YAWS[tiles], dtype=torch.float64)
    polar = math.acos(1 - 2 * (math.pi / 2 + STRIP_PITCH) / math.pi)  # the sampler's height is linear in the angle
    ground, theta = RADIUS * math.sin(polar), math.pi / 2 + yaw
    height = torch.full_like(yaw, RADIUS * math.cos(polar))
    position = torch.stack([ground * torch.cos(math.pi - theta), height, ground * torch.sin(math.pi - theta)], dim=1)
    cameras = Cameras.look_at(position, torch.tensor([0.0, 0.0, pivot_z], dtype=torch.float64))
    intrinsics = cameras.intrinsics.clone()
    focal = 1 / (math.tan(STRIP_FOV_DEG * 3.14159 / 360) * 1.414)  # the script's own rounding
    intrinsics[:, 0, 0] = intrinsics[:, 1, 1] = focal
    return Cameras(cameras.cam2world, intrinsics)


def _labelled(source: Path, images: list[str]) -> Iterator[Item | Dropped]:
    subjects = folder_subjects(images)
    for entry in read_labels(read_content(source), images):
        yield entry if isinstance(entry, Dropped) else _item(*entry, subjects)


def _item(name: str, label: tuple[float, ...], subjects: dict[PurePosixPath, str]) -> Item | Dropped:
    pure = PurePosixPath(name)
    if not pure.parent.parts:
        return Dropped(name, "not in a head's folder")
    return Item(subjects[pure.parent], clean_name(pure.stem), name, label)


def _beside(source: Path, images: list[str]) -> Iterator[Item | Dropped]:
    subjects = folder_subjects(images)
    for name in images:
        label = _label_beside(source, name)
        yield label if isinstance(label, Dropped) else _item(name, label, subjects)


def _label_file(image: Path) -> Path | None:
    return next((p for p in map(image.with_suffix, LABEL_SUFFIXES) if p.is_file()), None)


def _label_beside(source: Path, name: str) -> tuple[float, ...] | Dropped:
    file = _label_file(source / name)
    if file is None:
        return Dropped(name, "image without label")
    try:
        if file.suffix == ".npy":
            with file.open("rb") as stream:  # np.load would take archives too
                label = np.lib.format.read_array(stream, allow_pickle=False).reshape(-1).astype(float).tolist()
        elif file.suffix == ".json":
            label = json.loads(file.read_text(encoding="utf-8"))
        else:
            label = [float(word) for word in file.read_text(encoding="utf-8").replace(",", " ").split()]
    except (OSError, ValueError, TypeError, RecursionError, MemoryError) as error:
        return Dropped(name, "bad label", f"{file.name}: {' '.join(str(error).split())[:80]}")
    fault = label_fault(label)
    return Dropped(name, "bad label", f"{file.name}: {fault}") if fault else tuple(map(float, label))


def _strip(source: Path, name: str, pivot_z: float | None) -> Iterator[Item | Dropped]:
    try:
        with Image.open(source / name) as image:
            width, height = image.size
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        yield Dropped(name, "unreadable image", " ".join(str(error).split())[:120])
        return
    tiles, rest = divmod(width, height)
    if rest or tiles not in STRIP_YAWS:
        yield Dropped(name, "not a strip of 3 or 5 square views", f"{width}x{height} px")
        return
    labels = strip_cameras(tiles, PIVOT_Z[tiles] if pivot_z is None else pivot_z).to_eg3d().tolist()
    for view, label in enumerate(labels):
        box = CropBox((view + 0.5) * height, height / 2, height)
        yield Item(clean_name(PurePosixPath(name).stem), f"{view:02d}", name, tuple(label), box, (width, height))
