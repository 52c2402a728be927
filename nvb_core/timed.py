"""Time-conditioned values: what flows between stages is not a tensor but a function of the diffusion timestep."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from torch import Tensor

DEFAULT_CACHE_BYTES = 512 * 2**20


class TimeConditioned:
    """`at(t)` computes a tensor for an integer timestep and keeps the most recently used ones, the last one always.

    The default cache holds the grids of one face at 500 steps at paper scale (1 MiB each in half precision), so that a
    second run with other cameras computes nothing again.
    """

    def __init__(self, compute: Callable[[int], Tensor], cache_bytes: int = DEFAULT_CACHE_BYTES) -> None:
        self._compute = compute
        self._cache_bytes = cache_bytes
        self._cache: OrderedDict[int, Tensor] = OrderedDict()

    def at(self, timestep: int) -> Tensor:
        """The tensor for a timestep."""
        if timestep in self._cache:
            self._cache.move_to_end(timestep)
            return self._cache[timestep]
        value = self._compute(timestep)
        self._cache[timestep] = value
        while len(self._cache) > 1 and sum(kept.nbytes for kept in self._cache.values()) > self._cache_bytes:
            self._cache.popitem(last=False)
        return value

    def clear(self) -> None:
        """Forget everything computed so far."""
        self._cache.clear()

    def __len__(self) -> int:
        """How many timesteps are kept."""
        return len(self._cache)
