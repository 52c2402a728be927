"""An evaluation from start to end: render what is missing, measure what is missing, report.

    OUT/results-KEY/settings.json
    OUT/results-KEY/01000000.json, 01000000.png     one identity's scores and pictures, written as they are finished
    OUT/results-KEY/01000000.safetensors            its views' features, if FID and KID are measured
    OUT/methods-KEY/01000000-SHA.json               scores of another system's pictures of it, and their .safetensors
    OUT/report.json, report.md, yaw.png, sheet.png

KEY covers the weights, the settings, the benchmark and the code that computes, so that only results that would come
out the same are ever reused. That of methods covers no weights and no way to use them, but SHA the pictures.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from PIL import Image
from torch import Tensor

import nvb_core
from nvb_core.checkpoint import file_sha256
from nvb_core.model import NVBModel
from nvb_core.staging import write_atomically

from ..judges.judges import SHIPPED, reading_sources
from .benchmark import Benchmark, digest
from .extra import ExtraMetrics
from .face_folder import FaceBenchmark, target_cameras
from .judged import with_margins
from .measure import MeasureSettings, generate, score
from .methods import Method
from .niqe import FITTED_MODEL
from .scores import IdentityScores, read_scores, write_scores
from .sheet import MAX_STRIPS, face_strip, side_by_side, views_shown


class Pictures(Protocol):
    """What is measured on, whatever is measured."""

    @property
    def settings(self) -> Any:
        """A dataclass."""

    @property
    def key(self) -> str:
        """Stands for the pictures."""


@dataclass(frozen=True)
class Measured:
    """One identity, and pictures of it to look at."""

    scores: IdentityScores
    strip: Image.Image


@dataclass(frozen=True)
class BaseEvaluation(ABC):
    """One model on one set of pictures; results are kept per identity in `folder`."""

    benchmark: Pictures
    settings: MeasureSettings
    weights_sha256: str
    dtype: str
    out: Path
    extra: ExtraMetrics | None = None

    @cached_property
    def subject(self) -> dict[str, Any]:
        """JSON-able: what any system's scores depend on besides its pictures and the files of `extra`."""
        measured_by = {"judges": file_sha256(SHIPPED)[:12], "niqe": file_sha256(FITTED_MODEL)[:12]}
        of_pictures = {"benchmark": self.benchmark.key, "level": self.settings.level}
        return {**asdict(self.benchmark.settings), **of_pictures, **measured_by}

    @cached_property
    def described(self) -> dict[str, Any]:
        """JSON-able: what the results depend on besides weights and seeds."""
        sampling = asdict(self.settings.sampling)
        del sampling["views_per_chunk"]  # changes the memory needed, not the views
        of_model = {"true_camera": self.settings.true_camera, **sampling, "dtype": self.dtype}
        return {**self.subject, **of_model, **self._files}

    @property
    def _files(self) -> dict[str, str]:
        return self.extra.described if self.extra else {}

    @cached_property
    def folder(self) -> Path:
        """Where the results of these very settings are kept."""
        return self.out / f"results-{digest({**self.described, 'weights': self.weights_sha256}, scoring_sources())}"

    @cached_property
    def method_folder(self) -> Path:
        """Where the scores of other systems are kept."""
        return self.out / f"methods-{digest({**self.subject, **self._files}, scoring_sources())}"

    def missing(self, seeds: Sequence[int]) -> list[int]:
        """Those of the seeds that aren't measured yet."""
        return [s for s in seeds if not (self.path(s, ".json").is_file() and self.path(s, ".png").is_file())]

    def measure(self, model: Callable[[], NVBModel], seeds: Sequence[int], batch: int, machine: str) -> Iterator[int]:
        """Measure what is missing, `batch` faces at a time, yielding how many were finished each time."""
        seeds = self.missing(seeds)
        if not seeds:
            return
        settings = json.dumps({**self.described, "weights": self.weights_sha256}, indent=1)
        write_atomically(self.folder / "settings.json", lambda partial: partial.write_text(settings, encoding="utf-8"))
        for start in range(0, len(seeds), batch):
            part = seeds[start : start + batch]
            for item in self.draw(model(), part, machine):
                seed = item.scores.seed
                write_atomically(self.path(seed, ".png"), functools.partial(item.strip.save, format="PNG"))
                write_scores(item.scores, self.path(seed, ".json"))
            yield len(part)

    def scores(self, seeds: Sequence[int]) -> tuple[IdentityScores, ...]:
        """Of measured identities."""
        return self.compared([read_scores(self.path(seed, ".json")) for seed in seeds])

    def compared(self, scores: Sequence[IdentityScores]) -> tuple[IdentityScores, ...]:
        """Scores with what only all of them together tell; nothing, unless each is another person's."""
        return tuple(scores)

    def path(self, seed: int, suffix: str) -> Path:
        """One identity's file."""
        return self.folder / f"{seed:08d}{suffix}"

    def measure_method(self, method: Method, seeds: Sequence[int]) -> Iterator[int]:
        """Measure another system's pictures, if these very ones weren't, yielding 1 for each identity."""
        for seed in seeds:
            path = self.method_path(method, seed)
            if not path.is_file():
                write_scores(self.score_method(method, seed), path)
            yield 1

    def method_scores(self, method: Method, seeds: Sequence[int]) -> tuple[IdentityScores, ...]:
        """Of another system's measured pictures, which may have been measured under another name."""
        found = [read_scores(self.method_path(method, seed)) for seed in seeds]
        return self.compared([replace(scores, machine=method.name) for scores in found])

    def method_path(self, method: Method, seed: int) -> Path:
        """Scores of the pictures that a system has made of an identity."""
        digests = [hashlib.sha256(path.read_bytes()).digest() for path in self.method_pictures(method, seed)]
        return self.method_folder / f"{seed:08d}-{hashlib.sha256(b''.join(digests)).hexdigest()[:16]}.json"

    @abstractmethod
    def draw(self, model: NVBModel, seeds: Sequence[int], machine: str) -> Iterator[Measured]:
        """Put some identities through the model at once and measure them."""

    @abstractmethod
    def method_pictures(self, method: Method, seed: int) -> list[Path]:
        """Another system's files of an identity."""

    @abstractmethod
    def check_method(self, method: Method, seeds: Sequence[int]) -> None:
        """Read every picture of another system once. Raises ImageError."""

    @abstractmethod
    def score_method(self, method: Method, seed: int) -> IdentityScores:
        """Measure another system's pictures."""

    @abstractmethod
    def side_by_side(self, methods: Sequence[Method], seeds: Sequence[int], name: str) -> Image.Image:
        """Pictures of the model, called `name`, beside those of other systems."""


def scoring_sources() -> list[Path]:
    """Files that scores depend on: code, the model of NIQE, the judges."""
    sources = [path for file in (nvb_core.__file__, __file__) for path in Path(str(file)).parent.glob("*.py")]
    return [*sources, FITTED_MODEL, *reading_sources()]


@dataclass(frozen=True)
class Evaluation(BaseEvaluation):
    """Restorations and views of faces."""

    benchmark: FaceBenchmark

    def compared(self, scores: Sequence[IdentityScores]) -> tuple[IdentityScores, ...]:
        """With margins over other people; a folder may show one person as several subjects."""
        return with_margins(scores) if isinstance(self.benchmark, Benchmark) else tuple(scores)

    def draw(self, model: NVBModel, seeds: Sequence[int], machine: str) -> Iterator[Measured]:
        """Faces of equally many views go through the model together."""
        loaded = [self.benchmark.load(seed) for seed in seeds]
        for _, group in itertools.groupby(sorted(loaded, key=lambda face: len(face.targets)), lambda f: len(f.targets)):
            faces = list(group)
            generated = generate(model, faces, self.settings)
            measured = score(faces, generated, machine, self.extra)
            for index, (face, scores) in enumerate(zip(faces, measured, strict=True)):
                yield Measured(scores, face_strip(face, generated, index))

    def method_pictures(self, method: Method, seed: int) -> list[Path]:
        """Another system's files of an identity."""
        return method.files(seed, len(target_cameras(self.benchmark, seed)))

    def check_method(self, method: Method, seeds: Sequence[int]) -> None:
        """Read every picture of another system once. Raises ImageError."""
        for seed in seeds:
            self._pictures(method, seed)

    def score_method(self, method: Method, seed: int) -> IdentityScores:
        """Measure another system's pictures."""
        return method.measure(self.benchmark.load(seed), self.settings.level, self.extra)

    def side_by_side(self, methods: Sequence[Method], seeds: Sequence[int], name: str) -> Image.Image:
        """True views, the model's and theirs, from left to right by yaw."""
        strips, others = [], []
        for seed in seeds[:MAX_STRIPS]:
            shown = views_shown(target_cameras(self.benchmark, seed))
            strips.append(self.path(seed, ".png"))
            others.append({method.name: self._pictures(method, seed)[1:-2][shown] for method in methods})
        return side_by_side(strips, others, name)

    def _pictures(self, method: Method, seed: int) -> Tensor:
        views = len(target_cameras(self.benchmark, seed))
        return method.load(seed, views, self.benchmark.settings.image_size)
