"""Files that ComfyUI knows the place of: checkpoints, and the pack's own."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

import folder_paths

from ..nvb_core.checkpoint import DEFAULT_WEIGHTS, file_sha256
from ..nvb_core.errors import CheckpointError

FOLDER = "nvb_face"
BUILT_IN = "built-in mini"
NO_BASE = "none"
SUFFIX = ".safetensors"
_PROJECT = Path(__file__).parents[1] / "pyproject.toml"


def register_model_folder() -> None:
    """Make `models/nvb_face` a model folder, besides any that extra_model_paths.yaml names."""
    folder_paths.add_model_folder_path(FOLDER, str(Path(folder_paths.models_dir) / FOLDER))


def checkpoint_names() -> list[str]:
    """The built-in checkpoint, and those found in the model folders."""
    return [BUILT_IN, *(name for name in folder_paths.get_filename_list(FOLDER) if name.lower().endswith(SUFFIX))]


def checkpoint_path(name: str) -> Path:
    """File of a checkpoint. Raises CheckpointError saying where it was looked for."""
    if name == BUILT_IN:
        return DEFAULT_WEIGHTS
    try:
        return Path(folder_paths.get_full_path_or_raise(FOLDER, name))
    except FileNotFoundError:
        folders = ", ".join(folder_paths.get_folder_paths(FOLDER))
        raise CheckpointError(f"{name}: no such checkpoint in {folders}; put it there, or choose {BUILT_IN}") from None


def base_names() -> list[str]:
    """No base, and the checkpoints that ComfyUI knows."""
    return [NO_BASE, *(n for n in folder_paths.get_filename_list("checkpoints") if n.lower().endswith(SUFFIX))]


def base_path(name: str) -> Path | None:
    """File of a Stable Diffusion checkpoint. Raises CheckpointError."""
    if name == NO_BASE:
        return None
    try:
        return Path(folder_paths.get_full_path_or_raise("checkpoints", name))
    except FileNotFoundError:
        folders = ", ".join(folder_paths.get_folder_paths("checkpoints"))
        raise CheckpointError(f"{name}: no such checkpoint in {folders}; put it there, or choose {NO_BASE}") from None


def fingerprint(path: Path) -> tuple[str, int, int]:
    """Equal as long as a file is the same: name, size, time of change.

    ComfyUI keeps it with the prompt, in the metadata of saved pictures: no folder of the user's may show in it.
    """
    status = path.stat()
    return path.name, status.st_size, status.st_mtime_ns


def checkpoint_fingerprint(name: str | None) -> tuple[Any, ...]:
    """Equal as long as the checkpoint's file is the same; without a name, as long as those of all checkpoints are."""
    return _of_all(checkpoint_names(), checkpoint_path) if name is None else fingerprint(checkpoint_path(name))


def base_fingerprint(name: str | None) -> tuple[Any, ...]:
    """Equal as long as the base's file is the same, if any; without a name, as long as those of all bases are."""
    if name is None:
        return _of_all(base_names(), base_path)
    path = base_path(name)
    return fingerprint(path) if path else ()


def _of_all(names: list[str], path_of: Callable[[str], Path | None]) -> tuple[str]:
    """For a name that is linked, which ComfyUI doesn't tell before the run: any of the files may be meant.

    A digest, since the names of all the models that somebody has belong in no picture either.
    """
    found = []
    for name in names:
        with suppress(CheckpointError, OSError):  # a link that leads nowhere; choosing it is an error of its own
            if path := path_of(name):
                found.append(fingerprint(path))
    return (hashlib.sha256(repr(found).encode()).hexdigest(),)


def sha256(path: Path) -> str:
    """Digest of a file, computed once as long as it doesn't change."""
    return _sha256(path, fingerprint(path))


@lru_cache(maxsize=32)
def _sha256(path: Path, _fingerprint: tuple[str, int, int]) -> str:
    return file_sha256(path)


@lru_cache(maxsize=1)
def pack_version() -> str:
    """The pack's version: a pack in `custom_nodes` isn't an installed distribution."""
    found = re.search(r'^version = "(.+)"$', _PROJECT.read_text(encoding="utf-8"), re.MULTILINE)
    return found[1] if found else "unknown"
