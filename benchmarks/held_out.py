"""Held-out heads for benchmarks that sample from a model on this machine's processor."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from rich.progress import track
from torch import Tensor

from nvb_core.model import NVBModel
from training.evaluation.benchmark import Benchmark, BenchmarkFace, BenchmarkSettings
from training.evaluation.measure import MeasureSettings, generate, machine_name, score
from training.evaluation.scores import IdentityScores
from training.heads.cli import cores

FACES_AT_ONCE = 4


def held_out_faces(folder: Path, seeds: Sequence[int], views: int, size: int) -> list[BenchmarkFace]:
    """Heads of these seeds with `views` views each of size², rendered into `folder` if they don't lie there yet."""
    benchmark = Benchmark(folder, BenchmarkSettings(views, size))
    for _ in benchmark.render(seeds, cores()):
        pass
    return [benchmark.load(seed) for seed in seeds]


def measured_faces(
    model: NVBModel, faces: Sequence[BenchmarkFace], settings: MeasureSettings, title: str
) -> tuple[list[IdentityScores], Tensor]:
    """Scores of the faces, and their generated views (B, N, 3, S, S) in [-1, 1]."""
    scores, views = [], []
    for first in track(range(0, len(faces), FACES_AT_ONCE), title):
        batch = faces[first : first + FACES_AT_ONCE]
        generated = generate(model, batch, settings)
        scores += score(batch, generated, machine_name(torch.device("cpu")))
        views.append(generated.views)
    return scores, torch.cat(views)
