"""Which heads of the benchmark, and how bad their inputs: the options that eval and eval-inputs share."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from nvb_core.errors import ConfigError

from ..data import Split
from ..heads.cli import cores
from ..heads.dataset import HELD_OUT_SEED
from .benchmark import RIG_DEG, BenchmarkSettings

STANDARD_HEADS = 300
JUDGES_SEEDS = range(3_000_000, 3_012_000)
"""People that the judges of ID and POSE learned from (training/judges/judges.md): too familiar to be judged."""
Level = Literal[0, 1, 2]


@dataclass(frozen=True)
class HeadSelection:
    """Heads and inputs."""

    set: Literal["custom", "heads-v1"] = "custom"
    """`heads-v1`, the standard set: 300 held-out heads, each seen by the 16 cameras of one rig. `custom` is what the
    other options say."""
    identities: int | None = None
    """How many heads; default: 64, or all of the set or of --data. 16 give a quick look."""
    first_seed: int = HELD_OUT_SEED
    """Seed of the first head. No model trains on those from 1000000 on; the judges of ID and POSE learned from
    3000000–3011999."""
    allow_training_seeds: bool = False
    """Take seeds below 1000000 too, which tell about memory, not skill, and those that the judges learned from."""
    views: int | None = None
    """Target views of each head; default: 8, or those of the set. Of --data: at most, evenly spread; default: all."""
    data: Path | None = None
    """Instead of heads, pictures of your own: a face folder as nvb-face data makes it (of each subject the most frontal
    picture is the input, the others are the true views), or one with lq/ and hq/ to restore (as CelebA-Test)."""
    split: Split = "test"
    """Subjects of --data: train, val, test or all; where the folder names no splits, a hash of their names does."""
    level: tuple[Level, ...] | None = None
    """How badly the input is degraded: 0 not at all, 1 weakly (the default), 2 strongly. Of several, each gets a folder
    level0 … below --out."""
    benchmark: Path | None = None
    """Folder to keep the rendered heads in, for several evaluations to share; default: --out."""
    workers: int = field(default_factory=cores)
    """Processes that render heads; default: one a core."""

    def __post_init__(self) -> None:
        require_count("workers", self.workers, 256)
        if not self.levels or len(set(self.levels)) < len(self.levels):
            raise ConfigError(f"--level is {' '.join(map(str, self.levels)) or 'empty'}; give each level once")
        if self.data is not None:
            self._require_no_heads()
        if self.set == "heads-v1":
            self._require_standard()
        require_count("identities", self.count, 100_000)
        if not 0 <= self.first_seed < 2**31 - self.count:
            raise ConfigError(f"--first-seed is {self.first_seed}, must be in 0–{2**31 - self.count - 1}")
        if self.first_seed < HELD_OUT_SEED and not self.allow_training_seeds:
            raise ConfigError(
                f"--first-seed is {self.first_seed}: heads below {HELD_OUT_SEED} may have been trained on; "
                "use seeds from there on, or --allow-training-seeds"
            )
        learned = range(max(self.first_seed, JUDGES_SEEDS.start), min(self.seeds.stop, JUDGES_SEEDS.stop))
        if learned and not self.allow_training_seeds:
            raise ConfigError(
                f"--first-seed is {self.first_seed}: the judges of ID and POSE learned from heads {JUDGES_SEEDS.start}–"
                f"{JUDGES_SEEDS.stop - 1}, {len(learned)} of them among these; use others, or --allow-training-seeds"
            )

    def _require_standard(self) -> None:
        """Raise ConfigError where another option contradicts --set heads-v1."""
        if self.views not in (None, len(RIG_DEG)) or self.first_seed != HELD_OUT_SEED:
            raise ConfigError(
                f"--set heads-v1 has {len(RIG_DEG)} views of the heads from seed {HELD_OUT_SEED} on; "
                "leave out --views and --first-seed, or use --set custom"
            )
        if self.count > STANDARD_HEADS:
            raise ConfigError(f"--identities is {self.count}, heads-v1 has {STANDARD_HEADS}")

    def _require_no_heads(self) -> None:
        """Raise ConfigError where another option contradicts --data."""
        if self.set != "custom" or self.first_seed != HELD_OUT_SEED or self.allow_training_seeds:
            raise ConfigError(
                "--data takes the place of synthetic heads; leave out --set, --first-seed and --allow-training-seeds"
            )
        if self.views is not None:
            require_count("views", self.views, 1000)

    @property
    def levels(self) -> tuple[Level, ...]:
        """Of degradation, at least one."""
        return (1,) if self.level is None else self.level

    @property
    def count(self) -> int:
        """How many heads."""
        if self.identities is not None:
            return self.identities
        return STANDARD_HEADS if self.set == "heads-v1" else 64

    @property
    def seeds(self) -> range:
        """Of synthetic heads."""
        return range(self.first_seed, self.first_seed + self.count)

    def folder(self, level: Level, root: Path) -> Path:
        """Where a level's files lie: in the root itself if there is no other level."""
        return root if len(self.levels) == 1 else root / f"level{level}"

    def settings(self, image_size: int) -> BenchmarkSettings:
        """Of synthetic heads' pictures. Raises ConfigError."""
        if self.set == "heads-v1":
            return BenchmarkSettings(len(RIG_DEG), image_size, "rig")
        return BenchmarkSettings(8 if self.views is None else self.views, image_size)


def require_count(name: str, value: int, high: int) -> None:
    """Raise ConfigError unless the option is in 1-high."""
    if not 1 <= value <= high:
        raise ConfigError(f"--{name} is {value}, must be in 1–{high}")
