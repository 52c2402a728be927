from __future__ import annotations

import weakref

import pytest
import torch

from nvb_core.timed import DEFAULT_CACHE_SIZE, TimeConditioned


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


def test_the_default_cache_holds_a_run_of_fifty_steps() -> None:
    compute = Counting()
    value = TimeConditioned(compute)
    for t in (*range(51), *range(51)):
        value.at(t)
    assert len(compute.calls) == 51
    assert DEFAULT_CACHE_SIZE >= 51


def test_keeps_the_most_recently_used() -> None:
    compute = Counting()
    value = TimeConditioned(compute, cache_size=2)
    for t in (1, 2, 1, 3):  # 2 is the least recently used when 3 comes
        value.at(t)
    assert len(value) == 2
    value.at(1)
    assert compute.calls == [1, 2, 3]
    value.at(2)
    assert compute.calls == [1, 2, 3, 2]


def test_what_leaves_the_cache_is_freed() -> None:
    value = TimeConditioned(Counting(), cache_size=1)
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


def test_a_cache_has_room_for_something() -> None:
    with pytest.raises(ValueError, match="cache_size is 0"):
        TimeConditioned(Counting(), cache_size=0)
