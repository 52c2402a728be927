"""Which heads of the benchmark, and how bad their inputs: the options that eval and eval-inputs share."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from nvb_core.errors import ConfigError

from .benchmark import HELD_OUT_SEED


@dataclass(frozen=True)
class HeadSelection:
    """Heads and inputs."""

    identities: int = 64
    """How many heads; 16 give a quick look."""
    first_seed: int = HELD_OUT_SEED
    """Seed of the first head; those from 1000000 on are never trained on."""
    allow_training_seeds: bool = False
    """Take seeds below 1000000 too, which tell about memory, not skill."""
    views: int = 8
    """Target views of each head."""
    level: Literal[0, 1, 2] = 1
    """How badly the input is degraded: 0 not at all, 1 weakly, 2 strongly."""
    benchmark: Path | None = None
    """Folder to keep the rendered heads in, for several evaluations to share; default: --out."""
    workers: int = field(default_factory=lambda: os.cpu_count() or 1)
    """Processes that render heads; default: one a core."""

    def __post_init__(self) -> None:
        for name, high in (("identities", 100_000), ("workers", 256)):
            require_count(name, getattr(self, name), high)
        if not 0 <= self.first_seed < 2**31 - self.identities:
            raise ConfigError(f"--first-seed is {self.first_seed}, must be in 0–{2**31 - self.identities - 1}")
        if self.first_seed < HELD_OUT_SEED and not self.allow_training_seeds:
            raise ConfigError(
                f"--first-seed is {self.first_seed}: heads below {HELD_OUT_SEED} may have been trained on; "
                "use seeds from there on, or --allow-training-seeds"
            )

    @property
    def seeds(self) -> range:
        """Of the heads."""
        return range(self.first_seed, self.first_seed + self.identities)


def require_count(name: str, value: int, high: int) -> None:
    """Raise ConfigError unless the option is in 1-high."""
    if not 1 <= value <= high:
        raise ConfigError(f"--{name} is {value}, must be in 1–{high}")
