"""Rendering shared out over processes of this machine."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from multiprocessing import get_context
from typing import Any, TypeVar

from nvb_core.errors import NVBError

MOST_PROCESSES = 61
"""More aren't possible on Windows."""
WAITING = 4
"""Jobs per process that are handed over before others are finished, so that millions take no memory."""

Job = TypeVar("Job", bound=tuple[Any, ...])


def in_processes(function: Callable[..., object], jobs: Sequence[Job], workers: int) -> Iterator[Job]:
    """Call function(*job) for every job, yielding each when it is done, in any order; one worker is this very process.

    What a job raises is raised, and no other begins. Raises NVBError if a process is killed.
    """
    count = min(workers, len(jobs), MOST_PROCESSES)
    if count <= 1:
        for job in jobs:
            function(*job)
            yield job
        return
    waiting = iter(jobs)
    with ProcessPoolExecutor(count, mp_context=get_context("spawn"), initializer=_start_worker) as pool:
        try:
            running = {pool.submit(function, *job): job for job in islice(waiting, WAITING * count)}
            while running:
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    job = running.pop(future)
                    future.result()
                    running |= {pool.submit(function, *new): new for new in islice(waiting, 1)}
                    yield job
        except BrokenProcessPool:
            raise NVBError(
                f"a process that renders was killed; free memory or use fewer than --workers {count}"
            ) from None
        finally:
            pool.shutdown(cancel_futures=True)


def _start_worker() -> None:
    """Workers are the parallelism, and Ctrl-C is the parent's to handle."""
    import torch

    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
