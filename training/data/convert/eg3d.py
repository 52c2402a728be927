"""FFHQ, CelebA and any other folder that EG3D's preprocessing leaves:

    SRC/00000/img00000000.png, SRC/00000/img00000000_mirror.png, ...
    SRC/dataset.json  {"labels": [["00000/img00000000.png", [25 floats]], ...]}

Labels are EG3D's: row-major OpenCV cam2world and normalised intrinsics. A mirrored image, and the numbered copies of
EG3D's rebalanced FFHQ (img00000000_00.png, img00000000_mirror_01.png), are of the subject of their original.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from nvb_core.errors import ConfigError

from ..index import INDEX_NAME, label_fault, leaves_folder, read_json, split_stem
from .plan import Dropped, Item, Plan, clean_name, finish, list_images, require_folder


def plan_eg3d(source: Path) -> Plan:
    """What an EG3D-labelled folder holds. Raises ConfigError if it isn't one."""
    content = read_content(require_folder(source))
    return finish("eg3d", source, list(_found(source, content)))


def read_content(source: Path) -> dict[str, Any]:
    """What dataset.json holds. Raises ConfigError for one without labels, or with more than labels."""
    path = source / INDEX_NAME
    content = read_json(path, f"a folder of this kind has a {INDEX_NAME}")
    if not isinstance(content, dict) or not isinstance(content.get("labels"), list):
        raise ConfigError(f'{path}: must hold {{"labels": [[path, [25 numbers]], ...]}}')
    if "subjects" in content or "splits" in content:
        raise ConfigError(f"{source}: is a face folder, whose subjects and splits would be lost; use it as it is")
    return content


def read_labels(content: dict[str, Any], images: list[str]) -> Iterator[tuple[str, tuple[float, ...]] | Dropped]:
    """Path and label of each image, and what was dropped: every image of the list and every entry comes up once."""
    entries: dict[str, list[Any]] = {}
    for i, entry in enumerate(content["labels"]):
        if isinstance(entry, list) and len(entry) == 2 and isinstance(entry[0], str):
            entries.setdefault(entry[0].replace("\\", "/"), []).append(entry[1])
        else:
            yield Dropped(f"{INDEX_NAME}: labels[{i}]", "entry isn't [path, [25 numbers]]", str(entry)[:60])
    there = set(images)
    for name, labels in entries.items():
        fault = label_fault(labels[0])
        if leaves_folder(name) or name not in there:
            yield Dropped(name, "label without image")
        elif any(label != labels[0] for label in labels):
            yield Dropped(name, "several labels for one image")
        elif fault:
            yield Dropped(name, "bad label", fault)
        else:
            yield name, tuple(float(value) for value in labels[0])
    for name in sorted(there - entries.keys()):
        yield Dropped(name, "image without label")


def _found(source: Path, content: dict[str, Any]) -> Iterator[Item | Dropped]:
    images, unread = list_images(source)
    yield from unread
    for entry in read_labels(content, images):
        if isinstance(entry, Dropped):
            yield entry
            continue
        name, label = entry
        pure = PurePosixPath(name)
        original, view = split_stem(pure.stem)
        yield Item(clean_name("-".join([*pure.parent.parts, original])), view, name, label)
