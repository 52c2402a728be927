"""How many optimiser steps fit into a time budget, from the speed of the first ones."""

from __future__ import annotations

SKIPPED_STEPS = 5
"""The first steps of a process are slow (allocation, kernel selection) and aren't timed."""
TIMED_STEPS = 15


class TimeBudget:
    """Plans the steps of `minutes` of training."""

    def __init__(self, minutes: float) -> None:
        self.minutes = minutes
        self.stamps: list[float] = []

    def steps_left(self, minutes: float) -> int | None:
        """To be told the minutes trained so far after each step; the steps that still fit, or None while timing."""
        self.stamps.append(minutes)
        if minutes >= self.minutes:
            return 0
        if len(self.stamps) < SKIPPED_STEPS + TIMED_STEPS:
            return None
        step_minutes = (minutes - self.stamps[-1 - TIMED_STEPS]) / TIMED_STEPS
        return int((self.minutes - minutes) / step_minutes)
