"""Claim 3: step 2 corrects the errors of step 1.

python -m benchmarks.claims.correction

The shipped weights (or --weights) draw each held-out head from the camera that its photo was taken from, twice from
the same noise: by step 1 alone (restoration: features of the photo) and through the 3D grid (features that step 2
makes). If step 2 corrects errors, the second is nearer to the truth, most of all where the first is bad.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import tyro
from rich.progress import track
from scipy.stats import spearmanr

from nvb_core.cameras import Cameras
from nvb_core.checkpoint import file_sha256
from nvb_core.model import NVBModel
from nvb_core.pipeline import render_cameras, restore
from nvb_core.sampling import SamplingOptions
from nvb_core.staging import write_atomically
from training.evaluation.benchmark import Benchmark, BenchmarkFace, BenchmarkSettings, digest
from training.evaluation.measure import degrade_input
from training.evaluation.metrics import psnr
from training.evaluation.summary import mean_interval

from .table import write_result
from .variants import Experiment, scoring_code

LEVELS = (1, 2)


@dataclass(frozen=True)
class Options(Experiment):
    """What to measure."""

    heads_measured: int = 48
    """Held-out heads."""
    views: int = 4
    """Other views of each."""


@dataclass(frozen=True)
class HeadErrors:
    """PSNR in dB of one head's pictures."""

    degraded: float
    restored: float
    """By step 1 alone."""
    turned: float
    """The same view through the grid."""
    views: float
    """Mean of the other views."""


def measure_head(model: NVBModel, face: BenchmarkFace, level: int, sampling: SamplingOptions) -> HeadErrors:
    """Draw a head and compare. The photo's true camera is given, so that only features differ."""
    degraded = degrade_input(face, level)[None]
    camera = face.cameras.input
    restored = restore(model, degraded, sampling).cpu()
    cameras = Cameras.cat([camera, face.cameras.targets])
    drawn = render_cameras(model, degraded, [cameras], sampling, source=camera).cpu()
    clean = face.image[None]
    return HeadErrors(
        float(psnr(degraded, clean)),
        float(psnr(restored, clean)),
        float(psnr(drawn[:1], clean)),
        float(psnr(drawn[1:], face.targets).mean()),
    )


def measure_heads(model: NVBModel, level: int, options: Options) -> list[HeadErrors]:
    """Of all heads; those that lie ready aren't drawn again."""
    benchmark = Benchmark(options.folder / "heads_measured", BenchmarkSettings(options.views, model.config.image_size))
    for _ in benchmark.render(options.seeds, options.workers):
        pass
    sampling = options.settings(level).sampling
    described = {
        "weights": file_sha256(options.weights),
        "benchmark": benchmark.key,
        "level": level,
        "steps": options.sampling_steps,
        "seed": options.seed,
        "dtype": options.dtype,
    }
    folder = options.folder / "scores" / f"correction-{digest(described, scoring_code())}"
    results = []
    for seed in track(options.seeds, f"level {level}"):
        path = folder / f"{seed:08d}.json"
        if not path.is_file():
            text = json.dumps(asdict(measure_head(model, benchmark.load(seed), level, sampling)))
            write_atomically(path, partial(Path.write_text, data=text, encoding="utf-8"))
        results.append(HeadErrors(**json.loads(path.read_text(encoding="utf-8"))))
    return results


def interval(values: Sequence[float]) -> str:
    """Mean and, of enough heads, its 95 % bootstrap interval."""
    low, high = mean_interval(np.array(values))
    return f"{np.mean(values):+.2f}" + ("" if low is None else f" ({low:+.2f} to {high:+.2f})")


def level_section(heads: Sequence[HeadErrors]) -> list[str]:
    """Markdown of one level."""
    gains = [head.turned - head.restored for head in heads]
    halves = np.argsort([head.degraded for head in heads])
    worse, better = (halves[: len(heads) // 2], halves[len(heads) // 2 :])
    correlation = spearmanr([head.restored for head in heads], [head.views for head in heads])
    return [
        "| picture | PSNR, dB |",
        "|---|---|",
        *(
            f"| {name} | {np.mean([getattr(head, key) for head in heads]):.2f} |"
            for key, name in (
                ("degraded", "degraded photo"),
                ("restored", "restored by step 1"),
                ("turned", "the same view through the grid"),
                ("views", "other views"),
            )
        ),
        "",
        f"Through the grid against restored: {interval(gains)} dB, better for {np.mean(np.array(gains) > 0):.0%} of "
        f"{len(heads)} heads; the half with the worse photos {interval([gains[i] for i in worse])}, the other "
        f"{interval([gains[i] for i in better])}. Rank correlation of a head's restoration with its other views: "
        f"{correlation.statistic:.2f} (p = {correlation.pvalue:.1g}).",
        "",
    ]


def main(options: Options) -> None:
    """Measure, write."""
    model = options.load(options.weights)
    write_result(
        options.folder / "correction.md",
        "Does step 2 correct step 1?",
        {f"Level {level}": level_section(measure_heads(model, level, options)) for level in LEVELS},
        "In brackets: 95 % bootstrap interval over heads.",
    )


if __name__ == "__main__":
    main(tyro.cli(Options))
