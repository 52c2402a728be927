"""What an evaluation does, level by level: from options to measured heads to reports."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from nvb_core.checkpoint import file_sha256, load_model, read_metadata
from nvb_core.cli.worker import Worker, choose_dtype
from nvb_core.model import NVBModel
from nvb_core.sampling import SamplingOptions

from ..export import git_revision
from .benchmark import Benchmark, sample_cameras
from .judged import with_margins
from .measure import MeasureSettings, machine_name
from .methods import Method
from .published import PUBLISHED_SIZE_PX, Agreement, compare_with_published, read_manifest
from .report import Report
from .run import Evaluation
from .scores import IdentityScores
from .selection import Level
from .sheet import MAX_STRIPS, side_by_side

if TYPE_CHECKING:
    from PIL import Image

    from .cli import Options


@dataclass
class Plan:
    """One model, one benchmark, one or more levels."""

    options: Options
    benchmark: Benchmark
    weights: dict[str, Any]
    """File name, sha256 and model name."""
    evaluations: dict[Level, Evaluation]
    model: Callable[[], NVBModel]
    """Loads the model when it is first needed."""
    render_seconds: float = 0.0
    published: Agreement | None = None
    """How the heads compare with the published ones, where there are any."""

    @classmethod
    def make(cls, options: Options, device: torch.device) -> Plan:
        """Reads the checkpoint's header. Raises CheckpointError or ConfigError."""
        config = read_metadata(options.weights)["config_object"]
        dtype = choose_dtype(options.dtype, device)
        benchmark = Benchmark(options.benchmark or options.out, options.settings(config.image_size))
        sampling = SamplingOptions(options.steps, seed=options.seed)
        sha256 = file_sha256(options.weights)

        def evaluation(level: Level) -> Evaluation:
            settings = MeasureSettings(level, sampling, options.true_camera)
            folder = options.folder(level, options.out)
            return Evaluation(benchmark, settings, sha256, str(dtype).removeprefix("torch."), folder)

        return cls(
            options,
            benchmark,
            {"file": options.weights.name, "sha256": sha256, "model": config.name},
            {level: evaluation(level) for level in options.level},
            functools.cache(lambda: load_model(options.weights, str(device), dtype, base=options.base)),
        )

    def needed_heads(self) -> Sequence[int]:
        """Seeds whose pictures something still has to be compared with."""
        seeds = self.options.seeds
        if self.options.methods or self.is_standard:
            return seeds
        return sorted({seed for evaluation in self.evaluations.values() for seed in evaluation.missing(seeds)})

    @property
    def is_standard(self) -> bool:
        """Whether the heads should be published ones."""
        return self.options.set == "heads-v1" and self.benchmark.settings.image_size == PUBLISHED_SIZE_PX

    def measure(self, level: Level, worker: Worker) -> None:
        """Measure a process's share of what is missing."""
        from .cli import progress_bar

        evaluation, seeds = self.evaluations[level], self.options.seeds
        todo = evaluation.missing(seeds)[worker.index :: worker.count]
        label = f"measuring level {level}" + (f", 1 of {worker.count} processes" if worker.count > 1 else "")
        total = len(seeds) if worker.count == 1 else len(todo)
        with progress_bar(label, total, total - len(todo), visible=worker.index == 0) as advance:
            for count in evaluation.measure(self.model, todo, self.options.batch, machine_name(worker.device)):
                advance(count)

    def check_published(self) -> None:
        """Compare the heads with the published ones. Raises ConfigError where they aren't."""
        if self.is_standard:
            self.published = compare_with_published(self.benchmark, self.options.seeds, read_manifest())

    def report(self, level: Level) -> Report:
        """Of measured heads."""
        options, evaluation = self.options, self.evaluations[level]
        heads = {"heads": f"heads-v1, {self.published}" if self.published else options.set}
        methods = [method.at(options.folder(level, method.folder)) for method in options.methods]
        return Report(
            weights=self.weights,
            settings={**evaluation.described, **heads},
            code=git_revision(),
            render_seconds=self.render_seconds,
            scores=evaluation.scores(options.seeds),
            methods={method.name: self._measure_method(method, level) for method in methods},
        )

    def strips(self, level: Level) -> list[Path]:
        """Pictures of the heads."""
        return [self.evaluations[level].path(seed, ".png") for seed in self.options.seeds]

    def side_by_side(self, level: Level) -> Image.Image:
        """The model's views beside those of other systems."""
        methods = [method.at(self.options.folder(level, method.folder)) for method in self.options.methods]
        strips = self.strips(level)[:MAX_STRIPS]
        others = []
        for seed in self.options.seeds[: len(strips)]:
            cameras = sample_cameras(seed, self.benchmark.settings.views, self.benchmark.settings.cameras)
            order = cameras.targets.angles().yaw_deg.argsort()
            pictures = {method.name: method.load(seed, self.benchmark.settings) for method in methods}
            others.append({name: images[1:-2][order] for name, images in pictures.items()})
        return side_by_side(strips, others, self.weights["file"])

    def _measure_method(self, method: Method, level: Level) -> tuple[IdentityScores, ...]:
        from .cli import progress_bar

        scores, seeds = [], self.options.seeds
        with progress_bar(f"measuring {method.name}", len(seeds), 0) as advance:
            for seed in seeds:
                scores.append(method.measure(self.benchmark.load(seed), self.benchmark.settings, level))
                advance(1)
        return with_margins(scores)
