"""Claim 2: the feature loss is what makes views consistent.

python -m benchmarks.claims.feature_loss

Step 2 at 64² with the feature loss and without it, of the same budget; either way the diffusion loss is taken on two of
the four target views.
"""

from __future__ import annotations

import tyro

from .table import method_table, write_result
from .variants import REFERENCE, Experiment, Variant, measured_variant

WITHOUT = Variant("no-feature-loss", training={"feature_weight": 0.0})


def main(experiment: Experiment) -> None:
    """Train, measure, write."""
    methods = {
        "with feature loss": measured_variant(REFERENCE, 1, experiment),
        "without": measured_variant(WITHOUT, 1, experiment),
    }
    write_result(
        experiment.folder / "feature_loss.md",
        "Feature loss on and off",
        {"Level 1": method_table(methods)},
        "In brackets: difference to the first row and its 95 % interval, paired over heads.",
    )


if __name__ == "__main__":
    main(tyro.cli(Experiment))
