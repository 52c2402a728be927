"""One step 2 in several variants of the same budget, from the same start, on the same batches; and what they score."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from nvb_core.checkpoint import file_sha256, load_model, save_model
from nvb_core.model import NVBModel
from training.evaluation.benchmark import Benchmark, BenchmarkFace, BenchmarkSettings, digest
from training.evaluation.measure import GeneratedFaces, MeasureSettings, generate, machine_name, score
from training.evaluation.scores import IdentityScores, read_scores, write_scores
from training.evaluation.selection import HeadSelection
from training.export import MODEL_NAME
from training.loop import Trainer
from training.options import Step2Options
from training.step2 import Step2Stage
from nvb_core.sampling import SamplingOptions

from .base import SIZE, Shared, make_base
from .start import with_new_views, without_time

FACES_AT_ONCE = 4
Pictures = Callable[[Sequence[BenchmarkFace]], GeneratedFaces]


@dataclass(frozen=True)
class Experiment(Shared):
    """What each variant costs."""

    step2_steps: int = 1500
    """Training steps of each variant, 4 faces with 4 views each."""
    heads: int = 64
    """Held-out heads to measure on."""
    views: int = 8
    """Views of each."""
    sampling_steps: int = 20
    """Denoising steps."""
    seed: int = 0
    """Of training and sampling."""
