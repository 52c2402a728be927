"""The common on-disk form of posed face images:

    FOLDER/{subject}/{view}.png
    FOLDER/dataset.json  {"format": "nvb-faces", "version": 2, "labels": [[path, [25 floats] or null], ...],
                          "subjects": [subject of each label, ...], "splits": [split of each label, ...], "meta": {...}}

A null label is an image of unknown camera. "splits" ("train", "val" or "test") may be left out. Version 1 is the same
without either. EG3D's own dataset.json ({"labels": [...]}) reads too; there each photo is its own subject, with its
mirror image and numbered copies. Images are square and may carry a margin around the canonical view for crop jitter;
labels always describe the whole image.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import compress
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from nvb_core.errors import ConfigError
from nvb_core.staging import write_atomically

INDEX_NAME = "dataset.json"
FORMAT, VERSION = "nvb-faces", 2
SPLITS = ("train", "val", "test")
SPLIT_FRACTIONS = {"train": 0.9, "val": 0.05, "test": 0.05}
"""Shares of the subjects in splits that are derived from their names (chosen)."""

Split = Literal["all", "train", "val", "test"]

_COPY = re.compile(r"(?P<original>img\d+)(?P<mirror>_mirror)?_(?P<copy>\d\d)")  # of the rebalanced FFHQ
_MIRROR = re.compile(r"(?P<original>.+)_mirror")


@dataclass(frozen=True, eq=False)
class FaceIndex:
    """Content of a dataset.json; entry i is image paths[i], labels[i], subjects[i] and, if there are any, splits[i]."""

    paths: tuple[str, ...]  # relative to the folder, with forward slashes
    labels: Tensor  # (N, 25) float64 EG3D labels of the whole images; a row of NaN where the camera is unknown
    subjects: tuple[str, ...]
    meta: dict[str, Any]
    splits: tuple[str, ...] = ()  # as named by the file; empty if it names none
    one_photo: bool = False  # whether a subject is one photo, with its numbered copies and mirror images

    @property
    def has_camera(self) -> Tensor:
        """(N,) bool: which images' cameras are known."""
        return ~self.labels.isnan().any(dim=1)

    @property
    def is_view(self) -> list[bool]:
        """(N) which images are a view of their subject that no earlier one is, of known camera.

        An image may be listed twice. Of a photo of EG3D's data sets there are numbered copies, and mirrored ones, which
        show another face.
        """
        seen: set[str] = set()
        views = []
        for path, subject, known in zip(self.paths, self.subjects, self.has_camera.tolist(), strict=True):
            name = subject if self.one_photo else path
            mirrored = self.one_photo and "mirror" in PurePosixPath(path).stem.split("_")
            views.append(known and not mirrored and name not in seen)
            if views[-1]:
                seen.add(name)
        return views

    @property
    def is_lone(self) -> list[bool]:
        """(N) which images show a subject of which no camera is known; of one that is listed twice the first."""
        posed = set(compress(self.subjects, self.has_camera.tolist()))
        first = {path: i for i, path in reversed(list(enumerate(self.paths)))}
        return [
            s not in posed and first[p] == i for i, (p, s) in enumerate(zip(self.paths, self.subjects, strict=True))
        ]

    @property
    def most_views(self) -> int:
        """Views of the subject that has most."""
        return max(Counter(compress(self.subjects, self.is_view)).values(), default=0)

    def only(self, split: Split) -> FaceIndex:
        """The entries of a split: the file's own where it names them, else `derived_split` of the subject."""
        if split == "all":
            return self
        splits = self.splits or [derived_split(subject) for subject in self.subjects]
        keep = [i for i, name in enumerate(splits) if name == split]
        paths, subjects = (tuple(values[i] for i in keep) for values in (self.paths, self.subjects))
        return replace(self, paths=paths, labels=self.labels[keep], subjects=subjects, splits=(split,) * len(keep))


def derived_split(subject: str) -> str:
    """The split of a subject by a hash (SHA-256) of its name alone, so that no image moves as a data set grows."""
    position = int.from_bytes(hashlib.sha256(subject.encode(errors="surrogatepass")).digest()[:8], "big") / 2**64
    edges = np.cumsum([SPLIT_FRACTIONS[name] for name in SPLITS[:-1]])
    return SPLITS[int(np.searchsorted(edges, position, side="right"))]


def write_index(
    folder: Path,
    paths: Sequence[str],
    labels: Tensor,
    subjects: Sequence[str],
    meta: Mapping[str, Any],
    splits: Sequence[str] = (),
) -> None:
    """Write FOLDER/dataset.json in one step: labels (N, 25) of the images at paths (N), showing subjects (N).

    A row of NaN is an image of unknown camera; splits (N), if given, are "train", "val" or "test", one per subject.
    A meta["margin"] > 1 says that the canonical view is the centre 1/margin of each image. Raises OutputError.
    """
    if not len(paths) == len(labels) == len(subjects):
        raise ValueError(f"{len(paths)} paths, {len(labels)} labels and {len(subjects)} subjects")
    unknown = labels.isnan().all(dim=1).tolist()
    if not bool(labels.isfinite().all(dim=1).logical_or(torch.tensor(unknown, dtype=torch.bool)).all()):
        raise ValueError("labels must be finite, or a row of NaN for an unknown camera")
    rows = [None if skip else row for row, skip in zip(labels.double().tolist(), unknown, strict=True)]
    index: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION if splits or any(unknown) else 1,
        "labels": [list(entry) for entry in zip(paths, rows, strict=True)],
        "subjects": list(subjects),
        "meta": dict(meta),
    }
    if splits:
        _check_splits(list(splits), subjects, ValueError, "splits")
        index["splits"] = list(splits)
    text = json.dumps(index)
    write_atomically(folder / INDEX_NAME, lambda partial: partial.write_text(text, encoding="utf-8"))


def read_index(folder: Path) -> FaceIndex:
    """Read and check FOLDER/dataset.json. Raises ConfigError naming the file and the first bad entry."""
    path = folder / INDEX_NAME
    index = read_json(path, f"a face folder needs a {INDEX_NAME}")
    if not isinstance(index, dict) or not isinstance(index.get("labels"), list) or not index["labels"]:
        raise ConfigError(f'{path}: must hold {{"labels": [[path, [25 numbers]], ...]}} with at least one entry')
    if "format" in index and (index["format"] != FORMAT or index.get("version") not in (1, VERSION)):
        found = f"{index['format']!r} version {index.get('version')!r}"
        raise ConfigError(f"{path}: format {found}, expected {FORMAT!r} version 1 or {VERSION}")
    entries = [_parse_entry(entry, f"{path}: labels[{i}]") for i, entry in enumerate(index["labels"])]
    _refuse_contradictions(entries, path)
    paths = tuple(name for name, _ in entries)
    subjects = index.get("subjects", [_photo(name) for name in paths])
    if not isinstance(subjects, list) or len(subjects) != len(paths) or not all(isinstance(s, str) for s in subjects):
        raise ConfigError(f"{path}: subjects must be a list of {len(paths)} strings, one for each label")
    meta = index.get("meta", {})
    if not isinstance(meta, dict):
        raise ConfigError(f"{path}: meta must be an object")
    splits = index.get("splits") or []
    if splits:
        _check_splits(splits, subjects, ConfigError, f"{path}: splits")
    labels = torch.tensor([label or [math.nan] * 25 for _, label in entries], dtype=torch.float64)
    one_photo = "subjects" not in index or meta.get("converted_from") == "eg3d"
    return FaceIndex(paths, labels, tuple(subjects), meta, tuple(splits), one_photo)


def require_meta(folder: Path, wanted: Mapping[str, Any], of_older: Mapping[str, Any] = MappingProxyType({})) -> None:
    """Raise ConfigError where a folder's index has another meta than what is about to be made there.

    `of_older` is what an index that doesn't say has.
    """
    path = folder / INDEX_NAME
    if not path.exists():
        return
    try:
        found = {**of_older, **json.loads(path.read_text(encoding="utf-8")).get("meta", {})}
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ConfigError(f"{path} is not a dataset index; choose another --out") from error
    wrong = [f"{key} {found.get(key)} (not {value})" for key, value in wanted.items() if found.get(key) != value]
    if wrong:
        raise ConfigError(f"{folder} already holds images of other settings: {', '.join(wrong)}; choose another --out")


def split_stem(stem: str) -> tuple[str, str]:
    """The original of an image's stem in EG3D's data sets, and which view of it this is."""
    if match := _COPY.fullmatch(stem):
        return match["original"], f"{'mirror' if match['mirror'] else 'view'}_{match['copy']}"
    if match := _MIRROR.fullmatch(stem):
        return match["original"], "mirror"
    return stem, "view"


def read_json(path: Path, missing: str) -> Any:
    """A decoded JSON file. Raises ConfigError, saying what is `missing` if there is no such file."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; {missing}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not readable as JSON: {error}") from None


def label_fault(label: Any) -> str | None:
    """What keeps a value from being 25 finite numbers, or None."""
    if not isinstance(label, list) or len(label) != 25:
        return f"label must be 25 numbers, is {str(label)[:60]}"
    if not all(isinstance(v, (int, float)) and not isinstance(v, bool) and abs(v) <= sys.float_info.max for v in label):
        return "label holds a value that is not a finite number"
    return None


def leaves_folder(name: str) -> bool:
    """Whether a relative path with forward slashes points outside its folder."""
    pure = PurePosixPath(name)
    return pure.is_absolute() or ".." in pure.parts


def _photo(name: str) -> str:
    """What the original, mirrored and numbered images of one photo have in common."""
    path = PurePosixPath(name)
    return str(path.parent / split_stem(path.stem)[0])


def _parse_entry(entry: Any, where: str) -> tuple[str, list[float] | None]:
    if not isinstance(entry, list) or len(entry) != 2 or not isinstance(entry[0], str):
        raise ConfigError(f"{where}: must be [path, [25 numbers]], is {str(entry)[:60]}")
    name, label = entry
    if leaves_folder(name):
        raise ConfigError(f"{where}: path {name!r} must lie inside the folder")
    fault = None if label is None else label_fault(label)
    if fault:
        raise ConfigError(f"{where} ({name}): {fault}")
    return name, label


def _refuse_contradictions(entries: Sequence[tuple[str, list[float] | None]], path: Path) -> None:
    """An image may be listed twice, so that it counts twice, but not with two labels."""
    known: dict[str, list[float] | None] = {}
    for i, (name, label) in enumerate(entries):
        if known.setdefault(name, label) != label:
            raise ConfigError(f"{path}: labels[{i}]: {name} has another label further up; keep the right one")


def _check_splits(splits: Any, subjects: Sequence[str], error: type[Exception], where: str) -> None:
    if not isinstance(splits, list) or len(splits) != len(subjects) or not all(s in SPLITS for s in splits):
        raise error(f"{where} must be {len(subjects)} of {', '.join(SPLITS)}, one for each label")
    known: dict[str, str] = {}
    for subject, split in zip(subjects, splits, strict=True):
        if known.setdefault(subject, split) != split:
            raise error(f"{where}: subject {subject!r} is in {known[subject]} and in {split}; keep it in one")
