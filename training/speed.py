"""How fast a run is and what it waits for."""

from __future__ import annotations

import sys
import time
from collections.abc import Generator
from contextlib import contextmanager

import torch


class Speed:
    """Times steps, between two lines of the log."""

    def __init__(self, pictures_per_step: int) -> None:
        self.pictures_per_step = pictures_per_step
        self.steps, self.seconds, self.waited = 0, 0.0, 0.0

    @contextmanager
    def step(self) -> Generator[None]:
        """Around an optimiser step; what comes between steps (pictures, saving) isn't counted."""
        started = time.perf_counter()
        yield
        self.seconds += time.perf_counter() - started
        self.steps += 1

    @contextmanager
    def waiting(self) -> Generator[None]:
        """Around a wait for data, within a step."""
        started = time.perf_counter()
        yield
        self.waited += time.perf_counter() - started

    def take(self) -> dict[str, float]:
        """Means since the last call: seconds of a step computing and waiting for data, pictures per second of both."""
        steps, seconds, waited = self.steps, self.seconds, self.waited
        self.steps, self.seconds, self.waited = 0, 0.0, 0.0
        return {
            "step_seconds": (seconds - waited) / steps,
            "data_seconds": waited / steps,
            "pictures_per_second": self.pictures_per_step * steps / seconds,
        }


def peak_memory_gib(device: torch.device) -> float:
    """Most memory that this process has used so far: of tensors on a GPU, else of everything."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    if sys.platform == "win32":
        import psutil

        return float(psutil.Process().memory_info().peak_wset) / 2**30
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**30 if sys.platform == "darwin" else peak / 2**20
