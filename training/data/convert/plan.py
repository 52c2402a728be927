"""What a converter found in its source: images to take, and what was left out and why."""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import torch

from nvb_core.align import CropBox
from nvb_core.cameras import Cameras
from nvb_core.cli.jobs import SUFFIXES
from nvb_core.errors import CameraError, ConfigError
from nvb_core.images import FORMATS

JOURNAL_NAME = "conversion.jsonl"
"""Of a folder that is converted into."""
MIN_INSIDE = 0.85
"""Of the side of a square crop: beyond the picture its edge pixels are repeated (chosen)."""
EXPECTED = f"expected {', '.join(FORMATS)} files"
_RAW = {".arw", ".cr2", ".cr3", ".dng", ".nef", ".nrw", ".orf", ".pef", ".raf", ".rw2", ".srw"}
UNREAD = ({".avif", ".exr", ".hdr", ".heic", ".heif", ".hif", ".jxl", ".psd"} | _RAW) - SUFFIXES
"""Suffixes of pictures whose formats aren't read; whether AVIF is depends on Pillow."""


@dataclass(frozen=True)
class Dropped:
    """A file of the source, or an entry about one, that isn't taken."""

    file: str  # relative to the source
    reason: str  # the same words for all such files
    detail: str = ""


@dataclass(frozen=True)
class Item:
    """An image to take."""

    subject: str
    view: str
    source: str  # relative to the plan's root
    label: tuple[float, ...] | None  # 25 floats of the image as written, after cropping; None: unknown camera
    box: CropBox | Literal["face"] | None = None  # what to take of it: a square, the face that is found, or all of it
    size_px: tuple[int, int] | None = None  # width and height that the label was made for

    @property
    def name(self) -> str:
        """Path of the written image within the face folder."""
        return f"{self.subject}/{self.view}.png"


@dataclass(frozen=True)
class Plan:
    """All that a source holds."""

    kind: str
    root: Path
    items: tuple[Item, ...]
    dropped: tuple[Dropped, ...] = ()
    margin: float | None = None  # of the written images around the canonical view; None: as their labels say
    settings: dict[str, Any] = field(default_factory=dict)  # what else must agree for a second run to go on


def require_folder(folder: Path) -> Path:
    """Raise ConfigError unless the source is a folder."""
    if folder.suffix.lower() == ".zip" and folder.is_file():
        raise ConfigError(f"{folder}: is a zip archive; unpack it first and name the folder")
    if not folder.is_dir():
        raise ConfigError(f"{folder}: no such folder")
    return folder


def list_images(root: Path) -> tuple[list[str], list[Dropped]]:
    """Relative paths of all images below a folder, sorted, and what looks like one but is of another format."""
    files = sorted(path.relative_to(root).as_posix() for path in _visible_files(root))
    suffixes = {name: PurePosixPath(name).suffix.lower() for name in files}
    images = [name for name in files if suffixes[name] in SUFFIXES]
    others = [name for name in files if suffixes[name] in UNREAD]
    return images, [Dropped(name, "format that isn't read", EXPECTED) for name in others]


def _visible_files(root: Path) -> Iterator[Path]:
    """Files below a folder but for hidden ones; each folder once, by links only if there is no other way to it."""
    seen: set[str] = set()
    starts = [root]
    for start in starts:  # to which links are added
        for folder, names, files in os.walk(start):
            real = os.path.realpath(folder)
            if real in seen:
                names.clear()
                continue
            seen.add(real)
            if JOURNAL_NAME in files and start is not root:  # what a conversion has written, reached by a link
                names.clear()
                continue
            names[:] = (name for name in names if not name.startswith("."))
            starts += [path for name in names if (path := Path(folder, name)).is_symlink()]
            yield from (path for name in files if not name.startswith(".") and (path := Path(folder, name)).is_file())


def share_inside(box: CropBox, width: int, height: int) -> float:
    """How much of the sides of an upright box lies within a picture: the lesser of both shares, below 0 if none."""
    half = box.size_px / 2
    spans = ((box.center_x, width), (box.center_y, height))
    return min((min(c + half, length) - max(c - half, 0)) / box.size_px for c, length in spans)


def clean_name(text: str) -> str:
    """A file name for any text: itself if it is plain, else what is plain of it and a hash."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-.")[:80]
    digest = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()  # file names needn't be Unicode
    return plain if plain == text else f"{plain}-{digest[:8]}".lstrip("-")


def folder_subjects(images: Sequence[str]) -> dict[PurePosixPath, str]:
    """The subject of each folder: its path's parts joined, with a hash where another's are alike (a/b and a-b)."""
    folders = {PurePosixPath(name).parent for name in images}
    joined = {folder: clean_name("-".join(folder.parts)) for folder in folders}
    often = Counter(joined.values())
    return {folder: clean_name(folder.as_posix()) if often[name] > 1 else name for folder, name in joined.items()}


def without_twins(items: Sequence[Item]) -> Iterator[Item | Dropped]:
    """The items, but those whose written name, case aside, was there before, dropped; of contradicting twins both."""
    groups: dict[str, list[Item]] = {}
    for item in items:
        groups.setdefault(item.name.casefold(), []).append(item)
    for first, *others in groups.values():
        contradicted = any(other.source == first.source and other != first for other in others)
        yield Dropped(first.source, "several labels for one image") if contradicted else first
        for other in others:
            if other.source != first.source:
                detail = f"{other.name} is of {first.source}"
                yield Dropped(other.source, "name like that of another image", detail)


def camera_faults(labels: torch.Tensor) -> dict[int, str]:
    """Indices of the labels (N, 25) that are no cameras, and why, by halving the lot until the fault is alone."""
    try:
        Cameras.from_eg3d(labels)
    except CameraError as error:
        if len(labels) == 1:
            return {0: str(error).removeprefix("camera 0: ")}
        half = len(labels) // 2
        later = {half + i: fault for i, fault in camera_faults(labels[half:]).items()}
        return camera_faults(labels[:half]) | later
    return {}


def drop_bad_cameras(items: Sequence[Item]) -> Iterator[Item | Dropped]:
    """The items, but those whose label is no camera, dropped."""
    labelled = [item for item in items if item.label is not None]
    labels = torch.tensor([item.label for item in labelled], dtype=torch.float64).reshape(-1, 25)
    faults = camera_faults(labels) if labelled else {}
    bad = {labelled[i].name: fault for i, fault in faults.items()}
    for item in items:
        fault = bad.get(item.name)
        if fault is None:
            yield item
        else:
            reason = re.sub(r"[-+\d.e\[\], ]+must be", " must be", fault)  # without the values
            yield Dropped(item.source, f"bad camera: {reason}", fault)


def finish(
    kind: str, root: Path, found: Sequence[Item | Dropped], margin: float | None = None, **settings: Any
) -> Plan:
    """The plan of what was found, after the checks that all kinds share."""
    dropped = [entry for entry in found if isinstance(entry, Dropped)]
    items = [entry for entry in found if isinstance(entry, Item)]
    for check in (without_twins, drop_bad_cameras):
        checked = list(check(items))
        dropped += [entry for entry in checked if isinstance(entry, Dropped)]
        items = [entry for entry in checked if isinstance(entry, Item)]
    return Plan(kind, root, tuple(items), tuple(dropped), margin, settings)
