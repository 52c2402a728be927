from __future__ import annotations

import weakref

import pytest
import torch

from nvb_core.timed import TimeConditioned


class Counting:
    """Returns a tensor that holds the timestep, and notes each call."""

    def __init__(self) -> None:
        self.calls: list[int] = []

    def __call__(self, timestep: int) -> torch.Tensor:
        self.calls.append(timestep)
        return torch.tensor([timestep])


def test_computes_each_timestep_once() -> None:
    compute = Counting()
    value = TimeConditioned(compute)
    assert [int(value.at(t)) for t in (5, 3, 5, 3, 5)] == [5, 3, 5, 3, 5]
    assert compute.calls == [5, 3]
    assert value.at(5) is value.at(5)


def test_the_default_cache_holds_a_long_run_of_a_small_model() -> None:
    compute = Counting()
    value = TimeConditioned(compute)
    for t in (*range(1000), *range(1000)):
        value.at(t)
    assert len(compute.calls) == 1000


def test_the_default_cache_holds_eight_faces_for_fifty_steps_at_paper_scale() -> None:
    grid = torch.empty(8, 1024, 8, 8, 8, dtype=torch.float16, device="meta")
    value = TimeConditioned(lambda timestep: grid.clone())
    for t in range(60):
        value.at(t)
    assert len(value) == 60
    for t in range(60, 100):
        value.at(t)
    assert len(value) == 64


def test_keeps_the_most_recently_used() -> None:
    compute = Counting()
    value = TimeConditioned(compute, cache_bytes=2 * 8)
    for t in (1, 2, 1, 3):  # 2 is the least recently used when 3 comes
        value.at(t)
    assert len(value) == 2
    value.at(1)
    assert compute.calls == [1, 2, 3]
    value.at(2)
    assert compute.calls == [1, 2, 3, 2]


def test_what_leaves_the_cache_is_freed() -> None:
    value = TimeConditioned(Counting(), cache_bytes=8)
    first = weakref.ref(value.at(1))
    assert first() is not None
    value.at(2)
    assert first() is None
    second = weakref.ref(value.at(2))
    value.clear()
    assert second() is None
    assert len(value) == 0


def test_a_failed_computation_is_not_kept() -> None:
    def fail(timestep: int) -> torch.Tensor:
        raise RuntimeError("no")

    value = TimeConditioned(fail)
    with pytest.raises(RuntimeError, match="no"):
        value.at(1)
    assert len(value) == 0


def test_the_last_one_is_kept_however_large() -> None:
    compute = Counting()
    value = TimeConditioned(compute, cache_bytes=0)
    for t in (1, 1, 2, 2):
        value.at(t)
    assert compute.calls == [1, 2]
    assert len(value) == 1
