"""Claim 6: how many denoising steps are worth their time.

python -m benchmarks.claims.sampling

The shipped weights (or --weights) with 1, 2, 5, 10, 20 and 50 DDIM steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import tyro

from training.evaluation.measure import generate
from training.evaluation.scores import IdentityScores

from .table import method_table, write_result
from .variants import Experiment, measured

COUNTS = (20, 1, 2, 5, 10, 50)  # the first is what the others are held against
SHOWN = ("restored_psnr", "psnr", "ssim", "ms_ssim", "identity", "yaw_reading_error", "pair_psnr", "niqe")


@dataclass(frozen=True)
class Options(Experiment):
    """What to measure."""

    heads_measured: int = 24
    """Held-out heads."""


def main(options: Options) -> None:
    """Measure, write."""
    model = options.load(options.weights)
    rows = {}
    for count in COUNTS:
        experiment = replace(options, sampling_steps=count)
        rows[f"{count} steps"] = measured("sampling", [options.weights], partial(generate, model), 1, experiment)
    write_result(
        options.folder / "sampling.md",
        "Denoising steps",
        {"Quality, level 1": method_table(rows, SHOWN), "Time": time_table(rows)},
        "In brackets: difference to the first row and its 95 % interval, paired over heads.",
    )


def time_table(rows: Mapping[str, Sequence[IdentityScores]]) -> list[str]:
    """Markdown: seconds of a head's views, and relative to the first row; for an idle machine."""
    lines = ["| | seconds per head | relative |", "|---|---|---|"]
    seconds = {name: sum(item.seconds["views"] for item in scores) / len(scores) for name, scores in rows.items()}
    first = next(iter(seconds.values()))
    return [*lines, *(f"| {name} | {value:.2f} | {value / first:.2f} |" for name, value in seconds.items()), ""]


if __name__ == "__main__":
    main(tyro.cli(Options))
