"""Claim 3: step 2 corrects the errors of step 1.

python -m benchmarks.claims.correction

The shipped weights (or --weights) draw each held-out head from the camera that its photo was taken from, twice: by
step 1 alone (restoration, features of the photo) and through the 3D grid (features that step 2 makes). If step 2
corrects errors, the second is nearer to the truth, most of all where the first is bad; and the errors of other views
would depend little on that of the restoration.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
import tyro
from scipy.stats import spearmanr

from nvb_core.checkpoint import DEFAULT_WEIGHTS, load_model
from nvb_core.model import NVBModel
from nvb_core.pipeline import render_cameras
from training.evaluation.benchmark import BenchmarkFace
from training.evaluation.compare import difference
from training.evaluation.measure import GeneratedFaces, MeasureSettings, generate
from training.evaluation.scores import IdentityScores
from training.evaluation.summary import MEASURES

from .table import method_table, write_result
from .variants import Experiment, measured

SHOWN = ("restored_psnr", "restored_gain")


@dataclass(frozen=True)
class Options(Experiment):
    """What to measure."""

    weights: Path = DEFAULT_WEIGHTS
    """Model."""
    heads_measured: int = 48
    """Held-out heads."""


def turned_to_input(model: NVBModel, faces: Sequence[BenchmarkFace], settings: MeasureSettings) -> GeneratedFaces:
    """As `generate`, but restorations come through the grid, seen from the photo's true camera."""
    generated = generate(model, faces, settings)
    cameras = [face.cameras.input for face in faces]
    # One face at a time, so that each starts from the noise that its restoration starts from.
    restored = [
        render_cameras(model, degraded[None], [camera], settings.sampling).cpu()
        for degraded, camera in zip(generated.degraded, cameras, strict=True)
    ]
    return replace(generated, restored=torch.cat(restored))


def correlation(restored: Sequence[IdentityScores]) -> list[str]:
    """Markdown: does a bad restoration go with bad views?"""
    errors = [item.restored_psnr for item in restored]
    views = [float(np.mean([view.psnr for view in item.views])) for item in restored]
    result = spearmanr(errors, views)
    return [
        f"Rank correlation of a head's restoration PSNR and the mean PSNR of its other views: {result.statistic:.2f} "
        f"(p = {result.pvalue:.2g}, {len(errors)} heads).",
        "",
    ]


def by_restoration(restored: Sequence[IdentityScores], turned: Sequence[IdentityScores]) -> list[str]:
    """Markdown: the gain of the worse-restored half of heads, and of the better one."""
    [measure] = [measure for measure in MEASURES if measure.key == "restored_psnr"]
    pairs = sorted(zip(restored, turned, strict=True), key=lambda pair: pair[0].restored_psnr)
    lines = ["| heads | gain through the grid, dB | 95 % interval |", "|---|---|---|"]
    half = len(pairs) // 2
    for name, part in (("worse restored half", pairs[:half]), ("better restored half", pairs[half:])):
        change = difference(measure, part)
        lines.append(f"| {name} | {change.difference:+.2f} | {change.low:+.2f} to {change.high:+.2f} |")
    return [*lines, ""]


def main(options: Options) -> None:
    """Measure, write."""
    model = load_model(options.weights)
    sections = {}
    for level in (1, 2):
        restored = measured("restoration", [options.weights], partial(generate, model), level, options)
        turned = measured("turned", [options.weights], partial(turned_to_input, model), level, options)
        table = method_table({"restored by step 1": restored, "through the grid": turned}, SHOWN)
        sections[f"Level {level}"] = [*table, *by_restoration(restored, turned), *correlation(restored)]
    write_result(
        options.folder / "correction.md",
        "Does step 2 correct step 1?",
        sections,
        "In brackets: difference to the first row and its 95 % interval, paired over heads. Halving the heads by how "
        "well they were restored favours the worse half by chance alone (regression to the mean).",
    )


if __name__ == "__main__":
    main(tyro.cli(Options))
