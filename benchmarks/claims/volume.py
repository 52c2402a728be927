"""Claim 5: how many depth samples and grid cells are worth what they cost.

python -m benchmarks.claims.volume

Step 2 at 64² with 4, 8, 12 and 16 samples along each ray, and with grids of 4³, 8³ and 12³ cells.
"""

from __future__ import annotations

import tyro

from nvb_core.flops import count_flops

from .table import method_table, write_result
from .variants import REFERENCE, Experiment, Variant, load_config, measured_variant, trained

DEPTHS = (12, 4, 8, 16)  # the reference first
GRIDS = (8, 4, 12)


def variants() -> dict[str, Variant]:
    """By row."""
    rows = {"12 samples, 8³ cells": REFERENCE}
    rows |= {f"{depth} samples": Variant(f"depth{depth}", view={"depth_samples": depth}) for depth in DEPTHS[1:]}
    return rows | {f"{grid}³ cells": Variant(f"grid{grid}", view={"grid_size": grid}) for grid in GRIDS[1:]}


def cost_table(experiment: Experiment) -> list[str]:
    """Markdown: what a step costs, once per face and once per view, relative to the reference."""
    lines = ["| | GFLOP per face and step | GFLOP per view and step | 8 views, relative |", "|---|---|---|---|"]
    reference = 0
    for name, variant in variants().items():
        counts = count_flops(load_config(trained(variant, experiment)))
        cost = counts.per_face_step + 8 * counts.per_view_step
        reference = reference or cost
        values = (f"{counts.per_face_step / 1e9:.2f}", f"{counts.per_view_step / 1e9:.2f}", f"{cost / reference:.2f}")
        lines.append("| " + " | ".join([name, *values]) + " |")
    return [*lines, ""]


def main(experiment: Experiment) -> None:
    """Train, measure, write."""
    scores = {name: measured_variant(variant, 1, experiment) for name, variant in variants().items()}
    write_result(
        experiment.folder / "volume.md",
        "Depth samples and grid cells",
        {"Quality, level 1": method_table(scores), "Cost": cost_table(experiment)},
        "In brackets: difference to the first row and its 95 % interval, paired over heads.",
    )


if __name__ == "__main__":
    main(tyro.cli(Experiment))
