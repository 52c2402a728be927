"""Batches made ahead of use, by threads or by processes."""

from __future__ import annotations

import itertools
import signal
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Literal, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from nvb_core.errors import ConfigError, NVBError

Batch = TypeVar("Batch")
WorkerKind = Literal["threads", "processes"]


class LostWorkerError(NVBError):
    """A process that makes batches has been killed."""


def prefetch(
    make_batch: Callable[[int], Batch], start_step: int, depth: int = 2, workers: int = 1, kind: WorkerKind = "threads"
) -> Generator[Batch, None, None]:
    """make_batch(start_step), make_batch(start_step + 1), ... without end, made ahead of use by workers.

    At least `depth` batches are under way or waiting, and one for each worker. An exception in make_batch is raised at
    its step. Closing the iterator drops what is waiting. Threads start at once, but wait for Python's lock on each
    other where pictures are small: see benchmarks/data_loading.py.
    Raises ConfigError where processes can't be forked; of one that is killed `lost_workers` tells.
    """
    return (_from_threads if kind == "threads" else _from_processes)(make_batch, start_step, depth, workers)


def _from_threads(
    make_batch: Callable[[int], Batch], start_step: int, depth: int, workers: int
) -> Generator[Batch, None, None]:
    # One thread inside torch: a second team beside the training's own makes OpenMP sleep at every barrier of either.
    with ThreadPoolExecutor(workers, "batches", initializer=torch.set_num_threads, initargs=(1,)) as pool:
        steps = itertools.count(start_step)
        pending = deque(pool.submit(make_batch, next(steps)) for _ in range(max(depth, workers)))
        try:
            while True:
                pending.append(pool.submit(make_batch, next(steps)))
                yield pending.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


class _Batches(Dataset[tuple[Any, Exception | None]]):
    """Batches by step. What can't be made comes as a value: a DataLoader would put a traceback into its message."""

    def __init__(self, make_batch: Callable[[int], Any]) -> None:
        self.make_batch = make_batch

    def __getitem__(self, step: int) -> tuple[Any, Exception | None]:
        try:
            return self.make_batch(step), None
        except Exception as error:  # raised again where it is taken
            return None, error


def _from_processes(
    make_batch: Callable[[int], Batch], start_step: int, depth: int, workers: int
) -> Generator[Batch, None, None]:
    loader = _loader(make_batch, start_step, depth, workers)
    with warnings.catch_warnings():  # Python >= 3.12: it can't know that the forked ones take none of its locks
        warnings.filterwarnings("ignore", ".*multi-threaded, use of fork", DeprecationWarning)
        batches: Iterator[tuple[Batch, Exception | None]] = iter(loader)
    try:
        for batch, error in batches:
            if error is not None:
                raise error
            yield batch
    finally:
        del batches  # ends its processes, which the traceback of an error would keep


@contextmanager
def lost_workers() -> Generator[None]:
    """Turns what torch raises, wherever the program is then, when a forked worker is killed into a LostWorkerError."""
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise LostWorkerError(
            f"a process that makes batches has ended ({' '.join(str(error).split())[:200]}); the last saved state is "
            "kept, run the same command to go on from it, with fewer --workers if memory is short"
        ) from None


def _loader(make_batch: Callable[[int], Any], start_step: int, depth: int, workers: int) -> DataLoader[Any]:
    """Forked, so that they share pictures that are held in memory; whatever is on a GPU stays the parent's."""
    try:
        return DataLoader(
            _Batches(make_batch),
            batch_size=None,
            sampler=itertools.count(start_step),
            num_workers=workers,
            prefetch_factor=depth,
            multiprocessing_context="fork",
            worker_init_fn=_leave_ctrl_c_to_the_training,
        )
    except ValueError as error:
        raise ConfigError(f"this system can't fork processes ({error}); use --workers-are threads") from None


def _leave_ctrl_c_to_the_training(worker: int) -> None:
    """It reaches all processes of a terminal, and the training still wants batches to end a step."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
