"""Which photos to render, and where each one's results go."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from ..errors import ConfigError, ImageError
from ..images import FORMATS

SUFFIXES = frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in FORMATS)


@dataclass(frozen=True)
class Job:
    """One photo and the folder of its results."""

    photo: Path
    folder: Path


def plan_jobs(arguments: Sequence[str], out: Path, always_subfolders: bool) -> list[Job]:
    """Jobs for files, folders (the images directly inside, sorted) and glob patterns, in order, each file once.

    One photo goes into `out` itself, several go into `out/<stem>`. A file that doesn't exist is kept: it is reported
    when its turn comes. Raises ConfigError if there is nothing to do, ImageError for an unreadable folder.
    """
    photos = list({photo.resolve(): photo for argument in arguments for photo in _expand(argument)}.values())
    if not photos:
        raise ConfigError("no photos given; name files, folders or patterns, for example: nvb-face render photo.jpg")
    if len(photos) == 1 and not always_subfolders:
        return [Job(photos[0], out)]
    return [Job(photo, out / name) for photo, name in zip(photos, unique_stems(photos), strict=True)]


def unique_stems(paths: Sequence[Path]) -> list[str]:
    """A folder name for each path: its stem, with -2, -3, ... where one is taken (also by a name of another case)."""
    taken: set[str] = set()
    names = []
    for path in paths:
        stem = path.stem.strip(". ") or "photo"
        name, count = stem, 1
        while name.casefold() in taken:
            count += 1
            name = f"{stem}-{count}"
        taken.add(name.casefold())
        names.append(name)
    return names


def _expand(argument: str) -> list[Path]:
    path = Path(argument)
    if path.is_dir():
        try:
            found = sorted(entry for entry in path.iterdir() if _is_photo(entry))
        except OSError as error:
            raise ImageError(f"{argument}: can't be listed ({error.strerror}); check its permissions") from error
        if not found:
            raise ConfigError(f"{argument}: no photos in this folder; expected {', '.join(FORMATS)} files")
        return found
    if path.exists() or not glob.has_magic(argument):
        return [path]
    matches = sorted(Path(match) for match in glob.glob(argument, recursive=True))
    found = [match for match in matches if _is_photo(match)]
    if not found:
        raise ConfigError(f"{argument}: no photo matches this pattern; expected {', '.join(FORMATS)} files")
    return found


def _is_photo(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()
