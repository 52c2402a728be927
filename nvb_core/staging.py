"""Results that are either the old ones or the new ones, never half of each: `write_atomically` for a file,
`staged_folder` for a folder; and `locked`, for work on a folder that only one process may be at.

A folder's new entries are made in a hidden folder inside the target and renamed into place at the end, the `marker`
file last, so a folder that holds the marker is complete. Working inside the target keeps every rename on one file
system even if the target is a mount point, and leaves files alone that aren't ours. A lock keeps a second process out.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .errors import OccupiedError, OutputError

STAGE = ".nvb-face-partial"
PARTIAL_SUFFIX = ".partial"


def write_atomically(path: Path, write: Callable[[Path], Any]) -> None:
    """Call write(partial file) and rename it to `path`; nothing is left behind if that fails (OutputError)."""
    from safetensors import SafetensorError

    partial = path.with_name(f"{path.name}.{os.getpid()}{PARTIAL_SUFFIX}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            write(partial)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    except (OSError, SafetensorError) as error:
        raise unwritable(path, error) from None


def unwritable(path: Path, error: Exception) -> OutputError:
    """The error that says that a file can't be written."""
    return OutputError(f"{path}: can't be written ({error}); free space or choose another folder")


@contextmanager
def staged_folder(target: Path, marker: str, entries: Sequence[str], is_ours: Callable[[Path], bool]) -> Iterator[Path]:
    """Yield an empty folder; on a normal exit, what was made in it replaces `marker` and `entries` in `target`.

    On any exception, Ctrl-C included, the folder and the parents made for it are removed, and `target` is as before.
    Raises OutputError if `target` can't be written, and OccupiedError if another process is at it, or it holds one of
    the names without `is_ours(target)` being true.
    """
    names = (marker, *entries)
    stage = target / STAGE
    made: list[Path] = []
    with locked(target):
        try:
            with writing(target):
                _refuse_foreign(target, names, is_ours)
                made += [path for path in (target, *target.parents) if not path.exists()]
                target.mkdir(parents=True, exist_ok=True)
                if stage.exists():  # left by a process that was killed
                    shutil.rmtree(stage)
                stage.mkdir()
            yield stage
            with writing(target):
                ready = [name for name in names if (stage / name).exists()]
                try:
                    _publish(stage, target, names, ready)
                except KeyboardInterrupt:
                    _publish(stage, target, names, ready)  # a few renames: finish them
                    raise
        except BaseException:
            shutil.rmtree(stage, ignore_errors=True)
            for folder in made:  # innermost first
                if folder.is_dir() and not any(folder.iterdir()):
                    folder.rmdir()
            raise


@contextmanager
def locked(target: Path) -> Iterator[None]:
    """Keep this machine's other processes out of a folder; one that ends lets go of it, however it ends.

    The folder needn't be there yet, and nothing is written into it. Raises OccupiedError if another is at it.
    """
    from filelock import FileLock, Timeout

    user = getattr(os, "getuid", int)()  # of whom another could not open the lock; Windows has a folder for each
    key = hashlib.sha256(os.fsencode(f"{user} {os.path.realpath(target)}")).hexdigest()[:16]
    path = Path(tempfile.gettempdir(), f"nvb-face-{key}.lock")
    lock = FileLock(path, timeout=0)
    with writing(path):
        try:
            lock.acquire()
        except Timeout:
            message = f"{target}: another nvb-face is writing here; wait for it or choose another --out"
            raise OccupiedError(message) from None
    try:
        yield
    finally:
        lock.release()


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an OSError of the body into a one-line OutputError about `path`."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        advice = "free some space or choose another --out" if full else "choose a folder that can be written with --out"
        raise OutputError(f"{path}: can't be written ({error.strerror or error}); {advice}") from error


def _refuse_foreign(target: Path, names: Sequence[str], is_ours: Callable[[Path], bool]) -> None:
    found = [name for name in names if (target / name).exists()]
    if found and not is_ours(target) and not (target / STAGE).exists():
        raise OccupiedError(
            f"{target}: holds {', '.join(found)} that a finished run of nvb-face did not leave; "
            "move it away or choose another --out"
        )


def _publish(stage: Path, target: Path, names: Sequence[str], ready: Sequence[str]) -> None:
    """Move the `ready` entries out of the stage, the marker (first name) last. Can be repeated if interrupted."""
    for name in names:
        if name not in ready or (stage / name).exists():
            _remove(target / name)
    for name in reversed(ready):
        if (stage / name).exists():
            (stage / name).rename(target / name)
    shutil.rmtree(stage, ignore_errors=True)


def remove_entries(target: Path, names: Sequence[str]) -> None:
    """Remove files and folders in `target`, the marker (first name) first, and `target` if that leaves it empty."""
    for name in names:
        _remove(target / name)
    if not any(target.iterdir()):
        target.rmdir()


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
