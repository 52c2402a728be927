"""What an evaluation measures on, as its options say: synthetic heads, a face folder, or pictures to restore."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nvb_core.errors import ConfigError

from ..data import INDEX_NAME
from .benchmark import Benchmark
from .face_folder import FaceBenchmark, FolderBenchmark
from .restoration import CLEAN, DEGRADED, PairFolder
from .selection import HeadSelection


def open_benchmark(
    selection: HeadSelection, image_size: int, heads: Path
) -> tuple[FaceBenchmark | PairFolder, Sequence[int]]:
    """The benchmark and the seeds of its identities; synthetic heads are kept in a folder. Raises ConfigError."""
    root = selection.data
    if root is None:
        return Benchmark(heads, selection.settings(image_size)), selection.seeds
    benchmark: FolderBenchmark | PairFolder
    if (root / INDEX_NAME).is_file():
        benchmark = FolderBenchmark(root, selection.split, selection.views, image_size)
    elif (root / DEGRADED).is_dir() and (root / CLEAN).is_dir():
        _require_restoration(selection)
        benchmark = PairFolder(root, image_size)
    else:
        raise ConfigError(
            f"--data {root}: neither a face folder ({INDEX_NAME}; nvb-face data makes one of other data sets) nor "
            f"{DEGRADED}/ and {CLEAN}/"
        )
    found = len(benchmark.names)
    count = found if selection.identities is None else selection.identities
    if count > found:
        raise ConfigError(f"--identities is {count}, {root} has {found}")
    return benchmark, range(count)


def _require_restoration(selection: HeadSelection) -> None:
    """Raise ConfigError where an option speaks of views or of degradation."""
    defaults = HeadSelection()
    given = [name for name in ("views", "split", "level") if getattr(selection, name) != getattr(defaults, name)]
    if given:
        names = " and ".join(f"--{name}" for name in given)
        raise ConfigError(f"--data {selection.data}: {names} mean nothing for pairs to restore; leave them out")
