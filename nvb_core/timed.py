"""Time-conditioned values: what flows between stages is not a tensor but a function of the diffusion timestep."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from torch import Tensor

DEFAULT_CACHE_SIZE = 64


class TimeConditioned:
    """`at(t)` computes a tensor for an integer timestep and keeps the most recently used ones.

    The default cache holds a run of 50 steps, so that a second run with other cameras computes nothing again.
    """

    def __init__(self, compute: Callable[[int], Tensor], cache_size: int = DEFAULT_CACHE_SIZE) -> None:
        if cache_size < 1:
            raise ValueError(f"cache_size is {cache_size}, must be at least 1")
        self._compute = compute
        self._cache_size = cache_size
        self._cache: OrderedDict[int, Tensor] = OrderedDict()

    def at(self, timestep: int) -> Tensor:
        """The tensor for a timestep."""
        if timestep in self._cache:
            self._cache.move_to_end(timestep)
            return self._cache[timestep]
        value = self._compute(timestep)
        self._cache[timestep] = value
        if len(self._cache) > self._cache_size:
            self._cache.popitem(last=False)
        return value

    def clear(self) -> None:
        """Forget everything computed so far."""
        self._cache.clear()

    def __len__(self) -> int:
        """How many timesteps are kept."""
        return len(self._cache)
