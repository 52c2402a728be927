"""Which photos to render, and where each one's results go."""

from __future__ import annotations

import glob
import os
import warnings
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from ..errors import ConfigError, ImageError
from ..images import FORMATS

SUFFIXES = frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in FORMATS)
MAX_STEM_BYTES = 200  # file systems allow 255


@dataclass(frozen=True)
class Job:
    """One photo and the folder of its results."""

    photo: Path
    folder: Path


def plan_jobs(arguments: Sequence[str], out: Path, always_subfolders: bool, results: Collection[str] = ()) -> list[Job]:
    """Jobs for files, folders (the images directly inside, sorted) and glob patterns, in order, each file once.

    One photo goes into `out` itself, several go into `out/<stem>`. A file that doesn't exist or can't be reached is
    kept: it is reported when its turn comes. PNGs in folders and patterns that carry one of the text chunks `results`
    are left out: an earlier run's, whose `out` may be the photos' own folder. Raises ConfigError if there is nothing to
    do, ImageError for an unreadable folder.
    """
    if "" in arguments:
        raise ConfigError("a photo's name is empty; an empty variable of the shell?")
    found = (photo for argument in arguments for photo in _expand(argument, results))
    photos = list({os.path.realpath(photo): photo for photo in found}.values())
    if not photos:
        raise ConfigError('no photos given; name files, folders or patterns, for example photo.jpg or "photos/*.jpg"')
    if len(photos) == 1 and not always_subfolders:
        return [Job(photos[0], out)]
    return [Job(photo, out / name) for photo, name in zip(photos, unique_stems(photos), strict=True)]


def unique_stems(paths: Sequence[Path], reserved: Sequence[str] = ()) -> list[str]:
    """A folder name for each path: its stem, with -2, -3, ... where one is taken (also by a name of another case).

    The `reserved`, in lower case, count as taken. Overlong stems are cut, so that there is room for more in a file's
    name.
    """
    taken = set(reserved)
    names = []
    for path in paths:
        stem = path.stem
        while len(os.fsencode(stem)) > MAX_STEM_BYTES:
            stem = stem[:-1]
        stem = stem.strip(". ") or "photo"
        name, count = stem, 1
        while name.casefold() in taken:
            count += 1
            name = f"{stem}-{count}"
        taken.add(name.casefold())
        names.append(name)
    return names


def _expand(argument: str, results: Collection[str]) -> list[Path]:
    path = Path(argument)
    is_folder = os.path.isdir(path)  # unlike Path's, False for what can't be reached
    if not is_folder and (os.path.exists(path) or not glob.has_magic(argument)):
        return [path]
    try:
        entries = path.iterdir() if is_folder else map(Path, glob.glob(argument, recursive=True))
        found = sorted(filter(_is_photo, entries))
    except OSError as error:
        raise ImageError(f"{argument}: can't be listed ({error.strerror}); check its permissions") from error
    if not found:
        lacking = "no photos in this folder" if is_folder else "no photo matches this pattern"
        raise ConfigError(f"{argument}: {lacking}; expected {', '.join(FORMATS)} files")
    photos = [path for path in found if not _carries(path, results)]
    if not photos:
        raise ConfigError(
            f"{argument}: holds only results of this command; name those files that you mean nevertheless"
        )
    return photos


def _is_photo(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()


def _carries(path: Path, keys: Collection[str]) -> bool:
    """Whether a file is a PNG with one of these text chunks before its pixels, as we write them."""
    if not keys or path.suffix.lower() != ".png":
        return False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path, formats=("PNG",)) as picture:
                return any(key in picture.info for key in keys)
    except Exception:  # whatever is wrong with it is reported when its turn comes
        return False
