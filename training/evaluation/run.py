"""An evaluation from start to end: render what is missing, measure what is missing, report.

    OUT/results-KEY/settings.json
    OUT/results-KEY/01000000.json, 01000000.png     one identity's scores and pictures, written as they are finished
    OUT/report.json, report.md, sheet.png

KEY covers the weights, the settings, the benchmark and the code that computes, so that only results that would come
out the same are ever reused.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import nvb_core
from nvb_core.model import NVBModel
from nvb_core.staging import write_atomically

from ..judges.judges import SHIPPED
from .benchmark import Benchmark, digest
from .judged import with_margins
from .measure import MeasureSettings, generate, score
from .niqe import FITTED_MODEL
from .scores import IdentityScores, read_scores, write_scores
from .sheet import face_strip


@dataclass(frozen=True)
class Evaluation:
    """One model on one benchmark; results are kept per identity in `folder`."""

    benchmark: Benchmark
    settings: MeasureSettings
    weights_sha256: str
    dtype: str
    out: Path

    @cached_property
    def described(self) -> dict[str, Any]:
        """JSON-able: what the results depend on besides weights and seeds."""
        sampling = asdict(self.settings.sampling)
        del sampling["views_per_chunk"]  # changes the memory needed, not the views
        return {
            **asdict(self.benchmark.settings),
            "benchmark": self.benchmark.key,
            "level": self.settings.level,
            "true_camera": self.settings.true_camera,
            **sampling,
            "dtype": self.dtype,
        }

    @cached_property
    def folder(self) -> Path:
        """Where the results of these very settings are kept."""
        sources = [path for file in (nvb_core.__file__, __file__) for path in Path(str(file)).parent.glob("*.py")]
        sources += [FITTED_MODEL, SHIPPED, *SHIPPED.parent.glob("*.py")]
        return self.out / f"results-{digest({**self.described, 'weights': self.weights_sha256}, sources)}"

    def missing(self, seeds: Sequence[int]) -> list[int]:
        """Those of the seeds that aren't measured yet."""
        return [seed for seed in seeds if not self.path(seed, ".json").is_file()]

    def measure(self, model: Callable[[], NVBModel], seeds: Sequence[int], batch: int, machine: str) -> Iterator[int]:
        """Measure what is missing, `batch` faces at a time, yielding how many were finished each time."""
        seeds = self.missing(seeds)
        if not seeds:
            return
        settings = json.dumps({**self.described, "weights": self.weights_sha256}, indent=1)
        write_atomically(self.folder / "settings.json", lambda partial: partial.write_text(settings, encoding="utf-8"))
        for start in range(0, len(seeds), batch):
            faces = [self.benchmark.load(seed) for seed in seeds[start : start + batch]]
            generated = generate(model(), faces, self.settings)
            for index, (face, scores) in enumerate(zip(faces, score(faces, generated, machine), strict=True)):
                strip = face_strip(face, generated, index)
                write_atomically(self.path(face.seed, ".png"), functools.partial(strip.save, format="PNG"))
                write_scores(scores, self.path(face.seed, ".json"))
            yield len(faces)

    def scores(self, seeds: Sequence[int]) -> tuple[IdentityScores, ...]:
        """Of measured identities."""
        return with_margins([read_scores(self.path(seed, ".json")) for seed in seeds])

    def path(self, seed: int, suffix: str) -> Path:
        """One identity's file."""
        return self.folder / f"{seed:08d}{suffix}"
