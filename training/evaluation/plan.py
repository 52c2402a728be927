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
from nvb_core.errors import ConfigError
from nvb_core.model import NVBModel
from nvb_core.sampling import SamplingOptions

from ..export import git_revision
from .benchmark import Benchmark
from .extra import ExtraMetrics
from .face_folder import FaceBenchmark
from .measure import MeasureSettings, machine_name
from .methods import Method
from .plots import require_plotting
from .published import PUBLISHED_SIZE_PX, Agreement, compare_with_published, read_manifest
from .report import Report
from .restoration import PairFolder, RestorationEvaluation
from .run import BaseEvaluation, Evaluation
from .selection import Level
from .source import open_benchmark

if TYPE_CHECKING:
    from PIL import Image

    from .cli import Options


@dataclass
class Plan:
    """One model, one benchmark, one or more levels."""

    options: Options
    benchmark: FaceBenchmark | PairFolder
    seeds: Sequence[int]
    weights: dict[str, Any]
    """File name, sha256 and model name."""
    evaluations: dict[Level, BaseEvaluation]
    model: Callable[[], NVBModel]
    """Loads the model when it is first needed."""
    extra: ExtraMetrics
    render_seconds: float = 0.0
    published: Agreement | None = None
    """How the heads compare with the published ones, where there are any."""

    @classmethod
    def make(cls, options: Options, device: torch.device) -> Plan:
        """Reads the checkpoint's header. Raises CheckpointError or ConfigError."""
        config = read_metadata(options.weights)["config_object"]
        dtype = choose_dtype(options.dtype, device)
        benchmark, seeds = open_benchmark(options, config.image_size, options.benchmark or options.out)
        if isinstance(benchmark, PairFolder) and options.true_camera:
            raise ConfigError(f"--true-camera: the pictures of {options.data} have no cameras; leave it out")
        if isinstance(benchmark, PairFolder) and options.embedding and options.embedding_crop == "arcface":
            raise ConfigError(
                f"--embedding: the pictures of {options.data} have no cameras to find ArcFace's crop by; "
                "use --embedding-crop whole"
            )
        if not isinstance(benchmark, PairFolder):
            require_plotting()
        sampling = SamplingOptions(
            options.steps or config.sampling_steps, seed=options.seed, fit_steps=options.fit_steps
        )
        sha256 = file_sha256(options.weights)
        extra = ExtraMetrics.find(options, device)

        def evaluation(level: Level) -> BaseEvaluation:
            settings = MeasureSettings(level, sampling, options.true_camera)
            rest = (settings, sha256, str(dtype).removeprefix("torch."), options.out)
            if isinstance(benchmark, PairFolder):
                return RestorationEvaluation(benchmark, *rest, extra)
            return Evaluation(benchmark, *rest, extra)

        return cls(
            options,
            benchmark,
            seeds,
            {"file": options.weights.name, "sha256": sha256, "model": config.name},
            {level: evaluation(level) for level in options.levels},
            functools.cache(lambda: load_model(options.weights, str(device), dtype, base=options.base)),
            extra,
        )

    def render(self) -> None:
        """Render heads that are missing; pictures in a folder are there."""
        from .cli import render_heads

        if isinstance(self.benchmark, Benchmark):
            self.render_seconds = render_heads(self.benchmark, self.needed_heads(), self.options.workers)

    def needed_heads(self) -> Sequence[int]:
        """Seeds whose pictures something still has to be compared with."""
        if self.options.methods or self.is_standard:
            return self.seeds
        return sorted({seed for evaluation in self.evaluations.values() for seed in evaluation.missing(self.seeds)})

    @property
    def is_standard(self) -> bool:
        """Whether the heads should be published ones."""
        return self.options.set == "heads-v1" and self.benchmark.settings.image_size == PUBLISHED_SIZE_PX

    def measure(self, level: Level, worker: Worker) -> None:
        """Measure what is missing of a process's share."""
        from .cli import progress_bar

        evaluation, seeds = self.evaluations[level], self.seeds
        todo = evaluation.missing(self.share(worker))
        label = f"measuring level {level}" + (f", 1 of {worker.count} processes" if worker.count > 1 else "")
        total = len(seeds) if worker.count == 1 else len(todo)
        with progress_bar(label, total, total - len(todo), visible=worker.index == 0) as advance:
            for count in evaluation.measure(self.model, todo, self.options.batch, machine_name(worker.device)):
                advance(count)

    def measure_methods(self, level: Level, worker: Worker) -> None:
        """Measure what is missing of a process's share of other systems' pictures."""
        from .cli import progress_bar

        seeds = self.share(worker)
        for method in self.methods(level):
            with progress_bar(f"measuring {method.name}, level {level}", len(seeds), 0, worker.index == 0) as advance:
                for count in self.evaluations[level].measure_method(method, seeds):
                    advance(count)

    def share(self, worker: Worker) -> Sequence[int]:
        """A process's heads: every so many of all, not of the missing ones, whose list changes while others measure."""
        return self.seeds[worker.index :: worker.count]

    def check_published(self) -> None:
        """Compare the heads with the published ones. Raises ConfigError where they aren't."""
        if self.is_standard and isinstance(self.benchmark, Benchmark):
            self.published = compare_with_published(self.benchmark, self.seeds, read_manifest())

    def methods(self, level: Level) -> list[Method]:
        """Other systems at a level."""
        return [method.at(self.options.folder(level, method.folder)) for method in self.options.methods]

    def check_methods(self) -> None:
        """Read every picture of other systems once. Raises ImageError."""
        for level, evaluation in self.evaluations.items():
            for method in self.methods(level):
                evaluation.check_method(method, self.seeds)

    def report(self, level: Level) -> Report:
        """Of measured identities."""
        evaluation = self.evaluations[level]
        known = {} if isinstance(self.benchmark, Benchmark) else self.benchmark.names
        names = {seed: known[seed] for seed in self.seeds if seed in known}
        heads = {"heads": f"heads-v1, {self.published}" if self.published else self.options.set}
        return Report(
            weights=self.weights,
            settings=evaluation.described | ({} if names else heads),
            code=git_revision(),
            render_seconds=self.render_seconds,
            scores=evaluation.scores(self.seeds),
            methods={method.name: evaluation.method_scores(method, self.seeds) for method in self.methods(level)},
            names=names,
            remarks=self.extra.remarks,
            notes=self.extra.notes,
        )

    def strips(self, level: Level) -> list[Path]:
        """Pictures of the identities."""
        return [self.evaluations[level].path(seed, ".png") for seed in self.seeds]

    def side_by_side(self, level: Level) -> Image.Image:
        """The model's pictures beside those of other systems."""
        return self.evaluations[level].side_by_side(self.methods(level), self.seeds, self.weights["file"])
