"""Claim 2: the feature loss is what makes views consistent.

python -m benchmarks.claims.feature_loss

Step 2 at 64² with both losses, without the feature loss and without the diffusion loss, for as many steps each; the
diffusion loss is taken on two of the four target views.
"""

from __future__ import annotations

import tyro

from .table import method_table, write_result
from .variants import REFERENCE, Experiment, Variant, measured_variant

WITHOUT_FEATURE = Variant("no-feature-loss", training={"feature_weight": 0.0})
WITHOUT_DIFFUSION = Variant("no-diffusion-loss", training={"denoised_views": 0})


def main(experiment: Experiment) -> None:
    """Train, measure, write."""
    methods = {
        "both losses": measured_variant(REFERENCE, 1, experiment),
        "without feature loss": measured_variant(WITHOUT_FEATURE, 1, experiment),
        "without diffusion loss": measured_variant(WITHOUT_DIFFUSION, 1, experiment),
    }
    write_result(
        experiment.folder / "feature_loss.md",
        "Feature and diffusion loss on and off",
        {"Level 1": method_table(methods)},
        "In brackets: difference to the first row and its 95 % interval, paired over heads.",
    )


if __name__ == "__main__":
    main(tyro.cli(Experiment))
