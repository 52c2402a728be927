from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import threading
import time
from contextlib import closing
from dataclasses import fields
from pathlib import Path

import pytest
import torch

from nvb_core.errors import ConfigError
from tests.training.test_batches import same
from training.batches import RestorationBatch, batch_generator, sample_restoration_batch
from training.data import FaceFolder, InMemory
from training.prefetch import LostWorkerError, WorkerKind, lost_workers, prefetch

KINDS: list[WorkerKind] = ["threads", "processes"]

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")  # torch's, where cores are few


def test_prefetch_keeps_order_and_works_ahead() -> None:
    made: list[int] = []
    ready = threading.Event()

    def make(step: int) -> int:
        made.append(step)
        if step == 12:
            ready.set()
        return step * step

    batches = prefetch(make, start_step=10, depth=2)
    assert next(batches) == 100
    assert ready.wait(10)  # two more were begun without being asked for
    assert list(itertools.islice(batches, 3)) == [121, 144, 169]
    batches.close()
    assert made == sorted(made)


@pytest.mark.parametrize("kind", KINDS)
def test_prefetch_leaves_torch_s_threads_to_the_training(kind: WorkerKind) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        batches = prefetch(lambda step: torch.get_num_threads(), 0, kind=kind)
        assert next(batches) == 1
        assert torch.get_num_threads() == 2
        batches.close()
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("kind", KINDS)
def test_prefetch_raises_at_the_failing_step(kind: WorkerKind) -> None:
    def make(step: int) -> int:
        if step == 2:
            raise RuntimeError("step two")
        return step

    batches = prefetch(make, start_step=0, depth=3, kind=kind)
    assert [next(batches), next(batches)] == [0, 1]
    with pytest.raises(RuntimeError, match=r"^step two$"):
        next(batches)
    with pytest.raises(StopIteration):
        next(batches)
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("workers", [1, 3])
def test_prefetch_by_several_workers_keeps_order(workers: int) -> None:
    started = threading.Barrier(workers)

    def make(step: int) -> int:
        if step < workers:
            started.wait(10)  # all workers are at work at once
        time.sleep(0.01 * (step % 3))
        return step

    batches = prefetch(make, 0, workers=workers)
    assert list(itertools.islice(batches, 20)) == list(range(20))
    batches.close()


def test_prefetch_by_several_workers_raises_at_the_failing_step() -> None:
    def make(step: int) -> int:
        if step == 4:
            raise ConfigError("image 4 is gone")
        time.sleep(0.01)
        return step

    batches = prefetch(make, 0, workers=3)
    assert [next(batches) for _ in range(4)] == [0, 1, 2, 3]
    with pytest.raises(ConfigError, match="image 4 is gone"):
        next(batches)
    assert not any(thread.name.startswith("batches") for thread in threading.enumerate())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("in_memory", ["no", "yes"])
def test_batches_do_not_depend_on_workers(faces: Path, kind: WorkerKind, in_memory: InMemory) -> None:
    folder = FaceFolder.load(faces, 32, in_memory=in_memory)

    def make(step: int) -> RestorationBatch:
        return sample_restoration_batch(folder, 2, batch_generator(0, step, 0))

    def batches(workers: int, kind: WorkerKind) -> list[RestorationBatch]:
        with closing(prefetch(make, 4, workers=workers, kind=kind)) as made:
            return list(itertools.islice(made, 5))

    for one, several in zip(batches(1, "threads"), batches(3, kind), strict=True):
        for field in fields(one):
            assert same(getattr(one, field.name), getattr(several, field.name))


def test_prefetch_closes_its_thread() -> None:
    batches = prefetch(lambda step: step, start_step=0)
    next(batches)
    assert any(thread.name.startswith("batches") for thread in threading.enumerate())
    batches.close()
    assert not any(thread.name.startswith("batches") for thread in threading.enumerate())


def test_prefetch_closes_its_processes() -> None:
    batches = prefetch(lambda step: os.getpid(), start_step=0, workers=2, kind="processes")
    workers = {next(batches), next(batches)}
    assert os.getpid() not in workers
    assert len(workers) == 2
    batches.close()
    for worker in workers:
        with pytest.raises(ProcessLookupError):
            os.kill(worker, 0)


def test_processes_leave_ctrl_c_to_the_training() -> None:
    def make(step: int) -> int:
        if step == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return step

    with closing(prefetch(make, 0, kind="processes")) as batches:
        assert list(itertools.islice(batches, 5)) == list(range(5))


def test_killed_process_is_one_clear_error() -> None:
    def make(step: int) -> int:
        if step == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return step

    with pytest.raises(LostWorkerError, match=r"has ended \(DataLoader worker .*run the same command"), lost_workers():
        list(itertools.islice(prefetch(make, 0, kind="processes"), 5))


def test_lost_workers_leaves_other_errors_alone() -> None:
    with pytest.raises(RuntimeError, match=r"^out of memory$"), lost_workers():
        raise RuntimeError("out of memory")


def test_where_nothing_can_be_forked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.multiprocessing, "get_all_start_methods", lambda: ["spawn"])  # as on Windows
    with pytest.raises(ConfigError, match="use --workers-are threads"):
        next(prefetch(lambda step: step, 0, kind="processes"))
